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
    /// The default factors that organisations had within the last hour, each with the instant at which it was replaced, in
    /// ascending order.
    pub former: HashMap<OrgId, Vec<(OffsetDateTime, PriceFactor)>>,
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

    /// Whether the book was in force at some instant from `since` to `now`.
    pub fn had_book(&self, version: BookVersion, since: OffsetDateTime, now: OffsetDateTime) -> bool {
        let begun =
            self.starts.iter().any(|(from, begun)| *begun == version && since < *from && *from <= now);
        begun || self.book_at(since).is_some_and(|book| book.version == version)
    }

    /// Whether `org`, whose default is `default` now, paid `factor` at some instant from `since` to `now`.
    pub fn had_factor(
        &self,
        org: OrgId,
        factor: PriceFactor,
        default: PriceFactor,
        since: OffsetDateTime,
        now: OffsetDateTime,
    ) -> bool {
        let former = self.former.get(&org).map_or(&[][..], Vec::as_slice);
        let paid = |at: OffsetDateTime| {
            let own = former.iter().find(|(replaced_at, _)| at < *replaced_at);
            self.factor_at(org, at).unwrap_or(own.map_or(default, |(_, factor)| *factor))
        };
        let spans = self.factors.get(&org).map_or(&[][..], Vec::as_slice);
        // What it pays changes at these instants only.
        let changes = spans.iter().flat_map(|span| [Some(span.from), span.until]).flatten();
        let changes = changes.chain(former.iter().map(|(replaced_at, _)| *replaced_at));
        paid(since) == factor || changes.filter(|at| since < *at && *at <= now).any(|at| paid(at) == factor)
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
            ..PriceList::default()
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

    #[test]
    fn what_an_organisation_paid_within_a_time_is_known() {
        let org = OrgId::generate();
        let bp = |basis_points| PriceFactor::new(basis_points).unwrap();
        let list = PriceList {
            factors: [(org, vec![FactorSpan { factor: bp(8_000), from: NOON, until: Some(NOON + HOUR) }])]
                .into(),
            former: [(org, vec![(NOON - HOUR, bp(5_000)), (NOON + HOUR * 2, bp(6_000))])].into(),
            ..PriceList::default()
        };
        let had = |basis_points, since, now| list.had_factor(org, bp(basis_points), bp(10_000), since, now);
        let minute = Duration::MINUTE;
        assert!(had(5_000, NOON - HOUR * 2, NOON));
        assert!(!had(5_000, NOON - HOUR, NOON), "it was replaced at that instant");
        assert!(had(6_000, NOON - minute, NOON) && had(8_000, NOON - minute, NOON));
        assert!(!had(6_000, NOON, NOON + minute), "the span covers the default");
        assert!(had(6_000, NOON, NOON + HOUR), "the span ends, the default is back");
        assert!(!had(10_000, NOON, NOON + HOUR) && had(10_000, NOON, NOON + HOUR * 2));
        assert!(!had(0, NOON - HOUR * 3, NOON + HOUR * 3));
        assert!(!list.had_factor(OrgId::generate(), bp(5_000), bp(10_000), NOON - HOUR * 2, NOON));
    }

    #[test]
    fn a_book_that_was_in_force_within_a_time_is_known() {
        let [one, two] = [1, 2].map(BookVersion::new);
        let list = PriceList {
            books: [(one, book(1)), (two, book(2))].into(),
            starts: vec![(NOON, one), (NOON + HOUR, two)],
            ..PriceList::default()
        };
        assert!(list.had_book(one, NOON, NOON) && !list.had_book(one, NOON - HOUR, NOON - Duration::MINUTE));
        assert!(list.had_book(one, NOON, NOON + HOUR) && list.had_book(two, NOON, NOON + HOUR));
        assert!(!list.had_book(one, NOON + HOUR, NOON + HOUR * 2) && !list.had_book(two, NOON, NOON));
    }
}
