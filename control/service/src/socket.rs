//! The Unix-domain socket: one owner, mode 0600, and never a live one stolen.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::error::ServiceError;

#[cfg(test)]
mod tests;

/// `sun_path` of Linux less its final zero byte, less the suffix of the name under which a new socket is made.
const SOCKET_PATH_BYTES_MAX: usize = 107 - NEW_SUFFIX.len();
const NEW_SUFFIX: &str = ".new";

/// A listening socket's file. It is removed on drop, unless another one has taken its place.
pub(crate) struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl SocketFile {
    /// Listens on `path`. A socket that nobody answers on is replaced; one that is alive is an error.
    ///
    /// The socket appears under its name only after its mode is 0600, so there is no moment at which others can
    /// connect.
    pub(crate) fn bind(path: &Path) -> Result<(Self, UnixListener), ServiceError> {
        let bytes = path.as_os_str().as_bytes().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            let bytes_max = SOCKET_PATH_BYTES_MAX;
            return Err(ServiceError::SocketPathLong { path: path.to_owned(), bytes, bytes_max });
        }
        let failed = |what| move |source| ServiceError::File { what, path: path.to_owned(), source };
        check_free(path)?;
        let mut new_path = path.as_os_str().to_owned();
        new_path.push(NEW_SUFFIX);
        let new_path = PathBuf::from(new_path);
        // Left behind by a process that was killed between the next lines.
        check_free(&new_path)?;
        match fs::remove_file(&new_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("replace the old socket")(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&new_path).map_err(failed("listen on"))?;
        let prepared = fs::set_permissions(&new_path, fs::Permissions::from_mode(0o600))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| fs::rename(&new_path, path))
            .and_then(|()| fs::symlink_metadata(path));
        match prepared {
            Ok(made) => Ok((Self { path: path.to_owned(), device_and_inode: (made.dev(), made.ino()) }, listener)),
            Err(error) => {
                let _best_effort = fs::remove_file(&new_path);
                Err(failed("set up the socket")(error))
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.device_and_inode);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the control socket could not be removed");
        }
    }
}

/// Fine when nothing is there, or a socket that nobody answers on.
fn check_free(path: &Path) -> Result<(), ServiceError> {
    let failed = |source| ServiceError::File { what: "look at", path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ServiceError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServiceError::SocketInUse(path.to_owned())),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(()),
            // A full backlog: someone is alive, only slow.
            io::ErrorKind::WouldBlock => Err(ServiceError::SocketInUse(path.to_owned())),
            _ => Err(failed(error)),
        },
    }
}
