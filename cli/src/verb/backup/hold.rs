//! Keeps a running node from reusing its files while they are copied: says "still here" until the copy is done.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use creto_node::backup::BackupError;
use creto_service::client::{Client, ClientError};

use crate::client::{block_on, control_failure};
use crate::exit::Failure;

/// How often the node is asked for the copy of its directory, until there is one.
const ASK: Duration = Duration::from_millis(100);

/// A backup that a node knows of. It forgets it 30 s after this is dropped, and sooner when it is let go.
pub(super) struct Hold {
    id: String,
    client: Client,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    directory: Option<PathBuf>,
    lost: Option<ClientError>,
    is_over: bool,
}

impl Hold {
    /// For a backup that was begun just now.
    pub(super) fn keep(client: Client, id: String, lease: Duration) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (theirs, asked, name) = (Arc::clone(&shared), client.clone(), id.clone());
        let renew = move || theirs.renew(&asked, &name, lease / 6);
        let thread = std::thread::Builder::new().name("hold".to_owned()).spawn(renew)?;
        Ok(Self { id, client, shared, thread: Some(thread) })
    }

    /// Whether the node holds its files still.
    pub(super) fn check(&self) -> Result<(), BackupError> {
        lost(&self.shared.lock())
    }

    /// Waits for the node's copy of its directory.
    pub(super) fn directory(&self, check: impl Fn() -> Result<(), BackupError>) -> Result<PathBuf, BackupError> {
        let mut state = self.shared.lock();
        loop {
            lost(&state)?;
            check()?;
            if let Some(directory) = &state.directory {
                return Ok(directory.clone());
            }
            state = self.shared.wait(state, ASK);
        }
    }

    /// Has the node let go; an error says that it did not hold everything until now.
    pub(super) fn let_go(&mut self) -> Result<(), BackupError> {
        self.stop();
        lost(&self.shared.lock())?;
        let ended = block_on(async { Ok(self.client.end_backup(&self.id).await) });
        let ended = ended.unwrap_or_else(|_| Err(ClientError::Answer("no runtime can be started".to_owned())));
        ended.map_err(|error| {
            let text = error.to_string();
            self.shared.lock().lost = Some(error);
            BackupError::Lost(text)
        })
    }

    /// Why the node does not hold its files any more, as a person reads it.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.shared.lock().lost.as_ref().map(control_failure)
    }

    fn stop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It only asks the node; a panic there is as good as silence.
            let _ = thread.join();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
            // The node would find out by itself, a little later.
            let _ = block_on(async { Ok(self.client.give_up_backup(&self.id).await) });
        }
    }
}

impl Shared {
    fn renew(&self, client: &Client, id: &str, every: Duration) {
        while !self.lock().is_over {
            let renewed = block_on(async { Ok(client.renew_backup(id).await) });
            let mut state = self.lock();
            match renewed {
                Ok(Ok(renewed)) => state.directory = renewed.directory_copy.or(state.directory.take()),
                Ok(Err(error)) => {
                    state.lost = Some(error);
                    state.is_over = true;
                }
                Err(_) => {
                    state.lost = Some(ClientError::Answer("no runtime can be started".to_owned()));
                    state.is_over = true;
                }
            }
            self.changed.notify_all();
            if !state.is_over {
                let pause = if state.directory.is_some() { every } else { ASK };
                drop(self.wait(state, pause));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What it guards is whole at every moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0
    }
}

fn lost(state: &State) -> Result<(), BackupError> {
    state.lost.as_ref().map_or(Ok(()), |error| Err(BackupError::Lost(error.to_string())))
}
