//! Segment files on a shard's ring. Writes, reads and syncs go through it; what is rare goes to the thread beside the shard.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use super::buffer::Buffer;
use super::reactor::Reactor;
use super::ring::Operation;
use crate::error::DiskError;
use crate::files::{Files, OpenFor};
use crate::limits::BLOCK_BYTES;

/// The files of a ring.
#[derive(Clone)]
pub(super) struct OnIoUring(Reactor);

impl OnIoUring {
    pub(super) fn new(reactor: &Reactor) -> Self {
        Self(reactor.clone())
    }
}

impl Files for OnIoUring {
    type File = Rc<File>;
    type Buffer = Buffer;

    fn buffer(&self, _file: &Rc<File>, bytes: usize) -> Buffer {
        self.0.buffers().take(bytes)
    }

    fn bytes_mut(buffer: &mut Buffer) -> &mut [u8] {
        buffer.bytes_mut()
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.spawn(task);
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.0.blocking(work).await
    }

    async fn open(&self, path: &Path, open_for: OpenFor) -> Result<Rc<File>, DiskError> {
        let path = path.to_owned();
        let opened = self.0.blocking(move || {
            let open = |direct: i32| {
                let mut options = OpenOptions::new();
                options.read(true).write(true);
                match open_for {
                    OpenFor::Making => options.create(true).truncate(true).custom_flags(direct),
                    OpenFor::Using { dsync: true } => options.custom_flags(direct | libc::O_DSYNC),
                    OpenFor::Using { dsync: false } => options.custom_flags(direct),
                };
                options.open(&path)
            };
            match open(libc::O_DIRECT) {
                // A file system that cannot: everything is copied once more, and nothing else changes.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0),
                opened => opened,
            }
        });
        Ok(Rc::new(opened.await?))
    }

    async fn close(&self, file: Rc<File>) -> Result<(), DiskError> {
        let Ok(file) = Rc::try_unwrap(file) else { unreachable!("nothing is under way in a file that is closed") };
        // What a close reports of earlier writes, `fdatasync` has reported before.
        let close = move || {
            drop(file);
            Ok(())
        };
        Ok(self.0.blocking(close).await?)
    }

    async fn write_at(&self, file: &Rc<File>, buffer: Buffer, offset: u64) -> Result<usize, DiskError> {
        self.write_shared_at(file, Rc::new(buffer), offset).await
    }

    async fn write_shared_at(&self, file: &Rc<File>, buffer: Rc<Buffer>, offset: u64) -> Result<usize, DiskError> {
        let (written, _) = self.0.carry_out(Operation::Write { file: Rc::clone(file), buffer, offset }).await?;
        Ok(written as usize)
    }

    async fn read_at(
        &self,
        file: &Rc<File>,
        offset: u64,
        bytes: usize,
        show: impl FnOnce(&[u8]),
    ) -> Result<(), DiskError> {
        let block = BLOCK_BYTES as u64;
        let begin = offset - offset % block;
        let before = usize::try_from(offset - begin).expect("less than a block");
        let buffer = self.0.buffers().take((before + bytes).next_multiple_of(BLOCK_BYTES));
        let read = Operation::Read { file: Rc::clone(file), buffer, offset: begin };
        let (read, operation) = self.0.carry_out(read).await?;
        let Operation::Read { buffer, .. } = operation else { unreachable!("a read comes back as one") };
        let there = &buffer.bytes()[..read as usize];
        show(there.get(before..).map_or(&[], |wanted| &wanted[..wanted.len().min(bytes)]));
        Ok(())
    }

    async fn fdatasync(&self, file: &Rc<File>) -> Result<(), DiskError> {
        self.0.carry_out(Operation::Fdatasync { file: Rc::clone(file) }).await?;
        Ok(())
    }

    async fn reserve(&self, file: &Rc<File>, bytes: u64) -> Result<(), DiskError> {
        self.0.carry_out(Operation::Reserve { file: Rc::clone(file), bytes }).await?;
        Ok(())
    }

    async fn shorten(&self, file: &Rc<File>, bytes: u64) -> Result<(), DiskError> {
        let file = file.try_clone()?;
        Ok(self.0.blocking(move || file.set_len(bytes)).await?)
    }
}
