//! Faults that the run injects between two steps, and damage to copies of the logs.

use creto_store::{RecoveryError, SegmentHeader, SegmentNumber, recover};

use crate::checkers::Replayed;
use crate::disk::{Crash, Image, SECTOR_BYTES};
use crate::fault::Fault;
use crate::history;
use crate::model::{Checked, Rule, broken};
use crate::network::LinkNumber;
use crate::node::shard_u32;
use crate::planted::PlantedBug;
use crate::world::{Step, World};

impl World<'_> {
    pub(crate) fn chaos_later(&mut self) {
        let delay_us = self.random.between(self.profile.chaos_us / 4, self.profile.chaos_us * 2);
        self.clock.after(delay_us, Step::Chaos);
    }

    pub(crate) fn chaos(&mut self) -> Checked {
        if self.is_healing {
            return Ok(());
        }
        self.chaos_later();
        if self.profile.late_writes {
            let shard = self.random.index(self.profile.shard_count);
            self.with_disk(shard, |disk, _, chance| disk.land_late(chance));
        }
        let fault = self.random.pick(&self.profile.chaos);
        match fault {
            Fault::Kill if self.node.is_up => {
                self.faults.add(fault);
                self.crash(Crash::Kill);
            }
            Fault::PowerLoss if self.node.is_up => {
                self.faults.add(fault);
                self.crash(Crash::Power);
            }
            Fault::ConnectionDrop => self.drop_connection(),
            Fault::Takeover => self.take_over(),
            Fault::Resend => self.resend(),
            Fault::Backup => self.begin_backup()?,
            Fault::DiskFull => {
                let shard = self.random.index(self.profile.shard_count);
                let is_full = !self.disks[shard].is_full;
                self.note(|| format!("disk {shard} has {} space", if is_full { "no" } else { "some" }));
                if is_full {
                    self.faults.add(fault);
                }
                self.disks[shard].is_full = is_full;
            }
            Fault::ClockJump => {
                self.faults.add(fault);
                let max_ms = self.profile.clock_jump_ms_max;
                let skew_ms = i64::try_from(self.random.below(2 * max_ms + 1)).expect("days")
                    - i64::try_from(max_ms).expect("days");
                self.note(|| format!("the wall clock jumps: it is off by {skew_ms} ms now"));
                self.clock.set_wall_skew_ms(skew_ms);
            }
            Fault::Drain if self.node.is_serving && !self.node.is_draining => {
                self.faults.add(fault);
                self.node.is_draining = true;
                for shard in 0..self.profile.shard_count {
                    let delay_us = self.random.between(0, 2_000);
                    self.clock.after(delay_us, Step::Drain { life: self.node.life, shard });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn drop_connection(&mut self) {
        let mut open: Vec<LinkNumber> = self.agents.iter().flat_map(crate::workload::Agent::open).copied().collect();
        if self.channels.is_on {
            open.extend(self.channels.agents.iter().flat_map(crate::channels::client::ChannelAgent::open));
        }
        if self.patterns.is_on {
            open.extend(self.patterns.agents.iter().flat_map(crate::patterns::client::PatternAgent::open));
        }
        if open.is_empty() {
            return;
        }
        self.faults.add(Fault::ConnectionDrop);
        let link = self.random.pick(&open);
        self.note(|| format!("connection {link} breaks"));
        // Until then frames still arrive; what is on its way at that moment is lost.
        let node_us = self.random.between(0, 4 * self.profile.network_us);
        let client_us = self.random.between(0, 4 * self.profile.network_us);
        self.clock.after(node_us, Step::NodeGone { link });
        self.clock.after(client_us, Step::ClientGone { link });
    }

    /// An agent comes over a second connection while the first one is alive.
    fn take_over(&mut self) {
        let agent = self.random.index(self.agents.len());
        let current = self.agents[agent].current();
        if current.is_some_and(|link| self.links[link].client_side.is_logged_in) {
            self.faults.add(Fault::Takeover);
            self.connect(agent);
        }
    }

    /// Damages a copy of a log that is about to be recovered: whatever it can know to be durable must not be cut.
    pub(crate) fn check_damage(&mut self, shard: usize) -> Checked {
        if self.disks[shard].has_lied || !self.random.one_in(self.profile.bit_rot_one_in) {
            return Ok(());
        }
        let intact = self.disks[shard].image();
        let Ok((durable_upto, before)) = self.read_copy(shard, intact.clone())? else {
            // Recovery itself is checked where the node starts.
            return Ok(());
        };
        self.check_foreign_frame(shard, &intact, &before)?;
        let Some((fault, mut damaged)) = self.damage(&intact) else { return Ok(()) };
        self.faults.add(fault);
        self.model.tally.damaged_copies += 1;
        let mut outcome = self.read_copy(shard, damaged.clone())?;
        if self.planted == Some(PlantedBug::RepairByTruncation) {
            while let Err(RecoveryError::Corrupt(corruption)) = &outcome {
                damaged.files.split_off(&corruption.segment);
                outcome = self.read_copy(shard, damaged.clone())?;
            }
        }
        match outcome {
            // Where the damage hides that older segments were let go, these come back: that does no harm.
            Ok((_, after)) => match before.iter().find(|had| had.0 <= durable_upto && !after.contains(had)) {
                None => Ok(()),
                Some((lsn, _)) => {
                    let text = format!(
                        "shard {shard}: {} in a copy of its log; it proves itself durable up to frame {durable_upto}, and \
                         recovery went on without a record of frame {lsn}",
                        fault.name()
                    );
                    broken(Rule::DamageIsNotCut, text)
                }
            },
            Err(_) => {
                self.model.tally.damage_refused += 1;
                Ok(())
            }
        }
    }

    /// Puts a frame of another history behind the end of a copy: it is no part of the log, and no reason to refuse it.
    fn check_foreign_frame(&mut self, shard: usize, intact: &Image, before: &[(u64, Replayed)]) -> Checked {
        let mut copy = intact.clone();
        let last = copy.files.iter_mut().rfind(|(number, bytes)| is_begun(**number, bytes));
        let nonce = self.random.bits();
        let is_next = self.random.one_in(2);
        if !last.is_some_and(|(_, file)| history::append_frame(file, nonce, is_next)) {
            return Ok(());
        }
        self.faults.add(Fault::ForeignFrame);
        let fault = Fault::ForeignFrame.name();
        match self.read_copy(shard, copy)? {
            Ok((_, after)) if after == before => Ok(()),
            Ok(_) => broken(Rule::Content, format!("shard {shard}: {fault}: recovery took it for a part of the log")),
            Err(error) => broken(Rule::SoundIsNotRefused, format!("shard {shard}: {fault}: {error}")),
        }
    }

    /// Recovers a copy: the frame up to which it proves itself durable, and a fingerprint of each record with its frame.
    #[allow(clippy::type_complexity, reason = "a pair that is taken apart at once")]
    fn read_copy(
        &mut self,
        shard: usize,
        mut image: Image,
    ) -> Result<Result<(u64, Vec<(u64, Replayed)>), RecoveryError>, crate::model::Violation> {
        let mut records = Vec::new();
        let mut checked = Ok(());
        let recovered = recover(&mut image, shard_u32(shard), |position, record| {
            let mut replayed = Replayed::default();
            if checked.is_ok() {
                checked = replayed.take(self.pool, &record);
            }
            records.push((position.lsn.0, replayed));
        });
        checked?;
        Ok(recovered.map(|recovered| (recovered.durable_upto().0, records)))
    }

    /// One sector, or one whole segment before the last one that was begun: whatever is durable is proven by what comes
    /// after it, so the proof must be left.
    fn damage(&mut self, intact: &Image) -> Option<(Fault, Image)> {
        let mut damaged = intact.clone();
        let segments: Vec<_> = damaged.files.keys().copied().collect();
        if self.random.one_in(2) {
            let last = intact.files.iter().rfind(|(number, bytes)| is_begun(**number, bytes))?.0;
            let earlier: Vec<_> = segments.into_iter().filter(|segment| segment < last).collect();
            if earlier.is_empty() {
                return None;
            }
            let segment = self.random.pick(&earlier);
            if self.random.one_in(2) {
                damaged.files.remove(&segment);
                return Some((Fault::LostSegment, damaged));
            }
            let file = damaged.files.get_mut(&segment)?;
            return history::replace_segment(file, self.random.bits()).map(|()| (Fault::ForeignSegment, damaged));
        }
        if segments.is_empty() {
            return None;
        }
        let file = damaged.files.get_mut(&self.random.pick(&segments)).filter(|file| !file.is_empty())?;
        let sector = self.random.index(file.len().div_ceil(SECTOR_BYTES)) * SECTOR_BYTES;
        let end = (sector + SECTOR_BYTES).min(file.len());
        if self.random.one_in(2) {
            file[sector..end].fill(0);
        } else {
            let at = sector + self.random.index(end - sector);
            file[at] ^= 1 << self.random.below(8);
        }
        Some((Fault::BitRot, damaged))
    }
}

fn is_begun(number: SegmentNumber, bytes: &[u8]) -> bool {
    SegmentHeader::parse(bytes).is_ok_and(|header| header.number == number)
}
