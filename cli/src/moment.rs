//! Moments as people read them, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const MS_PER_DAY: u64 = 86_400_000;

/// The clock on the wall, Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// `2026-11-20`
pub(crate) fn date(unix_ms: u64) -> String {
    let (year, month, day) = civil(unix_ms / MS_PER_DAY);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2026-11-20 16:05:09`
pub(crate) fn date_time(unix_ms: u64) -> String {
    format!("{} {}", date(unix_ms), time(unix_ms))
}

/// `16:05:09`
pub(crate) fn time(unix_ms: u64) -> String {
    let seconds = unix_ms % MS_PER_DAY / 1000;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Year, month and day of a day counted from 1970-01-01, by the Gregorian calendar. Counts from March, so that the day
/// that only some years have is the last of its year (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The day of a date, counted from 1970-01-01; `None` when there is no such day, or it is before that.
pub(crate) fn day_of([year, month, day]: [u64; 3]) -> Option<u64> {
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) {
        return None;
    }
    let year_from_march = year - u64::from(month <= 2);
    let (era, year_of_era) = (year_from_march / 400, year_from_march % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let days =
        (era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year).checked_sub(719_468)?;
    // The way back says whether the month has that day.
    (civil(days) == (year, month, day)).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(date_time(0), "1970-01-01 00:00:00");
        assert_eq!(date_time(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(date_time(1_795_190_709_999), "2026-11-20 16:05:09");
        assert_eq!(date(4_107_542_400_000), "2100-03-01");
        assert_eq!(date(4_107_542_399_999), "2100-02-28");
    }
}
