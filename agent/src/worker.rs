//! Threads for cryptography. Sealing a message takes about 80 us and signing a batch about 190 us: too long for the
//! threads that carry packets. One pool serves all agents of the process, so a thousand agents do not mean a thousand
//! threads.

use std::future::pending;
use std::panic::resume_unwind;
use std::sync::OnceLock;

use crossbeam::channel::{Sender, bounded};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;

use crate::limits::{WORKER_JOBS_MAX, WORKER_THREADS_MAX};

type Job = Box<dyn FnOnce() + Send>;

struct Pool {
    jobs: Sender<Job>,
    /// One permit per place in the queue, so that whoever has one never waits in `send`.
    places: Semaphore,
}

/// Runs `job` on a worker and gives its result. Waits for a place while the queue is full.
pub(crate) async fn offload<R: Send + 'static>(job: impl FnOnce() -> R + Send + 'static) -> R {
    let pool = pool();
    let place = pool.places.acquire().await.expect("the pool's semaphore is never closed");
    let (reply, result) = oneshot::channel();
    // Nobody waits for the result when the agent was dropped meanwhile.
    let job = Box::new(move || drop(reply.send(job())));
    pool.jobs.send(job).expect("the workers live as long as the process");
    let result = result.await;
    drop(place);
    result.expect("a cryptographic job does not panic")
}

/// Runs `job`, which waits for a disk, where nothing else waits for it: neither packets nor sealing. Gives its result.
pub(crate) async fn on_disk<R: Send + 'static>(job: impl FnOnce() -> R + Send + 'static) -> R {
    match spawn_blocking(job).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is shutting down, and whoever waits here with it.
            Err(_) => pending().await,
        },
    }
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(WORKER_THREADS_MAX);
        let (jobs, queue) = bounded::<Job>(WORKER_JOBS_MAX);
        for index in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("creto-crypto-{index}"))
                .spawn(move || queue.iter().for_each(|job| job()))
                .expect("the system starts a thread");
        }
        Pool { jobs, places: Semaphore::new(WORKER_JOBS_MAX) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn more_jobs_than_places_all_run() {
        let jobs: Vec<_> = (0..WORKER_JOBS_MAX * 2).map(|n| tokio::spawn(offload(move || n))).collect();
        for (n, job) in jobs.into_iter().enumerate() {
            assert_eq!(job.await.unwrap(), n);
        }
    }
}
