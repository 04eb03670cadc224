//! Bearer tokens of identity providers (JWT). A token chooses nothing: its issuer and audience lead to a provider, and the
//! provider's settings say which algorithms, keys and claims count. Keys, and URLs of keys, in a token are ignored.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::crypto;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::access::jwks::{KeyKind, KeySets, PublicKey};
use crate::store::{GivenRole, LISTS_OF_WORDS, Presented, Provider, Role, SigningAlgorithm};
use crate::strict::{self, BadJson, is_unseen};

/// Longer tokens are refused unread. Two hundred groups, the most that Entra ID puts into a token, take 12 KiB; the head of
/// a request may have 32 KiB.
const MAX_TOKEN: usize = 24 * 1024;

/// Users, organisations and teams with longer names cannot exist: they are refused without a look-up.
const MAX_NAME: usize = 200;

/// The types (`typ`) of tokens that say who is calling, in lower case and without `application/`. Other tokens of the same
/// issuer, such as logout tokens, DPoP proofs and security events, are signed with the same keys and are not for this.
const TYPES: &[&str] = &["jwt", "at+jwt", "jose"];

/// A token whose signature, audience and validity were verified.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) provider: Arc<Provider>,
    claims: Map<String, Value>,
}

/// Why a token is refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// The token is not valid and never was; counts as a failed login.
    Wrong(&'static str),
    /// The token has expired or is not valid yet; does not count as a failed login.
    Over(&'static str),
    /// Whether the token is valid cannot be verified right now.
    Unknown,
}

const MALFORMED: Refused = Refused::Wrong("this token is not valid: it is no JWT that this gateway takes");
const AMBIGUOUS: Refused =
    Refused::Wrong("this token is not valid: a key of its header or of its claims is given twice");
const UNFIT: Refused = Refused::Wrong(
    "this token is not valid: a claim is longer than 200 characters or has characters that cannot be seen",
);
const UNSIGNED: Refused = Refused::Wrong("this token is not valid: its signature is not one of its issuer");

const UNTYPED: Refused = Refused::Wrong(
    "this token is not valid: its type (typ) says that it is neither an access token nor an ID token",
);

/// The fields of a token's header that are looked at. Keys, and URLs of keys, are none of them.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<Value>,
    enc: Option<Value>,
    zip: Option<Value>,
}

impl Header {
    fn signature(&self) -> Option<(SigningAlgorithm, Algorithm, KeyKind)> {
        Some(match self.alg.as_str() {
            "RS256" => (SigningAlgorithm::Rs256, Algorithm::RS256, KeyKind::Rsa),
            "ES256" => (SigningAlgorithm::Es256, Algorithm::ES256, KeyKind::P256),
            // RFC 9864 names the curve too.
            "EdDSA" | "Ed25519" => (SigningAlgorithm::EdDsa, Algorithm::EdDSA, KeyKind::Ed25519),
            _ => return None,
        })
    }

    fn is_of_a_caller(&self) -> bool {
        let Some(typ) = self.typ.as_deref() else { return true };
        let typ = typ.to_ascii_lowercase();
        TYPES.contains(&typ.strip_prefix("application/").unwrap_or(&typ))
    }

    /// Whether the token calls itself an access token, which nobody signs in with at the console.
    fn is_of_access(&self) -> bool {
        self.typ.as_deref().is_some_and(|typ| typ.to_ascii_lowercase().ends_with("at+jwt"))
    }
}

/// The claims that lead to the provider; not trusted before its signature is verified.
#[derive(Deserialize)]
struct Claimed {
    iss: String,
    aud: AudienceClaim,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AudienceClaim {
    One(String),
    Many(Vec<String>),
}

impl AudienceClaim {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// Whether the text has the form of a JWT, and not of an API key.
pub(super) fn is_token(text: &str) -> bool {
    text.split('.').count() == 3
}

/// A token that was read and not verified.
struct Unverified<'a> {
    message: &'a str,
    signature: &'a str,
    header: Header,
    claims: Map<String, Value>,
    claimed: Claimed,
}

impl<'a> Unverified<'a> {
    fn read(token: &'a str) -> Result<Self, Refused> {
        if token.len() > MAX_TOKEN {
            return Err(Refused::Wrong("this token is not valid: it is longer than 24 KiB"));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(MALFORMED)?;
        let (header, claims) = message.split_once('.').ok_or(MALFORMED)?;
        let header: Header = read(header)?;
        header.signature().ok_or(MALFORMED)?;
        // A token with critical extensions is refused: none is supported.
        if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err(MALFORMED);
        }
        if !header.is_of_a_caller() {
            return Err(UNTYPED);
        }
        let claims: Map<String, Value> = read(claims)?;
        // Logout tokens and security events have these claims, also where no type tells them from others.
        if claims.contains_key("events") {
            return Err(UNTYPED);
        }
        let claimed: Claimed = Claimed::deserialize(&claims).map_err(|_| MALFORMED)?;
        Ok(Self { message, signature, header, claims, claimed })
    }

    /// Verifies the signature by the keys of this provider, and the validity.
    async fn verify(
        self,
        provider: &Arc<Provider>,
        key_sets: &KeySets,
        now: OffsetDateTime,
    ) -> Result<Verified, Refused> {
        let spec = &provider.spec;
        let (algorithm, verifies, kind) = self.header.signature().ok_or(MALFORMED)?;
        if !spec.algorithms.contains(&algorithm) {
            return Err(Refused::Wrong(
                "this token is not valid: its issuer may not sign with this algorithm",
            ));
        }
        let keys = key_sets.find(&spec.jwks_url, self.header.kid.as_deref(), kind).await;
        let keys = keys.map_err(|_| Refused::Unknown)?.ok_or(UNSIGNED)?;
        let signed = |key: &Arc<PublicKey>| {
            crypto::verify(self.signature, self.message.as_bytes(), &key.key, verifies).unwrap_or(false)
        };
        if !keys.iter().any(signed) {
            return Err(UNSIGNED);
        }
        check_validity(&self.claims, now.unix_timestamp(), spec.leeway_seconds.into())?;
        Ok(Verified { provider: provider.clone(), claims: self.claims })
    }
}

/// Verifies signature, issuer, audience and validity of a token.
pub(super) async fn verify(
    token: &str,
    providers: &[Arc<Provider>],
    key_sets: &KeySets,
    now: OffsetDateTime,
) -> Result<Verified, Refused> {
    let read = Unverified::read(token)?;
    let provider = find(providers, &read.claimed)?;
    read.verify(provider, key_sets, now).await
}

/// Verifies the ID token that `provider` gave for a sign-in with this nonce: by the rules for all its tokens, but for the
/// audience, which is the console's client (OpenID Connect Core, 3.1.3.7).
pub(super) async fn verify_id_token(
    token: &str,
    provider: &Arc<Provider>,
    client_id: &str,
    nonce: &str,
    key_sets: &KeySets,
    now: OffsetDateTime,
) -> Result<Verified, Refused> {
    let read = Unverified::read(token)?;
    read.check_sign_in(&provider.spec.issuer, client_id, nonce)?;
    read.verify(provider, key_sets, now).await
}

impl Unverified<'_> {
    fn check_sign_in(&self, issuer: &str, client_id: &str, nonce: &str) -> Result<(), Refused> {
        let text = |name: &str| self.claims.get(name).and_then(Value::as_str);
        let audiences = self.claimed.aud.all();
        // Who else may use the token has made it for itself, unless it says that it is for this client.
        let party = self.claims.get("azp").filter(|party| !party.is_null());
        let is_ours = match party {
            Some(party) => party.as_str() == Some(client_id),
            None => audiences.len() == 1,
        };
        Err(if self.header.is_of_access() {
            UNTYPED
        } else if self.claimed.iss != issuer {
            Refused::Wrong("this token is not valid: another issuer has made it")
        } else if !audiences.iter().any(|audience| audience == client_id) || !is_ours {
            Refused::Wrong("this token is not valid: it was made for another client")
        } else if text("nonce") != Some(nonce) {
            Refused::Wrong("this token is not valid: it was made for another sign-in")
        } else {
            return Ok(());
        })
    }
}

/// Reads a part of a token. One that has a key twice is refused: two readers of it could take it for two different ones.
fn read<T: DeserializeOwned>(part: &str) -> Result<T, Refused> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED)?;
    strict::read_json(&bytes).map_err(|refused| match refused {
        BadJson::GivenTwice(_) => AMBIGUOUS,
        _ => MALFORMED,
    })
}

/// Checks `exp`, which must be there, and `nbf`. The issuer and the audience have led to the provider.
fn check_validity(claims: &Map<String, Value>, now: i64, leeway: i64) -> Result<(), Refused> {
    let time = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => whole(value).ok_or(MALFORMED).map(Some),
    };
    if time("exp")?.ok_or(MALFORMED)? < now.saturating_sub(leeway) {
        return Err(Refused::Over("this token has expired"));
    }
    if time("nbf")?.is_some_and(|begin| begin > now.saturating_add(leeway)) {
        return Err(Refused::Over("this token is not valid yet"));
    }
    Ok(())
}

/// The only provider with this issuer and one of these audiences.
fn find<'a>(providers: &'a [Arc<Provider>], claimed: &Claimed) -> Result<&'a Arc<Provider>, Refused> {
    let audiences = claimed.aud.all();
    let mut fitting = providers.iter().filter(|provider| {
        let spec = &provider.spec;
        !spec.suspended
            && spec.issuer == claimed.iss
            && spec.audiences.iter().any(|audience| audiences.contains(audience))
    });
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Refused::Wrong(
            "this token is not valid: no identity provider is configured for its issuer and audience",
        )),
        // Two providers match: which one is used must not depend on their order.
        (Some(_), Some(_)) => Err(Refused::Wrong(
            "this token is not valid: two identity providers are configured for its audiences",
        )),
    }
}

impl Verified {
    /// The value of the user claim.
    pub(super) fn subject(&self) -> Result<&str, Refused> {
        let subject = self.text(&self.provider.spec.user_claim)?.filter(|subject| !subject.trim().is_empty());
        subject.ok_or(Refused::Wrong("this token is not valid: it does not say which user it is for"))
    }

    /// The claims about a user of an organisation.
    pub(super) fn presented(&self, now: OffsetDateTime) -> Result<Presented, Refused> {
        let spec = &self.provider.spec;
        let claim = |name: &Option<String>| {
            let text = name.as_deref().map_or(Ok(None), |name| self.text(name))?;
            Ok(text.map(ToOwned::to_owned))
        };
        let given = self.role().and_then(GivenRole::in_organisation).unwrap_or(Role::Member);
        Ok(Presented {
            subject: self.subject()?.to_owned(),
            organisation: claim(&spec.org_claim)?,
            // A team that nothing can be called is one that nobody knows: it changes nothing.
            team: spec.team_claim.as_deref().and_then(|name| self.fit(name)).map(ToOwned::to_owned),
            role: spec.role_claim.as_ref().map(|_| given),
            issued_at: self.issued_at(now)?,
        })
    }

    /// When the token was issued. The newest token decides about role and team, so a token without an `iat`, or with one
    /// in the future, is refused: no later token could change what it decided.
    fn issued_at(&self, now: OffsetDateTime) -> Result<i64, Refused> {
        let spec = &self.provider.spec;
        let issued_at = self.claims.get("iat").and_then(whole).filter(|seconds| *seconds > 0);
        if spec.role_claim.is_none() && spec.team_claim.is_none() {
            return Ok(issued_at.unwrap_or(0));
        }
        let issued_at = issued_at
            .ok_or(Refused::Wrong("this token is not valid: it does not say when it was issued (iat)"))?;
        if issued_at > now.unix_timestamp() + i64::from(spec.leeway_seconds) {
            return Err(Refused::Over(
                "this token is not valid yet: it says that it was issued in the future",
            ));
        }
        Ok(issued_at)
    }

    /// The role that the provider's map assigns to the role claim. Its other values mean nothing here, whatever they are.
    pub(super) fn role(&self) -> Option<GivenRole> {
        let claim = self.provider.spec.role_claim.as_deref()?;
        let values: Vec<&str> = match value_of(&self.claims, claim)? {
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            Value::String(text) if LISTS_OF_WORDS.contains(&claim) => text.split_whitespace().collect(),
            Value::String(text) => vec![text],
            _ => return None,
        };
        self.provider.spec.role_of(&values)
    }

    /// The value of a claim, if it is a text.
    fn text(&self, claim: &str) -> Result<Option<&str>, Refused> {
        match value_of(&self.claims, claim).and_then(Value::as_str) {
            Some(text) if !is_fit(text) => Err(UNFIT),
            text => Ok(text),
        }
    }

    /// The value of a claim, if it is a text that something can be called.
    fn fit(&self, claim: &str) -> Option<&str> {
        value_of(&self.claims, claim).and_then(Value::as_str).filter(|text| is_fit(text))
    }
}

/// The value of the claim with this name; if there is none, the name is a path: `realm_access.roles` is the claim `roles`
/// within the claim `realm_access`. Names of claims may have dots themselves (`https://example.com/roles`), so at each level
/// the longest name that is there counts.
fn value_of<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let dots = name.rmatch_indices('.').map(|(at, _)| at);
    let (within, rest) = dots.map(|at| (&name[..at], &name[at + 1..])).find_map(|(outer, rest)| {
        let within = claims.get(outer)?.as_object()?;
        Some((within, rest))
    })?;
    value_of(within, rest)
}

/// Whether a name can exist. With a character that is not seen it would look like somebody else's, and Postgres refuses some texts
/// even as a parameter.
fn is_fit(text: &str) -> bool {
    text.chars().count() <= MAX_NAME && !text.chars().any(is_unseen)
}

/// Reads a time in seconds; some issuers write fractions of a second.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_found_by_its_name_or_by_a_path() {
        let claims = json!({
            "roles": "plain",
            "a.b": "its own name",
            "a": {"b": "a path", "c": {"d": "deep"}},
            "https://example.com/roles": "a URL",
            "resource_access": {"my.client": {"roles": "a client"}, "my": {"client": {"roles": "another"}}},
            "list": ["x"],
        });
        let claims = claims.as_object().unwrap();
        for (name, expected) in [
            ("roles", Some("plain")),
            ("a.b", Some("its own name")),
            ("a.c.d", Some("deep")),
            ("https://example.com/roles", Some("a URL")),
            ("resource_access.my.client.roles", Some("a client")),
            ("a.x", None),
            ("list.0", None),
            ("roles.x", None),
            ("", None),
            (".", None),
            ("a..b", None),
        ] {
            assert_eq!(value_of(claims, name).and_then(Value::as_str), expected, "{name}");
        }
        assert!(value_of(claims, &"a.".repeat(250)).is_none());
    }

    #[test]
    fn only_tokens_of_callers_are_taken() {
        let of_a_caller = |typ: Option<&str>| {
            let header = Header {
                alg: "RS256".into(),
                typ: typ.map(Into::into),
                kid: None,
                crit: None,
                enc: None,
                zip: None,
            };
            header.is_of_a_caller()
        };
        for typ in [None, Some("JWT"), Some("jwt"), Some("at+jwt"), Some("application/at+JWT"), Some("JOSE")]
        {
            assert!(of_a_caller(typ), "{typ:?}");
        }
        for typ in
            ["logout+jwt", "dpop+jwt", "secevent+jwt", "application/logout+jwt", "entity-statement+jwt", ""]
        {
            assert!(!of_a_caller(Some(typ)), "{typ}");
        }
    }

    #[test]
    fn a_token_is_valid_from_its_beginning_to_its_end() {
        let check = |claims: Value| check_validity(claims.as_object().unwrap(), 1_000, 10);
        for good in
            [json!({"exp": 990}), json!({"exp": 2000.5, "nbf": 1010}), json!({"exp": 1e18, "nbf": null})]
        {
            assert!(check(good.clone()).is_ok(), "{good}");
        }
        for over in
            [json!({"exp": 989}), json!({"exp": 2000, "nbf": 1011}), json!({"exp": -5}), json!({"exp": 0})]
        {
            assert!(matches!(check(over.clone()), Err(Refused::Over(_))), "{over}");
        }
        for wrong in
            [json!({}), json!({"exp": null}), json!({"exp": "2000"}), json!({"exp": 2000, "nbf": "x"})]
        {
            assert!(matches!(check(wrong.clone()), Err(Refused::Wrong(_))), "{wrong}");
        }
    }
}
