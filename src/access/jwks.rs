//! Keys that identity providers publish (JWKS): fetched when needed, cached, and used stale for a while when the provider
//! cannot be reached.
//!
//! No caller waits for a provider longer than [`PATIENCE`]. For each provider one fetch is in flight, however many callers
//! need it, and the next one begins only after a pause: tokens with invented key ids cannot make the gateway hammer a
//! provider. Whether an id is invented or new is known only from a set that was fetched after the token arrived.

mod fetch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use moka::sync::Cache;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use url::Url;

use self::fetch::Fetcher;
use crate::clock::Clock;
use crate::config::{AuthConfig, ms};
use crate::https::{BadTrust, Egress};
use crate::metrics as m;
use crate::strict::{self, BadJson};

/// The longest time a caller waits for a fetch.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// The outcomes of a fetch in metrics.
const FETCHED: &str = "fetched";
const FAILED: &str = "failed";

/// The most keys of a set that are read; the rest is ignored.
const MOST_KEYS: usize = 100;

/// The kinds of keys that are used. All other keys of a set are ignored, above all shared secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    Rsa,
    P256,
    Ed25519,
}

#[derive(Debug)]
pub struct PublicKey {
    id: Option<String>,
    pub kind: KeyKind,
    pub key: DecodingKey,
}

impl KeyKind {
    /// The algorithms that a key of this kind is published for. `Ed25519` is RFC 9864's name of what `EdDSA` with such a key is.
    const fn algorithms(self) -> &'static [&'static str] {
        match self {
            Self::Rsa => &["RS256"],
            Self::P256 => &["ES256"],
            Self::Ed25519 => &["EdDSA", "Ed25519"],
        }
    }
}

impl PublicKey {
    /// A key for one of the supported algorithms; none if it is for something else.
    fn of(published: serde_json::Value) -> Option<Self> {
        // The library does not know every name of an algorithm, so the name is looked at here.
        let algorithm = published.get("alg").filter(|name| !name.is_null());
        let algorithm = algorithm.map(|name| name.as_str().map(ToOwned::to_owned));
        let jwk: Jwk = serde_json::from_value(published).ok()?;
        let kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => KeyKind::Rsa,
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => KeyKind::P256,
            AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => KeyKind::Ed25519,
            _ => return None,
        };
        let common = &jwk.common;
        let is_named = |name: Option<String>| name.is_some_and(|name| kind.algorithms().contains(&&*name));
        let fits = algorithm.is_none_or(is_named)
            && common.public_key_use.as_ref().is_none_or(|use_| *use_ == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        let key = DecodingKey::from_jwk(&jwk).ok().filter(|_| fits)?;
        Some(Self { id: common.key_id.clone(), kind, key })
    }
}

/// The keys cannot be fetched right now, so that nothing is known about the key that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the identity provider's keys cannot be fetched")]
pub struct Unavailable;

type KeySet = Arc<Vec<Arc<PublicKey>>>;

/// Reads a set and leaves out keys that are not used here.
fn read(body: &[u8]) -> Result<KeySet, BadJson> {
    #[derive(Deserialize)]
    struct Published {
        keys: Vec<serde_json::Value>,
    }
    // Some servers put a byte order mark before their JSON.
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let published: Published = strict::read_json(body)?;
    let usable = published.keys.into_iter().take(MOST_KEYS).filter_map(PublicKey::of);
    Ok(Arc::new(usable.map(Arc::new).collect()))
}

/// The most keys that one token's signature is tried with: each try costs time, whoever sent the token.
const MOST_TRIED: usize = 4;

/// Keys that may have signed a token; never none.
pub type Candidates = Vec<Arc<PublicKey>>;

enum Picked {
    Found(Candidates),
    /// The set has no such key; the provider may have published it since the fetch.
    Missing,
    /// The set has a key of that id, but for another algorithm. The provider may have published one for this algorithm too
    /// since the fetch, but most likely the token is wrong.
    OtherKind,
}

/// Keys of different kinds may have one id (RFC 7517, 4.5), so the kind counts as well. Two keys of one kind should not, and some
/// sets or tokens have no ids at all: then each of them may be the one.
fn pick(set: &KeySet, id: Option<&str>, kind: KeyKind) -> Picked {
    let of_kind = |fits: &dyn Fn(&PublicKey) -> bool| -> Candidates {
        let fitting = set.iter().filter(|key| key.kind == kind && fits(key));
        fitting.take(MOST_TRIED).cloned().collect()
    };
    let mut found = of_kind(&|key| id.is_none() || key.id.as_deref() == id);
    if found.is_empty() {
        found = of_kind(&|key| key.id.is_none());
    }
    if !found.is_empty() {
        Picked::Found(found)
    } else if set.iter().any(|key| id.is_none() || key.id.as_deref() == id) {
        Picked::OtherKind
    } else {
        Picked::Missing
    }
}

/// One provider's keys as far as they were fetched.
#[derive(Debug)]
struct ProviderKeys {
    state: Mutex<FetchState>,
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct FetchState {
    /// The keys, and when their fetch began.
    set: Option<(KeySet, Instant)>,
    /// When the last fetch began, and whether it succeeded.
    last: Option<(Instant, bool)>,
    under_way: bool,
}

impl ProviderKeys {
    fn state(&self) -> std::sync::MutexGuard<'_, FetchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The published keys of all identity providers.
#[derive(Debug)]
pub struct KeySets {
    fetcher: Fetcher,
    sources: Cache<Url, Arc<ProviderKeys>>,
    /// The age at which a set is fetched again.
    fresh: Duration,
    /// How much longer a stale set is used if the fetch fails.
    stale: Duration,
    /// The shortest time between two fetches of one set.
    pause: Duration,
    tasks: TaskTracker,
    clock: Clock,
}

impl KeySets {
    /// Fetches nothing yet: a set is fetched when a token needs it.
    pub fn new(config: &AuthConfig, egress: &Egress, clock: Clock) -> Result<Self, BadTrust> {
        for outcome in [FETCHED, FAILED] {
            metrics::counter!(m::JWKS_FETCHES, "outcome" => outcome).increment(0);
        }
        metrics::counter!(m::JWKS_UNKNOWN_KEYS).increment(0);
        let fresh = ms(config.jwks_refresh_ms);
        Ok(Self {
            fetcher: Fetcher::new(egress)?,
            sources: Cache::new(1_000),
            fresh,
            stale: ms(config.stale_max_ms),
            pause: (fresh / 30).min(Duration::from_secs(10)),
            tasks: TaskTracker::new(),
            clock,
        })
    }

    /// The keys of that kind with that id (none: of any) of the set published at `url`, at most four of them. None if there is
    /// certainly no such key: only a set that was fetched after this call began can tell, because the key may be new.
    pub async fn find(
        &self,
        url: &Url,
        id: Option<&str>,
        kind: KeyKind,
    ) -> Result<Option<Candidates>, Unavailable> {
        let called = self.clock.now();
        let source = self.sources.get_with(url.clone(), || {
            Arc::new(ProviderKeys { state: Mutex::default(), ended: watch::Sender::new(0) })
        });
        let mut ended = source.ended.subscribe();
        let age = |asked: Instant| self.clock.since(asked);
        let usable = |(_, asked): &(KeySet, Instant)| age(*asked) < self.fresh + self.stale;
        let known = self.known(&source).filter(usable);
        match known.as_ref().map(|(set, _)| pick(set, id, kind)) {
            Some(Picked::Found(keys)) => {
                // A stale set serves this caller and is refreshed for the next.
                if known.is_some_and(|(_, asked)| age(asked) >= self.fresh) {
                    self.refresh(url, &source);
                }
                return Ok(Some(keys));
            }
            Some(Picked::Missing) => metrics::counter!(m::JWKS_UNKNOWN_KEYS).increment(1),
            Some(Picked::OtherKind) | None => {}
        }
        if self.refresh(url, &source) {
            // Whether the fetch has ended or not, what is known by then decides.
            let _ = tokio::time::timeout(PATIENCE, ended.changed()).await;
        }
        match self.known(&source).filter(usable) {
            Some((set, asked)) => match pick(&set, id, kind) {
                Picked::Found(keys) => Ok(Some(keys)),
                Picked::OtherKind => Ok(None),
                Picked::Missing if asked >= called => Ok(None),
                Picked::Missing => Err(Unavailable),
            },
            None => Err(Unavailable),
        }
    }

    fn known(&self, source: &ProviderKeys) -> Option<(KeySet, Instant)> {
        source.state().set.clone()
    }

    /// Starts a fetch if none is in flight, unless the last one ended a moment ago. Returns whether one is in flight.
    fn refresh(&self, url: &Url, source: &Arc<ProviderKeys>) -> bool {
        let mut state = source.state();
        if state.under_way {
            return true;
        }
        // After a failure the pause is shorter, because callers are being refused.
        let pause = |worked: bool| if worked { self.pause } else { self.pause / 4 };
        if state.last.is_some_and(|(begun, worked)| self.clock.since(begun) < pause(worked)) {
            return false;
        }
        state.under_way = true;
        let begun = self.clock.now();
        let (fetcher, url, source) = (self.fetcher.clone(), url.clone(), source.clone());
        // A task of its own: a caller that leaves must not cancel the fetch for the others.
        self.tasks.spawn(async move {
            let fetched = fetcher.fetch(&url).await;
            let fetched = fetched.and_then(|body| read(&body).map_err(|error| format!("no JWKS: {error}")));
            let outcome = if fetched.is_ok() { FETCHED } else { FAILED };
            metrics::counter!(m::JWKS_FETCHES, "outcome" => outcome).increment(1);
            {
                let mut state = source.state();
                state.under_way = false;
                state.last = Some((begun, fetched.is_ok()));
                match fetched {
                    Ok(set) => state.set = Some((set, begun)),
                    Err(why) => tracing::warn!(%url, why, "cannot fetch an identity provider's keys"),
                }
            }
            source.ended.send_modify(|ended| *ended += 1);
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_for_signatures_we_take_are_used() {
        let usable = |keys: &str| read(format!("{{\"keys\":[{keys}]}}").as_bytes()).unwrap().len();
        let rsa = |more: &str| format!("{{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"{more}}}");
        assert_eq!(usable(&rsa("")), 1);
        assert_eq!(usable(&rsa(",\"alg\":\"RS256\",\"use\":\"sig\"")), 1);
        for more in [",\"alg\":\"RS512\"", ",\"alg\":\"HS256\"", ",\"use\":\"enc\"", ",\"alg\":\"none\""] {
            assert_eq!(usable(&rsa(more)), 0, "{more}");
        }
        for more in [",\"key_ops\":[\"encrypt\"]", ",\"alg\":7", ",\"alg\":\"Ed25519\"", ",\"alg\":\"EdDSA\""]
        {
            assert_eq!(usable(&rsa(more)), 0, "{more}");
        }
        assert_eq!(usable(&rsa(",\"key_ops\":[\"verify\"],\"alg\":null")), 1);
        let ed = |more: &str| {
            let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
            format!("{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"{x}\"{more}}}")
        };
        for (more, expected) in
            [("", 1), ("EdDSA", 1), ("Ed25519", 1), ("Ed448", 0), ("ES256", 0), ("ed25519", 0)]
        {
            let more = if more.is_empty() { String::new() } else { format!(",\"alg\":\"{more}\"") };
            assert_eq!(usable(&ed(&more)), expected, "{more}");
        }
        assert_eq!(usable(r#"{"kty":"oct","k":"c2VjcmV0"}"#), 0);
        assert_eq!(usable(r#"{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}"#), 0);
        assert_eq!(usable(r#"{"kty":"OKP","crv":"X25519","x":"AA"}, 7, null, {"kty":"new"}"#), 0);
        assert!(read(b"{}").is_err() && read(b"<html>").is_err());
        assert!(read("\u{feff}{\"keys\":[]}".as_bytes()).is_ok());
    }

    #[test]
    fn a_set_that_says_a_thing_twice_is_none() {
        for (set, path) in [
            (r#"{"keys":[],"keys":[]}"#, "keys"),
            (r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"a","kid":"b"}]}"#, "keys[0].kid"),
        ] {
            let refused = read(set.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(&format!("'{path}' is given twice")), "{refused}");
        }
    }
}
