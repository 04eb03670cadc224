//! Reads a create's body and looks its idempotency key up, before anything can refuse: a replay must work with an
//! empty balance, at the task cap, after a price change (contract, "Idempotency").

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tower::{Layer, Service};

use super::body::read_body;
use super::{LayerFuture, Stage, part};
use crate::call::{Admitted, Call, Fresh};
use crate::error::{Answer, GatewayError, json_answer};
use crate::metrics as m;
use crate::store::{Claim, Database, Fingerprint, State};
use crate::strict;

/// See the module.
#[derive(Debug, Clone)]
pub struct ReplayLayer {
    /// Where claims are looked up.
    pub database: Database,
    /// How long a client may take to send its body.
    pub body_timeout: Duration,
}

impl<S> Layer<S> for ReplayLayer {
    type Service = Replay<S>;

    fn layer(&self, inner: S) -> Replay<S> {
        Replay { inner, settings: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Replay<S> {
    inner: S,
    settings: ReplayLayer,
}

impl<S: Stage<Fresh>> Service<Call<Admitted>> for Replay<S> {
    type Response = Answer;
    type Error = GatewayError;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), GatewayError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call<Admitted>) -> LayerFuture {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let settings = self.settings.clone();
        Box::pin(async move {
            let idempotency_key = idempotency_key(&call.context.headers)?;
            let resend = strict::single_header(&call.context.headers, "X-Tollgate-Resend")?
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"yes"));
            let body = std::mem::take(&mut call.body);
            let org = call.stage.principal.org;
            let look = async {
                let raw = read_body(body, settings.body_timeout, &call.context.notes).await?;
                let claim = match &idempotency_key {
                    Some(key) => settings.database.claim(org, key).await?,
                    None => None,
                };
                Ok((raw, claim))
            };
            let (raw, claim) = part("replay", look).await?;
            let fingerprint = Fingerprint::of(&raw);
            if let Some(claim) = claim
                && let Some(result) = replay(&claim, fingerprint)
            {
                call.context.notes.add(|notes| notes.hold = Some(claim.hold));
                if result.is_ok() {
                    metrics::counter!(m::REPLAYS).increment(1);
                }
                return result;
            }
            let fresh = |stage: Admitted| Fresh {
                principal: stage.principal,
                raw,
                fingerprint,
                idempotency_key,
                resend,
            };
            inner.call(call.advance(fresh)).await
        })
    }
}

/// What a repeated request is answered; nothing if its key is free again.
pub(super) fn replay(claim: &Claim, fingerprint: Fingerprint) -> Option<Result<Answer, GatewayError>> {
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
            let mut answer = json_answer(StatusCode::OK, stored.to_string());
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

fn idempotency_key(headers: &HeaderMap) -> Result<Option<Arc<str>>, GatewayError> {
    let Some(value) = strict::single_header(headers, "Idempotency-Key")? else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(Some(text.into()))
    } else {
        Err(GatewayError::invalid_request("Idempotency-Key must be 1 to 255 visible ASCII characters"))
    }
}
