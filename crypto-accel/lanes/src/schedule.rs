//! Which message is in which lane, until all are done.

use crate::message::Reader;
use crate::words::{Block, INITIAL_STATE, State, digest};
use crate::{Hash, Message};

/// What compresses one block of each of its lanes at a time.
pub(crate) trait Engine<const LANES: usize> {
    /// Puts a state into a lane.
    fn put(&mut self, lane: usize, state: &State);
    /// The state of a lane.
    fn get(&self, lane: usize) -> State;
    /// Compresses the first `count` blocks of each run into the state of its lane.
    fn compress(&mut self, runs: [&[Block]; LANES], count: usize);
}

/// A message on its way, or nothing.
#[derive(Clone, Debug)]
pub(crate) struct Lane<'m> {
    reader: Reader<'m>,
    /// What its blocks were compressed into, while it is in no engine.
    state: State,
    /// Where its digest goes.
    place: usize,
}

impl<'m> Lane<'m> {
    pub(crate) const IDLE: Self = Self { reader: Reader::DONE, state: INITIAL_STATE, place: 0 };

    #[inline]
    pub(crate) fn start<const HEAD: usize>(&mut self, message: &Message<'m, HEAD>, place: usize) {
        self.reader.start(message);
        self.state = INITIAL_STATE;
        self.place = place;
    }

    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.reader.is_done()
    }
}

/// Hashes what `next` puts into idle lanes, until fewer than `busy_min` lanes have anything to do. What is left in them can
/// go on elsewhere.
#[inline]
pub(crate) fn run<'m, const LANES: usize>(
    engine: &mut impl Engine<LANES>,
    busy_min: usize,
    mut next: impl FnMut(&mut Lane<'m>) -> bool,
    hashes: &mut [Hash],
) -> [Lane<'m>; LANES] {
    assert!(busy_min > 0, "without a message there is nothing to do");
    let mut lanes = [const { Lane::IDLE }; LANES];
    let mut has_next = true;
    loop {
        let (mut busy, mut count, mut any) = (0, usize::MAX, 0);
        for (index, lane) in lanes.iter_mut().enumerate() {
            if lane.is_idle() {
                has_next = has_next && next(lane);
                if !has_next {
                    continue;
                }
                engine.put(index, &lane.state);
            }
            busy += 1;
            count = count.min(lane.reader.count());
            any = index;
        }
        if busy < busy_min {
            break;
        }
        // An idle lane goes along with a busy one; nobody looks at what comes out.
        let runs = std::array::from_fn(|index| match lanes[index].is_idle() {
            true => lanes[any].reader.blocks(),
            false => lanes[index].reader.blocks(),
        });
        engine.compress(runs, count);
        for (index, lane) in lanes.iter_mut().enumerate().filter(|(_, lane)| !lane.is_idle()) {
            lane.reader.advance(count);
            if lane.is_idle() {
                hashes[lane.place] = digest(&engine.get(index));
            }
        }
    }
    for (index, lane) in lanes.iter_mut().enumerate() {
        lane.state = engine.get(index);
    }
    lanes
}
