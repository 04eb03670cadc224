//! Authenticates the caller. A credential that is certainly wrong gets 401, one that cannot be checked now gets 503.

use std::sync::Arc;

use http::header::AUTHORIZATION;

use super::{Below, Outcome, Stage, part};
use crate::access::callers::{Authenticator, Caller};
use crate::access::sessions::SignedIn;
use crate::call::{Authenticated, Call, Endpoint, Routed};
use crate::error::GatewayError;
use crate::store::Principal;
use crate::strict;

/// Authenticates a call: its credentials become a principal of an organisation.
#[derive(Debug, Clone)]
pub struct Auth {
    /// Checks API keys and tokens of identity providers.
    pub keys: Arc<Authenticator>,
}

impl Stage for Auth {
    type In = Routed;
    type Out = Authenticated;

    async fn run(&self, mut call: Call<Routed>, below: &impl Below<Authenticated>) -> Outcome {
        let principal = self.principal(&mut call).await?;
        call.context.notes.add(|notes| notes.principal = Some(principal.clone()));
        below.take(call.advance(|routed| Authenticated { endpoint: routed.endpoint, principal })).await
    }
}

impl Auth {
    async fn principal(&self, call: &mut Call<Routed>) -> Result<Arc<Principal>, GatewayError> {
        strict::single_header(&call.context.headers, "Authorization")?;
        // Removed, so that no later stage can log or forward the credential.
        let header = call.context.headers.remove(AUTHORIZATION);
        // Other services take keys there.
        let elsewhere = call.context.headers.remove("x-api-key").is_some();
        if header.is_none() && elsewhere {
            return Err(GatewayError::Unauthenticated(
                "X-API-Key is not looked at: send the key as 'Authorization: Bearer <key>'",
            ));
        }
        let signed_in = call.context.extensions.remove::<SignedIn>();
        let header = header.as_ref().map(|value| value.to_str().unwrap_or_default());
        let stale_will_do = call.stage.endpoint == Endpoint::Status;
        let peer = call.context.peer;
        let caller = match signed_in {
            Some(signed_in) => signed_in.into_caller(),
            None => part("auth", || self.keys.authenticate(header, peer, stale_will_do)).await?,
        };
        let known = call.context.connection.is_known(caller.party());
        known.await.map_err(|_| GatewayError::NoRoom)?;
        match caller {
            Caller::Tenant(principal) => Ok(principal),
            Caller::Operator(_) => Err(GatewayError::Forbidden(
                "operators cannot create tasks: use an API key of an organisation",
            )),
        }
    }
}
