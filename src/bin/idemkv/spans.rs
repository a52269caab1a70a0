//! Spans of time and dates as text.

use std::time::Duration;

use idemkv::Timestamp;

/// Units from the largest on, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a span such as `90s` or `7d`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let millis = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .and_then(|(_, millis)| number.parse::<u64>().ok().and_then(|number| number.checked_mul(*millis)));
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is no span: 500ms, 90s, 15m, 24h or 7d"))
}

/// A span in its two largest units.
pub(crate) fn show(span: Duration) -> String {
    let mut left = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    for (name, millis) in UNITS {
        let number = left / millis;
        left %= millis;
        if number > 0 || (text.is_empty() && millis == 1) {
            text.push(format!("{number}{name}"));
        } else if !text.is_empty() {
            break;
        }
        if text.len() == 2 {
            break;
        }
    }
    text.join(" ")
}

/// A time in UTC, as RFC 3339 writes it.
pub(crate) fn date(time: Timestamp) -> String {
    let (seconds, millis) = (time.as_millis() / 1_000, time.as_millis() % 1_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The civil calendar, from days since 1970 by way of years that begin in March:
    // https://howardhinnant.github.io/date_algorithms.html#civil_from_days
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_shown() {
        for (text, millis) in [("500ms", 500), ("90s", 90_000), ("15m", 900_000), ("24h", 86_400_000)] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(millis));
        }
        for text in ["", "7", "d", "1.5h", "-1s", "99999999999999999d", "1 d"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let show = |millis| show(Duration::from_millis(millis));
        assert_eq!((show(0), show(61_000), show(90_061_000)), ("0ms".into(), "1m 1s".into(), "1d 1h".into()));
        assert_eq!((show(3_600_500), show(86_400_000)), ("1h".into(), "1d".into()));
    }

    #[test]
    fn dates_are_right_over_leap_years_and_centuries() {
        for (millis, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_800_000_000_123, "2027-01-15T08:00:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(date(Timestamp::from_millis(millis)), shown);
        }
    }
}
