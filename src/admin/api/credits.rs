//! Credits: an organisation's balance, and the grants, corrections and transfers of operators.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::call::{ApiCall, ReadCall, WriteCall};
use super::conditions::IfMatch;
use super::extract::{Body, Query, Tagged, Text, Timestamp, given};
use super::idempotent::{Answered, Idempotent};
use super::page::{Page, PageLimit};
use super::problem::Problem;
use crate::credits::Credits;
use crate::ids::OrgId;
use crate::store::{
    CreditSummary, Entry, EntryFilter, EntryKind, EntryPosition, Overdraft, PostedEntry, Transferred, Why,
};

/// Show an organisation's credits
///
/// The balance, whether it is low, how many days it lasts at the recent rate, what tasks cost the platform today, and which
/// grants expire next.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/credits", tag = "credits",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "The balance and what belongs to it", body = CreditSummary)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_credits(call: ReadCall<OrgId>) -> Result<Tagged<CreditSummary>, Problem> {
    let ApiCall { database, path: org, max_exposure, .. } = call;
    let summary = database.credit_summary(org, max_exposure).await?;
    Ok(Tagged(StatusCode::OK, summary.version, summary))
}

/// Changes; a field that is omitted keeps its value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreditsPatch {
    /// The balance counts as low while fewer credits than this are available; null: never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 0)]
    low_threshold: Option<Option<i64>>,
}

/// Set the low-balance threshold
#[utoipa::path(
    patch, path = "/admin/v1/orgs/{org_id}/credits", tag = "credits",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = CreditsPatch,
    responses((status = 200, description = "The balance and what belongs to it", body = CreditSummary)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn update_credits(
    call: WriteCall<OrgId, (IfMatch, Body<CreditsPatch>)>,
) -> Result<Tagged<CreditSummary>, Problem> {
    let ApiCall { database, path: org, input: (IfMatch(version), Body(patch)), max_exposure, .. } = call;
    if let Some(threshold) = patch.low_threshold {
        database.set_low_threshold(org, threshold.map(Credits::new), version).await?;
    }
    let summary = database.credit_summary(org, max_exposure).await?;
    if patch.low_threshold.is_none() && version.is_some_and(|seen| seen != summary.version) {
        return Err(Problem::Stale { current: summary.version });
    }
    Ok(Tagged(StatusCode::OK, summary.version, summary))
}

/// A grant of credits.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantBody {
    #[schema(minimum = 1)]
    credits: i64,
    /// Why the credits are granted; shown with the ledger entry.
    reason: Text,
    /// A reference in another system, such as an invoice number. Entries can be filtered by it.
    external_ref: Option<Text>,
    /// When the unspent rest of the grant expires; omitted: never. The grant that expires first is spent first.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// Grant credits
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/credits/grants", tag = "credits",
    params(("org_id" = OrgId, Path, description = "The organisation that gets the credits")),
    request_body = GrantBody,
    responses((status = 201, description = "The posted entry", body = PostedEntry)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn grant_credits(
    call: WriteCall<OrgId, Idempotent<GrantBody>>,
) -> Result<Answered<PostedEntry>, Problem> {
    let ApiCall { database, path: org, input: sent, .. } = call;
    let GrantBody { credits, reason, external_ref, expires_at } = &sent.body;
    let why = why(reason, external_ref.as_ref());
    Ok(Answered(
        StatusCode::CREATED,
        database.grant(org, Credits::new(*credits), expires_at.map(Timestamp::get), why, sent.once()).await?,
    ))
}

/// A correction of a balance.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdjustmentBody {
    /// The credits to add; negative: to take away. Not 0.
    credits: i64,
    /// Why; shown with the ledger entry.
    reason: Text,
    /// A reference in another system.
    external_ref: Option<Text>,
}

/// Correct a balance
///
/// A correction cannot take the balance below the organisation's overdraft.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/credits/adjustments", tag = "credits",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = AdjustmentBody,
    responses((status = 201, description = "The posted entry", body = PostedEntry)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn adjust_credits(
    call: WriteCall<OrgId, Idempotent<AdjustmentBody>>,
) -> Result<Answered<PostedEntry>, Problem> {
    let ApiCall { database, path: org, input: sent, .. } = call;
    let AdjustmentBody { credits, reason, external_ref } = &sent.body;
    let why = why(reason, external_ref.as_ref());
    Ok(Answered(StatusCode::CREATED, database.adjust(org, Credits::new(*credits), why, sent.once()).await?))
}

/// A transfer of credits between two organisations.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TransferBody {
    /// The organisation that gives the credits.
    from_org: OrgId,
    /// The organisation that gets the credits.
    to_org: OrgId,
    #[schema(minimum = 1)]
    credits: i64,
    /// Why; shown with the ledger entry.
    reason: Text,
    /// A reference in another system.
    external_ref: Option<Text>,
}

/// Transfer credits
///
/// Only available credits can be transferred, not the overdraft. Transferred credits do not expire.
#[utoipa::path(
    post, path = "/admin/v1/transfers", tag = "credits",
    request_body = TransferBody,
    responses((status = 201, description = "The two posted entries", body = Transferred)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn transfer_credits(
    call: WriteCall<(), Idempotent<TransferBody>>,
) -> Result<Answered<Transferred>, Problem> {
    let ApiCall { database, input: sent, .. } = call;
    let TransferBody { from_org, to_org, credits, reason, external_ref } = &sent.body;
    let why = why(reason, external_ref.as_ref());
    Ok(Answered(
        StatusCode::CREATED,
        database.transfer(*from_org, *to_org, Credits::new(*credits), why, sent.once()).await?,
    ))
}

/// How far a balance may go below zero.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OverdraftBody {
    /// Credits; 0: the balance cannot go below zero.
    #[schema(minimum = 0)]
    overdraft: i64,
}

/// Set an overdraft
///
/// How far below zero new tasks and corrections may take the balance. Lowering it does not affect credits already used.
#[utoipa::path(
    put, path = "/admin/v1/orgs/{org_id}/credits/overdraft", tag = "credits",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = OverdraftBody,
    responses((status = 200, description = "The overdraft in force", body = Overdraft)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn set_overdraft(
    call: WriteCall<OrgId, Idempotent<OverdraftBody>>,
) -> Result<Answered<Overdraft>, Problem> {
    let ApiCall { database, path: org, input: sent, .. } = call;
    let overdraft = Credits::new(sent.body.overdraft);
    Ok(Answered(StatusCode::OK, database.set_overdraft(org, overdraft, sent.once()).await?))
}

/// Why creates may go on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResumeBody {
    /// What was found and done; kept in the audit log.
    reason: Text,
}

/// Let stopped creates go on
///
/// Lifts the stop that follows when an organisation's exposure reaches the limit of a day, and counts from 0 again. An
/// organisation that is not stopped is counted from 0 too.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/credits/resume", tag = "credits",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    request_body = ResumeBody,
    responses((status = 200, description = "The balance and what belongs to it", body = CreditSummary)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn resume_creates(
    call: WriteCall<OrgId, Body<ResumeBody>>,
) -> Result<Tagged<CreditSummary>, Problem> {
    let ApiCall { database, path: org, input: Body(body), max_exposure, .. } = call;
    database.resume_creates(org, body.reason.as_str()).await?;
    let summary = database.credit_summary(org, max_exposure).await?;
    Ok(Tagged(StatusCode::OK, summary.version, summary))
}

fn why<'a>(reason: &'a Text, external_ref: Option<&'a Text>) -> Why<'a> {
    Why { reason: reason.as_str(), external_ref: external_ref.map(Text::as_str) }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryQuery {
    /// Only entries of this kind.
    #[param(inline)]
    kind: Option<EntryKind>,
    /// Only entries with this reference.
    external_ref: Option<String>,
    /// Only entries at or after this instant.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Only entries before this instant.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// The most items a page may have; 50 if omitted.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: PageLimit,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List ledger entries
///
/// Newest first. Entries are only ever added, never changed.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/entries", tag = "credits",
    params(("org_id" = OrgId, Path, description = "The organisation")),
    responses((status = 200, description = "A page of ledger entries", body = Page<Entry>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_entries(
    call: ReadCall<OrgId, Query<EntryQuery>>,
) -> Result<Json<Page<Entry>>, Problem> {
    let ApiCall { database, path: org, input: Query(query), .. } = call;
    let slice = query.limit.after::<EntryPosition>(query.cursor.as_deref())?;
    let filter = EntryFilter {
        kind: query.kind,
        external_ref: query.external_ref,
        since: query.since.map(Timestamp::get),
        until: query.until.map(Timestamp::get),
        before: slice.after,
    };
    let entries = database.entries(org, &filter, slice.limit).await?;
    Ok(Page::of(entries, query.limit, Entry::place))
}
