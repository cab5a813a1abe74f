//! What an agent has seen of the node's key log, over a restart: one file of JSON, written whole.
//!
//! ```text
//! { "format": 1, "agent": ID, "keys": the two lines of the log's public keys, "head": the newest signed head,
//!   "read": leaves that were read, "subtrees": [ the complete subtrees that they end with, base64 ] }
//! ```
//!
//! It holds no secret. Processes of one agent share it: the larger of two heads stays. Two that cannot be of one log are an alarm.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use creto_envelope::AgentId;
use creto_transparency::{KeyLogError, Scan, Watch};
use serde::{Deserialize, Serialize};

use crate::error::KeyLogFileError;
use crate::keys::file::write_whole;

/// The format of the file that this version reads and writes.
pub const KEY_LOG_FILE_FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    format: u32,
    agent: String,
    keys: String,
    head: String,
    read: u64,
    subtrees: Vec<String>,
}

/// Looked at first: another format may be anything else.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// What the file says.
pub(super) struct Seen {
    pub(super) watch: Watch,
    pub(super) scan: Scan,
}

impl Seen {
    /// The text of the file.
    pub(super) fn text(agent: AgentId, watch: &Watch, scan: &Scan) -> String {
        let contents = Contents {
            format: KEY_LOG_FILE_FORMAT,
            agent: agent.to_string(),
            keys: watch.public().to_text(),
            head: watch.head().map(|head| head.note().to_owned()).unwrap_or_default(),
            read: scan.size(),
            subtrees: scan.subtrees().map(|hash| STANDARD.encode(hash)).collect(),
        };
        serde_json::to_string_pretty(&contents).expect("strings and numbers are JSON") + "\n"
    }

    fn parse(path: &Path, agent: AgentId, text: &str) -> Result<Self, KeyLogFileError> {
        let damaged = |reason: String| KeyLogFileError::Damaged { path: path.to_owned(), reason };
        let json = |error: serde_json::Error| damaged(format!("line {}: no such JSON", error.line()));
        let Format { format } = serde_json::from_str(text).map_err(json)?;
        if format != KEY_LOG_FILE_FORMAT {
            return Err(KeyLogFileError::Version { path: path.to_owned(), found: format });
        }
        let Contents { agent: whose, keys, head, read, subtrees, .. } = serde_json::from_str(text).map_err(json)?;
        if whose != agent.to_string() {
            return Err(KeyLogFileError::OtherAgent { path: path.to_owned() });
        }
        let mut watch = Watch::pin_text(&keys).map_err(|error| damaged(error.to_string()))?;
        watch.advance(head.as_bytes(), &[]).map_err(|error| damaged(error.to_string()))?;
        let hash = |text: &String| STANDARD.decode(text).ok()?.try_into().ok();
        let subtrees: Option<Vec<[u8; 32]>> = subtrees.iter().map(hash).collect();
        let scan = subtrees.and_then(|subtrees| Scan::resume(read, &subtrees));
        let scan = scan.ok_or_else(|| damaged("the subtrees are not those of so many leaves".to_owned()))?;
        Ok(Self { watch, scan })
    }
}

/// Reads the file; `None` when there is none.
pub(super) fn read(path: &Path, agent: AgentId) -> Result<Option<Seen>, KeyLogFileError> {
    match fs::read_to_string(path) {
        Ok(text) => Seen::parse(path, agent, &text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(KeyLogFileError::Damaged { path: path.to_owned(), reason: "it is no text".to_owned() })
        }
        Err(source) => Err(KeyLogFileError::File { path: path.to_owned(), doing: "read", source }),
    }
}

/// Writes the file, unless another process of the agent has seen more. One that was shown another log is what comes back, and
/// the file stays as it is.
pub(super) fn write(path: &Path, agent: AgentId, text: &str) -> Result<Option<KeyLogError>, KeyLogFileError> {
    let failed = |doing| move |source| KeyLogFileError::File { path: path.to_owned(), doing, source };
    let ours = Seen::parse(path, agent, text)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed("made"))?;
    // Held by one process at a time, until it is closed: nothing is written between the look and the new file. Where a file system
    // knows no locks, each writes what it saw.
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&beside);
    let lock = lock.and_then(|lock| lock.lock().map(|()| lock));
    if let Err(error) = &lock {
        tracing::warn!(%error, "what was seen of the node's key log is written without a lock");
    }
    if let Ok(Some(there)) = read(path, agent) {
        if there.watch.public() != ours.watch.public() {
            return Ok(Some(KeyLogError::OtherKeys));
        }
        let root = |seen: &Seen| seen.watch.head().map(|head| head.root);
        if there.watch.size() == ours.watch.size() && root(&there) != root(&ours) {
            return Ok(Some(KeyLogError::Forked { seen: there.watch.size(), found: ours.watch.size() }));
        }
        let extent = |seen: &Seen| (seen.watch.size(), seen.scan.size());
        if extent(&there) > extent(&ours) {
            return Ok(None);
        }
    }
    write_whole(path, text.as_bytes()).map_err(failed("written"))?;
    Ok(None)
}
