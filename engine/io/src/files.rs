//! What a disk asks of its driver.

use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;

use crate::error::DiskError;

/// What a file is opened for. Always for reading and writing, past the page cache where the file system can do that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenFor {
    /// To be made, or made anew: it is empty afterwards.
    Making,
    /// It is there.
    Using {
        /// Each write is durable when it is answered.
        dsync: bool,
    },
}

/// The calls of files, as futures of one thread; tasks that await them; and a thread for what can only block. Each driver has its
/// own.
pub(crate) trait Files: Clone + 'static {
    /// An open file.
    type File: 'static;
    /// Memory that O_DIRECT takes.
    type Buffer: 'static;

    /// A buffer of so many bytes, whatever they are.
    fn buffer(&self, file: &Self::File, bytes: usize) -> Self::Buffer;

    /// Its bytes.
    fn bytes_mut(buffer: &mut Self::Buffer) -> &mut [u8];

    /// Runs a task beside the driver's loop, on the same thread.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Runs what can only block on a thread of its own, one after the other.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> impl Future<Output = io::Result<T>>;

    /// Opens a file.
    fn open(&self, path: &Path, open_for: OpenFor) -> impl Future<Output = Result<Self::File, DiskError>>;

    /// Closes it, and says if that failed.
    fn close(&self, file: Self::File) -> impl Future<Output = Result<(), DiskError>>;

    /// Writes at a block's boundary; answers how many bytes were written.
    fn write_at(
        &self,
        file: &Self::File,
        buffer: Self::Buffer,
        offset: u64,
    ) -> impl Future<Output = Result<usize, DiskError>>;

    /// The same from a buffer that is written more than once.
    fn write_shared_at(
        &self,
        file: &Self::File,
        buffer: Rc<Self::Buffer>,
        offset: u64,
    ) -> impl Future<Output = Result<usize, DiskError>>;

    /// Reads from anywhere, and shows what was read: less than `bytes` at the file's end.
    fn read_at(
        &self,
        file: &Self::File,
        offset: u64,
        bytes: usize,
        show: impl FnOnce(&[u8]),
    ) -> impl Future<Output = Result<(), DiskError>>;

    /// Makes durable what was written before.
    fn fdatasync(&self, file: &Self::File) -> impl Future<Output = Result<(), DiskError>>;

    /// Reserves space for so many bytes from the start, and makes the file that long.
    fn reserve(&self, file: &Self::File, bytes: u64) -> impl Future<Output = Result<(), DiskError>>;

    /// Makes the file this long.
    fn shorten(&self, file: &Self::File, bytes: u64) -> impl Future<Output = Result<(), DiskError>>;
}
