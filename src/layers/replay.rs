//! Reads a create's body and looks up its idempotency key, before anything can refuse the create: a replay must work with
//! an empty balance, at the task limit and after a price change (contract, "Idempotency").

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::body::BodyReader;
use super::{Below, Outcome, Stage, part};
use crate::bulk::{Bulk, Payer};
use crate::call::{Admitted, Call, Fresh, NewCreate, Notes, ReadBody, RequestBody};
use crate::error::{Answer, GatewayError, json_answer};
use crate::ids::OrgId;
use crate::metrics as m;
use crate::store::{Claim, Fingerprint, Principal, SharedDatabase, State};
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
        let body = std::mem::take(&mut call.body);
        let (org, notes) = (call.stage.principal.org, &call.context.notes);
        let key = idempotency_key.as_deref();
        let (body, fingerprint, claim) = part("replay", || self.read(org, body, key, notes)).await?;
        if let Some(claim) = claim
            && let Some(result) = replay(&claim, fingerprint, &self.bulk, org)
        {
            notes.add(|notes| notes.hold = Some(claim.hold));
            if result.is_ok() {
                metrics::counter!(m::REPLAYS).increment(1);
            }
            return Ok(result?);
        }
        let create =
            |principal: Arc<Principal>| NewCreate { principal, fingerprint, idempotency_key, resend };
        below.take(call.advance(|stage| Fresh { create: create(stage.principal), body })).await
    }
}

impl Replay {
    /// Reads the body, and looks up the claim of its idempotency key.
    async fn read(
        &self,
        org: OrgId,
        body: RequestBody,
        key: Option<&str>,
        notes: &Notes,
    ) -> Result<(ReadBody, Fingerprint, Option<Claim>), GatewayError> {
        let payer = Payer::Org(org);
        let body = self.bodies.read_call(body, payer, notes).await?;
        let bytes = body.bytes.clone();
        let fingerprint = self.bulk.workers.run(payer, bytes.len(), move || Fingerprint::of(&bytes)).await?;
        let claim = match key {
            Some(key) => self.database.turn_of(org).await?.claim(org, key).await?,
            None => None,
        };
        Ok((body, fingerprint, claim))
    }
}

/// The answer to a repeated request; nothing if its idempotency key is free again.
pub(super) fn replay(
    claim: &Claim,
    fingerprint: Fingerprint,
    bulk: &Bulk,
    org: OrgId,
) -> Option<Result<Answer, GatewayError>> {
    if claim.fingerprint != fingerprint {
        return Some(Err(GatewayError::IdempotencyKeyReused));
    }
    match (claim.state, &claim.answer) {
        (State::InDoubt, None) => Some(Err(GatewayError::OutcomeUnknown { reference: claim.hold })),
        (State::WrittenOff, _) if !claim.late => {
            Some(Err(GatewayError::WrittenOff { reference: claim.hold }))
        }
        (State::Held, _) => Some(Err(GatewayError::RequestInProgress)),
        (_, Some(stored)) => {
            let Some(body) = bulk.answer(Payer::Org(org), stored.to_string().into()) else {
                return Some(Err(GatewayError::NoRoom));
            };
            let mut answer = json_answer(StatusCode::OK, body);
            answer
                .headers_mut()
                .insert(HeaderName::from_static("idempotent-replayed"), HeaderValue::from_static("true"));
            Some(Ok(answer))
        }
        (State::WrittenOff, None) => Some(Err(GatewayError::WrittenOff { reference: claim.hold })),
        (State::Released, None) => None,
        (State::Running | State::Settled, None) => {
            Some(Err(GatewayError::Internal("a recorded create has no stored answer".into())))
        }
    }
}

/// Whether the caller wants to create although an earlier create of the same body is in doubt.
fn resend(headers: &HeaderMap) -> Result<bool, GatewayError> {
    let value = strict::single_header(headers, "X-Tollgate-Resend")?;
    Ok(value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"yes")))
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
