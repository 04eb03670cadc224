//! Parts of lists, and the cursors of lists that are about holds and ordered by time.

use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;

use crate::ids::HoldId;
use crate::store::db::error::StoreError;

/// The part of a list that is to be read.
#[derive(Debug, Clone, Copy)]
pub struct Slice<Id> {
    pub after: Option<Id>,
    /// The most items to read.
    pub limit: u16,
}

/// The position of an item in a list of holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldPosition {
    /// The instant that orders the list.
    pub at: OffsetDateTime,
    /// Orders items of the same instant.
    pub hold: HoldId,
    /// Orders items of the same hold.
    pub seq: i32,
}

/// The text form, which cursors use.
impl fmt::Display for HoldPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The database keeps microseconds.
        write!(f, "{}.{}.{}", self.at.unix_timestamp_nanos() / 1000, self.hold, self.seq)
    }
}

impl FromStr for HoldPosition {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let parse = || {
            let mut parts = text.splitn(3, '.');
            let nanoseconds = parts.next()?.parse::<i128>().ok()?.checked_mul(1000)?;
            let at = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?;
            Some(Self { at, hold: parts.next()?.parse().ok()?, seq: parts.next()?.parse().ok()? })
        };
        parse().ok_or_else(|| StoreError::Invalid("this is not a cursor of a list of holds".into()))
    }
}
