//! Sessions of the console. A browser has a random text, which is exchanged for the caller whose credential opened the
//! session. The credential is looked up at each use, through the same caches as the credential itself, so that a session
//! ends as soon as a call with the credential would be refused.

mod by_provider;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

pub use self::by_provider::{ProviderAnswer, SignInProvider};
use super::callers::{Authenticator, Caller};
use crate::api_key::{OPERATOR_ENV, PresentedKey};
use crate::error::GatewayError;
use crate::ids::{IdentityId, UserId};
use crate::secret::Secret;
use crate::store::{
    Acting, Database, Principal, SessionHash, SessionInfo, SessionKind, SessionOf, StoreError,
};

/// The caller of a request that the console makes for a session. The APIs take it in place of an `Authorization` header. It
/// is a typed extension of the request, and only [`Authenticator::signed_in`] makes one: nothing that arrives by the network
/// becomes one.
#[derive(Debug, Clone)]
pub struct SignedIn {
    caller: Caller,
}

impl SignedIn {
    /// The caller that the session's credential identifies.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The caller, for the layer that would have authenticated it.
    pub fn into_caller(self) -> Caller {
        self.caller
    }
}

/// The text that a browser keeps of its session, or that a link contains. The database has its hash only.
#[derive(Debug, Clone)]
pub struct SessionText(Secret);

/// The length of such a text: 256 bits in base64url.
const LENGTH: usize = 43;

impl SessionText {
    fn generate() -> Self {
        Self(Secret::new(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())))
    }

    /// A text that may be a session's by its form; nothing if it cannot be.
    pub fn parse(text: &str) -> Option<Self> {
        let formed = text.len() == LENGTH
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        formed.then(|| Self(Secret::new(text)))
    }

    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    fn hash(&self) -> SessionHash {
        SessionHash(Sha256::digest(self.0.expose().as_bytes()).into())
    }
}

/// A session, for the bearer of its credential.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    pub created_at: OffsetDateTime,
    /// When it was last used, to the minute.
    pub seen_at: OffsetDateTime,
    /// Whether it is the session that asks.
    pub is_this: bool,
}

/// A new link, which opens one session for the bearer of `credential` within `lasts`.
pub async fn new_link(
    database: &Database,
    credential: &Secret,
    lasts: Duration,
) -> Result<Option<SessionText>, StoreError> {
    let Some(of) = credential_of(credential.expose()) else { return Ok(None) };
    let text = SessionText::generate();
    database.add_link(text.hash(), &of, lasts).await?;
    Ok(Some(text))
}

/// How long an invitation may be used.
const INVITATION_LASTS: Duration = Duration::from_secs(15 * 60);

/// A new link, which opens one session of the user within 15 minutes; and when it ends.
pub async fn invite(database: &Acting, user: UserId) -> Result<(SessionText, OffsetDateTime), StoreError> {
    let text = SessionText::generate();
    let expires_at = database.invite(user, text.hash(), INVITATION_LASTS).await?;
    Ok((text, expires_at))
}

/// The credential that a key or token is, by its form.
fn credential_of(text: &str) -> Option<SessionOf> {
    let presented = PresentedKey::parse(text)?;
    let kind = if presented.env == OPERATOR_ENV { SessionKind::Operator } else { SessionKind::Key };
    Some(SessionOf { kind, public_id: presented.public_id })
}

const SESSION_ENDED: &str = "this session has ended: sign in again";
const NO_SESSION: GatewayError = GatewayError::Unauthenticated(SESSION_ENDED);

impl Authenticator {
    /// Opens a session for the bearer of this API key or operator token, if `admit` lets it. A wrong one counts as a failed login of
    /// `peer`.
    pub async fn sign_in_with(
        &self,
        credential: &str,
        peer: IpAddr,
        admit: impl FnOnce(&Caller) -> Result<(), GatewayError>,
    ) -> Result<(SessionText, SignedIn), GatewayError> {
        let caller = self.authenticate(Some(&format!("Bearer {credential}")), peer, false).await?;
        admit(&caller)?;
        let of = credential_of(credential).ok_or(GatewayError::Unauthenticated(
            "sign in with an API key or an operator token: a token of an identity provider opens no session",
        ))?;
        let text = SessionText::generate();
        self.lookup_turn(peer).await?.add_session(text.hash(), &of).await?;
        Ok((text, SignedIn { caller }))
    }

    /// Opens a session by a link, which is used up.
    pub async fn sign_in_by_link(
        &self,
        link: &SessionText,
        peer: IpAddr,
    ) -> Result<(SessionText, SignedIn), GatewayError> {
        let of = self.lookup_turn(peer).await?.use_link(link.hash()).await?;
        let of = of.ok_or_else(|| {
            self.wrong_credential("this link was used already, or has expired: ask for another one", peer)
        })?;
        let caller = self.caller_of(&of, peer).await?;
        let text = SessionText::generate();
        self.lookup_turn(peer).await?.add_session(text.hash(), &of).await?;
        Ok((text, SignedIn { caller }))
    }

    /// The caller of this session; an error if the session, or its credential, has ended. A text of no session counts as a failed
    /// login of `peer`: who makes texts up has no more look-ups than who makes keys up.
    pub async fn signed_in(&self, session: &SessionText, peer: IpAddr) -> Result<SignedIn, GatewayError> {
        let of = self.lookup_turn(peer).await?.find_session(session.hash()).await?;
        let of = of.ok_or_else(|| self.wrong_credential(SESSION_ENDED, peer))?;
        Ok(SignedIn { caller: self.caller_of(&of, peer).await? })
    }

    /// Ends a session; its text opens nothing any more. A text of no session counts as a failed login of `peer`.
    pub async fn sign_out(&self, session: &SessionText, peer: IpAddr) -> Result<(), GatewayError> {
        if self.lookup_turn(peer).await?.end_session(session.hash()).await? {
            return Ok(());
        }
        match self.wrong_credential(SESSION_ENDED, peer) {
            // It may have ended by itself: there is nothing left to end.
            GatewayError::Unauthenticated(_) => Ok(()),
            limited => Err(limited),
        }
    }

    /// The sessions of the same credential, newest first, and which of them this one is.
    pub async fn sessions(&self, session: &SessionText, peer: IpAddr) -> Result<Vec<Session>, GatewayError> {
        let (turn, own) = (self.lookup_turn(peer).await?, session.hash());
        let of = turn.find_session(own).await?.ok_or(NO_SESSION)?;
        let list = turn.sessions_of(&of).await?.into_iter();
        Ok(list
            .map(|SessionInfo { hash, created_at, seen_at }| Session {
                created_at,
                seen_at,
                is_this: hash == own,
            })
            .collect())
    }

    /// Ends the other sessions of the same credential.
    pub async fn end_others(&self, session: &SessionText, peer: IpAddr) -> Result<(), GatewayError> {
        let turn = self.lookup_turn(peer).await?;
        let of = turn.find_session(session.hash()).await?.ok_or(NO_SESSION)?;
        Ok(turn.end_other_sessions(&of, session.hash()).await?)
    }

    async fn caller_of(&self, of: &SessionOf, peer: IpAddr) -> Result<Caller, GatewayError> {
        match of.kind {
            SessionKind::Key => self.caller_with_key(&of.public_id, peer).await,
            SessionKind::Operator => self.operator_with_token(&of.public_id, peer).await,
            // Read each time: who is suspended is out with the next page.
            SessionKind::Identity => {
                let id = IdentityId::from_uuid(uuid_of(of)?);
                tenant(self.lookup_turn(peer).await?.standing_of_identity(id).await?)
            }
            SessionKind::User => {
                let id = UserId::from_uuid(uuid_of(of)?);
                tenant(self.lookup_turn(peer).await?.standing_of_user(id).await?)
            }
        }
    }
}

fn uuid_of(of: &SessionOf) -> Result<Uuid, StoreError> {
    Uuid::try_parse(&of.public_id).map_err(|_| StoreError::Corrupt("console_session.public_id".into()))
}

fn tenant(found: Option<Principal>) -> Result<Caller, GatewayError> {
    found.map(|principal| Caller::Tenant(Arc::new(principal))).ok_or(NO_SESSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_a_session_has_256_bits_and_no_other_text_is_looked_up() {
        let text = SessionText::generate();
        assert!(SessionText::parse(text.expose()).is_some());
        for other in ["", "short", &"x".repeat(44), &format!("{}é", "x".repeat(41)), &" ".repeat(43)] {
            assert!(SessionText::parse(other).is_none(), "{other}");
        }
        assert!(!format!("{text:?}").contains(text.expose()), "it is not printed");
    }
}
