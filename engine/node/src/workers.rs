//! Crypto workers: threads on CPUs of their own that verify batches for all shards.
//!
//! ```text
//! shard -- jobs: one bounded queue, whoever is free takes the next --> worker -- the shard's ring of control --> shard
//! ```
//!
//! A shard has at most [`JOBS_PER_SHARD_MAX`] jobs out, and the queue has room for that many of every shard, so giving one
//! out never waits. A verdict goes back through the ring that wakes a parked shard. A worker that finds nothing to do
//! sleeps: an idle node costs nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use creto_io::Parcel;
use creto_io::ring::ControlPort;
use creto_shard::{Scratch, VerifyJob};
use crossbeam::channel::{self, Receiver, Sender};

use crate::machine::NodeItem;

/// Batches of one shard that workers have at a time: enough that none of them waits for a turn of the shard, few enough
/// that a shard cannot fill the queue for the others.
pub(crate) const JOBS_PER_SHARD_MAX: usize = 64;

#[derive(Debug)]
struct Job {
    shard_index: u16,
    job: VerifyJob,
}

/// A shard's way to the workers.
#[derive(Clone, Debug)]
pub(crate) struct JobSender(Sender<Job>);

impl JobSender {
    pub(crate) fn send(&self, shard_index: u16, job: VerifyJob) {
        // Full cannot be, see the module's page. Without workers the node is ending, and nobody waits for a verdict.
        let _ = self.0.try_send(Job { shard_index, job });
    }
}

/// The workers of a node.
#[derive(Debug)]
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
}

impl Workers {
    /// Starts one worker on each of these CPUs. Without CPUs there are none, and shards verify themselves.
    ///
    /// # Errors
    /// A thread could not be made.
    pub(crate) fn start(
        cpus: &[u16],
        ports: &[ControlPort<Parcel<NodeItem>>],
    ) -> io::Result<(Self, Option<JobSender>)> {
        let (sender, receiver) = channel::bounded(JOBS_PER_SHARD_MAX * ports.len());
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::with_capacity(cpus.len());
        for &cpu in cpus {
            let (receiver, ports, stopping) = (receiver.clone(), ports.to_vec(), Arc::clone(&stopping));
            let thread = std::thread::Builder::new().name(format!("creto-crypto-{cpu}"));
            threads.push(thread.spawn(move || {
                // The plan has checked that the CPU may be used. One that went away since is not worth ending the node.
                if !core_affinity::set_for_current(core_affinity::CoreId { id: usize::from(cpu) }) {
                    tracing::warn!(
                        cpu,
                        "a crypto worker cannot be pinned to its CPU and runs where the kernel puts it"
                    );
                }
                work(&receiver, &ports, &stopping);
            })?);
        }
        let sender = (!threads.is_empty()).then_some(JobSender(sender));
        Ok((Self { threads, stopping }, sender))
    }

    /// Ends the workers. To be called when no shard runs any more.
    pub(crate) fn stop(self) {
        self.stopping.store(true, Ordering::Release);
        for thread in self.threads {
            // A panic in a worker has ended the process already.
            let _ = thread.join();
        }
    }
}

fn work(jobs: &Receiver<Job>, ports: &[ControlPort<Parcel<NodeItem>>], stopping: &AtomicBool) {
    let mut scratch = Scratch::default();
    // Ends when the last shard has dropped its sender.
    for Job { shard_index, job } in jobs {
        let mut item = NodeItem::Verified(Box::new(job.run(&mut scratch)));
        // The shard empties this ring every turn; a full one is full for a moment only. One that has ended never does.
        while let Err(back) = ports[usize::from(shard_index)].send_item(item) {
            if stopping.load(Ordering::Acquire) {
                return;
            }
            item = back;
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests;
