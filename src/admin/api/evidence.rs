//! Evidence by hand: an operator says which task of the vendor a hold is, or that it is none. The vendor is asked first, and what it says is
//! compared with what is known of the hold.

mod compare;

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use self::compare::{Comparison, shortened, side_of_hold, side_of_vendor};
use super::call::{ApiCall, Vendor, WriteCall};
use super::extract::Text;
use super::holds::said;
use super::idempotent::{Answered, Idempotent};
use super::problem::Problem;
use crate::bulk::Payer;
use crate::credits::{Credits, PriceFactor};
use crate::error::GatewayError;
use crate::ids::{HoldId, OrgId, UserId};
use crate::order::{Order, is_o3};
use crate::store::{
    Acting, Adopted, Adoption, Earlier, Evidence, Fingerprint, HoldInfo, Resolved, TakenBack, ToAdopt,
    ToSettle,
};
use crate::upstream::{Progress, Report, StatusError};

/// Evidence that the vendor accepted a task.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SettleBody {
    /// The vendor's id of the task: 1 to 255 visible ASCII characters.
    #[schema(min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    task_id: String,
    /// The credits that the vendor consumed, if its pages show them: compared with what the vendor reports. If the vendor never
    /// reports the end of the task, this figure is charged when the task reaches its maximum age.
    #[schema(minimum = 0)]
    credits: Option<i64>,
    /// How you know this; kept with the task and in the audit log.
    reason: Text,
    /// Records it although it does not fit, or although the vendor cannot be asked. This is marked on the hold and in the audit
    /// log. A task that belongs to another hold cannot be forced.
    #[serde(default)]
    force: bool,
}

/// Evidence that the vendor did not accept a task, or that nothing is owed for it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseBody {
    /// How you know this; kept with the task and in the audit log.
    reason: Text,
    /// Releases it although the vendor has the task, or although the vendor cannot be asked. This is marked in the audit log.
    #[serde(default)]
    force: bool,
}

/// Why a step is taken back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeBackBody {
    /// What was wrong; kept with the task and in the audit log.
    reason: Text,
}

/// A task of the vendor's that no hold knows.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdoptBody {
    /// The user whom the task is counted for.
    user_id: UserId,
    /// The vendor's backend: `kling-3.0` or `kling-o3`.
    backend: String,
    /// The account with the vendor; omitted: all accounts of the backend are asked.
    account: Option<String>,
    /// The vendor's id of the task: 1 to 255 visible ASCII characters.
    #[schema(min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    task_id: String,
    /// How you know whose task it is; kept with the task and in the audit log.
    reason: Text,
    /// Adopts the task although a task in doubt has the same type and prompt. This is marked on the hold and in the audit log.
    #[serde(default)]
    force: bool,
}

fn check_id(task_id: &str) -> Result<(), Problem> {
    let usable = (1..=255).contains(&task_id.len()) && task_id.bytes().all(|b| b.is_ascii_graphic());
    usable
        .then_some(())
        .ok_or_else(|| Problem::Invalid("task_id must be 1 to 255 visible ASCII characters".into()))
}

/// Settle a task in doubt
///
/// States that the vendor accepted the task under this id. The vendor is asked first: the task must exist, its type and the
/// request that the vendor repeats must be those of the hold, and it must belong to no other hold. What does not fit is 409 and
/// shows both sides. Then the task is polled to its end, which charges it; until then this can be taken back.
#[utoipa::path(
    post, path = "/admin/v1/holds/{hold_id}/settle", tag = "doubts and losses",
    params(("hold_id" = HoldId, Path, description = "The hold: the reference that its caller was given")),
    request_body = SettleBody,
    responses((status = 200, description = "The hold, whose task is polled from now on", body = Resolved)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn settle_hold(
    call: WriteCall<HoldId, Idempotent<SettleBody>>,
) -> Result<Answered<Resolved>, Problem> {
    let ApiCall { caller, database, path: hold_id, input: sent, vendor, .. } = call;
    let body = &sent.body;
    check_id(&body.task_id)?;
    if body.credits.is_some_and(|credits| credits < 0) {
        return Err(Problem::Invalid("credits cannot be negative".into()));
    }
    let why = said(&caller, &body.reason);
    let credits = body.credits.map(Credits::new);
    let found = database.to_settle(hold_id, &body.task_id, credits, sent.once()).await?;
    let ToSettle { hold, other } = match found {
        Earlier::Answered(done) => return Ok(Answered(StatusCode::OK, done)),
        Earlier::Found(found) => found,
    };
    let evidence =
        |compared: Value| Evidence { task: &body.task_id, credits, why: &why, forced: body.force, compared };
    if let Some(other) = other {
        let refused = evidence(json!({"vendor": "not asked", "belongs_to": other.hold_id}));
        return Err(belongs_to_another(&database, &hold, &other, &refused).await?);
    }
    let (comparison, report) = asked(&vendor, &hold, &body.task_id, credits, body.force).await?;
    let evidence = evidence(comparison.kept());
    if !body.force
        && let Some(why) = comparison.objection(&body.task_id)
    {
        let excerpt = database.note_refusal(&hold, &evidence).await?;
        let data = both_sides(&hold, excerpt, &body.task_id, report.as_ref(), &comparison);
        return Err(Problem::DoesNotFit { why, data });
    }
    Ok(Answered(StatusCode::OK, database.settle_by_hand(&hold, &evidence, sent.once()).await?))
}

/// Release a task in doubt
///
/// States that the vendor did not accept the task. Its hold ends and nothing is charged. If the vendor's id of the task is known,
/// the vendor is asked first: while it runs the task, or if the task succeeded, this is 409 and shows what the vendor says.
#[utoipa::path(
    post, path = "/admin/v1/holds/{hold_id}/release", tag = "doubts and losses",
    params(("hold_id" = HoldId, Path, description = "The hold: the reference that its caller was given")),
    request_body = ReleaseBody,
    responses((status = 200, description = "The ended hold", body = Resolved)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn release_hold(
    call: WriteCall<HoldId, Idempotent<ReleaseBody>>,
) -> Result<Answered<Resolved>, Problem> {
    let ApiCall { caller, database, path: hold_id, input: sent, vendor, .. } = call;
    let body = &sent.body;
    let why = said(&caller, &body.reason);
    let hold = match database.to_release(hold_id, sent.once()).await? {
        Earlier::Answered(done) => return Ok(Answered(StatusCode::OK, done)),
        Earlier::Found(hold) => hold,
    };
    let known = match hold.upstream_task.as_deref() {
        Some(task) => not_owed(&database, &vendor, &hold, task, &why, body.force).await?,
        None => json!({"task_id": null}),
    };
    Ok(Answered(StatusCode::OK, database.release(&hold, &why, known, sent.once()).await?))
}

/// What the vendor says of the task of a hold that is to be released, for the audit log. What the vendor runs or has finished is
/// owed, and is not released without force.
async fn not_owed(
    database: &Acting,
    vendor: &Vendor,
    hold: &HoldInfo,
    task: &str,
    why: &str,
    force: bool,
) -> Result<Value, Problem> {
    let (comparison, report) = asked(vendor, hold, task, None, force).await?;
    let mut known = comparison.kept();
    if !force && let Some(report) = report.as_ref().filter(|report| report.progress != Progress::Failed) {
        let evidence = Evidence { task, credits: None, why, forced: false, compared: known };
        let excerpt = database.note_refusal(hold, &evidence).await?;
        let does = if report.progress == Progress::Succeeded { "has finished it" } else { "runs it" };
        return Err(Problem::DoesNotFit {
            why: format!(
                "this hold is the vendor's task '{task}', and the vendor {does}: settle it with this id, and it is charged by \
                 its end; if you are sure that nothing is owed, release it with \"force\": true"
            ),
            data: both_sides(hold, excerpt, task, Some(report), &comparison),
        });
    }
    if let Some(fields) = known.as_object_mut() {
        fields.extend([("task_id".into(), task.into()), ("forced".into(), force.into())]);
    }
    Ok(known)
}

/// What the vendor says of a task, compared with a hold. That the vendor cannot be asked is an error, unless it is forced.
async fn asked(
    vendor: &Vendor,
    hold: &HoldInfo,
    task: &str,
    credits: Option<Credits>,
    force: bool,
) -> Result<(Comparison, Option<Report>), Problem> {
    match vendor.upstream.look_up(hold.org_id, &hold.backend, &hold.account, task).await {
        Ok(report) => {
            let (comparison, report) = compared(vendor, hold, report, credits).await?;
            Ok((comparison, Some(report)))
        }
        Err(error) if !force && error != StatusError::NotFound => Err(Problem::VendorUnreachable(format!(
            "the vendor could not be asked about this task ({error}): try again, or record it unchecked with \"force\": true"
        ))),
        Err(error) => Ok((Comparison::without(error), None)),
    }
}

/// What a refusal shows of both sides.
fn both_sides(
    hold: &HoldInfo,
    excerpt: Option<Value>,
    task: &str,
    report: Option<&Report>,
    comparison: &Comparison,
) -> Value {
    json!({
        "hold": side_of_hold(hold, excerpt), "vendor": report.map(|report| side_of_vendor(task, report)),
        "matched": comparison.matched, "differed": comparison.differed, "not_compared": comparison.not_compared,
    })
}

/// The refusal of a task that another hold has; both holds are shown.
async fn belongs_to_another(
    database: &Acting,
    hold: &HoldInfo,
    other: &HoldInfo,
    refused: &Evidence<'_>,
) -> Result<Problem, Problem> {
    let excerpt = database.note_refusal(hold, refused).await?;
    Ok(Problem::DoesNotFit {
        why: format!(
            "the vendor's task '{}' belongs to another hold already: {} of {}",
            refused.task, other.hold_id, other.org_id
        ),
        data: json!({"hold": side_of_hold(hold, excerpt), "vendor": null, "other_hold": side_of_hold(other, None)}),
    })
}

/// Compares on a thread for large work, if the vendor's answer is large.
async fn compared(
    vendor: &Vendor,
    hold: &HoldInfo,
    report: Report,
    credits: Option<Credits>,
) -> Result<(Comparison, Report), Problem> {
    let (task_type, digests) = (hold.task_type.clone(), hold.digests.clone());
    let size = report.data().len();
    let compare = move || (Comparison::of(&task_type, digests.as_ref(), &report, credits), report);
    vendor.workers.run(Payer::Operators, size, compare).await.map_err(|_| Problem::Busy)
}

/// Take back what an operator recorded
///
/// As long as the vendor has not reported the end, what `settle` or `adopt-task` recorded is taken back: the vendor's id is free
/// again, and what the vendor said about it is erased here. A task that was in doubt is in doubt again, one that had ended (or was
/// written off since) is as it was, one that was adopted is released. Once the vendor has reported the end, this is 409.
#[utoipa::path(
    post, path = "/admin/v1/holds/{hold_id}/take-back", tag = "doubts and losses",
    params(("hold_id" = HoldId, Path, description = "The hold: the reference that its caller was given")),
    request_body = TakeBackBody,
    responses((status = 200, description = "The hold as it is now", body = TakenBack)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn take_back_hold(
    call: WriteCall<HoldId, Idempotent<TakeBackBody>>,
) -> Result<Answered<TakenBack>, Problem> {
    let ApiCall { caller, database, path: hold_id, input: sent, .. } = call;
    let why = said(&caller, &sent.body.reason);
    Ok(Answered(StatusCode::OK, database.take_back(hold_id, &why, sent.once()).await?))
}

/// Adopt a task that no ledger knows
///
/// For a task that the vendor runs and whose hold was lost, with an asynchronous standby or by a restore. The vendor is asked: it
/// must know the task, and the request that it repeats is priced by the book in force. A hold is made whatever the balance and
/// the budgets are, because the vendor has taken the task already, and ends by what the vendor reports, like any other. Until
/// then it can be taken back.
#[utoipa::path(
    post, path = "/admin/v1/orgs/{org_id}/adopt-task", tag = "doubts and losses",
    params(("org_id" = OrgId, Path, description = "The organisation that the task is charged to")),
    request_body = AdoptBody,
    responses((status = 201, description = "The adopted task", body = Adopted)),
    security(("bearer" = ["operator"]))
)]
pub(super) async fn adopt_task(
    call: WriteCall<OrgId, Idempotent<AdoptBody>>,
) -> Result<Answered<Adopted>, Problem> {
    let ApiCall { caller, database, path: org, input: sent, vendor, .. } = call;
    let body = &sent.body;
    check_id(&body.task_id)?;
    let accounts = accounts(&vendor, body)?;
    let names: Vec<&str> = accounts.iter().map(AsRef::as_ref).collect();
    let ToAdopt { factor, known } = match database.to_adopt(org, &body.task_id, &names, sent.once()).await? {
        Earlier::Answered(done) => return Ok(Answered(StatusCode::CREATED, done)),
        Earlier::Found(found) => found,
    };
    if let Some(other) = known {
        return Err(Problem::DoesNotFit {
            why: format!(
                "the vendor's task '{}' is known: it belongs to {} of {}",
                body.task_id, other.hold_id, other.org_id
            ),
            data: json!({"hold": side_of_hold(&other, None), "vendor": null}),
        });
    }
    let (account, report) = found_on(&vendor, org, body, &names).await?;
    let (order, report) = appraised(&vendor, org, factor, report).await?;
    let order = order.map_err(|why| unfit(body, &report, why))?;
    if is_o3(&order.task_type) != (body.backend == "kling-o3") {
        return Err(unfit(body, &report, format!("'{}' is no type of {}", order.task_type, body.backend)));
    }
    let (fields, digests) = shortened(&report);
    let prompt = digests.get("prompt").and_then(Value::as_str).unwrap_or_default();
    let doubts = database.doubts_like(account, &order.task_type, prompt).await?;
    if !body.force && !doubts.is_empty() {
        let names: Vec<String> = doubts.iter().map(HoldId::to_string).collect();
        let why =
            format!("it may be the task of a hold in doubt: look at {}, and settle it", names.join(", "));
        return Err(unfit(body, &report, why));
    }
    let why = said(&caller, &body.reason);
    let compared = json!({
        "vendor": report.text("status"), "vendor_credits": report.raw, "doubts": doubts,
        "matched": ["type"], "priced_by": fields.as_object().map(|fields| fields.keys().collect::<Vec<_>>()),
    });
    let adoption = Adoption {
        org,
        user: body.user_id,
        amount: order.price.hold,
        list_price: order.price.list_price,
        factor: order.price.factor,
        book: order.price.book,
        task_type: &order.task_type,
        backend: &body.backend,
        account,
        fingerprint: Fingerprint::of(report.request().unwrap_or_default().as_bytes()),
        raw: report.raw,
        evidence: Evidence { task: &body.task_id, credits: None, why: &why, forced: body.force, compared },
    };
    Ok(Answered(StatusCode::CREATED, database.adopt(&adoption, sent.once()).await?))
}

/// The accounts that are asked for a task.
fn accounts(vendor: &Vendor, body: &AdoptBody) -> Result<Vec<std::sync::Arc<str>>, Problem> {
    let mut accounts = vendor
        .upstream
        .accounts(&body.backend)
        .ok_or_else(|| Problem::Invalid("backend must be kling-3.0 or kling-o3".into()))?;
    if let Some(named) = &body.account {
        accounts.retain(|account| **account == **named);
        if accounts.is_empty() {
            return Err(Problem::Invalid(format!("{} has no account '{named}'", body.backend)));
        }
    }
    Ok(accounts)
}

/// The account that knows the task, and what the vendor says of it.
async fn found_on<'a>(
    vendor: &Vendor,
    org: OrgId,
    body: &AdoptBody,
    accounts: &[&'a str],
) -> Result<(&'a str, Report), Problem> {
    let mut unreached = None;
    for account in accounts {
        match vendor.upstream.look_up(org, &body.backend, account, &body.task_id).await {
            Ok(report) => return Ok((account, report)),
            Err(StatusError::NotFound) => {}
            Err(error) => unreached = Some(error),
        }
    }
    Err(match unreached {
        Some(error) => Problem::VendorUnreachable(format!(
            "the vendor could not be asked about this task ({error}): nothing was adopted, try again"
        )),
        None => Problem::DoesNotFit {
            why: format!("the vendor does not know a task '{}' on {}", body.task_id, accounts.join(", ")),
            data: json!({"hold": null, "vendor": null}),
        },
    })
}

/// Prices what the vendor repeats of the request; the inner error says in words why it has no price.
async fn appraised(
    vendor: &Vendor,
    org: OrgId,
    default: PriceFactor,
    report: Report,
) -> Result<(Result<Order, String>, Report), Problem> {
    let prices = vendor.prices.clone();
    let size = report.data().len();
    let appraise = move || {
        let order = match report.request() {
            Some(request) => prices.appraise(org, default, request.as_bytes()),
            None => Err(GatewayError::invalid_request("the vendor does not repeat the request")),
        };
        (order, report)
    };
    let appraised = vendor.workers.run(Payer::Operators, size, appraise).await;
    let (order, report) = appraised.map_err(|_| Problem::Busy)?;
    match order {
        Ok(order) => Ok((Ok(order), report)),
        Err(GatewayError::Unavailable(error)) => Err(error.into()),
        Err(why) => Ok((Err(why.to_string()), report)),
    }
}

/// The refusal to adopt what the vendor showed. Whose request it is is unknown, and no hold is there on whose record it would be
/// read: digests are shown, and no words of it.
fn unfit(body: &AdoptBody, report: &Report, why: String) -> Problem {
    let mut theirs = side_of_vendor(&body.task_id, report);
    if let Some(theirs) = theirs.as_object_mut() {
        theirs.remove("request");
    }
    Problem::DoesNotFit {
        why: format!("the vendor's task '{}' cannot be adopted: {why}", body.task_id),
        data: json!({"hold": null, "vendor": theirs}),
    }
}
