//! Keys that identity providers publish (JWKS): fetched when needed, kept, used on for a while when the provider is away.
//!
//! Nobody waits for a provider longer than [`PATIENCE`]. However many ask, one fetch is under way, and the next one begins
//! only after a pause: tokens with made-up key ids cannot make us hammer a provider. Whether such an id is really made up
//! is known only by a set that was asked for since; until then it may be a new one.

mod fetch;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use moka::sync::Cache;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use url::Url;

use self::fetch::Fetcher;
use crate::clock::Clock;
use crate::config::{Auth, ms};
use crate::metrics as m;
use crate::strict::{self, BadJson};

/// A caller waits for a fetch at most so long.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// How a fetch ends, in metrics.
const FETCHED: &str = "fetched";
const FAILED: &str = "failed";

/// More keys than this are not looked at.
const MOST_KEYS: usize = 100;

/// What a key can verify. Nothing else is ever used of a set, least of all a shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA: RS256.
    Rsa,
    /// NIST P-256: ES256.
    P256,
    /// Ed25519: EdDSA.
    Ed25519,
}

/// A published key.
#[derive(Debug)]
pub struct PublicKey {
    id: Option<String>,
    /// What it can verify.
    pub kind: KeyKind,
    /// The key.
    pub key: DecodingKey,
}

impl PublicKey {
    /// A key that can verify what we take; nothing if it is for something else.
    fn of(jwk: &Jwk) -> Option<Self> {
        let kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => KeyKind::Rsa,
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => KeyKind::P256,
            AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => KeyKind::Ed25519,
            _ => return None,
        };
        let only_for = match kind {
            KeyKind::Rsa => KeyAlgorithm::RS256,
            KeyKind::P256 => KeyAlgorithm::ES256,
            KeyKind::Ed25519 => KeyAlgorithm::EdDSA,
        };
        let common = &jwk.common;
        let fits = common.key_algorithm.as_ref().is_none_or(|algorithm| *algorithm == only_for)
            && common.public_key_use.as_ref().is_none_or(|use_| *use_ == PublicKeyUse::Signature);
        let key = DecodingKey::from_jwk(jwk).ok().filter(|_| fits)?;
        Some(Self { id: common.key_id.clone(), kind, key })
    }
}

/// A key cannot be had now, and that does not mean that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the identity provider's keys cannot be fetched")]
pub struct Unavailable;

type KeySet = Arc<Vec<Arc<PublicKey>>>;

/// Reads a set; keys that we cannot use are left out.
fn read(body: &[u8]) -> Result<KeySet, BadJson> {
    #[derive(Deserialize)]
    struct Published {
        keys: Vec<serde_json::Value>,
    }
    let published: Published = strict::read_json(body)?;
    let usable = published.keys.into_iter().take(MOST_KEYS).filter_map(|value| {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        PublicKey::of(&jwk).map(Arc::new)
    });
    Ok(Arc::new(usable.collect()))
}

enum Pick {
    Found(Arc<PublicKey>),
    /// Perhaps the provider has published it since.
    Missing,
    /// There are several, and the token does not say which.
    Ambiguous,
}

fn pick(set: &KeySet, id: Option<&str>) -> Pick {
    match (id, set.as_slice()) {
        (Some(_), keys) => {
            let found = keys.iter().find(|key| key.id.as_deref() == id);
            found.map_or(Pick::Missing, |key| Pick::Found(key.clone()))
        }
        (None, []) => Pick::Missing,
        (None, [one]) => Pick::Found(one.clone()),
        (None, _) => Pick::Ambiguous,
    }
}

/// What is known of one provider's keys.
#[derive(Debug)]
struct Source {
    state: Mutex<State>,
    /// Counts fetches that have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// The keys, and when it was asked for them.
    set: Option<(KeySet, Instant)>,
    /// When the last fetch began, and whether it came to something.
    last: Option<(Instant, bool)>,
    under_way: bool,
}

impl Source {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The published keys of all identity providers.
#[derive(Debug)]
pub struct KeySets {
    fetcher: Fetcher,
    sources: Cache<Url, Arc<Source>>,
    /// After this a set is fetched again.
    fresh: Duration,
    /// And for so much longer it is used if that fails.
    stale: Duration,
    /// Between two fetches.
    pause: Duration,
    tasks: TaskTracker,
    clock: Clock,
}

impl KeySets {
    /// Nothing fetched yet.
    pub fn new(config: &Auth, clock: Clock) -> Self {
        for outcome in [FETCHED, FAILED] {
            metrics::counter!(m::JWKS_FETCHES, "outcome" => outcome).increment(0);
        }
        let fresh = ms(config.jwks_refresh_ms);
        Self {
            fetcher: Fetcher::new(),
            sources: Cache::new(1_000),
            fresh,
            stale: ms(config.stale_max_ms),
            pause: (fresh / 30).min(Duration::from_secs(10)),
            tasks: TaskTracker::new(),
            clock,
        }
    }

    /// The key with that id (none: the only key) of the set published at `url`. Nothing if there is certainly none: a
    /// set that was asked for earlier than this cannot tell, the key may be newer.
    pub async fn find(&self, url: &Url, id: Option<&str>) -> Result<Option<Arc<PublicKey>>, Unavailable> {
        let called = self.clock.now();
        let source = self.sources.get_with(url.clone(), || {
            Arc::new(Source { state: Mutex::default(), ended: watch::Sender::new(0) })
        });
        let mut ended = source.ended.subscribe();
        let age = |asked: Instant| self.clock.since(asked);
        let usable = |(_, asked): &(KeySet, Instant)| age(*asked) < self.fresh + self.stale;
        let known = self.known(&source).filter(usable);
        match known.as_ref().map(|(set, _)| pick(set, id)) {
            Some(Pick::Found(key)) => {
                // An old set is good enough for this caller, and renewed for the next.
                if known.is_some_and(|(_, asked)| age(asked) >= self.fresh) {
                    self.refresh(url, &source);
                }
                return Ok(Some(key));
            }
            Some(Pick::Ambiguous) => return Ok(None),
            Some(Pick::Missing) | None => {}
        }
        if self.refresh(url, &source) {
            // Whether it is over or not, what counts is what is known then.
            let _ = tokio::time::timeout(PATIENCE, ended.changed()).await;
        }
        match self.known(&source).filter(usable) {
            Some((set, asked)) => match pick(&set, id) {
                Pick::Found(key) => Ok(Some(key)),
                Pick::Ambiguous => Ok(None),
                Pick::Missing if asked >= called => Ok(None),
                Pick::Missing => Err(Unavailable),
            },
            None => Err(Unavailable),
        }
    }

    fn known(&self, source: &Source) -> Option<(KeySet, Instant)> {
        source.state().set.clone()
    }

    /// Sees to it that a fetch is under way; not if one has just ended.
    fn refresh(&self, url: &Url, source: &Arc<Source>) -> bool {
        let mut state = source.state();
        if state.under_way {
            return true;
        }
        // Who failed is asked again sooner: callers are being sent away.
        let pause = |worked: bool| if worked { self.pause } else { self.pause / 4 };
        if state.last.is_some_and(|(begun, worked)| self.clock.since(begun) < pause(worked)) {
            return false;
        }
        state.under_way = true;
        let begun = self.clock.now();
        let (fetcher, url, source) = (self.fetcher.clone(), url.clone(), source.clone());
        // Of its own: a caller that leaves must not end it for the others.
        self.tasks.spawn(async move {
            let fetched = fetcher.fetch(&url).await.map_err(String::from);
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
        assert_eq!(usable(r#"{"kty":"oct","k":"c2VjcmV0"}"#), 0);
        assert_eq!(usable(r#"{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}"#), 0);
        assert_eq!(usable(r#"{"kty":"OKP","crv":"X25519","x":"AA"}, 7, null, {"kty":"new"}"#), 0);
        assert!(read(b"{}").is_err() && read(b"<html>").is_err());
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
