//! The prices in force at an instant: a sequence of price books, and the price factors of organisations.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use time::OffsetDateTime;

use super::{BookVersion, PriceBook};
use crate::credits::PriceFactor;
use crate::ids::OrgId;

/// A price factor that an organisation has for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FactorSpan {
    pub factor: PriceFactor,
    pub from: OffsetDateTime,
    /// The end, which the time does not include; none: open.
    pub until: Option<OffsetDateTime>,
}

/// The books and factors that are in force, were in force recently, or are scheduled. No job runs at the instant when a
/// book comes into force, so every pricing looks up the book by the time.
#[derive(Debug, Clone, Default)]
pub struct PriceList {
    /// All books that `starts` names.
    pub books: BTreeMap<BookVersion, Arc<PriceBook>>,
    /// When each book comes into force, in ascending order.
    pub starts: Vec<(OffsetDateTime, BookVersion)>,
    /// The price factors of each organisation, with their times.
    pub factors: HashMap<OrgId, Vec<FactorSpan>>,
}

impl PriceList {
    /// The book in force at `instant`.
    pub fn book_at(&self, instant: OffsetDateTime) -> Option<&Arc<PriceBook>> {
        let begun = self.starts.iter().rev().find(|(from, _)| *from <= instant);
        begun.and_then(|(_, version)| self.books.get(version))
    }

    /// The price factor of `org` at `instant`, if it has one for that time.
    pub fn factor_at(&self, org: OrgId, instant: OffsetDateTime) -> Option<PriceFactor> {
        let holds =
            |span: &&FactorSpan| span.from <= instant && span.until.is_none_or(|until| instant < until);
        let spans = self.factors.get(&org)?;
        spans.iter().filter(holds).max_by_key(|span| span.from).map(|span| span.factor)
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    const NOON: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const HOUR: Duration = Duration::HOUR;

    fn book(version: i32) -> Arc<PriceBook> {
        let version = BookVersion::new(version);
        Arc::new(PriceBook { version, name: "a book".into(), prices: BTreeMap::new() })
    }

    #[test]
    fn a_book_is_in_force_from_its_instant_until_the_next_ones() {
        let [one, two] = [1, 2].map(BookVersion::new);
        let list = PriceList {
            books: [(one, book(1)), (two, book(2))].into(),
            starts: vec![(NOON, one), (NOON + HOUR, two), (NOON + HOUR * 2, one), (NOON + HOUR * 2, two)],
            factors: HashMap::new(),
        };
        let at = |instant| list.book_at(instant).map(|book| book.version);
        assert_eq!(at(NOON - Duration::MICROSECOND), None);
        assert_eq!(at(NOON), Some(one));
        assert_eq!(at(NOON + HOUR - Duration::MICROSECOND), Some(one));
        assert_eq!(at(NOON + HOUR), Some(two));
        assert_eq!(at(NOON + HOUR * 2), Some(two), "of two at once the later row");
    }

    #[test]
    fn a_factor_is_in_force_for_its_time_only() {
        let org = OrgId::generate();
        let span = |bp, from, until| FactorSpan { factor: PriceFactor::new(bp).unwrap(), from, until };
        let spans = vec![span(9_000, NOON + HOUR, None), span(8_000, NOON, Some(NOON + HOUR))];
        let list = PriceList { factors: [(org, spans)].into(), ..PriceList::default() };
        let at = |instant| list.factor_at(org, instant).map(PriceFactor::basis_points);
        assert_eq!(at(NOON - Duration::MICROSECOND), None);
        assert_eq!(at(NOON), Some(8_000));
        assert_eq!(at(NOON + HOUR), Some(9_000), "the end is not part of it");
        assert_eq!(list.factor_at(OrgId::generate(), NOON), None);
    }
}
