//! Whether the system's clock is kept right: what the kernel knows of whoever sets it.

/// How the system's clock is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// Somebody keeps it (NTP, PTP, the machine below this one), and says it is off by so many microseconds at most.
    Kept {
        /// The most that it is off by.
        error_us: u64,
    },
    /// Nobody does: such a clock drifts by seconds a day.
    Free,
    /// The kernel does not say: the filter of a container may forbid the question.
    Unknown,
}

/// Asks the kernel. Changes nothing, and needs no privilege.
#[must_use]
pub fn discipline() -> Discipline {
    // SAFETY: all bytes zero is a value of this structure of integers: `modes` 0, which asks and sets nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is valid for reads and writes for as long as the call takes.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    judged(answer, state.status, state.maxerror)
}

fn judged(answer: i32, status: i32, error_us: i64) -> Discipline {
    if answer < 0 {
        return Discipline::Unknown;
    }
    match status & libc::STA_UNSYNC == 0 && answer != libc::TIME_ERROR {
        true => Discipline::Kept { error_us: u64::try_from(error_us).unwrap_or(0) },
        false => Discipline::Free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_nobody_sets_is_free_and_one_that_may_not_be_asked_about_is_unknown() {
        assert_eq!(judged(-1, 0, 0), Discipline::Unknown);
        assert_eq!(judged(libc::TIME_ERROR, libc::STA_UNSYNC, 16_000_000), Discipline::Free);
        assert_eq!(judged(libc::TIME_OK, libc::STA_UNSYNC, 16_000_000), Discipline::Free);
        assert_eq!(judged(libc::TIME_OK, libc::STA_PLL, 1_500), Discipline::Kept { error_us: 1_500 });
        assert_eq!(judged(libc::TIME_INS, libc::STA_PLL, 1_500), Discipline::Kept { error_us: 1_500 });
    }

    #[test]
    fn the_kernel_can_be_asked_without_privilege() {
        // Whatever it says, it says the same of the same moment: this machine's clock does not change hands in a test.
        let kind = |discipline| std::mem::discriminant(&discipline);
        assert_eq!(kind(discipline()), kind(discipline()));
    }
}
