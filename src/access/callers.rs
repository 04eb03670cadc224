//! From a header to a caller: by a key of ours, or by a token of an identity provider.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use moka::sync::Cache;

use super::token::{self, Refused, Verified};
use super::trusted::{self, Stored, Trust};
use super::uses::{LastNoted, Uses};
use crate::access::jwks::KeySets;
use crate::api_key::{OPERATOR_ENV, PresentedKey};
use crate::clock::Clock;
use crate::config::{Auth as AuthConfig, ms};
use crate::error::{GatewayError, Level};
use crate::ids::ProviderId;
use crate::metrics as m;
use crate::store::{
    Actor, Database, FoundIdentity, FoundKey, GivenRole, LedgerError, OperatorRole, Presented, Principal,
    Provider, Serves,
};

/// Who is calling.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Somebody of an organisation.
    Tenant(Arc<Principal>),
    /// One of those who run the platform.
    Operator(Operator),
}

/// One of those who run the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// A kind and an id, with a name behind it for people: for the audit log.
    pub name: String,
    /// What it may do.
    pub role: OperatorRole,
}

/// A key in memory.
#[derive(Debug)]
struct KnownKey {
    /// When it expires, by this gateway's own monotonic clock.
    ends: Option<Instant>,
    found: FoundKey,
    noted: LastNoted,
}

/// A subject of an identity provider, in the organisation that its token named.
type IdentityKey = (ProviderId, Option<String>, String);

/// The callers this gateway has seen, and how sure it is of them.
#[derive(Debug)]
pub struct Keys {
    database: Database,
    clock: Clock,
    trust: Trust,
    keys: Cache<String, Stored<KnownKey>>,
    identities: Cache<IdentityKey, Stored<FoundIdentity>>,
    providers: Cache<(), Stored<Vec<Arc<Provider>>>>,
    key_sets: KeySets,
    uses: Uses,
    failures: DefaultKeyedRateLimiter<IpAddr>,
}

/// The caches in metrics.
const KEYS: &str = "keys";
const IDENTITIES: &str = "identities";
const PROVIDERS: &str = "providers";

const WRONG: &str =
    "this API key is not valid: send 'Authorization: Bearer <key>' with a key that was not revoked";

impl Keys {
    /// Nothing in memory. `failures_per_minute` limits wrong credentials from one address.
    pub fn new(
        database: Database,
        key_sets: KeySets,
        config: &AuthConfig,
        failures_per_minute: u32,
        clock: Clock,
    ) -> Self {
        [KEYS, IDENTITIES, PROVIDERS].into_iter().for_each(trusted::register);
        metrics::counter!(m::LIMITED, "level" => Level::Address.as_str()).increment(0);
        let quota = Quota::per_minute(NonZeroU32::new(failures_per_minute).unwrap_or(NonZeroU32::MAX));
        Self {
            database,
            clock,
            trust: Trust::new(ms(config.stale_max_ms), clock),
            keys: Cache::new(config.cached_keys),
            identities: Cache::new(config.cached_keys),
            providers: Cache::new(1),
            key_sets,
            uses: Uses::new(clock),
            failures: RateLimiter::keyed(quota),
        }
    }

    /// Everything in memory may be out of date: read again.
    pub fn invalidate(&self) {
        self.trust.invalidate();
    }

    /// At `instant` it was known that nothing in memory was out of date.
    pub fn confirm(&self, instant: Instant) {
        self.trust.confirm(instant);
    }

    /// Shows what is in memory, and how old the last proof is that it is right.
    pub fn show(&self) {
        let entries = |cache: &'static str, count: u64| {
            metrics::gauge!(m::CACHE_ENTRIES, "cache" => cache).set(count as f64);
        };
        entries(KEYS, self.keys.entry_count());
        entries(IDENTITIES, self.identities.entry_count());
        entries(PROVIDERS, self.providers.entry_count());
        metrics::gauge!(m::REVOCATION_LAG_SECONDS).set(self.trust.unconfirmed_for());
    }

    /// Forgets idle addresses.
    pub fn tidy(&self) {
        self.failures.retain_recent();
    }

    /// Writes down which keys were used.
    pub async fn write_down_uses(&self, database: &Database) -> Result<(), LedgerError> {
        self.uses.write_down(database).await
    }

    /// Who sends this `Authorization` header from `peer`. While the database is away, what is in memory is believed only
    /// where that will do.
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
        let Some(text) = credentials else { return Err(self.wrong(WRONG, peer)) };
        match PresentedKey::parse(text) {
            Some(key) if key.env == OPERATOR_ENV => self.by_operator_token(&key, peer).await,
            Some(key) => self.by_key(&key, peer, stale_will_do).await,
            None if token::is_token(text) => self.by_token(text, peer, stale_will_do).await,
            None => Err(self.wrong(WRONG, peer)),
        }
    }

    /// An operator's own token of ours.
    async fn by_operator_token(
        &self,
        presented: &PresentedKey,
        peer: IpAddr,
    ) -> Result<Caller, GatewayError> {
        let found = self.database.find_operator(presented).await?;
        let token = found.ok_or_else(|| self.wrong(WRONG, peer))?;
        // Two tokens may have one name: the log must tell which it was.
        let name = format!("operator:{} ({})", token.token_id, token.name);
        Ok(Caller::Operator(Operator { name, role: token.role }))
    }

    async fn by_key(
        &self,
        presented: &PresentedKey,
        peer: IpAddr,
        stale_will_do: bool,
    ) -> Result<Caller, GatewayError> {
        let public_id = &presented.public_id;
        let read = async {
            let asked = self.clock.now();
            let found = self.database.find_key(public_id).await?;
            Ok(found.map(|found| KnownKey {
                ends: found.expires_in.and_then(|left| asked.checked_add(left)),
                // What was noted of it outlives what was known of it.
                noted: self.keys.get(public_id).map(|known| known.value.noted.clone()).unwrap_or_default(),
                found,
            }))
        };
        let known = self.trust.get((KEYS, &self.keys), public_id.clone(), stale_will_do, read).await?;
        let Some(known) =
            known.filter(|known| known.found.secret.matches(&presented.secret) && !known.found.revoked)
        else {
            return Err(self.wrong(WRONG, peer));
        };
        // Too late is not wrong: whoever has a whole program call on with it shall be told so.
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

    async fn by_token(&self, text: &str, peer: IpAddr, stale_will_do: bool) -> Result<Caller, GatewayError> {
        let read = async {
            let all = self.database.providers().await?;
            Ok(Some(all.into_iter().map(Arc::new).collect()))
        };
        let providers = self.trust.get((PROVIDERS, &self.providers), (), stale_will_do, read).await?;
        let known = providers.as_deref().map(Vec::as_slice).unwrap_or_default();
        let verified = token::verify(text, known, &self.key_sets).await.map_err(|r| self.refused(r, peer))?;
        match verified.provider.spec.serves {
            Serves::Operators => {
                let subject = verified.subject().map_err(|refused| self.refused(refused, peer))?;
                let role = verified.role().map_err(|refused| self.refused(refused, peer))?;
                operator(&verified, subject, role).map(Caller::Operator)
            }
            Serves::Organisations => {
                let presented =
                    verified.presented(self.clock.wall()).map_err(|refused| self.refused(refused, peer))?;
                let principal = self.identify(&verified.provider, &presented, peer, stale_will_do).await?;
                Ok(Caller::Tenant(principal))
            }
        }
    }

    /// The user that the bearer of a verified token is: read, or made, or brought up to date.
    async fn identify(
        &self,
        provider: &Provider,
        presented: &Presented,
        peer: IpAddr,
        stale_will_do: bool,
    ) -> Result<Arc<Principal>, GatewayError> {
        let key = (provider.provider_id, presented.organisation.clone(), presented.subject.clone());
        let read = async {
            let found = self.database.find_identity(provider, presented).await?;
            if found.as_ref().is_some_and(|found| !found.is_outdated_by(presented)) {
                return Ok(found);
            }
            if found.is_none() && !provider.spec.create_users {
                return Ok(None);
            }
            self.sign_in(provider, presented, peer).await
        };
        let found = self.trust.get((IDENTITIES, &self.identities), key, stale_will_do, read).await?;
        let Some(mut found) = found else {
            return Err(GatewayError::Forbidden(
                "your identity provider is known, but nobody has made you a user of this organisation",
            ));
        };
        if found.is_outdated_by(presented) {
            let renewed = self.sign_in(provider, presented, peer).await?;
            found = renewed.map_or(found, Arc::new);
        }
        if found.gone {
            return Err(GatewayError::Unauthenticated("this token's user was deleted"));
        }
        Ok(found.principal.clone())
    }

    async fn sign_in(
        &self,
        provider: &Provider,
        presented: &Presented,
        peer: IpAddr,
    ) -> Result<Option<FoundIdentity>, LedgerError> {
        let actor = Actor {
            name: format!("jwt:{}", provider.provider_id),
            address: Some(peer),
            action: Some("sign_in".into()),
            request_id: None,
        };
        self.database.acting(actor).sign_in(provider, presented).await
    }

    fn refused(&self, refused: Refused, peer: IpAddr) -> GatewayError {
        match refused {
            Refused::Wrong(why) => self.wrong(why, peer),
            Refused::Over(why) => GatewayError::Unauthenticated(why),
            Refused::Unknown => GatewayError::IdentityUnavailable,
        }
    }

    /// Wrong credentials: counted against the address, which valid ones never are.
    fn wrong(&self, why: &'static str, peer: IpAddr) -> GatewayError {
        match self.failures.check_key(&peer) {
            Ok(()) => GatewayError::Unauthenticated(why),
            Err(not_until) => {
                metrics::counter!(m::LIMITED, "level" => Level::Address.as_str()).increment(1);
                let retry_after = not_until.wait_time_from(DefaultClock::default().now());
                GatewayError::RateLimited { level: Level::Address, retry_after }
            }
        }
    }
}

fn operator(verified: &Verified, subject: &str, role: Option<GivenRole>) -> Result<Operator, GatewayError> {
    let role = role
        .and_then(GivenRole::of_operator)
        .ok_or(GatewayError::Forbidden("your identity provider gives you no role here"))?;
    Ok(Operator { name: format!("jwt:{}:{subject}", verified.provider.provider_id), role })
}
