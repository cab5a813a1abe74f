//! The doors between shards and control: each hands a question over without waiting, and brings the answer back through the
//! ring of the shard that asked.

use creto_envelope::AgentId;
use creto_envelope::channel::SignedChannelRecord;
use creto_envelope::channel::frames::encode_channel_response;
use creto_envelope::prekeys::{PrekeyClaimed, PrekeyRefusal, PrekeyStock, PrekeyStockTold, PrekeyUploaded};
use creto_io::Parcel;
use creto_io::ring::ControlPort;
use creto_service::channel_records::ChannelDoor;
use creto_service::enrolment::{EnrolmentAsked, EnrolmentDoor};
use creto_service::key_log::Questioner;
use creto_service::key_records::KeyRecordDoor;
use creto_service::prekeys::{Claim, PrekeyDoor, StockSink, Upload};
use creto_service::rotation::{self, Publication, Publisher, Reply};
use creto_shard::{KeyRefused, PrekeyQuestion};

use super::tell_all;
use crate::late::Way;
use crate::machine::{AskChannel, AskKeyLog, AskKeyRecord, AskPrekeys, Enrol, NodeItem, PublishKeyRecord};

/// The way of a key record from a shard to control, and of the answer back to it. The answer takes the same ring as the
/// snapshot that was published before it, so it comes after that.
pub(super) fn publish_key_records(publisher: Publisher, way: Way) -> PublishKeyRecord {
    Box::new(move |connection, agent, mode, record| {
        let way = way.clone();
        let reply = Reply::new(move |answer| {
            let answer = answer.map_err(key_refused);
            way.tell(NodeItem::KeyRecordPublished { connection, answer });
        });
        publisher.publish(Publication { agent, mode, record, reply }).map_err(key_refused)
    })
}

/// The way of an enrolment from a shard to control, and of the answer back to it: behind the snapshot that has the agent.
pub(super) fn enrol(door: EnrolmentDoor, way: Way) -> Enrol {
    Box::new(move |connection, peer, token, record| {
        let way = way.clone();
        let reply = Reply::new(move |answer: Result<_, rotation::Refused>| {
            let answer = answer.map_err(key_refused);
            way.tell(NodeItem::Enrolled { connection, answer });
        });
        door.enrol(EnrolmentAsked { token, peer, record, reply }).map_err(key_refused)
    })
}

/// The way of a question for a key record from a shard to control, and of the record back to it. The record takes the same ring as
/// the snapshots, of which one has shown it.
pub(super) fn ask_key_records(door: KeyRecordDoor, way: Way) -> AskKeyRecord {
    Box::new(move |agent, version| {
        let way = way.clone();
        let reply = Reply::new(move |answer: Result<_, rotation::Refused>| {
            let answer = answer.map_err(key_refused);
            way.tell(NodeItem::KeyRecord { agent, version, answer });
        });
        door.ask(agent, version, reply).map_err(key_refused)
    })
}

/// The way of a question about the key log from a shard to control, and of the answer back to it.
pub(super) fn ask_key_log(questioner: Questioner, way: Way) -> AskKeyLog {
    Box::new(move |connection, question| {
        let way = way.clone();
        questioner.ask(question, move |frame| {
            let frames = frame.into();
            way.tell(NodeItem::KeyLogAnswered { connection, frames });
        })
    })
}

/// The way of a question for the record of a channel from a shard to control, and of the answer back to it.
pub(super) fn ask_channels(door: ChannelDoor, way: Way) -> AskChannel {
    Box::new(move |connection, channel| {
        let way = way.clone();
        let reply = Reply::new(move |answer: Result<Box<SignedChannelRecord>, rotation::Refused>| {
            let frame = answer.map(|record| frame_of(|out| encode_channel_response(out, &record)).into());
            let answer = frame.map_err(|refused| refused.code);
            way.tell(NodeItem::ChannelAnswered { connection, channel, answer });
        });
        door.ask(channel, reply).map_err(|refused| refused.code)
    })
}

/// The way of what agents want of prekeys from a shard to control, and of the answer back to it.
pub(super) fn ask_prekeys(door: PrekeyDoor, way: Way) -> AskPrekeys {
    Box::new(move |connection, asker, question| {
        let way = way.clone();
        let answer = move |frame: Vec<u8>| {
            let frames = frame.into();
            way.tell(NodeItem::PrekeysAnswered { connection, frames });
        };
        let asked = match question {
            PrekeyQuestion::Upload(batch) => {
                let reply = Reply::new(move |said: Result<PrekeyStock, rotation::Refused>| {
                    let said = said.map(|stock| stock.one_time).map_err(refusal);
                    answer(frame_of(|out| PrekeyUploaded { answer: said }.encode(out)));
                });
                door.upload(Upload { agent: asker, batch, reply })
            }
            PrekeyQuestion::Claim(agent) => {
                let reply = Reply::new(move |said: Result<_, rotation::Refused>| {
                    answer(frame_of(|out| PrekeyClaimed { agent, answer: said.map_err(refusal) }.encode(out)));
                });
                door.claim(Claim { asker, agent, reply })
            }
            PrekeyQuestion::Stock => {
                let reply = Reply::new(move |said: Result<_, rotation::Refused>| {
                    answer(frame_of(|out| PrekeyStockTold { answer: said.map_err(refusal) }.encode(out)));
                });
                door.stock(asker, reply)
            }
        };
        asked.map_err(refusal)
    })
}

/// Tells every shard whose prekeys have become few: one of them may have a connection of the owner.
pub(super) fn tell_low(ports: Vec<ControlPort<Parcel<NodeItem>>>) -> impl StockSink {
    move |agent: AgentId, stock: PrekeyStock| tell_all(&ports, || NodeItem::PrekeysLow { agent, stock })
}

fn key_refused(refused: rotation::Refused) -> KeyRefused {
    KeyRefused { code: refused.code, retry_after_ms: refused.retry_after_ms }
}

fn refusal(refused: rotation::Refused) -> PrekeyRefusal {
    PrekeyRefusal { code: refused.code.as_u16(), retry_after_ms: refused.retry_after_ms }
}

fn frame_of(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}
