//! Credits and price factors: whole numbers, checked arithmetic, no float.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number of credits; may be negative (a balance after an overrun, a signed ledger entry).
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Credits(i64);

impl Credits {
    pub const ZERO: Self = Self(0);

    pub const fn new(amount: i64) -> Self {
        Self(amount)
    }

    /// The number, for the database and the wire.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The sum, or nothing if it overflows.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, or nothing if it overflows.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// `times` as many, or nothing if it overflows.
    pub fn checked_mul(self, times: i64) -> Option<Self> {
        self.0.checked_mul(times).map(Self)
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An organisation's price factor in basis points: 10,000 is the list price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "i32")]
#[schema(value_type = i32, minimum = 0, maximum = 1_000_000)]
pub struct PriceFactor(i32);

impl TryFrom<i32> for PriceFactor {
    type Error = &'static str;

    fn try_from(basis_points: i32) -> Result<Self, Self::Error> {
        Self::new(basis_points).ok_or("a price factor is from 0 to 1,000,000 basis points")
    }
}

impl PriceFactor {
    /// The list price itself.
    pub const LIST: Self = Self(10_000);

    /// A factor of `basis_points`; nothing if outside 0..=1,000,000 (a hundredfold price).
    pub fn new(basis_points: i32) -> Option<Self> {
        (0..=1_000_000).contains(&basis_points).then_some(Self(basis_points))
    }

    /// The factor in basis points.
    pub const fn basis_points(self) -> i32 {
        self.0
    }

    /// `credits` × factor, rounded up; nothing if `credits` is negative or the product overflows.
    pub fn apply(self, credits: Credits) -> Option<Credits> {
        let scaled = i128::from(credits.0).checked_mul(i128::from(self.0))?;
        if scaled < 0 {
            return None;
        }
        let up = scaled.checked_add(9_999)?.checked_div(10_000)?;
        i64::try_from(up).ok().map(Credits)
    }
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "the reference computes in a type that cannot overflow here"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn factor_rounds_up() {
        let factor = PriceFactor::new(8_333).unwrap();
        assert_eq!(factor.apply(Credits::new(400)), Some(Credits::new(334)));
        assert_eq!(PriceFactor::LIST.apply(Credits::new(400)), Some(Credits::new(400)));
        assert_eq!(PriceFactor::new(0).unwrap().apply(Credits::new(400)), Some(Credits::ZERO));
        assert_eq!(PriceFactor::new(1_000_000).unwrap().apply(Credits::new(i64::MAX)), None);
        assert_eq!(PriceFactor::LIST.apply(Credits::new(-1)), None);
        assert!(PriceFactor::new(-1).is_none());
    }

    proptest! {
        #[test]
        fn the_charge_is_the_least_whole_number_not_below_the_exact_price(amount in 0i64..1 << 40, bp in 0i32..=1_000_000) {
            let exact_times_10k = i128::from(amount) * i128::from(bp);
            let charge = i128::from(PriceFactor::new(bp).unwrap().apply(Credits::new(amount)).unwrap().get());
            prop_assert!(charge * 10_000 >= exact_times_10k);
            prop_assert!((charge - 1) * 10_000 < exact_times_10k);
        }
    }
}
