//! Signing in at the console by an identity provider: the browser is sent to the provider, and comes back with a code that is
//! exchanged for an ID token.
//!
//! All that the answer must fit to follows from one random text, which the browser keeps in a cookie for ten minutes: `state`
//! binds the answer to the browser, `nonce` the ID token to the sign-in, the verifier (PKCE) the code to it. The database has the
//! text's hash, so that a sign-in ends once, on any gateway. The session then stands for the subject's link to its user
//! (an identity), and ends with it, with the user and with the provider.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use url::Url;

use super::{SessionText, SignedIn};
use crate::access::callers::{Authenticator, Caller};
use crate::access::oidc::{AuthorizationCode, NoToken, SignInRequest};
use crate::access::token;
use crate::call::Network;
use crate::error::GatewayError;
use crate::ids::ProviderId;
use crate::secret::Secret;
use crate::store::{Provider, Serves, SessionKind, SessionOf};

/// A longer place of the console to come back to is left out.
const MOST_BACK: usize = 2_000;

/// An identity provider by which people sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInProvider {
    pub id: ProviderId,
    pub name: String,
}

/// With what a provider has sent the browser back.
#[derive(Debug, Clone, Default)]
pub struct ProviderAnswer {
    pub code: Option<String>,
    pub state: Option<String>,
    /// The issuer, which some providers name (RFC 9207).
    pub iss: Option<String>,
    /// Why there is no code.
    pub error: Option<String>,
}

const NO_PROVIDER: GatewayError = GatewayError::Forbidden(
    "nobody signs in here by this identity provider: it was changed, suspended or deleted",
);
const OTHER_BROWSER: &str =
    "this sign-in was not begun in this browser, or another one was begun here after it: begin it again";
const OVER: &str = "this sign-in was used already, or took longer than 10 minutes: begin it again";
const OTHER_PROVIDER: &str =
    "another identity provider has answered than the one that was asked: begin it again";
const NO_CODE: &str = "your identity provider has sent no code: begin it again";
const WRONG_CODE: &str = "your identity provider does not know this sign-in's code: begin it again";
const REFUSED: GatewayError = GatewayError::Forbidden(
    "you, or your identity provider, have broken the sign-in off: nothing was opened",
);
const SUSPENDED: GatewayError =
    GatewayError::Forbidden("you are suspended in your organisation: ask its admin");

/// What follows from the text that the browser keeps.
impl SessionText {
    /// A text that nothing leads back from to this one, and that no other purpose has.
    fn derived(&self, purpose: &str) -> String {
        let digest = Sha256::new().chain_update("tollgate ").chain_update(purpose).chain_update(" ");
        URL_SAFE_NO_PAD.encode(digest.chain_update(self.expose()).finalize())
    }

    fn verifier(&self) -> Secret {
        Secret::new(self.derived("verifier"))
    }

    fn asked(&self) -> SignInRequest {
        let challenge = Sha256::digest(self.verifier().expose());
        SignInRequest {
            state: self.derived("state"),
            nonce: self.derived("nonce"),
            challenge: URL_SAFE_NO_PAD.encode(challenge),
        }
    }
}

/// The client of the console at this provider, if people sign in by it.
fn client_id(provider: &Provider) -> Option<&str> {
    let spec = &provider.spec;
    let serves = !spec.suspended && spec.serves == Serves::Organisations;
    spec.console_client_id.as_deref().filter(|_| serves)
}

impl Authenticator {
    /// The identity providers by which people sign in, by name. None while they cannot be read: keys may be cached.
    pub async fn sign_in_providers(&self, peer: IpAddr) -> Vec<SignInProvider> {
        let known = self.known_providers(peer, true).await.unwrap_or_default();
        let offered = known.iter().filter(|provider| client_id(provider).is_some());
        let mut offered: Vec<_> = offered
            .map(|provider| SignInProvider { id: provider.provider_id, name: provider.spec.name.clone() })
            .collect();
        offered.sort_by(|one, other| one.name.cmp(&other.name));
        offered
    }

    /// Begins a sign-in by this provider. The browser keeps the text and goes to the URL; the provider sends it to `redirect`, and
    /// the console afterwards to `back`.
    pub async fn begin_sign_in(
        &self,
        id: ProviderId,
        redirect: &Url,
        back: &str,
        peer: IpAddr,
    ) -> Result<(SessionText, Url), GatewayError> {
        let provider = self.sign_in_provider(id, peer).await?;
        let client_id = client_id(&provider).ok_or(NO_PROVIDER)?;
        let endpoints = self.sign_ins.endpoints(&provider).await;
        let endpoints = endpoints.map_err(GatewayError::IdentityUnavailable)?;
        let text = SessionText::generate();
        let back = if back.len() <= MOST_BACK { back } else { "" };
        let network = Network::of(peer).to_string();
        self.lookup_turn(peer).await?.begin_login(text.hash(), id, back, &network).await?;
        let place = endpoints.authorize(&provider, client_id, redirect, &text.asked());
        Ok((text, place))
    }

    /// Ends a sign-in, if `admit` lets its caller: the session, its caller, and the place to go to. Whatever is wrong with the
    /// answer counts as a failed login of `peer`; that the provider cannot be asked does not.
    pub async fn finish_sign_in(
        &self,
        begun: Option<&SessionText>,
        answer: &ProviderAnswer,
        redirect: &Url,
        peer: IpAddr,
        admit: impl FnOnce(&Caller) -> Result<(), GatewayError>,
    ) -> Result<(SessionText, SignedIn, String), GatewayError> {
        let begun = begun.ok_or_else(|| self.wrong_credential(OTHER_BROWSER, peer))?;
        let asked = begun.asked();
        // An answer that does not fit ends nothing: another site could break a sign-in off with it.
        if answer.state.as_deref() != Some(asked.state.as_str()) {
            return Err(self.wrong_credential(OTHER_BROWSER, peer));
        }
        let ended = self.lookup_turn(peer).await?.end_login(begun.hash()).await?;
        let (id, back) = ended.ok_or_else(|| self.wrong_credential(OVER, peer))?;
        let provider = self.sign_in_provider(id, peer).await?;
        let token = self.token_for(&provider, begun, answer, redirect, peer).await?;
        let of = self.identified(&provider, &token, &asked.nonce, peer).await?;
        let caller = self.caller_of(&of, peer).await.map_err(|error| match error {
            GatewayError::Unauthenticated(_) => SUSPENDED,
            other => other,
        })?;
        admit(&caller)?;
        let session = SessionText::generate();
        self.lookup_turn(peer).await?.add_session(session.hash(), &of).await?;
        Ok((session, SignedIn { caller }, back))
    }

    async fn sign_in_provider(&self, id: ProviderId, peer: IpAddr) -> Result<Arc<Provider>, GatewayError> {
        let known = self.known_providers(peer, false).await?;
        let found = known.iter().find(|provider| provider.provider_id == id && client_id(provider).is_some());
        found.cloned().ok_or(NO_PROVIDER)
    }

    /// The ID token that the provider gives for its answer.
    async fn token_for(
        &self,
        provider: &Arc<Provider>,
        begun: &SessionText,
        answer: &ProviderAnswer,
        redirect: &Url,
        peer: IpAddr,
    ) -> Result<Secret, GatewayError> {
        let wrong = |why| self.wrong_credential(why, peer);
        let fits = match &answer.iss {
            Some(issuer) => *issuer == provider.spec.issuer,
            None => {
                let endpoints = self.sign_ins.endpoints(provider).await;
                !endpoints.map_err(GatewayError::IdentityUnavailable)?.names_itself
            }
        };
        if !fits {
            return Err(wrong(OTHER_PROVIDER));
        }
        if answer.error.is_some() {
            return Err(REFUSED);
        }
        let code = answer.code.as_deref().filter(|code| !code.is_empty()).ok_or_else(|| wrong(NO_CODE))?;
        let client_id = client_id(provider).ok_or(NO_PROVIDER)?;
        let code = AuthorizationCode { code, verifier: begun.verifier(), redirect };
        let token = self.sign_ins.exchange(provider, client_id, code).await;
        token.map_err(|refused| match refused {
            NoToken::WrongCode => wrong(WRONG_CODE),
            NoToken::Unavailable(why) => GatewayError::IdentityUnavailable(why),
        })
    }

    /// Whom an ID token identifies, as a session stands for it.
    async fn identified(
        &self,
        provider: &Arc<Provider>,
        token: &Secret,
        nonce: &str,
        peer: IpAddr,
    ) -> Result<SessionOf, GatewayError> {
        let client_id = client_id(provider).ok_or(NO_PROVIDER)?;
        let now = self.wall();
        let token = token.expose();
        let verified = token::verify_id_token(token, provider, client_id, nonce, &self.key_sets, now).await;
        let presented = verified.and_then(|verified| verified.presented(now));
        let presented = presented.map_err(|refused| self.refused(refused, peer))?;
        let found = self.identify(provider, &presented, peer, false).await?;
        Ok(SessionOf { kind: SessionKind::Identity, public_id: found.identity.as_uuid().to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_a_text_leads_neither_back_nor_to_the_rest() {
        let text = SessionText::generate();
        let (asked, verifier) = (text.asked(), text.verifier());
        let all = [text.expose(), &asked.state, &asked.nonce, &asked.challenge, verifier.expose()];
        for (at, one) in all.iter().enumerate() {
            assert_eq!(one.len(), 43, "RFC 7636 wants 43 to 128 characters");
            assert!(all.iter().skip(at + 1).all(|other| other != one));
        }
        assert_eq!(text.asked().state, asked.state);
        assert_ne!(SessionText::generate().asked().state, asked.state);
    }
}
