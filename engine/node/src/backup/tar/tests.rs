use std::process::Command;

use super::*;

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in files {
        out.extend(header(name, content.len() as u64, 1_700_000_000).unwrap());
        out.extend(*content);
        pad(&mut out, content.len() as u64).unwrap();
    }
    out.extend(TAR_END);
    out
}

#[test]
fn any_tar_unpacks_what_is_written_here() {
    let dir = tempfile::tempdir().unwrap();
    let content = [7; 1000];
    std::fs::write(dir.path().join("a.tar"), archive(&[("one", b""), ("wal/two", &content)])).unwrap();
    let tar = Command::new("tar").args(["-xf", "a.tar"]).current_dir(dir.path()).output().expect("tar is everywhere");
    assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
    assert_eq!(std::fs::read(dir.path().join("one")).unwrap(), b"");
    assert_eq!(std::fs::read(dir.path().join("wal/two")).unwrap(), content);
}

#[test]
fn an_archive_is_read_back_and_no_changed_byte_of_its_headers_is() {
    let bytes = archive(&[("one", &[1; 512])]);
    let read = |bytes: &[u8]| -> io::Result<bool> {
        let mut from = bytes;
        let Some(Entry::File { name, bytes }) = next_entry(&mut from)? else { return Ok(false) };
        let mut content = vec![0; usize::try_from(bytes).unwrap()];
        from.read_exact(&mut content)?;
        let whole = skip_padding(&mut from, bytes)? && next_entry(&mut from)? == Some(Entry::End);
        Ok(whole && name == "one")
    };
    assert!(read(&bytes).unwrap());
    for at in (0..512).chain(1024..bytes.len()) {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            assert!(!read(&changed).unwrap_or(false), "byte {at}, bit {bit}");
        }
    }
    for cut in 0..bytes.len() {
        assert!(!read(&bytes[..cut]).unwrap_or(false), "cut at {cut}");
    }
    assert!(!read(&[&bytes[..], b"more"].concat()).unwrap());
}

#[test]
fn what_does_not_fit_into_a_header_has_none() {
    assert!(header("name", TAR_FILE_BYTES_MAX, 0).is_some());
    assert!(header("name", TAR_FILE_BYTES_MAX + 1, 0).is_none());
    assert!(header(&"n".repeat(100), 0, 0).is_none());
}
