//! Lists in pages, each with a cursor to the next one.

use std::fmt::Display;
use std::str::FromStr;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;
use crate::store::Slice;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items of this page.
    items: Vec<T>,
    /// Send it as `cursor` to get the next page; null: this is the last page.
    next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page that has all there is.
    pub(super) fn whole(items: Vec<T>) -> Json<Self> {
        Json(Self { items, next_cursor: None })
    }

    /// `items` holds one more than `limit` if there is another page.
    pub(super) fn of<C: Display>(items: Vec<T>, limit: PageLimit, cursor: impl Fn(&T) -> C) -> Json<Self> {
        let (items, next_cursor) = limit.cut(items, cursor);
        Json(Self { items, next_cursor })
    }
}

/// The query of a list without filters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    pub(super) limit: PageLimit,
    /// `next_cursor` of the previous page.
    pub(super) cursor: Option<String>,
}

/// The most items a page may have: 1 to 200, 50 if omitted.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "u16")]
pub(super) struct PageLimit(u16);

impl Default for PageLimit {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<u16> for PageLimit {
    type Error = &'static str;

    fn try_from(limit: u16) -> Result<Self, Self::Error> {
        (1..=200).contains(&limit).then_some(Self(limit)).ok_or("limit must be from 1 to 200")
    }
}

impl PageLimit {
    /// Cuts off the one item too many; if there was one, its predecessor's cursor leads to the next page.
    pub(super) fn cut<T, C: Display>(
        self,
        mut items: Vec<T>,
        cursor: impl Fn(&T) -> C,
    ) -> (Vec<T>, Option<String>) {
        let limit = usize::from(self.0);
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = items.last().filter(|_| more).map(|last| cursor(last).to_string());
        (items, next_cursor)
    }

    /// The part of a list after `cursor`. It asks for one item more than the page holds: that item tells whether there
    /// is another page.
    pub(super) fn after<Id: FromStr>(self, cursor: Option<&str>) -> Result<Slice<Id>, Problem> {
        let unreadable = |_| Problem::Invalid("cursor must be the next_cursor of an earlier answer".into());
        let after = cursor.map(str::parse).transpose().map_err(unreadable)?;
        Ok(Slice { after, limit: self.0.saturating_add(1) })
    }
}
