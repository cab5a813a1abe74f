//! How many instructions the stages take, as valgrind's callgrind counts them, against a baseline in the repository.
//!
//! A count does not depend on neighbours, caches or the clock, so a change of some percent shows on any machine. It is of the code
//! that runs under valgrind: that has no AVX-512, no VAES and no SHA instructions, and code that chooses by the processor's features
//! takes there what it takes on a processor without them. So a count finds work that was added or saved, and says nothing of time.
//!
//! Counts compare only with counts of the same kind ([`Kind`]): architecture, the features that code under valgrind sees, valgrind,
//! both compilers. What draws until it fits, as signing with ML-DSA does, is in no stage.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// By how much a stage may take more than in the baseline, as a share of it.
pub const LIMIT: f64 = 0.03;

/// What counts depend on, beside the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// Architecture of the processor.
    pub architecture: String,
    /// Features that code under valgrind sees, of those that any code here asks for.
    pub features: Vec<String>,
    /// Version of valgrind.
    pub valgrind: String,
    /// Version of the Rust compiler.
    pub rustc: String,
    /// Version of the C compiler, which builds the cryptography.
    pub c_compiler: String,
}

impl Kind {
    /// Name of the file that has the baseline of this processor.
    #[must_use]
    pub fn file_name(&self) -> String {
        match self.features.is_empty() {
            true => format!("{}.json", self.architecture),
            false => format!("{}-{}.json", self.architecture, self.features.join("+")),
        }
    }

    /// What differs, each in words.
    fn differences(&self, other: &Self) -> Vec<String> {
        let features = |kind: &Self| kind.features.join(", ");
        let pairs = [
            ("architecture", self.architecture.clone(), other.architecture.clone()),
            ("features under valgrind", features(self), features(other)),
            ("valgrind", self.valgrind.clone(), other.valgrind.clone()),
            ("Rust compiler", self.rustc.clone(), other.rustc.clone()),
            ("C compiler", self.c_compiler.clone(), other.c_compiler.clone()),
        ];
        let differ = pairs.into_iter().filter(|(_, one, other)| one != other);
        differ.map(|(what, one, other)| format!("{what}: {one} there, {other} here")).collect()
    }
}

/// The features of this processor, or of what valgrind makes of it, that code here chooses by.
#[must_use]
pub fn features() -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    let all = [
        ("aes", std::arch::is_x86_feature_detected!("aes")),
        ("pclmulqdq", std::arch::is_x86_feature_detected!("pclmulqdq")),
        ("sse4.2", std::arch::is_x86_feature_detected!("sse4.2")),
        ("avx", std::arch::is_x86_feature_detected!("avx")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("bmi2", std::arch::is_x86_feature_detected!("bmi2")),
        ("adx", std::arch::is_x86_feature_detected!("adx")),
        ("sha", std::arch::is_x86_feature_detected!("sha")),
        ("vaes", std::arch::is_x86_feature_detected!("vaes")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512ifma", std::arch::is_x86_feature_detected!("avx512ifma")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let all: [(&str, bool); 0] = [];
    all.iter().filter(|(_, there)| *there).map(|(name, _)| (*name).to_owned()).collect()
}

/// Counts of one kind, as the repository keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// What they are of.
    pub kind: Kind,
    /// Instructions of each stage.
    pub stages: BTreeMap<String, u64>,
}

/// One stage against the baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Which.
    pub stage: String,
    /// In the baseline; none of a stage that is new.
    pub before: Option<u64>,
    /// Now; none of a stage that is gone.
    pub now: Option<u64>,
}

impl Compared {
    /// How much it changed, as a share of the baseline.
    #[must_use]
    pub fn change(&self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let change = |before: u64, now: u64| now as f64 / before as f64 - 1.0;
        self.before.filter(|before| *before > 0).zip(self.now).map(|(before, now)| change(before, now))
    }

    /// Whether it takes no more than it may. A stage that only one of them has is none that holds: nothing guards it.
    #[must_use]
    pub fn holds(&self) -> bool {
        // What is at the limit is not above it because it has no exact value in binary.
        self.change().is_some_and(|change| change <= LIMIT + 1e-9)
    }
}

/// Why counts do not compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherKind(Vec<String>);

impl fmt::Display for OtherKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "these counts do not compare with the baseline, which is of another kind ({}). On the commit before the change, make one of \
             this kind with `scripts/instructions.sh --write`, and compare with that",
            self.0.join("; ")
        )
    }
}

impl std::error::Error for OtherKind {}

/// Holds counts against the baseline.
///
/// # Errors
/// [`OtherKind`] says what differs when they do not compare.
pub fn compare(baseline: &Baseline, now: &Baseline) -> Result<Vec<Compared>, OtherKind> {
    let differences = baseline.kind.differences(&now.kind);
    if !differences.is_empty() {
        return Err(OtherKind(differences));
    }
    let names: std::collections::BTreeSet<&String> = baseline.stages.keys().chain(now.stages.keys()).collect();
    let compared = |stage: &String| Compared {
        stage: stage.clone(),
        before: baseline.stages.get(stage).copied(),
        now: now.stages.get(stage).copied(),
    };
    Ok(names.into_iter().map(compared).collect())
}

/// The count in what callgrind writes: the sum over everything that it was to collect.
#[must_use]
pub fn counted(callgrind: &str) -> Option<u64> {
    let events = callgrind.lines().find_map(|line| line.strip_prefix("events: "))?;
    let place = events.split(' ').position(|event| event == "Ir")?;
    let totals = callgrind.lines().find_map(|line| line.strip_prefix("totals: "))?;
    totals.split(' ').nth(place)?.parse().ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(stages: &[(&str, u64)]) -> Baseline {
        let kind = Kind {
            architecture: "x86_64".to_owned(),
            features: vec!["aes".to_owned(), "avx2".to_owned()],
            valgrind: "valgrind-3.19.0".to_owned(),
            rustc: "rustc 1.95.0".to_owned(),
            c_compiler: "cc 12".to_owned(),
        };
        Baseline { kind, stages: stages.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect() }
    }

    #[test]
    fn a_stage_that_takes_three_percent_more_holds_and_one_that_takes_more_does_not() {
        let before = baseline(&[("a", 100_000), ("b", 100_000), ("c", 100_000)]);
        let now = baseline(&[("a", 103_000), ("b", 103_001), ("c", 50_000)]);
        let compared = compare(&before, &now).unwrap();
        assert_eq!(compared.iter().map(Compared::holds).collect::<Vec<_>>(), [true, false, true]);
        let change = compared[2].change().unwrap();
        assert!((change + 0.5).abs() < 1e-9, "{change}");
    }

    #[test]
    fn a_stage_that_only_one_of_them_has_does_not_hold() {
        let compared = compare(&baseline(&[("gone", 5)]), &baseline(&[("new", 5)])).unwrap();
        assert!(
            compared.len() == 2 && compared.iter().all(|one| !one.holds() && one.change().is_none()),
            "{compared:?}"
        );
    }

    #[test]
    fn counts_of_another_kind_are_refused_with_what_differs() {
        let before = baseline(&[("a", 1)]);
        for (change, what) in [
            (
                |kind: &mut Kind| kind.features.push("sha".to_owned()),
                "features under valgrind: aes, avx2 there, aes, avx2, sha here",
            ),
            (|kind: &mut Kind| kind.valgrind = "valgrind-3.22.0".to_owned(), "valgrind-3.22.0 here"),
            (|kind: &mut Kind| kind.rustc = "rustc 1.96.0".to_owned(), "rustc 1.96.0 here"),
            (|kind: &mut Kind| kind.c_compiler = "clang".to_owned(), "clang here"),
            (|kind: &mut Kind| kind.architecture = "aarch64".to_owned(), "aarch64 here"),
        ] as [(fn(&mut Kind), &str); 5]
        {
            let mut now = before.clone();
            change(&mut now.kind);
            let refused = compare(&before, &now).unwrap_err().to_string();
            assert!(refused.contains(what) && refused.contains("--write"), "{refused}");
        }
        assert_eq!(before.kind.file_name(), "x86_64-aes+avx2.json");
    }

    #[test]
    fn the_count_is_read_as_callgrind_writes_it() {
        let text = "version: 1\npositions: line\nevents: Ir\nfl=x\n1 5\ntotals: 1234567\n";
        assert_eq!(counted(text), Some(1_234_567));
        assert_eq!(counted("events: Dr Ir\ntotals: 7 8\n"), Some(8));
        assert_eq!(counted("events: Ir\ntotals: 0\n"), None, "nothing was collected");
        assert_eq!(counted(""), None);
    }
}
