//! Compares two price books: which prices differ, and what past tasks would have cost with the other book.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::{BookVersion, PriceBook, Tariff};
use crate::credits::{Credits, PriceFactor};
use crate::ids::OrgId;

/// A task type that two books price differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PriceChange {
    #[schema(value_type = String)]
    pub task_type: Arc<str>,
    /// The price in the first book; none: the book does not have the type.
    pub before: Option<Tariff>,
    /// The price in the second book; none: the book does not have the type.
    pub after: Option<Tariff>,
}

/// The prices that differ between two books, by task type.
pub fn changes(before: &PriceBook, after: &PriceBook) -> Vec<PriceChange> {
    let types: BTreeSet<&Arc<str>> = before.prices.keys().chain(after.prices.keys()).collect();
    let change = |task_type: &Arc<str>| PriceChange {
        task_type: task_type.clone(),
        before: before.prices.get(task_type).copied(),
        after: after.prices.get(task_type).copied(),
    };
    types.into_iter().map(change).filter(|change| change.before != change.after).collect()
}

/// A group of tasks with the same organisation, type, book, list price and factor.
#[derive(Debug, Clone)]
pub struct PricedTasks {
    pub org: OrgId,
    pub task_type: Arc<str>,
    pub book: BookVersion,
    /// The list price of each task.
    pub list_price: Credits,
    /// The price factor of each task.
    pub factor: PriceFactor,
    pub tasks: i64,
    /// The sum of the tasks' charges.
    pub charged: Credits,
}

/// What tasks cost, and what they would have cost with another book.
///
/// The price of a task is what is held for it. Its charge follows the vendor's report, which does not depend on our book:
/// so prices are compared with prices, and the charge is given beside them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ReplayTotals {
    /// Tasks whose type the other book has too.
    pub tasks: i64,
    /// The sum of these tasks' charges.
    pub charged: Credits,
    pub priced: Credits,
    /// The sum of these tasks' prices by the other book.
    pub would_be_priced: Credits,
    /// By how much the other book is dearer; negative: cheaper.
    pub difference: Credits,
    /// Tasks whose length or sound does not follow from their price with certainty although the other price depends on
    /// them; the most usual ones are assumed (5 seconds, with sound).
    pub estimated: i64,
    /// Further tasks, whose type the other book does not have: they would be refused.
    pub refused: i64,
    /// The sum of the refused tasks' prices.
    pub refused_priced: Credits,
}

/// The tasks of a period, priced by another book.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PastReplay {
    pub total: ReplayTotals,
    pub orgs: BTreeMap<OrgId, ReplayTotals>,
    pub task_types: BTreeMap<Arc<str>, ReplayTotals>,
}

/// Prices `tasks`, which `books` had priced, by the book `other`; nothing if a sum overflows.
pub fn replay(
    tasks: &[PricedTasks],
    books: &BTreeMap<BookVersion, Arc<PriceBook>>,
    other: &PriceBook,
) -> Option<PastReplay> {
    let mut replay = PastReplay::default();
    for group in tasks {
        let outcome = outcome(group, books, other)?;
        replay.total = replay.total.plus(outcome)?;
        let of_org = replay.orgs.entry(group.org).or_default();
        *of_org = of_org.plus(outcome)?;
        let of_type = replay.task_types.entry(group.task_type.clone()).or_default();
        *of_type = of_type.plus(outcome)?;
    }
    Some(replay)
}

fn outcome(
    group: &PricedTasks,
    books: &BTreeMap<BookVersion, Arc<PriceBook>>,
    other: &PriceBook,
) -> Option<ReplayTotals> {
    let tasks = group.tasks;
    let priced = group.factor.apply(group.list_price)?.checked_mul(tasks)?;
    let Some(after) = other.prices.get(&group.task_type) else {
        return Some(ReplayTotals { refused: tasks, refused_priced: priced, ..ReplayTotals::default() });
    };
    let before = books.get(&group.book).and_then(|book| book.prices.get(&group.task_type));
    let (list_price, certain) = list_price_by(before.copied(), *after, group.list_price)?;
    let would_be_priced = group.factor.apply(list_price)?.checked_mul(tasks)?;
    Some(ReplayTotals {
        tasks,
        charged: group.charged,
        priced,
        would_be_priced,
        difference: would_be_priced.checked_sub(priced)?,
        estimated: if certain { 0 } else { tasks },
        ..ReplayTotals::default()
    })
}

/// The list price by `after` of a task that `before` priced at `list_price`, and whether it is certain. Length and sound
/// are not stored, but usually follow from the price.
fn list_price_by(before: Option<Tariff>, after: Tariff, list_price: Credits) -> Option<(Credits, bool)> {
    // The most usual length first.
    let lengths = std::iter::once(5).chain((3..=15).filter(|seconds| *seconds != 5));
    let all = lengths.flat_map(|seconds| [(seconds, true), (seconds, false)]);
    let fits = |(seconds, sound): &(u8, bool)| {
        before.is_some_and(|before| before.list_price(*seconds, *sound) == Some(list_price))
    };
    let mut possible: Vec<(u8, bool)> = all.filter(fits).collect();
    possible.sort_by_key(|(_, sound)| !sound);
    let by_after = |(seconds, sound): &(u8, bool)| after.list_price(*seconds, *sound);
    let Some(likely) = possible.first() else {
        // If no length and sound explain the price, it stays as it is, unless the new price is the same for all tasks.
        return match after {
            Tariff::Fixed { credits } => Some((credits, true)),
            Tariff::Second { .. } => Some((list_price, false)),
        };
    };
    let likely = by_after(likely)?;
    Some((likely, possible.iter().all(|other| by_after(other) == Some(likely))))
}

impl ReplayTotals {
    fn plus(self, other: Self) -> Option<Self> {
        Some(Self {
            tasks: self.tasks.checked_add(other.tasks)?,
            charged: self.charged.checked_add(other.charged)?,
            priced: self.priced.checked_add(other.priced)?,
            would_be_priced: self.would_be_priced.checked_add(other.would_be_priced)?,
            difference: self.difference.checked_add(other.difference)?,
            estimated: self.estimated.checked_add(other.estimated)?,
            refused: self.refused.checked_add(other.refused)?,
            refused_priced: self.refused_priced.checked_add(other.refused_priced)?,
        })
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const C: fn(i64) -> Credits = Credits::new;
    const TYPE: &str = "std-text-to-video";

    fn second(credits: i64, with_audio: Option<i64>) -> Tariff {
        Tariff::Second { credits: C(credits), credits_with_audio: with_audio.map(C) }
    }

    fn fixed(credits: i64) -> Tariff {
        Tariff::Fixed { credits: C(credits) }
    }

    fn book(version: i32, prices: &[(&str, Tariff)]) -> PriceBook {
        let prices = prices.iter().map(|(name, tariff)| ((*name).into(), *tariff)).collect();
        PriceBook { version: BookVersion::new(version), name: "a book".into(), prices }
    }

    #[test]
    fn what_differs_is_told_by_type() {
        let before = book(1, &[("same", fixed(1)), ("dearer", fixed(1)), ("gone", fixed(1))]);
        let after = book(2, &[("same", fixed(1)), ("dearer", fixed(2)), ("new", fixed(3))]);
        let told: Vec<_> = changes(&before, &after)
            .into_iter()
            .map(|c| (c.task_type.to_string(), c.before, c.after))
            .collect();
        let expected = [
            ("dearer".to_owned(), Some(fixed(1)), Some(fixed(2))),
            ("gone".to_owned(), Some(fixed(1)), None),
            ("new".to_owned(), None, Some(fixed(3))),
        ];
        assert_eq!(told, expected);
        assert!(changes(&before, &before).is_empty());
    }

    #[test]
    fn length_and_sound_are_told_from_the_price_where_they_can_be() {
        let split = Some(second(40, Some(60)));
        let by = |after, list| list_price_by(split, after, C(list)).map(|(list, sure)| (list.get(), sure));
        // 5 s with sound, and nothing else, is 300.
        assert_eq!(by(second(50, Some(70)), 300), Some((350, true)));
        // 5 s without.
        assert_eq!(by(second(50, Some(70)), 200), Some((250, true)));
        // 240 is 4 s with sound, or 6 s without.
        assert_eq!(by(second(50, Some(70)), 240), Some((280, false)));
        assert_eq!(by(second(80, Some(120)), 240), Some((480, true)), "both are twice as dear");
        assert_eq!(by(fixed(9), 240), Some((9, true)));
        // Sound made no difference, and now it does.
        let unsplit = list_price_by(Some(second(40, None)), second(40, Some(60)), C(200));
        assert_eq!(unsplit, Some((C(300), false)));
        assert_eq!(list_price_by(Some(fixed(100)), second(10, None), C(100)), Some((C(50), false)));
        assert_eq!(list_price_by(None, second(10, None), C(100)), Some((C(100), false)));
        assert_eq!(list_price_by(None, fixed(10), C(100)), Some((C(10), true)));
    }

    fn tariff() -> impl Strategy<Value = Tariff> {
        let price = || 1i64..200;
        prop_oneof![
            price().prop_map(fixed),
            (price(), proptest::option::of(price())).prop_map(|(credits, audio)| second(credits, audio)),
        ]
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_tasks_one_by_one(
            before in tariff(),
            after in tariff(),
            tasks in proptest::collection::vec((3u8..=15, any::<bool>(), 0i32..20_000, 0i64..500), 1..40),
        ) {
            let org = OrgId::generate();
            let (old, new) = (book(1, &[(TYPE, before)]), book(2, &[(TYPE, after)]));
            let books = BTreeMap::from([(old.version, Arc::new(old.clone()))]);
            let groups: Vec<PricedTasks> = tasks
                .iter()
                .map(|(seconds, sound, bp, charged)| PricedTasks {
                    org,
                    task_type: TYPE.into(),
                    book: old.version,
                    list_price: before.list_price(*seconds, *sound).unwrap(),
                    factor: PriceFactor::new(*bp).unwrap(),
                    tasks: 1,
                    charged: C(*charged),
                })
                .collect();
            let all = replay(&groups, &books, &new).unwrap();
            let price = |tariff: Tariff, (seconds, sound, bp, _): &(u8, bool, i32, i64)| {
                PriceFactor::new(*bp).unwrap().apply(tariff.list_price(*seconds, *sound).unwrap()).unwrap().get()
            };
            let sum = |tariff| tasks.iter().map(|task| price(tariff, task)).sum::<i64>();
            prop_assert_eq!(all.total.priced, C(sum(before)));
            prop_assert_eq!(all.total.difference.get(), all.total.would_be_priced.get() - sum(before));
            prop_assert_eq!(all.total.charged.get(), tasks.iter().map(|task| task.3).sum::<i64>());
            if all.total.estimated == 0 {
                prop_assert_eq!(all.total.would_be_priced, C(sum(after)));
            }
            // By itself a book changes nothing.
            let same = replay(&groups, &books, &old).unwrap().total;
            prop_assert_eq!((same.difference, same.estimated), (C(0), 0));
            prop_assert_eq!(all.orgs[&org], all.total);
            prop_assert_eq!(all.task_types[TYPE], all.total);
        }
    }
}
