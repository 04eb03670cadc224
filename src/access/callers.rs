//! From an `Authorization` header to a caller: by an API key, an operator token, or a token of an identity provider.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use moka::sync::Cache;
use time::OffsetDateTime;

use super::lookups::{LookupTurn, Lookups};
use super::token::{self, Refused, Verified};
use super::trusted::{self, Cached, Freshness};
use super::uses::{LastNoted, Uses};
use crate::access::jwks::KeySets;
use crate::access::oidc::SignInClient;
use crate::api_key::{OPERATOR_ENV, PresentedKey};
use crate::call::Party;
use crate::clock::Clock;
use crate::config::{AuthConfig, ms};
use crate::error::GatewayError;
use crate::ids::{OrgId, ProviderId};
use crate::metrics as m;
use crate::store::{
    Actor, Database, FoundIdentity, FoundKey, GivenRole, OperatorRole, OperatorToken, Presented, Principal,
    Provider, Serves, SharedDatabase, StoreError,
};

#[derive(Debug, Clone)]
pub enum Caller {
    /// A user of an organisation.
    Tenant(Arc<Principal>),
    /// An operator of the platform.
    Operator(Operator),
}

impl Caller {
    /// The caller's organisation; none: an operator, whose calls may be about any.
    pub fn org(&self) -> Option<OrgId> {
        match self {
            Self::Operator(_) => None,
            Self::Tenant(principal) => Some(principal.org),
        }
    }

    /// Whose share the caller's requests and connections come out of.
    pub fn party(&self) -> Party {
        match self {
            Self::Operator(operator) => {
                let mut hasher = DefaultHasher::new();
                operator.name.hash(&mut hasher);
                Party::Operator(hasher.finish())
            }
            Self::Tenant(principal) => Party::Org(principal.org),
        }
    }

    /// The caller as the audit log names it: a kind and an id.
    pub fn name(&self) -> String {
        match self {
            Self::Operator(operator) => operator.name.clone(),
            Self::Tenant(principal) => match principal.key {
                Some(key) => format!("key:{key}"),
                None => format!("user:{}", principal.user),
            },
        }
    }
}

/// An operator of the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The operator as the audit log names it: a kind and an id, followed by a name for people.
    pub name: String,
    pub role: OperatorRole,
}

impl Operator {
    fn of(token: &OperatorToken) -> Self {
        // Two tokens may have the same name: the audit log must tell them apart.
        Self { name: format!("operator:{} ({})", token.token_id, token.name), role: token.role }
    }
}

#[derive(Debug)]
struct KnownKey {
    /// When the key expires, by this gateway's monotonic clock.
    ends: Option<Instant>,
    found: FoundKey,
    noted: LastNoted,
}

/// A subject of an identity provider, with the organisation that its token names.
type IdentityKey = (ProviderId, Option<String>, String);

/// Authenticates callers. Keys, identities and providers are cached, for as long as it is known that they did not change.
#[derive(Debug)]
pub struct Authenticator {
    /// For credentials that are cached: their organisations have turns.
    database: SharedDatabase<OrgId>,
    lookups: Lookups,
    clock: Clock,
    trust: Freshness,
    keys: Cache<String, Cached<KnownKey>>,
    identities: Cache<IdentityKey, Cached<FoundIdentity>>,
    providers: Cache<(), Cached<Vec<Arc<Provider>>>>,
    pub(super) key_sets: KeySets,
    /// Asks providers for those who sign in at the console.
    pub(super) sign_ins: SignInClient,
    uses: Uses,
}

/// The names of the caches in metrics.
const KEYS: &str = "keys";
const IDENTITIES: &str = "identities";
const PROVIDERS: &str = "providers";

const WRONG: &str =
    "this API key is not valid: send 'Authorization: Bearer <key>' with a key that was not revoked";

/// Nothing can be said about a token whose keys are not there.
const NO_KEYS: &str = "the keys of your identity provider cannot be fetched right now: try again";

impl Authenticator {
    /// Begins with empty caches. First look-ups are made through `lookups`. `failures_per_minute` limits wrong credentials
    /// from one network; 0: no limit.
    pub fn new(
        database: SharedDatabase<OrgId>,
        lookups: Database,
        (key_sets, sign_ins): (KeySets, SignInClient),
        config: &AuthConfig,
        failures_per_minute: u32,
        clock: Clock,
    ) -> Self {
        [KEYS, IDENTITIES, PROVIDERS].into_iter().for_each(trusted::register);
        Self {
            database,
            lookups: Lookups::new(lookups, failures_per_minute),
            clock,
            trust: Freshness::new(ms(config.stale_max_ms), clock),
            keys: Cache::new(config.cached_keys),
            identities: Cache::new(config.cached_keys),
            providers: Cache::new(1),
            key_sets,
            sign_ins,
            uses: Uses::new(clock),
        }
    }

    /// Makes all cached entries stale: they are read again when they are needed.
    pub fn invalidate(&self) {
        self.trust.invalidate();
        self.lookups.invalidate();
    }

    /// Records that at `instant` no cached entry was stale.
    pub fn confirm(&self, instant: Instant) {
        self.trust.confirm(instant);
    }

    /// Shows in metrics how many entries are cached, and how long ago it was confirmed that none of them is stale.
    pub fn show(&self) {
        let entries = |cache: &'static str, count: u64| {
            metrics::gauge!(m::CACHE_ENTRIES, "cache" => cache).set(count as f64);
        };
        entries(KEYS, self.keys.entry_count());
        entries(IDENTITIES, self.identities.entry_count());
        entries(PROVIDERS, self.providers.entry_count());
        metrics::gauge!(m::REVOCATION_LAG_SECONDS).set(self.trust.unconfirmed_for());
        self.lookups.show();
    }

    /// Forgets addresses that sent no wrong credentials recently.
    pub fn tidy(&self) {
        self.lookups.tidy();
    }

    /// Stores when keys were last used.
    pub async fn write_down_uses(&self, database: &Database) -> Result<(), StoreError> {
        self.uses.write_down(database).await
    }

    /// The caller with this `Authorization` header at the client address `peer`. While the database cannot be reached,
    /// stale cache entries are used only if `stale_will_do`.
    pub async fn authenticate(
        &self,
        header: Option<&str>,
        peer: IpAddr,
        stale_will_do: bool,
    ) -> Result<Caller, GatewayError> {
        let Some(header) = header else {
            return Err(GatewayError::Unauthenticated("no API key: send 'Authorization: Bearer <key>'"));
        };
        let credentials = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, credentials)| credentials.trim());
        let Some(text) = credentials else { return Err(self.lookups.wrong(WRONG, peer)) };
        match PresentedKey::parse(text) {
            // Boxed where it is rare: the future of every call would have room for it.
            Some(key) if key.env == OPERATOR_ENV => Box::pin(self.by_operator_token(&key, peer)).await,
            Some(key) => self.by_key(&key, peer, stale_will_do).await,
            None if token::is_token(text) => Box::pin(self.by_token(text, peer, stale_will_do)).await,
            None => Err(self.lookups.wrong(WRONG, peer)),
        }
    }

    async fn by_operator_token(
        &self,
        presented: &PresentedKey,
        peer: IpAddr,
    ) -> Result<Caller, GatewayError> {
        let found = self.lookups.turn_of(peer).await?.find_operator(presented).await?;
        let token = found.ok_or_else(|| self.lookups.wrong(WRONG, peer))?;
        Ok(Caller::Operator(Operator::of(&token)))
    }

    /// The operator with this token, for a session that the token has opened.
    pub(super) async fn operator_with_token(
        &self,
        public_id: &str,
        peer: IpAddr,
    ) -> Result<Caller, GatewayError> {
        let found = self.lookups.turn_of(peer).await?.find_operator_token(public_id).await?;
        let token =
            found.ok_or(GatewayError::Unauthenticated("the token of this session is not valid any more"))?;
        Ok(Caller::Operator(Operator::of(&token)))
    }

    /// A turn for a look-up that a client at `peer` causes.
    pub(super) async fn lookup_turn(&self, peer: IpAddr) -> Result<LookupTurn, StoreError> {
        self.lookups.turn_of(peer).await
    }

    /// Counts a failed login of `peer`.
    pub(super) fn wrong_credential(&self, why: &'static str, peer: IpAddr) -> GatewayError {
        self.lookups.wrong(why, peer)
    }

    async fn by_key(
        &self,
        presented: &PresentedKey,
        peer: IpAddr,
        stale_will_do: bool,
    ) -> Result<Caller, GatewayError> {
        let known = self.known_key(&presented.public_id, peer, stale_will_do).await?;
        let known =
            known.filter(|known| known.found.secret.matches(&presented.secret) && !known.found.revoked);
        let known = known.ok_or_else(|| self.lookups.wrong(WRONG, peer))?;
        self.usable(&known, peer)
    }

    /// The caller with this key, for a session that the key has opened.
    pub(super) async fn caller_with_key(
        &self,
        public_id: &str,
        peer: IpAddr,
    ) -> Result<Caller, GatewayError> {
        let known = self.known_key(public_id, peer, false).await?;
        let known = known.filter(|known| !known.found.revoked).ok_or(GatewayError::Unauthenticated(
            "the API key of this session is not valid any more: sign in with another one",
        ))?;
        self.usable(&known, peer)
    }

    /// The key with this public id, from the cache or the database.
    async fn known_key(
        &self,
        public_id: &str,
        peer: IpAddr,
        stale_will_do: bool,
    ) -> Result<Option<Arc<KnownKey>>, StoreError> {
        let read = || async {
            let known = self.keys.get(public_id).map(|known| known.value);
            let (asked, found) = self.find_key(public_id, known.as_deref(), peer).await?;
            Ok(found.map(|found| KnownKey {
                ends: found.expires_in.and_then(|left| asked.checked_add(left)),
                // The time of last use is kept when the entry is read again.
                noted: known.map(|known| known.noted.clone()).unwrap_or_default(),
                found,
            }))
        };
        self.trust.get((KEYS, &self.keys), public_id.to_owned(), stale_will_do, read).await
    }

    /// The caller that a valid key identifies, if the key may be used now and from `peer`.
    fn usable(&self, known: &KnownKey, peer: IpAddr) -> Result<Caller, GatewayError> {
        // An expired key is reported as expired, not as wrong, and does not count as a failed login.
        if known.ends.is_some_and(|end| end <= self.clock.now()) {
            return Err(GatewayError::Unauthenticated("this API key has expired"));
        }
        let principal = &known.found.principal;
        if !principal.allows_address(peer) {
            return Err(GatewayError::NetworkNotAllowed);
        }
        self.uses.note(known.found.key, &known.noted);
        Ok(Caller::Tenant(principal.clone()))
    }

    /// The key with this id, and when it was asked for. A key that is cached is read again in its organisation's turn, and
    /// any other in its network's.
    async fn find_key(
        &self,
        public_id: &str,
        known: Option<&KnownKey>,
        peer: IpAddr,
    ) -> Result<(Instant, Option<FoundKey>), StoreError> {
        if let Some(known) = known {
            let turn = self.database.turn_of(known.found.principal.org).await?;
            return Ok((self.clock.now(), turn.find_key(public_id).await?));
        }
        if self.lookups.is_unknown(public_id) {
            return Ok((self.clock.now(), None));
        }
        let turn = self.lookups.turn_of(peer).await?;
        let asked = self.clock.now();
        let found = turn.find_key(public_id).await?;
        if found.is_none() {
            self.lookups.note_unknown(public_id);
        }
        Ok((asked, found))
    }

    async fn by_token(&self, text: &str, peer: IpAddr, stale_will_do: bool) -> Result<Caller, GatewayError> {
        let known = self.known_providers(peer, stale_will_do).await?;
        let verified = token::verify(text, &known, &self.key_sets, self.clock.wall()).await;
        let verified = verified.map_err(|refused| self.refused(refused, peer))?;
        match verified.provider.spec.serves {
            Serves::Operators => {
                let subject = verified.subject().map_err(|refused| self.refused(refused, peer))?;
                operator(&verified, subject, verified.role()).map(Caller::Operator)
            }
            Serves::Organisations => {
                let presented =
                    verified.presented(self.clock.wall()).map_err(|refused| self.refused(refused, peer))?;
                let found = self.identify(&verified.provider, &presented, peer, stale_will_do).await?;
                Ok(Caller::Tenant(found.principal.clone()))
            }
        }
    }

    /// All identity providers, oldest first.
    pub(super) async fn known_providers(
        &self,
        peer: IpAddr,
        stale_will_do: bool,
    ) -> Result<Arc<Vec<Arc<Provider>>>, StoreError> {
        let read = || async {
            let all = self.lookups.turn_of(peer).await?.providers().await?;
            Ok(Some(all.into_iter().map(Arc::new).collect()))
        };
        let known = self.trust.get((PROVIDERS, &self.providers), (), stale_will_do, read).await?;
        Ok(known.unwrap_or_default())
    }

    /// The time of day, by this gateway's clock.
    pub(super) fn wall(&self) -> OffsetDateTime {
        self.clock.wall()
    }

    /// The user behind a verified token: read from the database, created, or updated.
    pub(super) async fn identify(
        &self,
        provider: &Provider,
        presented: &Presented,
        peer: IpAddr,
        stale_will_do: bool,
    ) -> Result<Arc<FoundIdentity>, GatewayError> {
        let key = (provider.provider_id, presented.organisation.clone(), presented.subject.clone());
        let read = || async {
            let found = self.find_identity(provider, presented, &key).await?;
            if found.as_ref().is_some_and(|found| !found.is_outdated_by(presented)) {
                return Ok(found);
            }
            if found.is_none() && !provider.spec.create_users {
                return Ok(None);
            }
            self.sign_in(provider, presented, peer).await
        };
        let found = self.trust.get((IDENTITIES, &self.identities), key.clone(), stale_will_do, read).await;
        let found = found.map_err(|error| match error {
            // The only rule that a sign-in can break is a quota.
            StoreError::Conflict(_) => GatewayError::Forbidden(
                "your organisation has as many users as it may have: ask its admin, or an operator to allow more",
            ),
            other => other.into(),
        })?;
        let Some(mut found) = found else {
            return Err(GatewayError::Forbidden(
                "your identity provider is known, but you are not a user of this organisation: ask its admin to add you",
            ));
        };
        if found.is_outdated_by(presented) {
            let renewed = self.sign_in(provider, presented, peer).await?;
            found = renewed.map_or(found, Arc::new);
        }
        if found.gone {
            return Err(GatewayError::Unauthenticated("this token's user was deleted"));
        }
        Ok(found)
    }

    async fn find_identity(
        &self,
        provider: &Provider,
        presented: &Presented,
        key: &IdentityKey,
    ) -> Result<Option<FoundIdentity>, StoreError> {
        if let Some(known) = self.identities.get(key) {
            let turn = self.database.turn_of(known.value.principal.org).await?;
            return turn.find_identity(provider, presented).await;
        }
        let turn = self.lookups.turn_of_signed(provider.provider_id).await?;
        turn.find_identity(provider, presented).await
    }

    async fn sign_in(
        &self,
        provider: &Provider,
        presented: &Presented,
        peer: IpAddr,
    ) -> Result<Option<FoundIdentity>, StoreError> {
        let actor = Actor {
            name: format!("jwt:{}", provider.provider_id),
            address: Some(peer),
            action: Some("sign_in".into()),
            request_id: None,
        };
        let turn = self.lookups.turn_of_signed(provider.provider_id).await?;
        turn.acting(actor).sign_in(provider, presented).await
    }

    pub(super) fn refused(&self, refused: Refused, peer: IpAddr) -> GatewayError {
        match refused {
            Refused::Wrong(why) => self.lookups.wrong(why, peer),
            Refused::Over(why) => GatewayError::Unauthenticated(why),
            Refused::Unknown => GatewayError::IdentityUnavailable(NO_KEYS),
        }
    }
}

fn operator(verified: &Verified, subject: &str, role: Option<GivenRole>) -> Result<Operator, GatewayError> {
    let role = role.and_then(GivenRole::of_operator).ok_or(GatewayError::Forbidden(
        "your identity provider's token has no role that is mapped to an operator role",
    ))?;
    Ok(Operator { name: format!("jwt:{}:{subject}", verified.provider.provider_id), role })
}
