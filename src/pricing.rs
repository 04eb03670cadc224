//! Prices in whole credits. A price book is a version of all prices; a task keeps the book that it was priced by.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod compare;
mod list;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::compare::{PastReplay, PriceChange, PricedTasks, ReplayTotals, changes, replay};
pub use self::list::{FactorSpan, PriceList};
use crate::credits::{Credits, PriceFactor};

/// The version of a price book.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct BookVersion(i32);

impl BookVersion {
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    pub const fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Display for BookVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The price of a task type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "unit", rename_all = "snake_case", deny_unknown_fields)]
pub enum Tariff {
    /// Credits per second of video.
    Second {
        /// Price without sound, or any price if sound has no price of its own.
        #[schema(value_type = i64, minimum = 1, maximum = 1_000_000_000)]
        credits: Credits,
        /// Price with sound, if sound has a price of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<i64>, minimum = 1, maximum = 1_000_000_000)]
        credits_with_audio: Option<Credits>,
    },
    Fixed {
        #[schema(value_type = i64, minimum = 1, maximum = 1_000_000_000)]
        credits: Credits,
    },
}

impl Tariff {
    /// Whether `sound` changes the price.
    pub fn depends_on_sound(self) -> bool {
        matches!(self, Self::Second { credits_with_audio: Some(_), .. })
    }

    /// Whether `duration` changes the price.
    pub fn depends_on_duration(self) -> bool {
        matches!(self, Self::Second { .. })
    }

    /// The list price; nothing if it overflows.
    pub fn list_price(self, seconds: u8, sound: bool) -> Option<Credits> {
        match self {
            Self::Fixed { credits } => Some(credits),
            Self::Second { credits_with_audio: Some(credits), .. } if sound => {
                credits.checked_mul(seconds.into())
            }
            Self::Second { credits, .. } => credits.checked_mul(seconds.into()),
        }
    }
}

/// A version of all list prices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceBook {
    pub version: BookVersion,
    /// Name of the book, for people.
    pub name: String,
    /// The price of each task type.
    pub prices: BTreeMap<Arc<str>, Tariff>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// The price book that the price is from.
    pub book: BookVersion,
    pub list_price: Credits,
    pub factor: PriceFactor,
    /// The credits to hold: list price × factor, rounded up.
    pub hold: Credits,
}

impl PriceBook {
    /// Prices a video of `seconds` by `tariff`, which is one of this book's; nothing if the price overflows.
    pub fn price(&self, tariff: Tariff, seconds: u8, sound: bool, factor: PriceFactor) -> Option<Price> {
        let list_price = tariff.list_price(seconds, sound)?;
        Some(Price { book: self.version, list_price, factor, hold: factor.apply(list_price)? })
    }
}

/// The figure that the vendor reports as consumed, after the checks of the contract ("How much").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumption {
    /// The figure to charge by, before the factor.
    pub raw: Credits,
    /// The charge: raw × factor, rounded up.
    pub charge: Credits,
    /// Why an operator should look at `raw`, if so.
    pub flag: Option<&'static str>,
}

/// Checks a final figure. `reported` is that of the vendor's last report, `at_create` that of its create answer; both only
/// if they are valid whole numbers. An absent or implausible figure (over 100 × the list price) never counts as 0: the
/// last valid figure counts, otherwise the list price. Nothing if the charge overflows.
pub fn consumption(
    reported: Option<Credits>,
    at_create: Option<Credits>,
    list: Credits,
    factor: PriceFactor,
) -> Option<Consumption> {
    let ceiling = list.checked_mul(100).unwrap_or(Credits::new(i64::MAX));
    let sane = |figure: &Credits| *figure >= Credits::ZERO && *figure <= ceiling;
    let at_create = at_create.filter(sane);
    let (raw, flag) = match reported.filter(sane) {
        Some(raw) => (
            raw,
            at_create
                .filter(|first| *first != raw)
                .map(|_| "create and final status report different figures"),
        ),
        None => match at_create {
            Some(raw) => (raw, Some("no valid final figure: the create's counts")),
            None => (list, Some("no valid figure at all: the hold counts")),
        },
    };
    let flag = flag.or((raw > list).then_some("the upstream consumed more than its price"));
    Some(Consumption { raw, charge: factor.apply(raw)?, flag })
}

/// Parses a figure that the vendor reports: a whole number that is not negative; 400.0 counts as whole.
pub fn whole_figure(text: &str) -> Option<Credits> {
    let (digits, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b == b'0')
        || digits.is_empty()
        || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    digits.parse().ok().map(Credits::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: fn(i64) -> Credits = Credits::new;

    #[test]
    fn sound_is_priced_only_where_it_is_split() {
        let split = Tariff::Second { credits: C(54), credits_with_audio: Some(C(80)) };
        assert_eq!(split.list_price(5, true), Some(C(400)));
        assert_eq!(split.list_price(5, false), Some(C(270)));
        let flat = Tariff::Second { credits: C(48), credits_with_audio: None };
        assert_eq!(flat.list_price(15, true), Some(C(720)));
        assert_eq!(Tariff::Fixed { credits: C(435) }.list_price(3, true), Some(C(435)));
        assert_eq!(
            Tariff::Second { credits: C(i64::MAX), credits_with_audio: None }.list_price(3, true),
            None
        );
    }

    #[test]
    fn figures_are_judged() {
        let judge = |reported: Option<i64>, first: Option<i64>| {
            let c = consumption(reported.map(C), first.map(C), C(400), PriceFactor::LIST).unwrap();
            (c.raw.get(), c.flag.is_some())
        };
        assert_eq!(judge(Some(400), Some(400)), (400, false));
        assert_eq!(judge(Some(300), None), (300, false));
        assert_eq!(judge(Some(300), Some(400)), (300, true));
        assert_eq!(judge(Some(0), None), (0, false));
        assert_eq!(judge(None, Some(390)), (390, true));
        assert_eq!(judge(None, None), (400, true));
        assert_eq!(judge(Some(40_001), None), (400, true));
        assert_eq!(judge(Some(40_000), None), (40_000, true));
        assert_eq!(judge(Some(-1), Some(390)), (390, true));
    }

    #[test]
    fn whole_figures() {
        assert_eq!(whole_figure("400"), Some(C(400)));
        assert_eq!(whole_figure("400.0"), Some(C(400)));
        for bad in ["400.5", "-1", "", ".0", "4e2", "\"400\"", "null", "99999999999999999999"] {
            assert_eq!(whole_figure(bad), None, "{bad}");
        }
    }
}
