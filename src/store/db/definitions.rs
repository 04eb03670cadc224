//! Functions, triggers and views: each lives once, in a file below `migrations/`, and is applied by [`Database::migrate`]
//! after the migrations, when its text differs from the one that was applied last. `migrations/README.md` has the rules.
//!
//! [`Database::migrate`]: super::database::Database::migrate

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use sqlx::{Connection, Executor, PgConnection, PgExecutor};

#[cfg(test)]
mod tests;

/// The revision of all definitions together: a landing that changes a definition increments it. A gateway serves on the
/// revision that it was built with and on newer ones; an older program does not replace newer texts by its own.
pub(super) const REVISION: i32 = 10;

/// The digest of all texts, so that a test fails if a text changes without a new [`REVISION`].
#[cfg(test)]
const DIGEST: &str = "690b894923706ba8";

struct Definition {
    /// The path below `migrations/`, without the ending.
    name: &'static str,
    text: &'static str,
}

macro_rules! definitions {
    ($($name:literal),+ $(,)?) => {
        &[$(Definition {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/", $name, ".sql")),
        }),+]
    };
}

/// Ordered so that each definition comes after those it uses: Postgres checks the text of a view, and of a function in
/// plain SQL, when it is created.
const DEFINITIONS: &[Definition] = definitions![
    "functions/ledger/first_id",
    "functions/ledger/uuid_v7",
    "functions/ledger/month_lines",
    "functions/ledger/month_figures",
    "functions/ledger/closed_month",
    "functions/ledger/seal_month",
    "functions/ledger/detach_month",
    "functions/ledger/restore_month",
    "functions/ledger/make_partition",
    "functions/ledger/make_partitions",
    "functions/ledger/entry_seal",
    "functions/ledger/hold_seal",
    "functions/ledger/unsealed_history",
    "functions/changes/audit_change",
    "functions/changes/audit_signing_key",
    "functions/changes/bump_epoch",
    "functions/changes/bump_epoch_of",
    "functions/changes/next_version",
    "functions/changes/pseudonymised",
    "functions/changes/keep_audit_log",
    "functions/changes/refuse_change",
    "functions/credits/tasks_place",
    "functions/credits/count_tasks",
    "functions/credits/tasks_behind",
    "functions/credits/add_tasks_to_totals",
    "functions/credits/add_to_totals",
    "functions/credits/count_entries",
    "functions/credits/entries_behind",
    "functions/credits/expire_credits",
    "functions/credits/post_entry",
    "functions/credits/saturated",
    "functions/credits/claim_once",
    "functions/credits/end_claim",
    "functions/credits/post_entry_once",
    "functions/credits/set_low_threshold",
    "functions/credits/set_overdraft_once",
    "functions/credits/transfer_once",
    "functions/directory/forget_user",
    "functions/directory/delete_org_once",
    "functions/budgets/cap_of",
    "functions/budgets/is_coming",
    "functions/budgets/budget_of",
    "functions/budgets/budgets_of",
    "functions/budgets/subject_of",
    "functions/budgets/archived_spending",
    "functions/budgets/advance_count",
    "functions/budgets/count_by_new_clock",
    "functions/budgets/count_entries_before",
    "functions/budgets/day_start",
    "functions/budgets/draw_budgets",
    "functions/budgets/follow_holds",
    "functions/budgets/follow_reopened",
    "functions/budgets/left_of_windows",
    "functions/budgets/lock_for_budget",
    "functions/budgets/note_budget",
    "functions/budgets/note_budgets_of_new",
    "functions/budgets/note_team",
    "functions/budgets/bring_into_force",
    "functions/budgets/raise_budget_events",
    "functions/budgets/raise_events_of",
    "functions/budgets/reaches",
    "functions/budgets/unlisted_holds",
    "functions/budgets/window_end",
    "functions/budgets/window_start",
    "functions/budgets/grant_budget_request",
    "functions/budgets/request_budget",
    "functions/directory/begin_bootstrap",
    "functions/directory/change_org",
    "functions/directory/check_quota",
    "functions/directory/create_member_key",
    "functions/directory/delete_team",
    "functions/directory/end_sessions",
    "functions/directory/name_looks",
    "functions/directory/provider_conflict",
    "functions/directory/quota_of",
    "functions/directory/refuse_look_alike",
    "functions/directory/revoke_operator_token",
    "functions/directory/set_letter_looks",
    "functions/directory/sign_in",
    "functions/ledger/end_of_chain",
    "functions/ledger/place_entry",
    "functions/ledger/seal_hold",
    "functions/ledger/exposure_start",
    "functions/ledger/count_exposure",
    "functions/ledger/resume_creates",
    "functions/ledger/claim_open_task",
    "functions/ledger/maker_of",
    "functions/ledger/create_under_way",
    "functions/ledger/give_way",
    "functions/ledger/repeated_creates",
    "functions/ledger/reserve_batch",
    "functions/ledger/reserve_batch_two_commits",
    "functions/ledger/reserve_labelled_batch",
    "functions/ledger/reserve_labelled_batch_two_commits",
    "functions/ledger/transition_batch",
    "functions/ledger/transition_batch_two_commits",
    "functions/ledger/resolve_doubt",
    "functions/ledger/settle_by_hand",
    "functions/ledger/take_back_step",
    "functions/ledger/adopt_task",
    "functions/prices/keep_former_factor",
    "functions/prices/price_activation_keeps",
    "functions/prices/price_book_activates",
    "functions/prices/price_book_keeps",
    "functions/prices/price_of_draft",
    "functions/prices/create_book",
    "functions/prices/create_price_factor",
    "functions/prices/delete_book",
    "functions/prices/end_price_factor",
    "functions/prices/lock_book",
    "functions/prices/put_book_in_force",
    "functions/prices/roll_back_book",
    "functions/prices/rotate_signing_key",
    "functions/prices/unschedule_book",
    "functions/reporting/sessions_of_owner",
    "functions/reporting/standbys_of_owner",
    "triggers/api_key",
    "triggers/app_user",
    "triggers/audit_log",
    "triggers/budget",
    "triggers/budget_request",
    "triggers/console_link",
    "triggers/correction",
    "triggers/credit_lot_event",
    "triggers/credit_setting",
    "triggers/entry",
    "triggers/former_price_factor",
    "triggers/hold",
    "triggers/identity_provider",
    "triggers/key_policy",
    "triggers/label",
    "triggers/month_seal",
    "triggers/operator_token",
    "triggers/org",
    "triggers/org_balance",
    "triggers/platform_loss",
    "triggers/price",
    "triggers/price_activation",
    "triggers/price_book",
    "triggers/price_factor",
    "triggers/quota",
    "triggers/signing_key",
    "triggers/team",
    "triggers/user_identity",
    "views/public/task",
    "views/public/booked",
    "views/organisations",
    "views/balances",
    "views/budget_events",
    "views/budget_use",
    "views/database",
    "views/drift",
    "views/entries",
    "views/expiring_credits",
    "views/gateways",
    "views/locks",
    "views/losses",
    "views/open_tasks",
    "views/overruns",
    "views/price_books",
    "views/replication",
    "views/retention",
    "views/runway",
    "views/sessions",
    "views/spend",
    "views/tables",
];

/// Functions that gateways call. Their arguments must not change, because an older gateway still calls them in the old
/// way. Other functions may change: their callers are replaced together with them.
const CALLED_BY_GATEWAYS: &[&str] = &[
    "functions/budgets/advance_count",
    "functions/budgets/archived_spending",
    "functions/budgets/cap_of",
    "functions/budgets/draw_budgets",
    "functions/budgets/grant_budget_request",
    "functions/budgets/request_budget",
    "functions/budgets/subject_of",
    "functions/budgets/window_end",
    "functions/budgets/window_start",
    "functions/credits/add_tasks_to_totals",
    "functions/credits/add_to_totals",
    "functions/credits/entries_behind",
    "functions/credits/expire_credits",
    "functions/credits/post_entry_once",
    "functions/credits/saturated",
    "functions/credits/set_low_threshold",
    "functions/credits/set_overdraft_once",
    "functions/credits/tasks_behind",
    "functions/credits/tasks_place",
    "functions/credits/transfer_once",
    "functions/directory/begin_bootstrap",
    "functions/directory/change_org",
    "functions/directory/create_member_key",
    "functions/directory/delete_org_once",
    "functions/directory/delete_team",
    "functions/directory/end_sessions",
    "functions/directory/forget_user",
    "functions/directory/provider_conflict",
    "functions/directory/quota_of",
    "functions/directory/revoke_operator_token",
    "functions/directory/set_letter_looks",
    "functions/directory/sign_in",
    "functions/ledger/adopt_task",
    "functions/ledger/claim_open_task",
    "functions/ledger/closed_month",
    "functions/ledger/detach_month",
    "functions/ledger/entry_seal",
    "functions/ledger/exposure_start",
    "functions/ledger/first_id",
    "functions/ledger/give_way",
    "functions/ledger/hold_seal",
    "functions/ledger/make_partitions",
    "functions/ledger/month_figures",
    "functions/ledger/repeated_creates",
    "functions/ledger/reserve_batch",
    "functions/ledger/reserve_batch_two_commits",
    "functions/ledger/reserve_labelled_batch",
    "functions/ledger/reserve_labelled_batch_two_commits",
    "functions/ledger/resolve_doubt",
    "functions/ledger/restore_month",
    "functions/ledger/resume_creates",
    "functions/ledger/seal_month",
    "functions/ledger/settle_by_hand",
    "functions/ledger/take_back_step",
    "functions/ledger/transition_batch",
    "functions/ledger/transition_batch_two_commits",
    "functions/ledger/unsealed_history",
    "functions/prices/create_book",
    "functions/prices/create_price_factor",
    "functions/prices/delete_book",
    "functions/prices/end_price_factor",
    "functions/prices/lock_book",
    "functions/prices/put_book_in_force",
    "functions/prices/roll_back_book",
    "functions/prices/rotate_signing_key",
    "functions/prices/unschedule_book",
];

/// The names of the functions that gateways call.
pub(super) fn called_by_gateways() -> Vec<&'static str> {
    CALLED_BY_GATEWAYS.iter().filter_map(|path| path.rsplit('/').next()).collect()
}

impl Definition {
    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.text).into()
    }

    /// The schema and name of a function; `None` for a trigger or view.
    fn function(&self) -> Option<(&'static str, &'static str)> {
        let (group, function) = self.name.strip_prefix("functions/")?.split_once('/')?;
        Some((if group == "reporting" { "reporting" } else { "public" }, function))
    }

    /// The body of a function: the text between the dollar quotes.
    fn body(&self) -> &'static str {
        self.text.split("$$").nth(1).unwrap_or_default()
    }

    fn is_called_by_gateways(&self) -> bool {
        CALLED_BY_GATEWAYS.contains(&self.name)
    }

    async fn apply(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut attempt = connection.begin().await?;
        let applied = sqlx::raw_sql(self.text).execute(&mut *attempt).await;
        match applied {
            Ok(_) => attempt.commit().await?,
            // The function has another result type now, which `create or replace` refuses.
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some("42P13") && !self.is_called_by_gateways() =>
            {
                attempt.rollback().await?;
                self.drop_former(connection).await?;
                sqlx::raw_sql(self.text).execute(&mut *connection).await?;
            }
            Err(error) => return Err(error),
        }
        if !self.is_called_by_gateways() {
            self.drop_former(connection).await?;
        }
        Ok(())
    }

    /// Drops the functions of this name with another body: those with other arguments, or another result type.
    async fn drop_former(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let Some((schema, function)) = self.function() else { return Ok(()) };
        let former: Vec<String> = sqlx::query_scalar(
            "select oid::regprocedure::text from pg_proc \
             where pronamespace = $1::text::regnamespace and proname = $2 and prosrc <> $3",
        )
        .bind(schema)
        .bind(function)
        .bind(self.body())
        .fetch_all(&mut *connection)
        .await?;
        for signature in former {
            connection.execute(sqlx::AssertSqlSafe(format!("drop routine {signature}"))).await?;
        }
        Ok(())
    }
}

/// A definition that could not be applied.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {error}")]
pub(super) struct NotApplied {
    name: &'static str,
    pub(super) error: sqlx::Error,
}

impl From<sqlx::Error> for NotApplied {
    fn from(error: sqlx::Error) -> Self {
        Self { name: "schema_definition", error }
    }
}

/// The newest revision that was applied; `None` if there is none.
pub(super) async fn revision(executor: impl PgExecutor<'_>) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar("select max(revision) from schema_definition").fetch_one(executor).await
}

/// Applies the definitions that differ, in one transaction. The caller must hold the migration lock and must have
/// checked that the database has no newer revision.
pub(super) async fn apply(connection: &mut PgConnection) -> Result<(), NotApplied> {
    let mut change = connection.begin().await?;
    let rows: Vec<(String, Vec<u8>, i32)> =
        sqlx::query_as("select name, digest, revision from schema_definition")
            .fetch_all(&mut *change)
            .await?;
    let there: HashMap<String, (Vec<u8>, i32)> =
        rows.into_iter().map(|(name, digest, revision)| (name, (digest, revision))).collect();
    let mut changed = there.len() != DEFINITIONS.len();
    for definition in DEFINITIONS {
        let applied = there.get(definition.name);
        if applied.is_none_or(|(digest, _)| *digest != definition.digest()) {
            definition
                .apply(&mut change)
                .await
                .map_err(|error| NotApplied { name: definition.name, error })?;
            changed = true;
        }
        changed |= applied.is_none_or(|(_, revision)| *revision != REVISION);
    }
    if changed {
        let names: Vec<&str> = DEFINITIONS.iter().map(|definition| definition.name).collect();
        let digests: Vec<[u8; 32]> = DEFINITIONS.iter().map(Definition::digest).collect();
        sqlx::query("delete from schema_definition where name <> all ($1)")
            .bind(&names)
            .execute(&mut *change)
            .await?;
        sqlx::query(
            "insert into schema_definition (name, digest, revision) \
             select name, digest, $3 from unnest($1::text[], $2::bytea[]) applied(name, digest) \
             on conflict (name) do update set digest = excluded.digest, revision = excluded.revision",
        )
        .bind(&names)
        .bind(digests.iter().map(|digest| digest.as_slice()).collect::<Vec<_>>())
        .bind(REVISION)
        .execute(&mut *change)
        .await?;
    }
    change.commit().await?;
    Ok(())
}
