use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::{SOCKET_PATH_BYTES_MAX, SocketFile};
use crate::ServiceError;

#[test]
fn a_socket_is_for_its_owner_and_goes_when_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let (file, listener) = SocketFile::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    UnixStream::connect(&path).unwrap();
    drop((file, listener));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_live_socket_is_not_taken_and_a_dead_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let alive = UnixListener::bind(&path).unwrap();
    assert!(matches!(SocketFile::bind(&path), Err(ServiceError::SocketInUse(_))));
    UnixStream::connect(&path).unwrap();
    drop(alive);
    // Also when an earlier start was killed before it renamed its new socket.
    drop(UnixListener::bind(folder.path().join("control.sock.new")).unwrap());
    let (_file, _listener) = SocketFile::bind(&path).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_file_that_is_not_a_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["control.sock", "control.sock.new"] {
        let path = folder.path().join(name);
        std::fs::write(&path, "precious").unwrap();
        let refused = SocketFile::bind(&folder.path().join("control.sock")).err();
        assert!(matches!(&refused, Some(ServiceError::NotASocket(found)) if *found == path), "{refused:?}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_socket_that_took_our_place_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let (file, _listener) = SocketFile::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    drop(file);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_path_that_the_system_cannot_hold_is_explained() {
    let path = PathBuf::from(format!("/tmp/{}", "s".repeat(SOCKET_PATH_BYTES_MAX)));
    assert!(matches!(SocketFile::bind(&path), Err(ServiceError::SocketPathLong { bytes_max: 103, .. })));
    let missing = tempfile::tempdir().unwrap().path().join("control.sock");
    assert!(matches!(SocketFile::bind(&missing), Err(ServiceError::File { .. })));
}
