//! `creto wal dump`: every segment, frame, record and message of a log with the byte at which it stands. Headers only: what a
//! message says is never shown, and could not be read here.

use std::cell::Cell;
use std::io::{self, Write};
use std::rc::Rc;

use creto_envelope::{AgentId, AgentName, MessageId, TrustDomain};
use creto_store::{
    CursorsEntry, DeadLetter, FileSource, GroupId, LogEntry, Noted, NotedMessage, Position, Progress, RecoveryError,
    SegmentFile, SegmentNumber, SegmentSource, SourceError, SubscriberId, SubscriptionsEntry, walk,
};
use serde_json::{Value, json};

use super::{problem, shards_of, size, unreadable};
use crate::args::{Global, WalDumpArgs};
use crate::exit::{Exit, Failure};
use crate::terminal::{BAD, DIM, STRONG, stdout};

pub(super) fn run(global: &Global, args: &WalDumpArgs) -> Result<Exit, Failure> {
    let wanted = Wanted::of(global, args)?;
    let mut exit = Exit::Ok;
    for (shard_index, folder) in shards_of(global, args.folder.as_ref())? {
        let has_seen_enough = Rc::new(Cell::new(false));
        let mut source = UntilSeen { files: FileSource::new(&folder), has_seen_enough: Rc::clone(&has_seen_enough) };
        let mut out: Box<dyn Write> = if args.json { Box::new(io::stdout().lock()) } else { Box::new(stdout()) };
        let mut page = Page { shard_index, wanted: &wanted, is_json: args.json, frame: None, out: &mut *out };
        let mut written = Ok(());
        let report = walk(&mut source, shard_index, |entry| {
            if written.is_ok() {
                written = page.show(&entry);
                has_seen_enough.set(written.is_err());
            }
        });
        written?;
        for found in report.map_err(|error| unreadable(&error))?.problems {
            exit = Exit::Found;
            page.problem(&found)?;
        }
    }
    Ok(exit)
}

/// What is to be shown.
struct Wanted {
    segment: Option<SegmentNumber>,
    mailbox: Option<[u8; 16]>,
    message: Option<MessageId>,
}

impl Wanted {
    fn of(global: &Global, args: &WalDumpArgs) -> Result<Self, Failure> {
        let mailbox = args.mailbox.as_deref().map(|text| mailbox_id(global, text)).transpose()?;
        Ok(Self { segment: args.segment.map(SegmentNumber), mailbox, message: args.message })
    }

    fn is_everything(&self) -> bool {
        self.mailbox.is_none() && self.message.is_none()
    }

    fn has_segment(&self, segment: SegmentNumber) -> bool {
        self.segment.is_none_or(|wanted| wanted == segment)
    }

    fn has_message(&self, message: &NotedMessage) -> bool {
        self.mailbox.is_none_or(|wanted| wanted == message.mailbox.0)
            && self.message.is_none_or(|wanted| wanted.0 == message.message_id.0)
    }

    fn has_record(&self, noted: &Noted) -> bool {
        match noted {
            _ if self.is_everything() => true,
            Noted::Settle(settle) => self.message.is_none() && self.mailbox == Some(settle.mailbox.0),
            Noted::Dead(dead) => self.message.is_none() && self.mailbox == Some(dead.mailbox.0),
            Noted::Revive(revive) => self.message.is_none() && self.mailbox == Some(revive.mailbox.0),
            Noted::Subscribe(subscribe) => self.message.is_none() && self.mailbox == Some(subscribe.channel.0),
            Noted::Unsubscribe(unsubscribe) => self.message.is_none() && self.mailbox == Some(unsubscribe.channel.0),
            Noted::Subscriptions(carried) => {
                let is_of = |entry: &SubscriptionsEntry| self.mailbox == Some(entry.channel.0);
                self.message.is_none() && carried.entries.iter().any(is_of)
            }
            other => other.messages().iter().any(|message| self.has_message(message)),
        }
    }
}

fn mailbox_id(global: &Global, text: &str) -> Result<[u8; 16], Failure> {
    if let Some(id) = AgentId::parse_hex(text) {
        return Ok(id.0);
    }
    let wrong = |what: String| Failure::new(Exit::Usage, what, "name an agent such as acme/planner, or its id");
    let name = AgentName::parse(text).map_err(|error| wrong(format!("{text}: {error}")))?;
    let config = global.load_config()?;
    let trust_domain = TrustDomain::parse(&config.node.trust_domain).map_err(|error| wrong(error.to_string()))?;
    Ok(AgentId::derive(&trust_domain, &name).0)
}

/// Writes what is wanted of one shard.
struct Page<'a> {
    shard_index: u32,
    wanted: &'a Wanted,
    is_json: bool,
    /// The frame that was come by last, until something of it is shown.
    frame: Option<(Value, String)>,
    out: &'a mut dyn Write,
}

impl Page<'_> {
    fn show(&mut self, entry: &LogEntry<'_>) -> io::Result<()> {
        match entry {
            LogEntry::Segment { file, header } if self.wanted.has_segment(file.number) => {
                let value = json!({
                    "entry": "segment", "shard": self.shard_index, "segment": file.number.0, "bytes": file.bytes,
                    "epoch": header.epoch.0, "first_lsn": header.first_lsn.0, "log_start": header.log_start.0,
                    "created_ms": header.created_ms,
                });
                let (number, epoch, first) = (file.number, header.epoch, header.first_lsn);
                let text = format!(
                    "{STRONG}shard {}, segment {number}{STRONG:#}  epoch {epoch}, from frame {first} on, {}",
                    self.shard_index,
                    size(file.bytes)
                );
                self.write(&value, &text)
            }
            LogEntry::Frame { header, offset } if self.wanted.has_segment(header.segment) => {
                let bytes = header.total_bytes();
                let value = json!({
                    "entry": "frame", "shard": self.shard_index, "segment": header.segment.0, "offset": offset,
                    "bytes": bytes, "lsn": header.lsn.0, "durable_lsn": header.durable_upto.0,
                    "log_start": header.log_start.0, "records": header.record_count,
                });
                let text = format!(
                    "{offset:>12}  frame {}  {bytes} bytes, {} records  {DIM}durable to {}, log from segment {}{DIM:#}",
                    header.lsn, header.record_count, header.durable_upto, header.log_start
                );
                self.frame = Some((value, text));
                if self.wanted.is_everything() { self.write_frame() } else { Ok(()) }
            }
            LogEntry::Record { position, bytes, record } if self.wanted.has_segment(position.segment) => {
                let noted = record.noted(*position);
                if !self.wanted.has_record(&noted) {
                    return Ok(());
                }
                self.write_frame()?;
                self.record(*position, *bytes, &noted)
            }
            LogEntry::Segment { .. } | LogEntry::Frame { .. } | LogEntry::Record { .. } => Ok(()),
        }
    }

    fn record(&mut self, position: Position, bytes: usize, noted: &Noted) -> io::Result<()> {
        let mut value = json!({
            "entry": "record", "shard": self.shard_index, "segment": position.segment.0, "offset": position.offset,
            "bytes": bytes, "lsn": position.lsn.0, "index": position.index, "kind": noted.kind_name(),
        });
        let details = match noted {
            Noted::Settle(settle) => {
                value["mailbox"] = settle.mailbox.to_string().into();
                value["cause"] = format!("{:?}", settle.cause).into();
                value["sequences"] = settle.sequences.clone().into();
                let count = settle.sequences.len();
                let ends = settle.sequences.iter().min().zip(settle.sequences.iter().max());
                let (least, most) = ends.unwrap_or((&0, &0));
                format!("{count} messages, {least} to {most}, {:?}, mailbox {}", settle.cause, settle.mailbox)
            }
            Noted::Dedup(dedup) => {
                let ids: usize = dedup.senders.iter().map(|sender| sender.ids.len()).sum();
                value["next_sequence"] = dedup.next_sequence.into();
                value["senders"] = dedup.senders.len().into();
                value["ids"] = ids.into();
                format!("{ids} ids of {} senders, next sequence {}", dedup.senders.len(), dedup.next_sequence)
            }
            Noted::Start(start) => {
                value["epoch"] = start.epoch.0.into();
                value["started_ms"] = start.started_ms.into();
                value["recovered_lsn"] = start.recovered_through.0.into();
                format!("epoch {}, recovered to frame {}", start.epoch, start.recovered_through)
            }
            Noted::Dead(dead) => {
                value["mailbox"] = dead.mailbox.to_string().into();
                value["again"] = dead.is_again.into();
                let letter = |letter: &DeadLetter| {
                    json!({
                        "sequence": letter.sequence, "died_ms": letter.died_ms, "reason": letter.reason,
                        "cause": format!("{:?}", letter.cause), "deliveries": letter.deliveries,
                    })
                };
                value["letters"] = dead.letters.iter().map(letter).collect();
                let again = if dead.is_again { " again" } else { "" };
                format!("{} messages are dead{again}, mailbox {}", dead.letters.len(), dead.mailbox)
            }
            Noted::Revive(revive) => {
                value["mailbox"] = revive.mailbox.to_string().into();
                value["sequences"] = revive.sequences.clone().into();
                format!("{} messages live again, mailbox {}", revive.sequences.len(), revive.mailbox)
            }
            Noted::Subscribe(subscribe) => {
                value["channel"] = subscribe.channel.to_string().into();
                value["subscriber"] = subscribe.subscriber.to_string().into();
                value["group"] = group(subscribe.group);
                value["number"] = subscribe.number.into();
                value["begins_after"] = subscribe.begins_after.into();
                let begins =
                    subscribe.begins_after.map_or("joins".to_owned(), |cursor| format!("begins after {cursor}"));
                format!(
                    "subscription {} {begins}, subscriber {}, group {}, channel {}",
                    subscribe.number, subscribe.subscriber, subscribe.group, subscribe.channel
                )
            }
            Noted::Unsubscribe(unsubscribe) => {
                value["channel"] = unsubscribe.channel.to_string().into();
                value["subscriber"] = unsubscribe.subscriber.to_string().into();
                value["group"] = group(unsubscribe.group);
                format!(
                    "subscriber {}, group {}, channel {}",
                    unsubscribe.subscriber, unsubscribe.group, unsubscribe.channel
                )
            }
            Noted::Cursors(cursors) => {
                let entry = |entry: &CursorsEntry| progress(entry.number, &entry.progress);
                value["subscriptions"] = cursors.entries.iter().map(entry).collect();
                format!("{} subscriptions came further", cursors.entries.len())
            }
            Noted::Subscriptions(carried) => {
                let entry = |entry: &SubscriptionsEntry| {
                    let mut value = progress(entry.number, &entry.progress);
                    value["channel"] = entry.channel.to_string().into();
                    value["group"] = group(entry.group);
                    value["subscriber"] = match entry.subscriber {
                        SubscriberId::NONE => Value::Null,
                        subscriber => subscriber.to_string().into(),
                    };
                    value["members"] = entry.members.iter().map(ToString::to_string).collect();
                    value
                };
                value["subscriptions"] = carried.entries.iter().map(entry).collect();
                format!("{} subscriptions as they were", carried.entries.len())
            }
            other => {
                value["messages"] = other.message_count().into();
                format!("{} messages", other.message_count())
            }
        };
        let text = format!("{:>12}    {}  {bytes} bytes, {details}", position.offset, noted.kind_name());
        self.write(&value, &text)?;
        for message in noted.messages().iter().filter(|message| self.wanted.has_message(message)) {
            self.message(position, message)?;
        }
        Ok(())
    }

    fn message(&mut self, position: Position, message: &NotedMessage) -> io::Result<()> {
        let id = MessageId(message.message_id.0).to_uuid_string();
        let place = message.place;
        let value = json!({
            "entry": "message", "shard": self.shard_index, "segment": place.segment.0, "offset": place.message_offset,
            "bytes": place.message_bytes, "lsn": position.lsn.0, "sequence": message.sequence,
            "mailbox": message.mailbox.to_string(), "sender": message.sender.to_string(), "message_id": id,
            "priority": format!("{:?}", message.priority), "expiry_ms": message.expiry_ms,
            "envelope_bytes": message.envelope_bytes, "crc": place.crc,
        });
        let text = format!(
            "{:>12}      message {}  {} bytes, {:?}, {id}  {DIM}{} to {}{DIM:#}",
            place.message_offset,
            message.sequence,
            place.message_bytes,
            message.priority,
            message.sender,
            message.mailbox
        );
        self.write(&value, &text)
    }

    fn problem(&mut self, found: &RecoveryError) -> io::Result<()> {
        let mut value = problem(found);
        value["entry"] = "problem".into();
        value["shard"] = self.shard_index.into();
        self.write(&value, &format!("{BAD}damaged{BAD:#}  {found}"))
    }

    fn write_frame(&mut self) -> io::Result<()> {
        match self.frame.take() {
            Some((value, text)) => self.write(&value, &text),
            None => Ok(()),
        }
    }

    fn write(&mut self, value: &Value, text: &str) -> io::Result<()> {
        if self.is_json { writeln!(self.out, "{value}") } else { writeln!(self.out, "{text}") }
    }
}

fn group(group: GroupId) -> Value {
    match group {
        GroupId::NONE => Value::Null,
        group => group.to_string().into(),
    }
}

fn progress(number: u64, progress: &Progress) -> Value {
    json!({
        "number": number, "cursor": progress.cursor, "missed": progress.missed, "skipped": progress.skipped,
        "done": progress.done,
    })
}

/// Stops reading when nobody looks any more (`creto wal dump | head`).
struct UntilSeen {
    files: FileSource,
    has_seen_enough: Rc<Cell<bool>>,
}

impl SegmentSource for UntilSeen {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        self.files.segments()
    }

    fn read(&mut self, segment: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        if self.has_seen_enough.get() {
            return Err(SourceError { action: "go on".to_owned(), error: io::ErrorKind::BrokenPipe.into() });
        }
        self.files.read(segment, offset, out)
    }
}
