//! Instants in the organisation's time zone.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use time::OffsetDateTime;

/// A time zone, by its name in the IANA database.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    zone: TimeZone,
    name: String,
}

impl Zone {
    /// The zone of this name; UTC if the name is not known here.
    pub(super) fn named(name: &str) -> Self {
        match TimeZone::get(name) {
            Ok(zone) => Self { zone, name: name.to_owned() },
            Err(_) => Self { zone: TimeZone::UTC, name: "UTC".to_owned() },
        }
    }

    fn at(&self, instant: OffsetDateTime) -> Option<ZonedDateTime> {
        let timestamp = Timestamp::from_nanosecond(instant.unix_timestamp_nanos()).ok()?;
        Some(timestamp.to_zoned_datetime(self.zone.clone()))
    }

    /// As people read it: `30 Nov 2026, 05:17`.
    pub(super) fn short(&self, instant: OffsetDateTime) -> String {
        self.at(instant).map_or_else(String::new, |at| at.strftime("%-d %b %Y, %H:%M").to_string())
    }

    /// With seconds, offset and zone: `2026-11-30 05:17:09 +03:00 (Europe/Istanbul)`.
    pub(super) fn full(&self, instant: OffsetDateTime) -> String {
        let text = self.at(instant).map(|at| at.strftime("%Y-%m-%d %H:%M:%S %:z").to_string());
        format!("{} ({})", text.unwrap_or_default(), self.name)
    }

    /// Its name in the IANA database.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The day of an instant.
    pub(super) fn date(&self, instant: OffsetDateTime) -> time::Date {
        let day = self.at(instant).map(|at| at.date());
        let known = day.and_then(|day| {
            let month = u8::try_from(day.month()).ok()?;
            time::Date::from_calendar_date(
                day.year().into(),
                time::Month::try_from(month).ok()?,
                u8::try_from(day.day()).ok()?,
            )
            .ok()
        });
        known.unwrap_or_else(|| instant.date())
    }

    /// The month of an instant: `2026-11`.
    pub(super) fn month(&self, instant: OffsetDateTime) -> String {
        self.at(instant).map_or_else(String::new, |at| at.strftime("%Y-%m").to_string())
    }

    /// The first instant of a month such as `2026-11`, and of the month after it, as the APIs take them.
    pub(super) fn bounds(&self, month: &str) -> Option<(String, String)> {
        let (year, number) = month.split_once('-')?;
        let first = jiff::civil::Date::new(year.parse().ok()?, number.parse().ok()?, 1).ok()?;
        let begins = |date: jiff::civil::Date| -> Option<String> {
            let zoned = date.to_zoned_datetime(self.zone.clone()).ok()?;
            Some(zoned.timestamp().to_string())
        };
        let next = first.last_of_month().tomorrow().ok()?;
        Some((begins(first)?, begins(next)?))
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn instants_are_shown_in_the_zone_with_its_offset() {
        let zone = Zone::named("Europe/Istanbul");
        let at = datetime!(2026-11-30 22:17:09 UTC);
        assert_eq!(zone.short(at), "1 Dec 2026, 01:17");
        assert_eq!(zone.full(at), "2026-12-01 01:17:09 +03:00 (Europe/Istanbul)");
        assert_eq!(zone.month(at), "2026-12");
        assert_eq!(zone.date(at).to_string(), "2026-12-01");
        assert!(Zone::named("Nowhere/Else").full(at).ends_with("+00:00 (UTC)"));
    }

    #[test]
    fn a_month_begins_and_ends_by_the_zones_clock() {
        let (from, until) = Zone::named("Europe/Istanbul").bounds("2026-11").unwrap();
        assert_eq!((from.as_str(), until.as_str()), ("2026-10-31T21:00:00Z", "2026-11-30T21:00:00Z"));
        let (from, until) = Zone::named("Europe/Berlin").bounds("2026-03").unwrap();
        assert_eq!((from.as_str(), until.as_str()), ("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"));
        assert!(Zone::named("UTC").bounds("2026-13").is_none() && Zone::named("UTC").bounds("now").is_none());
    }
}
