//! The deletion of an organisation, which leaves no unfinished task and no credit behind, and what takes it back.

use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::ids::EntryId;
use crate::store::db::once::{Done, KeyClaim, Once, replayed};
use crate::store::ledger::entry_kind::EntryKind;
use crate::store::ledger::metered;

/// What becomes of the credits of an organisation that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemainingCredits {
    /// An organisation that has credits is not deleted.
    Keep,
    /// Another organisation gets them. They do not expire there.
    MoveTo(OrgId),
    /// They are taken away.
    Forfeit,
}

/// What became of the credits of an organisation that is deleted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedOrg {
    /// The credits that were moved or forfeited.
    pub credits: Credits,
}

const DELETE: &str = "org.delete";

words! {
    enum DeletionOutcome in "delete_org_once()" {
        Deleted = "deleted",
        Unfinished = "unfinished",
        Credits = "credits",
        Owing = "owing",
        Unchanged = "unchanged",
        UnknownTarget = "unknown_target",
        DeletedTarget = "deleted_target",
        Replayed = "replayed",
        KeyReused = "key_reused",
        InProgress = "in_progress",
    }
}

impl Acting {
    /// Deletes an organisation, if its version is still `version`: its keys are refused; its tasks and entries stay. Refused
    /// while a task is unfinished, and while the balance is not zero, unless `remaining` says what becomes of the credits.
    pub async fn delete_org(
        &self,
        org: OrgId,
        version: Option<i32>,
        remaining: RemainingCredits,
        once: Option<Once<'_>>,
    ) -> Result<Done<DeletedOrg>, StoreError> {
        let (to, forfeit, reason) = match remaining {
            RemainingCredits::Keep => (None, false, ""),
            RemainingCredits::MoveTo(to) => (Some(to), false, "moved: the organisation was deleted"),
            RemainingCredits::Forfeit => (None, true, "forfeited: the organisation was deleted"),
        };
        if to == Some(org) {
            return Err(StoreError::Invalid("the credits must be moved to another organisation".into()));
        }
        let claim = KeyClaim::of(DELETE, org.as_uuid(), once);
        let (outcome, credits, tasks, answer): (DeletionOutcome, Option<i64>, Option<i32>, Option<String>) =
            sqlx::query_as(
                "select outcome, credits, tasks, answer \
                 from delete_org_once($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            )
            .bind(claim.endpoint)
            .bind(claim.key)
            .bind(claim.fingerprint())
            .bind(org.as_uuid())
            .bind(version)
            .bind(to.map(OrgId::as_uuid))
            .bind(forfeit)
            .bind(EntryId::generate().as_uuid())
            .bind(EntryId::generate().as_uuid())
            .bind(reason)
            .bind(self.actor())
            .bind(json!({}))
            .fetch_one(self.change())
            .await
            .map_err(|error| match &error {
                sqlx::Error::Database(e) if e.code().as_deref() == Some("22003") => StoreError::Conflict(
                    "the credits do not fit into the other organisation's balance".into(),
                ),
                _ => error.into(),
            })?;
        let credits = credits.unwrap_or_default();
        match outcome {
            DeletionOutcome::Deleted => {
                if forfeit && credits > 0 {
                    metered::posted(EntryKind::Adjust, Credits::new(credits.saturating_neg()));
                }
                Ok(Done { answer: DeletedOrg { credits: Credits::new(credits) }, replayed: false })
            }
            DeletionOutcome::Replayed => replayed(answer),
            DeletionOutcome::Unfinished => Err(StoreError::Conflict(format!(
                "{org} has {} unfinished tasks: wait for their ends, and resolve those in doubt",
                tasks.unwrap_or_default()
            ))),
            DeletionOutcome::Credits => Err(StoreError::Conflict(format!(
                "{org} has {credits} credits: move them to another organisation, or say that they are forfeited"
            ))),
            DeletionOutcome::Owing => Err(StoreError::Conflict(format!(
                "{org} owes {} credits: correct its balance to 0 first",
                credits.unsigned_abs()
            ))),
            DeletionOutcome::Unchanged => Err(self.missing_org(org).await?),
            DeletionOutcome::UnknownTarget | DeletionOutcome::DeletedTarget => {
                let to = to.map(|to| to.to_string()).unwrap_or_default();
                Err(if outcome == DeletionOutcome::UnknownTarget {
                    StoreError::NotFound(format!("there is no organisation {to}"))
                } else {
                    StoreError::Conflict(format!("{to} has been deleted"))
                })
            }
            DeletionOutcome::KeyReused => Err(StoreError::KeyReused),
            DeletionOutcome::InProgress => Err(StoreError::InProgress),
        }
    }

    /// Takes the deletion of an organisation back, under another `name` if its own is taken. Its users and keys are accepted
    /// again; credits that were moved or forfeited do not come back. Does nothing to an organisation that is not deleted.
    pub async fn restore_org(&self, org: OrgId, name: Option<&str>) -> Result<(), StoreError> {
        let done = sqlx::query(
            // The balance first, as every writer locks it before the organisation's row.
            "with opened as (update org_balance set deleted = false where org_id = $1 returning org_id), \
             restored as (update org set deleted_at = null, name = coalesce($2, name) \
               from opened where org.org_id = opened.org_id and deleted_at is not null returning org.org_id) \
             select org_id from restored union all select org_id from opened limit 1",
        )
        .bind(org.as_uuid())
        .bind(name)
        .fetch_optional(self.change())
        .await
        .map_err(|error| {
            taken(error, || {
                "another organisation has this name by now: give a new name with the call, or rename the other one".into()
            })
        })?;
        if done.is_none() {
            return Err(StoreError::NotFound(format!("there is no organisation {org}")));
        }
        Ok(())
    }
}
