//! What a task cost and why: the figures of one hold that lists do not show.

use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::ids::{EntryId, HoldId, OrgId};
use crate::pricing::BookVersion;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

/// Why a task cost what it cost.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The price book that the task was priced by.
    pub price_book: BookVersion,
    /// When the vendor's id of the task was recorded.
    pub accepted_at: Option<OffsetDateTime>,
    /// When the last doubt began.
    pub doubt_at: Option<OffsetDateTime>,
    /// The entry of the charge.
    pub entry: Option<EntryId>,
    /// The names of the user and of the key.
    pub user: String,
    pub key: Option<String>,
}

impl Database {
    /// The proof of the task of `org` with this hold.
    pub async fn proof(&self, org: OrgId, hold: HoldId) -> Result<Option<Proof>, StoreError> {
        let row = sqlx::query(
            "select h.price_book, coalesce(o.recorded_at, h.recorded_at) as accepted_at, h.doubt_at, e.entry_id, \
               u.name as user_name, k.name as key_name \
             from hold h join app_user u on u.user_id = h.user_id left join api_key k on k.key_id = h.key_id \
             left join open_task o on o.org_id = h.org_id and o.hold_id = h.hold_id \
             left join entry e on e.org_id = h.org_id and e.entry_id = h.hold_id and e.kind = 'consume' \
             where h.org_id = $1 and h.hold_id = $2",
        )
        .bind(org.as_uuid())
        .bind(hold.as_uuid())
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Proof {
            price_book: BookVersion::new(row.try_get("price_book")?),
            accepted_at: row.try_get("accepted_at")?,
            doubt_at: row.try_get("doubt_at")?,
            entry: row.try_get::<Option<Uuid>, _>("entry_id")?.map(EntryId::from_uuid),
            user: row.try_get("user_name")?,
            key: row.try_get("key_name")?,
        }))
    }
}
