//! The driver on glommio: its loop is a task of a glommio executor. The rules under which that works are on the crate's page.

use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use glommio::io::{DmaBuffer, DmaFile, OpenOptions};

use crate::driver::{Driver, DriverConfig, TurnEnd};
use crate::error::{DiskError, DriverError};
use crate::files::{Files, OpenFor};
use crate::limits::BLOCK_BYTES;
use crate::machine::Machine;
use crate::park::{park, yield_to_reactor};
use crate::socket::{SocketWatch, waitable};

/// Runs a shard on the glommio executor of the calling thread until its machine halts, and gives the machine back.
///
/// # Errors
/// The socket or the folder cannot be used.
pub(crate) async fn drive<M>(config: DriverConfig<M::Item>, machine: M) -> Result<M, DriverError>
where
    M: Machine,
    M::Write: 'static,
{
    let shard_index = config.ports.shard_index();
    let socket_failed = |error| DriverError::Socket { shard_index, error };
    let (progress, bell) = (Arc::clone(&config.progress), Arc::clone(config.ports.bell()));
    let waitable = waitable(&config.socket).map_err(socket_failed)?;
    let folder = config.disk.folder.clone();
    settle_polling(&folder).await.map_err(|error| DriverError::Folder { folder, error })?;
    let mut driver = Driver::new(config, machine, OnGlommio).map_err(socket_failed)?;

    let watch = Rc::<SocketWatch>::default();
    let watching = glommio::spawn_local(Rc::clone(&watch).run(waitable, Rc::clone(&driver.signal)));
    progress.begin();
    let ended = loop {
        match driver.turn(&progress) {
            Ok(TurnEnd::Over) => break Ok(()),
            Ok(TurnEnd::Again) => yield_to_reactor().await,
            Ok(TurnEnd::Rest(longest)) => {
                watch.arm();
                park(&driver.signal, &bell, longest, || driver.nothing_waits()).await;
            }
            Err(error) => break Err(error),
        }
    };
    progress.end();
    bell.retire();
    watching.cancel().await;
    ended.map_err(socket_failed)?;
    Ok(driver.into_machine())
}

/// Makes glommio find out truthfully whether this device can be polled. Before any other file is opened.
///
/// It finds out by reading from the first file of a device that it opens, and remembers the answer for the process.
/// A new segment is empty: reading it reaches no device and succeeds, every device seems to poll, and on one that
/// does not, reads fail with "operation not supported" from then on. So the first file has a block that is on disk.
async fn settle_polling(folder: &Path) -> io::Result<()> {
    let path = folder.join(".iopoll");
    let mut file = File::create(&path)?;
    file.write_all(&[0x5a; BLOCK_BYTES])?;
    // On the disk, not only in memory: a block without a place there is answered without the device as well.
    file.sync_all()?;
    let opened = OpenOptions::new().read(true).dma_open(&path).await;
    std::fs::remove_file(&path)?;
    opened.map(drop).map_err(io::Error::from)
}

/// The files of glommio's reactor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnGlommio;

impl Files for OnGlommio {
    type File = DmaFile;
    type Buffer = DmaBuffer;

    fn buffer(&self, file: &DmaFile, bytes: usize) -> DmaBuffer {
        file.alloc_dma_buffer(bytes)
    }

    fn bytes_mut(buffer: &mut DmaBuffer) -> &mut [u8] {
        buffer.as_bytes_mut()
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(task).detach();
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        glommio::executor().spawn_blocking(work).await
    }

    async fn open(&self, path: &Path, open_for: OpenFor) -> Result<DmaFile, DiskError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match open_for {
            OpenFor::Making => options.create(true).truncate(true),
            OpenFor::Using { dsync: true } => options.custom_flags(libc::O_DSYNC),
            OpenFor::Using { dsync: false } => &mut options,
        };
        Ok(options.dma_open(path).await?)
    }

    async fn close(&self, file: DmaFile) -> Result<(), DiskError> {
        Ok(file.close().await?)
    }

    async fn write_at(&self, file: &DmaFile, buffer: DmaBuffer, offset: u64) -> Result<usize, DiskError> {
        Ok(file.write_at(buffer, offset).await?)
    }

    async fn write_shared_at(&self, file: &DmaFile, buffer: Rc<DmaBuffer>, offset: u64) -> Result<usize, DiskError> {
        Ok(file.write_rc_at(buffer, offset).await?)
    }

    async fn read_at(
        &self,
        file: &DmaFile,
        offset: u64,
        bytes: usize,
        show: impl FnOnce(&[u8]),
    ) -> Result<(), DiskError> {
        show(&file.read_at(offset, bytes).await?);
        Ok(())
    }

    async fn fdatasync(&self, file: &DmaFile) -> Result<(), DiskError> {
        Ok(file.fdatasync().await?)
    }

    async fn reserve(&self, file: &DmaFile, bytes: u64) -> Result<(), DiskError> {
        Ok(file.pre_allocate(bytes, false).await?)
    }

    async fn shorten(&self, file: &DmaFile, bytes: u64) -> Result<(), DiskError> {
        Ok(file.truncate(bytes).await?)
    }
}
