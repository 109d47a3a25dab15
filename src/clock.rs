//! Time that keeps counting while the machine sleeps.
//!
//! `std::time::Instant` is CLOCK_MONOTONIC, which stands still in suspend: a key's time to live
//! would be stretched by every closed lid. Deadlines therefore use CLOCK_BOOTTIME
//! (clock_gettime(2)).

use std::ops::Add;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A point in time, counted from boot, suspend included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    /// The present.
    pub fn now() -> Self {
        let t = clock_gettime(ClockId::Boottime);
        Self(Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment this much earlier; the boot at the earliest.
    pub fn before(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(d))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}

/// A duration in whole milliseconds, as reports have it; the most that there is where it is longer.
pub fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The last second that RFC 3339 can write: 9999-12-31T23:59:59Z.
const LAST: u64 = 253_402_300_799;

/// A time in RFC 3339's form: UTC, with milliseconds. What lies before 1970, or after 9999, is
/// the beginning or the end of that.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let within = since.min(Duration::from_secs(LAST));
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + within).to_string()
}

/// A time in seconds since 1970 in the same form, without milliseconds.
pub fn date(secs: u64) -> String {
    let within = Duration::from_secs(secs.min(LAST));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + within).to_string()
}

/// A duration as people say it: `10s`, `1m 30s`, `250ms`. From one second on it is whole seconds.
pub fn spoken(d: Duration) -> String {
    let whole = if d.as_secs() == 0 { millis(d) } else { d.as_secs().saturating_mul(1000) };
    humantime::format_duration(Duration::from_millis(whole)).to_string()
}

/// A duration as it would be typed: one word, exact to the nanosecond.
pub fn typed(d: Duration) -> String {
    humantime::format_duration(d).to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_the_calendar() {
        let at = |secs, millis| {
            rfc3339(
                SystemTime::UNIX_EPOCH + Duration::from_secs(secs) + Duration::from_millis(millis),
            )
        };
        // What date(1) says: date -u -d @N +%FT%TZ
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(951_868_799, 999), "2000-02-29T23:59:59.999Z");
        assert_eq!(at(1_709_251_199, 0), "2024-02-29T23:59:59.000Z");
        assert_eq!(at(1_709_251_200, 0), "2024-03-01T00:00:00.000Z");
        assert_eq!(at(1_735_689_599, 0), "2024-12-31T23:59:59.000Z");
        assert_eq!(at(1_735_689_600, 0), "2025-01-01T00:00:00.000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339(before), at(0, 0));
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        // A KMS may say anything.
        assert_eq!(date(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn durations_are_said_as_people_say_them() {
        let said = |ms| spoken(Duration::from_millis(ms));
        let all = [said(0), said(250), said(10_000), said(90_700), said(86_400_000)];
        assert_eq!(all, ["0s", "250ms", "10s", "1m 30s", "1day"]);
        let _ = spoken(Duration::MAX);
    }
}
