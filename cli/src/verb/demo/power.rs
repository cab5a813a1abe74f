//! A switch for the power of the disk under the node, operated over a Unix socket: a line `off` or `on`, answered with `ok`
//! when it is so. Whoever listens there may be a simulated disk, or may pull a real plug.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::exit::{Exit, Failure};

/// A disk that does not come back by then does not come back.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// See the module.
pub(super) struct PowerSwitch(BufReader<UnixStream>);

impl PowerSwitch {
    pub(super) async fn connect(socket: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(|error| Failure::file("reach the power switch at", socket, &error))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Cuts it. What was not synced may be gone from now on.
    pub(super) async fn off(&mut self) -> Result<(), Failure> {
        self.ask("off").await
    }

    /// Gives it back; the disk is there again, mounted where it was.
    pub(super) async fn on(&mut self) -> Result<(), Failure> {
        self.ask("on").await
    }

    async fn ask(&mut self, word: &str) -> Result<(), Failure> {
        let mut answer = String::new();
        let asked = timeout(ANSWER_WITHIN, async {
            self.0.get_mut().write_all(format!("{word}\n").as_bytes()).await?;
            self.0.read_line(&mut answer).await
        });
        match asked.await {
            Ok(Ok(_)) if answer == "ok\n" => Ok(()),
            Ok(Ok(0)) => Err(failure(word, "nobody is there any more")),
            Ok(Ok(_)) => Err(failure(word, answer.trim_end())),
            Ok(Err(error)) => Err(failure(word, &error.to_string())),
            Err(_) => Err(failure(word, "no answer came")),
        }
    }
}

fn failure(word: &str, why: &str) -> Failure {
    Failure::new(Exit::System, format!("the power switch did not turn {word}: {why}"), "")
}
