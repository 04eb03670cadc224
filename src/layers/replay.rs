//! Reads a create's body and looks up its idempotency key, before anything can refuse the create: a replay must work with
//! an empty balance, at the task limit and after a price change (contract, "Idempotency").

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::body::{BodyReader, Coding};
use super::{Below, Outcome, Stage, part};
use crate::bulk::{Bulk, Payer};
use crate::call::{Admitted, Call, Fresh, NewCreate, Notes, ReadBody, RequestBody};
use crate::error::{Answer, GatewayError, json_answer};
use crate::ids::OrgId;
use crate::metrics as m;
use crate::poll::created;
use crate::store::{Claim, Fingerprint, Principal, SharedDatabase, State, StoredText, Task, TaskText};
use crate::strict;

/// Reads a create's body, and replays the stored answer for a known idempotency key.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Looks up the claims of idempotency keys, with their stored answers.
    pub database: SharedDatabase<OrgId>,
    pub bodies: BodyReader,
    pub bulk: Bulk,
}

impl Stage for Replay {
    type In = Admitted;
    type Out = Fresh;

    async fn run(&self, mut call: Call<Admitted>, below: &impl Below<Fresh>) -> Outcome {
        let headers = &call.context.headers;
        let idempotency_key = idempotency_key(headers)?;
        let resend = resend(headers)?;
        let keeps_content = keeps_content(headers)?;
        let coding = Coding::of(headers).map_err(GatewayError::from)?;
        let body = std::mem::take(&mut call.body);
        let (org, notes) = (call.stage.principal.org, &call.context.notes);
        let key = idempotency_key.as_deref();
        let (body, fingerprint, claim) = part("replay", || self.read(org, body, coding, key, notes)).await?;
        if let Some(claim) = claim
            && let hold = claim.task.hold
            && let Some(result) = Box::pin(replay(*claim, fingerprint, &self.bulk, &self.database)).await
        {
            notes.add(|notes| notes.hold = Some(hold));
            if result.is_ok() {
                metrics::counter!(m::REPLAYS).increment(1);
            }
            return Ok(result?);
        }
        let create = |principal: Arc<Principal>| NewCreate {
            principal,
            fingerprint,
            idempotency_key,
            resend,
            keeps_content,
        };
        below.take(call.advance(|stage| Fresh { create: create(stage.principal), body })).await
    }
}

impl Replay {
    /// Reads the body, and looks up the claim of its idempotency key.
    async fn read(
        &self,
        org: OrgId,
        body: RequestBody,
        coding: Coding,
        key: Option<&str>,
        notes: &Notes,
    ) -> Result<(ReadBody, Fingerprint, Option<Box<Claim>>), GatewayError> {
        let payer = Payer::Org(org);
        let body = self.bodies.read_call(body, coding, payer, notes).await?;
        let bytes = body.bytes.clone();
        let fingerprint = self.bulk.workers.run(payer, bytes.len(), move || Fingerprint::of(&bytes)).await?;
        let claim = match key {
            Some(key) => self.database.turn_of(org).await?.claim(org, key).await?.map(Box::new),
            None => None,
        };
        Ok((body, fingerprint, claim))
    }
}

/// What a repeated request is answered; nothing if its idempotency key is free again. `Ok`: the task of the earlier create,
/// which the vendor accepted.
pub(super) fn judge(claim: &Claim, fingerprint: Fingerprint) -> Option<Result<(), GatewayError>> {
    if claim.fingerprint != fingerprint {
        return Some(Err(GatewayError::IdempotencyKeyReused));
    }
    let (task, reference) = (&claim.task, claim.task.hold);
    match (task.state, &task.upstream_task) {
        (State::Held, _) => Some(Err(GatewayError::RequestInProgress)),
        (State::WrittenOff, _) if task.late.is_none() => Some(Err(GatewayError::WrittenOff { reference })),
        (_, Some(_)) => Some(Ok(())),
        (State::InDoubt, None) => Some(Err(GatewayError::OutcomeUnknown { reference })),
        (State::WrittenOff, None) => Some(Err(GatewayError::WrittenOff { reference })),
        (State::Released, None) => None,
        (State::Running | State::Settled, None) => {
            Some(Err(GatewayError::Internal("a task runs without the vendor's id".into())))
        }
    }
}

/// The answer to a repeated request; nothing if its idempotency key is free again.
pub(super) async fn replay(
    claim: Claim,
    fingerprint: Fingerprint,
    bulk: &Bulk,
    database: &SharedDatabase<OrgId>,
) -> Option<Result<Answer, GatewayError>> {
    match judge(&claim, fingerprint)? {
        Err(refused) => Some(Err(refused)),
        Ok(()) => Some(again(claim.task, claim.first, bulk, database).await),
    }
}

/// The answer to the create of `task` once more; `first`: the vendor's.
pub(super) async fn again(
    task: Task,
    first: Option<StoredText>,
    bulk: &Bulk,
    database: &SharedDatabase<OrgId>,
) -> Result<Answer, GatewayError> {
    let of = (task.org, task.hold);
    let (first, room) = database.read_text(of, TaskText::First, first, &bulk.budget).await?;
    let (payer, bytes) = (Payer::Org(task.org), first.as_ref().map_or(0, |first| first.len()));
    let body = bulk.workers.run(payer, bytes, move || created(task, first)).await?;
    let body = bulk.answer_in(room, payer, body.into()).ok_or(GatewayError::NoRoom)?;
    let mut answer = json_answer(StatusCode::OK, body);
    let replayed = (HeaderName::from_static("idempotent-replayed"), HeaderValue::from_static("true"));
    answer.headers_mut().extend([replayed]);
    Ok(answer)
}

/// Whether the caller wants to create although an earlier create of the same body is in doubt, or unanswered.
fn resend(headers: &HeaderMap) -> Result<bool, GatewayError> {
    let value = strict::single_header(headers, "X-Tollgate-Resend")?;
    Ok(value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"yes")))
}

/// Whether content is kept after the task has ended. A word that is misspelt must not keep what should not be kept.
fn keeps_content(headers: &HeaderMap) -> Result<bool, GatewayError> {
    let Some(value) = strict::single_header(headers, "X-Tollgate-Store")? else { return Ok(true) };
    let word = value.to_str().unwrap_or_default().to_ascii_lowercase();
    match word.as_str() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(GatewayError::invalid_request("X-Tollgate-Store must be yes or no")),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<Arc<str>>, GatewayError> {
    let Some(value) = strict::single_header(headers, "Idempotency-Key")? else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(Some(text.into()))
    } else {
        Err(GatewayError::invalid_request("Idempotency-Key must be 1 to 255 visible ASCII characters"))
    }
}
