//! What an acknowledgement of a JetStream server is worth, as its monitoring says.

use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{NatsError, NatsFound, NatsServer, NatsSync};
use crate::limits::{NATS_MONITOR_BYTES_MAX, NATS_TIMEOUT};

/// The part of `/varz` that is looked at.
#[derive(Debug, Deserialize)]
struct Varz {
    version: String,
    #[serde(default)]
    jetstream: JetStream,
}

#[derive(Debug, Default, Deserialize)]
struct JetStream {
    #[serde(default)]
    config: Config,
}

#[derive(Debug, Default, Deserialize)]
struct Config {
    /// Nanoseconds. Versions before 2.10 have none: they cannot be told.
    sync_interval: Option<u64>,
    #[serde(default)]
    sync_always: bool,
}

impl NatsServer {
    /// Asks the server for its version, and its monitoring, where there is one, for how it syncs.
    ///
    /// # Errors
    /// [`NatsError`].
    pub async fn look(&self) -> Result<NatsFound, NatsError> {
        let client = self.connect("bench").await?;
        let info = client.server_info();
        if !info.jetstream {
            return Err(NatsError::NoJetStream { url: self.url.clone() });
        }
        let said = match &self.monitor {
            None => None,
            Some(address) => {
                let unreadable = |reason: String| NatsError::Monitor { address: address.clone(), reason };
                let varz = timeout(NATS_TIMEOUT, varz(address)).await;
                let varz = varz.map_err(|_| unreadable("it does not answer".to_owned()))?.map_err(unreadable)?;
                if varz.version != info.version {
                    let reason = format!("it is of version {}, the server of {}", varz.version, info.version);
                    return Err(unreadable(reason));
                }
                Some(varz.sync())
            }
        };
        let durability = words(said, self.sync);
        Ok(NatsFound { version: info.version, durability, is_encrypted: self.url.starts_with("tls://") })
    }
}

impl Varz {
    fn sync(&self) -> NatsSync {
        let Config { sync_interval, sync_always } = self.jetstream.config;
        match (sync_always, sync_interval) {
            (true, _) => NatsSync::Always,
            (false, Some(nanoseconds)) => NatsSync::Every(Duration::from_nanos(nanoseconds)),
            (false, None) => NatsSync::Default,
        }
    }
}

/// What the server says counts before what is said of it.
fn words(said: Option<NatsSync>, told: Option<NatsSync>) -> String {
    match (said, told) {
        (Some(said), _) => format!("JetStream in files: {said} (the server says so)"),
        (None, Some(told)) => format!("JetStream in files: {told} (by --nats-sync)"),
        (None, None) => {
            "JetStream in files: not told whether it is synced when it is acknowledged; by default it is NOT (--nats-monitor asks the \
             server)"
                .to_owned()
        }
    }
}

async fn varz(address: &str) -> Result<Varz, String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let request = format!("GET /varz HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    stream.take(NATS_MONITOR_BYTES_MAX).read_to_end(&mut answer).await.map_err(|error| error.to_string())?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Varz, String> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("it does not speak HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("it answers with status {status}"));
    }
    serde_json::from_slice(&answer[end + 4..]).map_err(|error| format!("its answer is not understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(config: &str) -> NatsSync {
        let body = format!(r#"{{"version": "2.10.0", "jetstream": {{"config": {{{config}}}, "stats": {{}}}}}}"#);
        parse(format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}").as_bytes()).unwrap().sync()
    }

    #[test]
    fn an_acknowledgement_is_worth_what_the_server_says() {
        assert_eq!(sync(r#""sync_interval": 120000000000, "sync_always": true"#), NatsSync::Always);
        let every = sync(r#""sync_interval": 120000000000"#);
        assert_eq!(every, NatsSync::Every(Duration::from_secs(120)));
        assert_eq!(sync(r#""max_memory": 7"#), NatsSync::Default, "a version that cannot be told");
        let text = words(Some(every), Some(NatsSync::Always));
        assert!(text.contains("120 s") && text.contains("NOT synced") && text.contains("the server says so"), "{text}");
        assert!(words(None, Some(NatsSync::Always)).contains("by --nats-sync"));
        assert!(words(None, None).contains("not told"), "nothing is assumed");
    }

    #[test]
    fn an_answer_that_is_none_is_no_word_on_syncing() {
        for answer in ["", "HTTP/1.0 200 OK\r\n\r\n{}", "HTTP/1.0 404 Not Found\r\n\r\n{}", "-ERR 'unknown'\r\n\r\n"] {
            assert!(parse(answer.as_bytes()).is_err(), "{answer}");
        }
    }
}
