//! Bearer tokens of identity providers (JWT). A token chooses nothing: its issuer and audience lead to a provider, and the
//! provider's settings say which algorithms, keys and claims count. Keys, and URLs of keys, in a token are ignored.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::access::jwks::{KeyKind, KeySets};
use crate::store::{GivenRole, Presented, Provider, Role, SigningAlgorithm};
use crate::strict::{self, BadJson};

/// Longer tokens are refused unread.
const MAX_TOKEN: usize = 8 * 1024;

/// Users, organisations, teams and roles with longer names cannot exist: they are refused without a look-up.
const MAX_NAME: usize = 200;

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
    "this token is not valid: a claim is longer than 200 characters or has control characters",
);
const UNSIGNED: Refused = Refused::Wrong("this token is not valid: its signature is not one of its issuer");

/// The claims that lead to the provider; not trusted before its signature is verified.
#[derive(Deserialize)]
struct Claimed {
    iss: String,
    aud: Audience,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Whether the text has the form of a JWT, and not of an API key.
pub(super) fn is_token(text: &str) -> bool {
    text.split('.').count() == 3
}

/// Verifies signature, issuer, audience and validity of a token.
pub(super) async fn verify(
    token: &str,
    providers: &[Arc<Provider>],
    key_sets: &KeySets,
) -> Result<Verified, Refused> {
    if token.len() > MAX_TOKEN {
        return Err(Refused::Wrong("this token is not valid: it is longer than 8 KiB"));
    }
    check(token)?;
    let header = decode_header(token).map_err(|_| MALFORMED)?;
    let (algorithm, kind) = match header.alg {
        Algorithm::RS256 => (SigningAlgorithm::Rs256, KeyKind::Rsa),
        Algorithm::ES256 => (SigningAlgorithm::Es256, KeyKind::P256),
        Algorithm::EdDSA => (SigningAlgorithm::EdDsa, KeyKind::Ed25519),
        _ => return Err(MALFORMED),
    };
    // A token with critical extensions is refused: none is supported.
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(MALFORMED);
    }
    let claimed: Claimed = insecure_decode_claims(token).map_err(|_| MALFORMED)?;
    let provider = find(providers, &claimed)?;
    let spec = &provider.spec;
    if !spec.algorithms.contains(&algorithm) {
        return Err(Refused::Wrong("this token is not valid: its issuer may not sign with this algorithm"));
    }
    let found = key_sets.find(&spec.jwks_url, header.kid.as_deref()).await.map_err(|_| Refused::Unknown)?;
    let key = found.filter(|key| key.kind == kind).ok_or(UNSIGNED)?;
    let mut validation = Validation::new(header.alg);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    validation.set_issuer(&[&spec.issuer]);
    validation.set_audience(&spec.audiences);
    validation.leeway = spec.leeway_seconds.into();
    validation.validate_nbf = true;
    let data = decode::<Map<String, Value>>(token, &key.key, &validation).map_err(|error| {
        use jsonwebtoken::errors::ErrorKind;
        match error.kind() {
            ErrorKind::ExpiredSignature => Refused::Over("this token has expired"),
            ErrorKind::ImmatureSignature => Refused::Over("this token is not valid yet"),
            ErrorKind::InvalidSignature => UNSIGNED,
            _ => MALFORMED,
        }
    })?;
    Ok(Verified { provider: provider.clone(), claims: data.claims })
}

/// Refuses a token whose header or claims have a key twice: two readers of it could take it for two different ones.
fn check(token: &str) -> Result<(), Refused> {
    for part in token.split('.').take(2) {
        let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| MALFORMED)?;
        strict::check_json(text).map_err(|refused| match refused {
            BadJson::GivenTwice(_) => AMBIGUOUS,
            _ => MALFORMED,
        })?;
    }
    Ok(())
}

/// The only provider with this issuer and one of these audiences.
fn find<'a>(providers: &'a [Arc<Provider>], claimed: &Claimed) -> Result<&'a Arc<Provider>, Refused> {
    let audiences = match &claimed.aud {
        Audience::One(one) => std::slice::from_ref(one),
        Audience::Many(many) => many,
    };
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
        let given = self.role()?.and_then(GivenRole::in_organisation).unwrap_or(Role::Member);
        Ok(Presented {
            subject: self.subject()?.to_owned(),
            organisation: claim(&spec.org_claim)?,
            team: claim(&spec.team_claim)?,
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

    /// The role that the provider's map assigns to the role claim.
    pub(super) fn role(&self) -> Result<Option<GivenRole>, Refused> {
        let Some(claim) = self.provider.spec.role_claim.as_deref() else { return Ok(None) };
        let values: Vec<&str> = match self.claims.get(claim) {
            // Such a list holds many groups that mean nothing here: unusable ones are skipped.
            Some(Value::Array(many)) => {
                many.iter().filter_map(Value::as_str).filter(|text| is_fit(text)).collect()
            }
            _ => self.text(claim)?.into_iter().collect(),
        };
        Ok(self.provider.spec.role_of(&values))
    }

    /// The value of a claim, if it is a text.
    fn text(&self, claim: &str) -> Result<Option<&str>, Refused> {
        match self.claims.get(claim).and_then(Value::as_str) {
            Some(text) if !is_fit(text) => Err(UNFIT),
            text => Ok(text),
        }
    }
}

/// Whether a name can exist. Postgres refuses some texts even as a parameter.
fn is_fit(text: &str) -> bool {
    text.chars().count() <= MAX_NAME && !text.chars().any(char::is_control)
}

/// Reads a time in seconds; some issuers write fractions of a second.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
}
