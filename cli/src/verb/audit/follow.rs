//! Follows a log that somebody writes: the kernel says when there is a new checkpoint, and nobody looks in vain.

use std::mem::MaybeUninit;
use std::path::Path;

use creto_audit_store::layout::CHECKPOINT;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::exit::{Exit, Failure};

/// What tells that the folder is not there any more.
const GONE: ReadFlags =
    ReadFlags::DELETE_SELF.union(ReadFlags::MOVE_SELF).union(ReadFlags::IGNORED).union(ReadFlags::UNMOUNT);

/// Looks now and whenever a new checkpoint is in place, until the folder is gone or `look` fails.
pub(super) fn each_checkpoint(folder: &Path, mut look: impl FnMut() -> Result<(), Failure>) -> Result<Exit, Failure> {
    let failed = |error: Errno| Failure::file("watch", folder, &error.into());
    let watch = inotify::init(CreateFlags::CLOEXEC).map_err(failed)?;
    // A checkpoint is written under another name and moved over the last one.
    let wanted = WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
    inotify::add_watch(&watch, folder, wanted).map_err(failed)?;
    // For what came before the watch.
    look()?;
    let mut buffer = [MaybeUninit::uninit(); 4_096];
    let mut events = Reader::new(watch, &mut buffer);
    loop {
        let event = match events.next() {
            Ok(event) => event,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(failed(error)),
        };
        if event.events().intersects(GONE) {
            let what = format!("{} is not there any more", folder.display());
            return Err(Failure::new(Exit::System, what, "name the folder in which the node writes now"));
        }
        let is_checkpoint = event.file_name().is_some_and(|name| name.to_bytes() == CHECKPOINT.as_bytes());
        if is_checkpoint || event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            look()?;
        }
    }
}
