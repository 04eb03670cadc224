//! Tasks that the vendor runs and no ledger knows, lost with an asynchronous standby or by a restore: they are adopted.

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::credits::{Credits, PriceFactor};
use crate::ids::{HoldId, OrgId, UserId};
use crate::pricing::BookVersion;
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::once::{Done, Fingerprint, KeyClaim, Once, replayed};
use crate::store::db::words::words;
use crate::store::ledger::by_hand::{Earlier, Evidence, HoldInfo, of_another};

const ADOPT: &str = "holds.adopt";

/// The most doubts that are named as those that a task may belong to.
const NAMED: i64 = 5;

/// Where a task is to be adopted.
#[derive(Debug)]
pub struct ToAdopt {
    /// The organisation's default price factor.
    pub factor: PriceFactor,
    /// The hold that has this task of the vendor already.
    pub known: Option<HoldInfo>,
}

/// A task that is to be adopted.
#[derive(Debug)]
pub struct Adoption<'a> {
    pub org: OrgId,
    pub user: UserId,
    pub amount: Credits,
    pub list_price: Credits,
    pub factor: PriceFactor,
    pub book: BookVersion,
    pub task_type: &'a str,
    pub backend: &'a str,
    pub account: &'a str,
    /// The fingerprint of the request that the vendor repeats.
    pub fingerprint: Fingerprint,
    /// What the vendor says it consumes, if that is a valid figure.
    pub raw: Option<Credits>,
    pub evidence: Evidence<'a>,
}

/// A hold that was made for a task which no ledger knew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Adopted {
    pub hold_id: HoldId,
    pub org_id: OrgId,
    pub user_id: UserId,
    /// The vendor's id of the task.
    pub task_id: String,
    pub task_type: String,
    /// The credits that are held until the vendor reports the end.
    pub credits: Credits,
}

words! {
    enum AdoptOutcome in "adopt_task()" {
        Adopted = "adopted",
        UnknownOrg = "unknown_org",
        UnknownUser = "unknown_user",
        Replayed = "replayed",
        KeyReused = "key_reused",
        InProgress = "in_progress",
    }
}

impl Database {
    /// What has to be known to adopt a task of the vendor's, on one of these accounts, for this organisation.
    pub async fn to_adopt(
        &self,
        org: OrgId,
        task: &str,
        accounts: &[&str],
        once: Option<Once<'_>>,
    ) -> Result<Earlier<Adopted, ToAdopt>, StoreError> {
        if let Some(earlier) = self.answered(&KeyClaim::of(ADOPT, org.as_uuid(), once)).await? {
            return Ok(Earlier::Answered(earlier));
        }
        let factor: Option<i32> =
            sqlx::query_scalar("select price_factor_bp from org where org_id = $1 and deleted_at is null")
                .bind(org.as_uuid())
                .fetch_optional(self.pool())
                .await?;
        let factor = factor.ok_or_else(|| StoreError::NotFound(format!("there is no {org}")))?;
        let factor = PriceFactor::new(factor).ok_or(StoreError::Corrupt("org.price_factor_bp".into()))?;
        Ok(Earlier::Found(ToAdopt { factor, known: self.hold_of_task(task, accounts).await? }))
    }

    /// Tasks in doubt on this account, without an id, whose type and prompt are these: `prompt` is a digest. At most five.
    pub async fn doubts_like(
        &self,
        account: &str,
        task_type: &str,
        prompt: &str,
    ) -> Result<Vec<HoldId>, StoreError> {
        let found: Vec<Uuid> = sqlx::query_scalar(
            "select d.hold_id from open_task d join hold h on h.org_id = d.org_id and h.hold_id = d.hold_id \
             join content c on c.org_id = d.org_id and c.hold_id = d.hold_id \
             where d.state = 'IN_DOUBT' and d.upstream_task is null and d.account = $1 and h.task_type = $2 \
               and c.digests ->> 'prompt' = $3 order by d.doubt_at, d.hold_id limit $4",
        )
        .bind(account)
        .bind(task_type)
        .bind(prompt)
        .bind(NAMED)
        .fetch_all(self.pool())
        .await?;
        Ok(found.into_iter().map(HoldId::from_uuid).collect())
    }
}

impl Acting {
    /// Makes a hold for a task that no ledger knows; it is polled to its end, which charges it. Calls with the same
    /// idempotency key take effect once.
    pub async fn adopt(
        &self,
        adoption: &Adoption<'_>,
        once: Option<Once<'_>>,
    ) -> Result<Done<Adopted>, StoreError> {
        let Adoption { org, user, evidence, .. } = adoption;
        let claim = KeyClaim::of(ADOPT, org.as_uuid(), once);
        let adopted = Adopted {
            hold_id: HoldId::generate(),
            org_id: *org,
            user_id: *user,
            task_id: evidence.task.into(),
            task_type: adoption.task_type.into(),
            credits: adoption.amount,
        };
        let made: Result<(AdoptOutcome, Option<String>), _> = sqlx::query_as(
            "select outcome, answer from adopt_task($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
             $18, $19)",
        )
        .bind(claim.endpoint)
        .bind(claim.key)
        .bind(claim.fingerprint())
        .bind(org.as_uuid())
        .bind(adopted.hold_id.as_uuid())
        .bind(user.as_uuid())
        .bind(adoption.amount.get())
        .bind(adoption.list_price.get())
        .bind(adoption.factor.basis_points())
        .bind(adoption.book.get())
        .bind(adoption.task_type)
        .bind(adoption.backend)
        .bind(adoption.account)
        .bind(adoption.fingerprint.as_bytes())
        .bind(evidence.task)
        .bind(adoption.raw.map(Credits::get))
        .bind(evidence.why)
        .bind(evidence.kept(json!({"adopted": true})))
        .bind(serde_json::to_string(&adopted).unwrap_or_default())
        .fetch_one(self.change())
        .await;
        let (outcome, answer) = made.map_err(of_another)?;
        match outcome {
            AdoptOutcome::Adopted => Ok(Done { answer: adopted, replayed: false }),
            AdoptOutcome::UnknownOrg => Err(StoreError::NotFound(format!("there is no {org}"))),
            AdoptOutcome::UnknownUser => Err(StoreError::Invalid(format!("{org} has no {user}"))),
            AdoptOutcome::Replayed => replayed(answer),
            AdoptOutcome::KeyReused => Err(StoreError::KeyReused),
            AdoptOutcome::InProgress => Err(StoreError::InProgress),
        }
    }
}
