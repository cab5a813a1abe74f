//! What messages are like: sizes, priorities, and whom they are for. Pure: chance is an argument.

use std::fmt;
use std::str::FromStr;

use creto_agent::Priority;
use rand::{Rng, RngExt as _};

use crate::limits::{MIX_PARTS_MAX, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN};

/// Values with weights.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Weighted<T> {
    parts: Vec<(T, u32)>,
    total: u32,
}

impl<T: Copy> Weighted<T> {
    fn new(parts: Vec<(T, u32)>) -> Option<Self> {
        let total = parts.iter().try_fold(0u32, |total, (_, weight)| total.checked_add(*weight))?;
        (total > 0 && parts.len() <= MIX_PARTS_MAX).then_some(Self { parts, total })
    }

    /// One value asks for no chance, so that a run of one size is the same with every seed.
    fn pick(&self, chance: &mut impl Rng) -> T {
        if let [(value, _)] = self.parts[..] {
            return value;
        }
        let mut at = chance.random_range(0..self.total);
        for (value, weight) in &self.parts {
            if at < *weight {
                return *value;
            }
            at -= weight;
        }
        unreachable!("the weights add up to the total")
    }

    fn parse(text: &str, value: impl Fn(&str) -> Result<T, String>) -> Result<Self, String> {
        let one = |part: &str| {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let weight = weight.trim().parse().map_err(|_| format!("`{weight}` is no weight: a whole number"))?;
            Ok((value(name.trim())?, weight))
        };
        let parts: Result<Vec<_>, String> = text.split(',').map(one).collect();
        Self::new(parts?)
            .ok_or_else(|| format!("a mix has 1 to {MIX_PARTS_MAX} parts, and not all of them weigh nothing"))
    }
}

/// Sizes of payloads, each with how often it comes: `1024`, or `256=70,1024=20,65536=10`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeMix(Weighted<usize>);

impl SizeMix {
    /// All of one size.
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        Self(Weighted { parts: vec![(bytes, 1)], total: 1 })
    }

    /// The largest.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.0.parts.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0)
    }

    /// Whether every size is one that a payload may have.
    pub(crate) fn fits(&self) -> bool {
        self.0.parts.iter().all(|(bytes, _)| (PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(bytes))
    }

    pub(crate) fn pick(&self, chance: &mut impl Rng) -> usize {
        self.0.pick(chance)
    }
}

impl FromStr for SizeMix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mix = Weighted::parse(text, |size| size.parse().map_err(|_| format!("`{size}` is no number of bytes")))?;
        let mix = Self(mix);
        match mix.fits() {
            true => Ok(mix),
            false => Err(format!("a payload has {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX} bytes")),
        }
    }
}

impl fmt::Display for SizeMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_mix(f, &self.0.parts, |bytes| bytes.to_string())
    }
}

/// Priorities of messages, each with how often it comes: `normal`, or `high=1,normal=8,low=1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorityMix(Weighted<Priority>);

const PRIORITIES: [(&str, Priority); 4] =
    [("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High), ("critical", Priority::Critical)];

impl PriorityMix {
    pub(crate) fn pick(&self, chance: &mut impl Rng) -> Priority {
        self.0.pick(chance)
    }
}

impl Default for PriorityMix {
    fn default() -> Self {
        Self(Weighted { parts: vec![(Priority::Normal, 1)], total: 1 })
    }
}

impl FromStr for PriorityMix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |name: &str| PRIORITIES.iter().find(|(known, _)| *known == name).map(|(_, priority)| *priority);
        let value = |name: &str| known(name).ok_or_else(|| format!("`{name}` is none of low, normal, high, critical"));
        Weighted::parse(text, value).map(Self)
    }
}

impl fmt::Display for PriorityMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |priority: &Priority| PRIORITIES[usize::from(*priority as u8)].0.to_owned();
        write_mix(f, &self.0.parts, name)
    }
}

fn write_mix<T>(f: &mut fmt::Formatter<'_>, parts: &[(T, u32)], name: impl Fn(&T) -> String) -> fmt::Result {
    if let [(value, _)] = parts {
        return f.write_str(&name(value));
    }
    for (at, (value, weight)) in parts.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(f, "{comma}{}={weight}", name(value))?;
    }
    Ok(())
}

/// Whom messages are for: everybody in turn, or the first ones more often (Zipf's law).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Targets {
    count: usize,
    /// The share of the first so many, in rising order; empty without a skew.
    shares: Vec<f64>,
}

impl Targets {
    /// Of `count`; the one at place `k` (from 1) is chosen `k^-skew` times as often as the first. Without a skew a sender has one of
    /// its own.
    pub(crate) fn new(count: usize, skew: Option<f64>) -> Self {
        let Some(skew) = skew else { return Self { count, shares: Vec::new() } };
        #[allow(clippy::cast_precision_loss, reason = "a run has some thousand agents")]
        let weights = (1..=count).map(|place| (place as f64).powf(-skew));
        let mut shares: Vec<f64> = weights
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let total = shares.last().copied().unwrap_or(1.0);
        shares.iter_mut().for_each(|share| *share /= total);
        Self { count, shares }
    }

    pub(crate) fn pick(&self, lane: u32, chance: &mut impl Rng) -> usize {
        if self.shares.is_empty() {
            return lane as usize % self.count.max(1);
        }
        let at: f64 = chance.random();
        self.shares.partition_point(|share| *share <= at).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_pcg::Pcg64;

    use super::*;

    #[test]
    fn a_mix_is_written_as_it_was_read() {
        for text in ["1024", "256=70,1024=20,65536=10"] {
            assert_eq!(text.parse::<SizeMix>().unwrap().to_string(), text);
        }
        for text in ["normal", "high=1,normal=8,low=1"] {
            assert_eq!(text.parse::<PriorityMix>().unwrap().to_string(), text);
        }
        for wrong in ["", "15", "1024=x", "1024=0", "99999999", "a=1", "1024=4294967295,512=1"] {
            assert!(wrong.parse::<SizeMix>().is_err(), "{wrong}");
        }
        assert!("urgent".parse::<PriorityMix>().is_err());
    }

    #[test]
    fn every_part_of_a_mix_comes_as_often_as_it_weighs() {
        let (mix, mut chance) = ("100=1,200=0,300=3".parse::<SizeMix>().unwrap(), Pcg64::seed_from_u64(7));
        let mut counts = [0u32; 4];
        for _ in 0..40_000 {
            counts[mix.pick(&mut chance) / 100] += 1;
        }
        assert_eq!((counts[0], counts[2]), (0, 0));
        assert!((9_500..10_500).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn zipf_chooses_the_second_half_as_often_as_the_first_by_its_law() {
        let (targets, mut chance) = (Targets::new(100, Some(1.0)), Pcg64::seed_from_u64(11));
        let mut counts = vec![0u32; 100];
        for _ in 0..200_000 {
            counts[targets.pick(0, &mut chance)] += 1;
        }
        // 1 / H(100) of all go to the first, and half as many to the second.
        assert!((37_500..39_600).contains(&counts[0]), "{}", counts[0]);
        assert!((18_500..20_100).contains(&counts[1]), "{}", counts[1]);
        assert!(counts.iter().all(|count| *count > 100));
    }

    proptest! {
        #[test]
        fn whom_a_message_is_for_is_always_there(count in 1usize..500, skew in 0.0f64..4.0, lane in 0u32..2_000, seed: u64) {
            let mut chance = Pcg64::seed_from_u64(seed);
            for targets in [Targets::new(count, None), Targets::new(count, Some(skew))] {
                for _ in 0..20 {
                    prop_assert!(targets.pick(lane, &mut chance) < count);
                }
            }
        }
    }
}
