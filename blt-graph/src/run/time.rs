//! [`utc`]: the time, as run directories and the store write it.

use chrono::{DateTime, SecondsFormat, Utc};

/// The current time as `2026-01-31T12:00:00Z`.
pub fn utc() -> String {
    spell(Utc::now())
}

pub(super) fn spell(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::spell;

    #[test]
    fn times_of_known_days() {
        let spelt = |seconds| spell(DateTime::from_timestamp(seconds, 999_999_999).unwrap());
        assert_eq!(spelt(0), "1970-01-01T00:00:00Z");
        assert_eq!(spelt(951_826_154), "2000-02-29T12:09:14Z");
        assert_eq!(spelt(1_767_225_599), "2025-12-31T23:59:59Z");
        assert_eq!(spelt(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
