//! A machine that answers each frame with itself, and a client's side of that.

use std::collections::VecDeque;

use creto_envelope::{FrameHeader, FrameType};
use creto_io::{IoAction, IoEvent, Machine, Now};
use creto_net::{NetEvent, Pieces};

use crate::support::Block;

/// Answers each frame with itself.
#[derive(Default)]
pub(crate) struct Echo {
    actions: VecDeque<IoAction<(), Block>>,
    pub(crate) connected: u64,
}

impl Machine for Echo {
    type Item = ();
    type Write = Block;

    fn on_event(&mut self, _now: Now, event: IoEvent<()>) {
        match event {
            IoEvent::Net(NetEvent::Connected { conn, .. }) => {
                self.connected += 1;
                self.actions.push_back(IoAction::Authenticated { conn });
                // Something for the disk as well: whoever waits for it must come to rest afterwards.
                let segment = self.connected;
                self.actions.push_back(IoAction::Prepare { id: segment, segment, bytes: 65_536, recycle: None });
            }
            IoEvent::Net(NetEvent::Frame { conn, stream, frame_type, body, .. }) => {
                let header = FrameHeader::new(frame_type, body.len()).unwrap().to_bytes();
                let pieces = Pieces::Many(vec![header.to_vec().into(), body]);
                self.actions.push_back(IoAction::Send { conn, stream, pieces });
            }
            IoEvent::Net(NetEvent::StreamClosed { conn, stream, .. }) => {
                self.actions.push_back(IoAction::Finish { conn, stream });
            }
            IoEvent::Item { .. } => {
                self.actions.push_back(IoAction::CloseAll { code: 0, reason: "done" });
                self.actions.push_back(IoAction::Halt);
            }
            _ => {}
        }
    }

    fn on_turn(&mut self, _now: Now) {}

    fn poll_action(&mut self) -> Option<IoAction<(), Block>> {
        self.actions.pop_front()
    }

    fn next_deadline_us(&self) -> Option<u64> {
        None
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&FrameHeader::new(FrameType::SignedBatch, body.len()).unwrap().to_bytes()[..], body].concat()
}

pub(crate) async fn exchange(send: &mut quinn::SendStream, recv: &mut quinn::RecvStream, body: &[u8]) {
    let sent = frame(body);
    let (written, echoed) = tokio::join!(send.write_all(&sent), async {
        let mut echoed = vec![0; sent.len()];
        recv.read_exact(&mut echoed).await.map(|()| echoed)
    });
    written.unwrap();
    assert!(echoed.unwrap() == sent, "the echo of {} bytes differs", body.len());
}
