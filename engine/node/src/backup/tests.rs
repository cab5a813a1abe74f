//! Backups of a node that is stopped: its logs are really written, its directory is a real one.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use creto_service::{Service, ServiceOptions};
use creto_store::conformance::Folder;
use creto_store::{
    BatchPart, FileSource, MailboxId, MessageFlags, MessageId, PartMessage, Priority, Record, SenderId, Wal, WalConfig,
    recover,
};

use super::copy::sha256;
use super::manifest::{DIGEST_FILE, MANIFEST_FILE, digest_line};
use super::*;
use crate::config::Config;
use crate::data_dir::DataDir;

const NOW_MS: u64 = 1_800_000_000_000;

/// A node's folder, as a node that was stopped leaves it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        let data = home.data();
        drop(DataDir::open(&data, &data.join("wal"), 2).unwrap());
        let options =
            ServiceOptions::new(data.join("control.redb"), data.join("s"), creto_envelope::TrustDomain::default());
        drop(Service::open(options).unwrap());
        fs::write(data.join("node.crt"), "certificate").unwrap();
        fs::write(data.join("node.key"), "key").unwrap();
        write_log(&data.join("wal/shard-0000"), 0, 40);
        home
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn config(&self) -> Config {
        Config::parse("creto.toml", "", []).unwrap().in_folder(self.0.path())
    }

    fn take(
        &self,
        target: Target,
        on_progress: &mut dyn FnMut(u64, u64) -> Result<(), BackupError>,
    ) -> Result<Manifest, BackupError> {
        self.take_with(target, true, on_progress)
    }

    fn take_with(
        &self,
        target: Target,
        with_secrets: bool,
        on_progress: &mut dyn FnMut(u64, u64) -> Result<(), BackupError>,
    ) -> Result<Manifest, BackupError> {
        let stopped = Stopped::open(&self.config())?;
        let order = Order {
            source: stopped.source.clone(),
            shards: stopped.shards.clone(),
            taken_ms: NOW_MS,
            with_secrets,
            bytes_per_s: None,
            directory: &mut || Ok(stopped.directory()),
            let_go: &mut || Ok(()),
            on_progress,
        };
        take(order, target)
    }

    fn folder_backup(&self) -> PathBuf {
        let folder = self.0.path().join("backup");
        self.take(Target::folder(&folder).unwrap(), &mut |_, _| Ok(())).unwrap();
        folder
    }

    fn tar_backup(&self) -> PathBuf {
        let file = self.0.path().join("backup.tar");
        self.take(Target::tar_file(&file, NOW_MS / 1000).unwrap(), &mut |_, _| Ok(())).unwrap();
        file
    }
}

/// A log of several small segments, one message to a frame.
fn write_log(folder: &Path, shard_index: u32, messages: u8) {
    let folder = Folder::new(folder);
    let recovered = recover(&mut FileSource::new(folder.path()), shard_index, |_, _| {}).unwrap();
    let config = WalConfig {
        segment_bytes: 64 << 10,
        frame_bytes_max: 16 << 10,
        wal_bytes_max: 4 << 20,
        ..WalConfig::default()
    };
    let mut wal = Wal::open(config, recovered, 7, NOW_MS);
    folder.settle(&mut wal, NOW_MS);
    for number in 1..=messages {
        let message = PartMessage {
            mailbox: MailboxId([1; 16]),
            sender: SenderId([2; 16]),
            message_id: MessageId([number; 16]),
            sequence: u64::from(number),
            expiry_ms: 0,
            leaf_index: 0,
            priority: Priority::Normal,
            flags: MessageFlags::NONE,
            salt: [0; 16],
            path: Bytes::new(),
            envelope: Bytes::from(vec![number; 5000]),
        };
        let part = BatchPart { batch_header: Bytes::from_static(&[3; 64]), messages: vec![message] };
        wal.append(Record::BatchPart(part)).unwrap();
        folder.settle(&mut wal, NOW_MS);
    }
}

fn restored(source: Source, to: &Path) -> Result<Restored, BackupError> {
    restore(source, to, &mut |_| Ok(()))
}

fn from_tar(bytes: &[u8]) -> Source {
    Source::Tar(Box::new(std::io::Cursor::new(bytes.to_vec())), "backup.tar".into())
}

/// Nothing was restored, and another restore may be tried.
fn assert_untouched(folder: &Path) {
    let left: Vec<_> =
        fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_backup_restores_to_what_was_there() {
    let home = Home::new();
    let (folder, tar) = (home.folder_backup(), home.tar_backup());
    let tar = Source::Tar(Box::new(File::open(&tar).unwrap()), tar);
    for (name, source) in [("a", Source::Folder(folder)), ("b", tar)] {
        let to = home.0.path().join(name);
        let restored = restored(source, &to).unwrap();
        assert_eq!((restored.messages, restored.manifest.shard_count), (40, 2));
        let point = restored.manifest.shards[0];
        assert!(point.last_segment > point.first_segment, "several segments: {point:?}");
        for segment in point.first_segment..=point.last_segment {
            let name = manifest::segment_name(0, segment);
            let (was, is) = (fs::read(home.data().join(&name)).unwrap(), fs::read(to.join(&name)).unwrap());
            let bytes =
                if segment == point.last_segment { usize::try_from(point.end_offset).unwrap() } else { was.len() };
            assert_eq!(is, was[..bytes], "{name}");
        }
        // It is another directory than the one that went on, and else the same.
        assert!(!creto_service::offline::has_incarnation(&to.join("control.redb")).unwrap());
        for name in ["node.json", "node.crt", "node.key"] {
            assert_eq!(fs::read(to.join(name)).unwrap(), fs::read(home.data().join(name)).unwrap(), "{name}");
        }
        assert_eq!(Config::load(&restored.configuration, []).unwrap(), home.config());
        // As the node left it: both logs are there, and nothing else is.
        let (opened, shard_count) = DataDir::open_stopped(&to, &to.join("wal")).unwrap();
        assert_eq!(shard_count, 2);
        let mut log = FileSource::new(opened.shard_dir(0));
        let mut messages = 0;
        recover(&mut log, 0, |_, record| messages += u64::from(matches!(record, Record::BatchPart(_)))).unwrap();
        assert_eq!(messages, 40);
    }
}

#[test]
fn a_backup_holds_the_nodes_key_only_when_it_is_asked_to() {
    let home = Home::new();
    let key = "no text that anything else would hold";
    fs::write(home.data().join("node.key"), key).unwrap();
    for with_secrets in [false, true] {
        let tar = home.0.path().join(format!("{with_secrets}.tar"));
        home.take_with(Target::tar_file(&tar, 1).unwrap(), with_secrets, &mut |_, _| Ok(())).unwrap();
        let bytes = fs::read(&tar).unwrap();
        assert_eq!(bytes.windows(key.len()).any(|window| window == key.as_bytes()), with_secrets);
        let to = home.0.path().join(format!("restored-{with_secrets}"));
        restored(from_tar(&bytes), &to).unwrap();
        assert_eq!(to.join("node.key").exists(), with_secrets);
    }
}

#[test]
fn a_changed_byte_anywhere_in_a_folder_is_refused() {
    let home = Home::new();
    let folder = home.folder_backup();
    let to = home.0.path().join("to");
    let manifest = Manifest::parse(&fs::read(folder.join(MANIFEST_FILE)).unwrap()).unwrap();
    let mut names: Vec<_> = manifest.files.iter().map(|file| file.name.clone()).collect();
    names.extend([MANIFEST_FILE, DIGEST_FILE].map(str::to_owned));
    let mut random = 1_u64;
    for name in &names {
        let path = folder.join(name);
        let bytes = fs::read(&path).unwrap();
        let mut places = vec![0, bytes.len() - 1];
        for _ in 0..20 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            places.push(usize::try_from(random >> 33).unwrap() % bytes.len());
        }
        for at in places {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(&path, &changed).unwrap();
            let error = restored(Source::Folder(folder.clone()), &to).unwrap_err();
            assert!(matches!(error, BackupError::Damaged(_)), "{name}, byte {at}: {error}");
            assert_untouched(&to);
        }
        for changed in [&bytes[..bytes.len() - 1], &[&bytes[..], b"x"].concat()[..]] {
            fs::write(&path, changed).unwrap();
            assert!(restored(Source::Folder(folder.clone()), &to).is_err(), "{name}: another length");
        }
        fs::remove_file(&path).unwrap();
        assert!(restored(Source::Folder(folder.clone()), &to).is_err(), "{name}: missing");
        fs::write(&path, &bytes).unwrap();
    }
    fs::write(folder.join("wal/shard-0000/more"), "").unwrap();
    assert!(restored(Source::Folder(folder.clone()), &to).is_err(), "a file that the manifest does not name");
    fs::remove_file(folder.join("wal/shard-0000/more")).unwrap();
    assert_untouched(&to);
    restored(Source::Folder(folder), &to).unwrap();
}

#[test]
fn a_changed_byte_anywhere_in_an_archive_is_refused_and_so_is_every_beginning_of_it() {
    let home = Home::new();
    let bytes = fs::read(home.tar_backup()).unwrap();
    let to = home.0.path().join("to");
    let mut random = 2_u64;
    for round in 0..80 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The end of it, where the manifest is, as often as everything else.
        let from = if round % 2 == 0 { 0 } else { bytes.len() - 8192 };
        let at = from + usize::try_from(random >> 33).unwrap() % (bytes.len() - from);
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (round % 8);
        let error = restored(from_tar(&changed), &to).expect_err("a changed byte");
        assert!(matches!(error, BackupError::Damaged(_) | BackupError::Incomplete(_)), "byte {at}: {error}");
        assert_untouched(&to);
        let error = restored(from_tar(&bytes[..at]), &to).expect_err("a beginning");
        assert!(matches!(error, BackupError::Damaged(_) | BackupError::Incomplete(_)), "cut at {at}: {error}");
        assert_untouched(&to);
    }
    restored(from_tar(&bytes), &to).unwrap();
}

#[test]
fn a_backup_that_is_interrupted_leaves_nothing_that_looks_complete() {
    let home = Home::new();
    let mut calls = 0;
    home.take(Target::folder(&home.0.path().join("whole")).unwrap(), &mut |_, _| {
        calls += 1;
        Ok(())
    })
    .unwrap();
    assert!(calls > 8, "{calls}");
    for stop_at in 0..calls {
        let (folder, tar) = (home.0.path().join("folder"), home.0.path().join("tar"));
        for target in [Target::folder(&folder).unwrap(), Target::tar_file(&tar, 1).unwrap()] {
            let mut call = 0;
            let taken = home.take(target, &mut |_, _| {
                call += 1;
                if call > stop_at { Err(BackupError::Interrupted) } else { Ok(()) }
            });
            assert!(matches!(taken, Err(BackupError::Interrupted)));
        }
        assert!(!folder.exists() && !tar.exists() && !home.0.path().join("tar.partial").exists(), "call {stop_at}");
    }
}

#[test]
fn logs_that_were_not_held_until_the_end_are_no_backup() {
    let home = Home::new();
    let stopped = Stopped::open(&home.config()).unwrap();
    let folder = home.0.path().join("backup");
    let order = Order {
        source: stopped.source.clone(),
        shards: stopped.shards.clone(),
        taken_ms: NOW_MS,
        with_secrets: false,
        bytes_per_s: None,
        directory: &mut || Ok(stopped.directory()),
        let_go: &mut || {
            assert!(!folder.join(MANIFEST_FILE).exists());
            Err(BackupError::Lost("the node needed the space".to_owned()))
        },
        on_progress: &mut |_, _| Ok(()),
    };
    assert!(matches!(take(order, Target::folder(&folder).unwrap()), Err(BackupError::Lost(_))));
    assert!(!folder.exists());
}

#[test]
fn a_folder_without_its_manifest_is_not_complete() {
    let home = Home::new();
    let folder = home.folder_backup();
    fs::remove_file(folder.join(MANIFEST_FILE)).unwrap();
    let error = restored(Source::Folder(folder), &home.0.path().join("to")).unwrap_err();
    assert!(matches!(error, BackupError::Incomplete(_)), "{error}");
}

#[test]
fn a_log_that_ends_elsewhere_than_the_manifest_says_is_refused() {
    let home = Home::new();
    let folder = home.folder_backup();
    let mut manifest = Manifest::parse(&fs::read(folder.join(MANIFEST_FILE)).unwrap()).unwrap();
    manifest.shards[0].end_lsn += 1;
    let bytes = manifest.to_bytes();
    fs::write(folder.join(MANIFEST_FILE), &bytes).unwrap();
    fs::write(folder.join(DIGEST_FILE), digest_line(&sha256(&bytes))).unwrap();
    let to = home.0.path().join("to");
    let error = restored(Source::Folder(folder), &to).unwrap_err();
    assert!(error.to_string().contains("the log of shard 0: it ends with frame"), "{error}");
    assert_untouched(&to);
}

#[test]
fn nothing_is_put_where_something_is() {
    let home = Home::new();
    let folder = home.folder_backup();
    let before = fs::read_dir(home.data()).unwrap().count();
    assert!(matches!(restored(Source::Folder(folder.clone()), &home.data()), Err(BackupError::NotEmpty(_))));
    assert_eq!(fs::read_dir(home.data()).unwrap().count(), before);
    assert!(matches!(Target::folder(&folder), Err(BackupError::NotEmpty(_))));
    let tar = home.tar_backup();
    assert!(matches!(Target::tar_file(&tar, 1), Err(BackupError::NotEmpty(_))));
}

#[test]
fn a_damaged_log_is_not_backed_up() {
    let home = Home::new();
    let segment = home.data().join(manifest::segment_name(0, 2));
    let file = OpenOptions::new().write(true).open(segment).unwrap();
    file.write_all_at(&[0xff; 64], 8192).unwrap();
    let error = Stopped::open(&home.config()).unwrap_err();
    assert!(matches!(&error, BackupError::LogDamaged { shard: 0, .. }), "{error}");
}

#[test]
fn a_bounded_rate_is_kept() {
    let mut pieces = 0;
    let mut on_piece = |_| {
        pieces += 1;
        Ok(())
    };
    let began = std::time::Instant::now();
    let bytes = vec![1; 3 << 20];
    let mut copier = copy::Copier::new(Some(16 << 20), &mut on_piece);
    let mut out = Vec::new();
    let digest = copier.copy(copy::From::Bytes(&bytes), bytes.len() as u64, &mut out, Path::new("")).unwrap();
    assert!(began.elapsed() >= std::time::Duration::from_millis(187));
    assert_eq!((digest, out.len(), pieces), (sha256(&bytes), bytes.len(), 3));
}
