//! Texts of tasks. The vendor may answer with megabytes, and whoever asks for tasks must not fill the memory with them: a row brings a
//! short text with it, and of a long one its size. That is read once there is room for it.

use std::sync::Arc;
use std::time::Duration;

use crate::bulk::{ByteBudget, Payer, Room, SMALL};
use crate::ids::{HoldId, OrgId};
use crate::store::db::error::StoreError;
use crate::store::db::shared::SharedDatabase;

/// How many times its own size a text needs: as the connection has read it, as it is kept, and as a caller is shown it.
const COPIES: usize = 3;

/// How long room is waited for.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// What the vendor said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredText {
    Read(Arc<str>),
    /// It has so many bytes, and is not read yet.
    Unread(usize),
}

impl StoredText {
    /// The text, or its size, as a row has them.
    pub(super) fn of(text: Option<&str>, bytes: Option<i32>) -> Option<Self> {
        let unread = || bytes.and_then(|bytes| usize::try_from(bytes).ok()).map(Self::Unread);
        text.map(|text| Self::Read(text.into())).or_else(unread)
    }

    pub fn read(&self) -> Option<&Arc<str>> {
        match self {
            Self::Read(text) => Some(text),
            Self::Unread(_) => None,
        }
    }
}

/// Which text of a task.
#[derive(Debug, Clone, Copy)]
pub enum TaskText {
    /// What the vendor answered to the create.
    First,
    /// What it said last.
    Last,
}

impl TaskText {
    /// It in a row `c` of `content`.
    const fn expression(self) -> &'static str {
        match self {
            Self::First => "c.first",
            Self::Last => "coalesce(c.last, c.first)",
        }
    }

    /// The columns `name`, which is null if the text is long, and `name`_bytes of a row `c` of `content`.
    pub(super) fn columns(self, name: &str) -> String {
        let text = self.expression();
        format!(
            "case when octet_length({text}) <= {SMALL} then {text} end as {name}, octet_length({text}) as {name}_bytes"
        )
    }
}

impl SharedDatabase<OrgId> {
    /// Reads a text that its row has left unread, once there is room for it. Nothing, if it was meanwhile erased, or replaced with a
    /// longer one.
    pub async fn read_text(
        &self,
        (org, hold): (OrgId, HoldId),
        which: TaskText,
        text: Option<StoredText>,
        budget: &ByteBudget,
    ) -> Result<(Option<Arc<str>>, Room), StoreError> {
        let bytes = match text {
            None => return Ok((None, Room::default())),
            Some(StoredText::Read(text)) => return Ok((Some(text), Room::default())),
            Some(StoredText::Unread(bytes)) => bytes,
        };
        let room = tokio::time::timeout(ROOM_TIMEOUT, budget.wait(Payer::Org(org), COPIES * bytes)).await;
        let room = room.map_err(|_| StoreError::Timeout)?.map_err(|_| StoreError::QueueFull)?;
        let turn = self.turn_of(org).await?;
        let text = which.expression();
        let row = sqlx::query_scalar::<_, Option<String>>(sqlx::AssertSqlSafe(format!(
            "select {text} from content c where c.org_id = $1 and c.hold_id = $2 and octet_length({text}) <= $3"
        )))
        .bind(org.as_uuid())
        .bind(hold.as_uuid())
        .bind(i32::try_from(bytes).unwrap_or(i32::MAX))
        .fetch_optional(turn.pool())
        .await?;
        Ok((row.flatten().map(Into::into), room.into()))
    }
}
