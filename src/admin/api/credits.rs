//! Credits: what an organisation has, and what operators give, correct and move.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::access::Acting;
use super::once::{Made, OnceBody};
use super::problem::Problem;
use super::request::{At, Body, IdempotencyKey, IfMatch, Limit, Page, Path, Query, Tagged, Text, given};
use crate::credits::Credits;
use crate::ids::OrgId;
use crate::store::{
    CreditSummary, Entry, EntryFilter, EntryKind, Overdraft, Place, PostedEntry, Transferred, Why,
};

/// Show an organisation's credits
///
/// Its balance, whether that is low, how long it lasts, and what of it will run out.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/credits", tag = "credits",
    params(("org_id" = OrgId, Path, description = "Whose")),
    responses((status = 200, body = CreditSummary)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn show_credits(
    State(api): State<Api>,
    Path(org): Path<OrgId>,
) -> Result<Tagged<CreditSummary>, Problem> {
    let summary = api.database.credit_summary(org).await?;
    Ok(Tagged(StatusCode::OK, summary.version, summary))
}

/// What is to change; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreditsPatch {
    /// Below so many available credits it is low; null: nobody wants to know.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 0)]
    low_threshold: Option<Option<i64>>,
}

/// Set when an organisation's credits are low
#[utoipa::path(
    patch, path = "/admin/v1/orgs/{org_id}/credits", tag = "credits",
    params(
        ("org_id" = OrgId, Path, description = "Whose"),
        IfMatch
    ),
    request_body = CreditsPatch,
    responses((status = 200, body = CreditSummary)),
    security(("bearer" = ["operator", "org-admin"]))
)]
pub(super) async fn update_credits(
    Acting(database): Acting,
    Path(org): Path<OrgId>,
    IfMatch(version): IfMatch,
    Body(patch): Body<CreditsPatch>,
) -> Result<Tagged<CreditSummary>, Problem> {
    if let Some(threshold) = patch.low_threshold {
        database.set_low_threshold(org, threshold.map(Credits::new), version).await?;
    }
    let summary = database.credit_summary(org).await?;
    if patch.low_threshold.is_none() && version.is_some_and(|seen| seen != summary.version) {
        return Err(Problem::Stale { current: summary.version });
    }
    Ok(Tagged(StatusCode::OK, summary.version, summary))
}

/// Credits to be given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantBody {
    /// How many.
    #[schema(minimum = 1)]
    credits: i64,
    /// Why.
    reason: Text,
    /// What it is called elsewhere, an invoice say; lists can be filtered by it.
    external_ref: Option<Text>,
    /// When what is left of it runs out; left out: never. The grant that ends first is spent first.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<At>,
}

/// Grant credits
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/credits/grants", tag = "credits",
    params(
        ("org_id" = OrgId, Path, description = "To whom"),
        IdempotencyKey
    ),
    request_body = GrantBody,
    responses((status = 201, body = PostedEntry)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn grant_credits(
    Acting(database): Acting,
    Path(org): Path<OrgId>,
    call: OnceBody<GrantBody>,
) -> Result<Made<PostedEntry>, Problem> {
    let GrantBody { credits, reason, external_ref, expires_at } = &call.body;
    let why = why(reason, external_ref.as_ref());
    Ok(Made(
        StatusCode::CREATED,
        database.grant(org, Credits::new(*credits), expires_at.map(At::get), why, call.once()).await?,
    ))
}

/// A correction.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdjustmentBody {
    /// By how many: up, or down. Not 0.
    credits: i64,
    /// Why.
    reason: Text,
    /// What it is called elsewhere.
    external_ref: Option<Text>,
}

/// Correct a balance
///
/// Down to the organisation's overdraft, not further.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/credits/adjustments", tag = "credits",
    params(
        ("org_id" = OrgId, Path, description = "Whose"),
        IdempotencyKey
    ),
    request_body = AdjustmentBody,
    responses((status = 201, body = PostedEntry)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn adjust_credits(
    Acting(database): Acting,
    Path(org): Path<OrgId>,
    call: OnceBody<AdjustmentBody>,
) -> Result<Made<PostedEntry>, Problem> {
    let AdjustmentBody { credits, reason, external_ref } = &call.body;
    let why = why(reason, external_ref.as_ref());
    Ok(Made(StatusCode::CREATED, database.adjust(org, Credits::new(*credits), why, call.once()).await?))
}

/// Credits to be moved.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TransferBody {
    /// Who gives.
    from_org: OrgId,
    /// Who gets.
    to_org: OrgId,
    /// How many.
    #[schema(minimum = 1)]
    credits: i64,
    /// Why.
    reason: Text,
    /// What it is called elsewhere.
    external_ref: Option<Text>,
}

/// Transfer credits
///
/// From what the one has available, without its overdraft. They do not run out at the other.
#[utoipa::path(
    post, path = "/admin/v1/transfers", tag = "credits",
    params(IdempotencyKey),
    request_body = TransferBody,
    responses((status = 201, body = Transferred)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn transfer_credits(
    Acting(database): Acting,
    call: OnceBody<TransferBody>,
) -> Result<Made<Transferred>, Problem> {
    let TransferBody { from_org, to_org, credits, reason, external_ref } = &call.body;
    let why = why(reason, external_ref.as_ref());
    Ok(Made(
        StatusCode::CREATED,
        database.transfer(*from_org, *to_org, Credits::new(*credits), why, call.once()).await?,
    ))
}

/// How far an organisation may go below zero.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OverdraftBody {
    /// By how many credits; 0: not at all.
    #[schema(minimum = 0)]
    overdraft: i64,
}

/// Set an overdraft
///
/// How far below zero new tasks and corrections may go. One that is lowered takes nothing back.
#[utoipa::path(
    put, path = "/admin/v1/orgs/{org_id}/credits/overdraft", tag = "credits",
    params(
        ("org_id" = OrgId, Path, description = "Whose"),
        IdempotencyKey
    ),
    request_body = OverdraftBody,
    responses((status = 200, body = Overdraft)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn set_overdraft(
    Acting(database): Acting,
    Path(org): Path<OrgId>,
    call: OnceBody<OverdraftBody>,
) -> Result<Made<Overdraft>, Problem> {
    let overdraft = Credits::new(call.body.overdraft);
    Ok(Made(StatusCode::OK, database.set_overdraft(org, overdraft, call.once()).await?))
}

fn why<'a>(reason: &'a Text, external_ref: Option<&'a Text>) -> Why<'a> {
    Why { reason: reason.as_str(), external_ref: external_ref.map(Text::as_str) }
}

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EntryQuery {
    /// Only of this kind.
    #[param(inline)]
    kind: Option<EntryKind>,
    /// Only with this reference.
    external_ref: Option<String>,
    /// Only from then on.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<At>,
    /// Only before then.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<At>,
    /// Items of a page.
    #[serde(default)]
    #[param(value_type = Option<u16>, minimum = 1, maximum = 200)]
    limit: Limit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List ledger entries
///
/// Newest first. They are only ever added.
#[utoipa::path(
    get, path = "/admin/v1/orgs/{org_id}/entries", tag = "credits",
    params(("org_id" = OrgId, Path, description = "Whose"), EntryQuery),
    responses((status = 200, body = Page<Entry>)),
    security(("bearer" = ["operator", "operator-read", "org-admin"]))
)]
pub(super) async fn list_entries(
    State(api): State<Api>,
    Path(org): Path<OrgId>,
    Query(query): Query<EntryQuery>,
) -> Result<Json<Page<Entry>>, Problem> {
    let slice = query.limit.behind::<Place>(query.cursor.as_deref())?;
    let filter = EntryFilter {
        kind: query.kind,
        external_ref: query.external_ref,
        since: query.since.map(At::get),
        until: query.until.map(At::get),
        before: slice.after,
    };
    let entries = api.database.entries(org, &filter, slice.limit).await?;
    Ok(Page::of(entries, query.limit, Entry::place))
}
