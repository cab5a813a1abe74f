//! Payloads that are still in memory: what became durable lately, in the pieces that it came in.
//!
//! Most messages are read within moments; they never touch the disk again. A piece stays until all its messages are settled
//! or it is the oldest and the cache is full. Pieces are whole: the messages of a batch share the memory that they arrived
//! in, and copying one out would cost as much as everything else that is done with it.
//!
//! Nobody is told when a piece goes. An entry keeps the number of its piece, and finds out.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::layout::length_usize;
use crate::record::{BatchPart, PartMessage};

/// Pieces by number, oldest first.
#[derive(Debug)]
pub(crate) struct Cache {
    pieces: VecDeque<Piece>,
    /// The number of the front piece. Numbers wrap; differences do not.
    first: u32,
    bytes: usize,
    bytes_max: usize,
}

/// A part of a batch, as it came. Once nothing of it is queued it is empty, and waits for those before it.
#[derive(Debug)]
struct Piece {
    batch_header: Bytes,
    /// By growing sequence.
    messages: Vec<PartMessage>,
    queued: usize,
    bytes: usize,
}

/// What an empty piece counts.
const EMPTY_PIECE_BYTES: usize = size_of::<Piece>();

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { pieces: VecDeque::new(), first: 0, bytes: 0, bytes_max }
    }

    /// Keeps the messages of a part, whose sequences grow, and returns the number of the piece.
    pub(crate) fn insert(&mut self, part: BatchPart) -> u32 {
        let BatchPart { batch_header, messages } = part;
        debug_assert!(messages.is_sorted_by_key(|message| message.sequence), "sequences grow inside a part");
        let held: usize = messages.iter().map(|message| size_of::<PartMessage>() + message.held_bytes()).sum();
        let bytes = EMPTY_PIECE_BYTES + batch_header.len() + held;
        self.bytes += bytes;
        let before = u32::try_from(self.pieces.len()).expect("an empty piece has bytes, too, and these are bounded");
        self.pieces.push_back(Piece { batch_header, queued: messages.len(), messages, bytes });
        self.first.wrapping_add(before)
    }

    /// A message and the header of its batch, if its piece is still here.
    pub(crate) fn get(&self, piece: u32, sequence: u64) -> Option<(&PartMessage, &Bytes)> {
        let piece = self.pieces.get(self.place(piece))?;
        let message = &piece.messages[piece.find(sequence)?];
        Some((message, &piece.batch_header))
    }

    /// A message is not queued any more. With the last one of its piece the memory is free.
    pub(crate) fn leave(&mut self, piece: u32, sequence: u64) {
        let place = self.place(piece);
        let Some(piece) = self.pieces.get_mut(place).filter(|piece| piece.find(sequence).is_some()) else { return };
        piece.queued -= 1;
        if piece.queued > 0 {
            return;
        }
        self.bytes -= piece.bytes - EMPTY_PIECE_BYTES;
        *piece = Piece { batch_header: Bytes::new(), messages: Vec::new(), queued: 0, bytes: EMPTY_PIECE_BYTES };
        while self.pieces.front().is_some_and(|piece| piece.queued == 0) {
            self.pop_front();
        }
    }

    /// Lets the oldest pieces go until the rest is no more than the cache may hold.
    pub(crate) fn shrink(&mut self) {
        while self.bytes > self.bytes_max {
            self.pop_front();
        }
    }

    /// Bytes that it holds. The messages of a piece may keep up to a third more alive: what lay beside them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn pop_front(&mut self) {
        let piece = self.pieces.pop_front().expect("whoever has bytes has a piece");
        self.first = self.first.wrapping_add(1);
        self.bytes -= piece.bytes;
    }

    fn place(&self, piece: u32) -> usize {
        length_usize(piece.wrapping_sub(self.first))
    }
}

impl Piece {
    fn find(&self, sequence: u64) -> Option<usize> {
        // Mostly there are no gaps: the node gives sequences one after the other.
        let first = self.messages.first()?.sequence;
        let guess = usize::try_from(sequence.checked_sub(first)?).ok()?;
        if self.messages.get(guess).is_some_and(|message| message.sequence == sequence) {
            return Some(guess);
        }
        self.messages.binary_search_by_key(&sequence, |message| message.sequence).ok()
    }
}

#[cfg(test)]
mod tests;
