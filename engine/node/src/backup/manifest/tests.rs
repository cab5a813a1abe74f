use super::*;

fn manifest() -> Manifest {
    let file = |name: &str, bytes| FileEntry { name: name.to_owned(), bytes, sha256: "00".repeat(32) };
    let point = |shard, first_segment, last_segment| ShardPoint {
        shard,
        first_segment,
        last_segment,
        end_offset: 8192,
        end_lsn: 7,
    };
    Manifest {
        format: BACKUP_FORMAT,
        formats: Formats::WRITTEN,
        version: "0.1.0".to_owned(),
        taken_ms: 1,
        shard_count: 2,
        secrets: false,
        shards: vec![point(0, 3, 4), point(1, 1, 0)],
        audit: Some(AuditPoint { size: 65_537, entries: vec![1], milestones: vec![65_537] }),
        files: vec![
            file("audit/audit.pub", 1),
            file("audit/checkpoint", 1),
            file("audit/commit", 1),
            file("audit/tiles", 8192),
            file("audit/hashes/000000000000", 1),
            file("audit/hashes/000000000001", 32),
            file("audit/entries/000000000001", 1),
            file("audit/milestones/00000000000000065537", 1),
            file(&segment_name(0, 3), 65536),
            file(&segment_name(0, 4), 8192),
            file(DIRECTORY_FILE, 1),
            file(DESCRIPTION_FILE, 1),
            file(CONFIGURATION_FILE, 1),
        ],
    }
}

#[test]
fn a_manifest_comes_back_from_its_bytes() {
    assert_eq!(Manifest::parse(&manifest().to_bytes()).unwrap(), manifest());
}

#[test]
fn a_manifest_of_a_later_version_is_refused_with_what_to_do() {
    let parse = |text: &str| Manifest::parse(text.as_bytes()).unwrap_err().to_string();
    let error = parse(r#"{"format": 3, "something": "else"}"#);
    assert_eq!(
        error,
        "the backup has backup format 3, this version reads up to 2; restore it with the version that wrote it, or a later one"
    );
    for (field, what) in [
        ("data", "data"),
        ("segment", "segment"),
        ("frame", "frame"),
        ("directory", "directory"),
        ("audit", "audit log"),
    ] {
        let mut later = serde_json::to_value(manifest()).unwrap();
        later["formats"][field] = 1_000.into();
        assert!(parse(&later.to_string()).contains(&format!("{what} format 1000")), "{field}");
    }
    let mut earlier = manifest();
    earlier.formats.directory = 1;
    assert!(Manifest::parse(&earlier.to_bytes()).is_ok(), "an older directory is read");
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let changes: [fn(&mut Manifest); 12] = [
        |manifest| manifest.audit = None,
        |manifest| manifest.audit.as_mut().unwrap().size = u64::MAX,
        |manifest| manifest.audit.as_mut().unwrap().entries.push(0),
        |manifest| manifest.shard_count = 1,
        |manifest| manifest.shard_count = 3,
        |manifest| manifest.secrets = true,
        |manifest| manifest.shards[1].shard = 0,
        |manifest| manifest.shards[0].last_segment = u64::MAX,
        |manifest| manifest.shards[0].end_offset = 4096,
        |manifest| drop(manifest.files.pop()),
        |manifest| manifest.files.push(manifest.files[0].clone()),
        |manifest| manifest.files[0].name = "../../etc/passwd".to_owned(),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut changed = manifest();
        change(&mut changed);
        assert!(matches!(Manifest::parse(&changed.to_bytes()), Err(BackupError::Damaged(_))), "change {index}");
    }
}
