//! The description of an identity provider, and the rules for it.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use url::Url;
use utoipa::ToSchema;

use crate::encryption::is_encrypted;
use crate::ids::OrgId;
use crate::safe_url::is_safe;
use crate::secret::Secret;
use crate::store::db::error::StoreError;
use crate::store::db::words::words;
use crate::store::directory::keys::Role;
use crate::store::directory::operators::OperatorRole;

words! {
    /// Signature algorithms of tokens. HMAC is not allowed, because whoever can verify an HMAC can also sign.
    pub enum SigningAlgorithm in "identity_provider.algorithms" {
        /// RSA, PKCS#1 v1.5, SHA-256.
        Rs256 = "RS256",
        /// ECDSA on P-256, SHA-256.
        Es256 = "ES256",
        EdDsa = "EdDSA",
    }
}

words! {
    /// Whom a provider's tokens may identify.
    pub enum Serves in "identity_provider.serves" {
        Organisations = "organisations",
        /// Operators of the platform.
        Operators = "operators",
    }
}

words! {
    /// A role that a provider may give: a role within an organisation, or an operator's role.
    pub enum GivenRole in "identity_provider.role_map" {
        /// Member of an organisation.
        Member = "member",
        /// Admin of an organisation.
        Admin = "admin",
        /// Operator who may change things.
        Operator = "operator",
        /// Operator who may only read.
        OperatorRead = "operator_read",
    }
}

impl GivenRole {
    /// The role within an organisation; `None`: it is an operator's role.
    pub const fn in_organisation(self) -> Option<Role> {
        match self {
            Self::Member => Some(Role::Member),
            Self::Admin => Some(Role::Admin),
            Self::Operator | Self::OperatorRead => None,
        }
    }

    /// The operator's role; `None`: it is a role within an organisation.
    pub const fn of_operator(self) -> Option<OperatorRole> {
        match self {
            Self::Member | Self::Admin => None,
            Self::Operator => Some(OperatorRole::Operator),
            Self::OperatorRead => Some(OperatorRole::OperatorRead),
        }
    }

    pub(super) const fn is_of(self, serves: Serves) -> bool {
        match serves {
            Serves::Organisations => self.in_organisation().is_some(),
            Serves::Operators => self.of_operator().is_some(),
        }
    }

    /// Whether the role may change things and not only read.
    const fn is_mighty(self) -> bool {
        matches!(self, Self::Admin | Self::Operator)
    }
}

/// The description of an identity provider.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ProviderSpec {
    /// The name of the provider, unique on the platform.
    pub name: String,
    /// Whom the provider's tokens may identify.
    pub serves: Serves,
    /// The only organisation whose users the tokens may identify; null: the claim `org_claim` names the organisation.
    pub org_id: Option<OrgId>,
    /// The `iss` that tokens must have.
    pub issuer: String,
    /// A token must have one of these in its `aud`.
    pub audiences: Vec<String>,
    /// Where the provider publishes its keys: an https URL, or an http URL on this machine.
    #[schema(value_type = String)]
    pub jwks_url: Url,
    /// The signature algorithms that tokens may use.
    pub algorithms: Vec<SigningAlgorithm>,
    /// How many seconds the provider's clock may differ from ours.
    pub leeway_seconds: u32,
    /// The claim that identifies the user; its value must be stable and never given to another user.
    pub user_claim: String,
    /// The claim that names the organisation, by id or name.
    pub org_claim: Option<String>,
    /// The claim that names the team.
    pub team_claim: Option<String>,
    /// The claim that gives the role: a text or a list of texts. A name that is no claim's is a path: `realm_access.roles` is the
    /// claim `roles` within `realm_access`. The same is true of the other claims.
    pub role_claim: Option<String>,
    /// The role for each value of the role claim: `member` or `admin`; for operators `operator` or `operator_read`.
    pub role_map: BTreeMap<String, GivenRole>,
    /// Whether a user is created for a subject that was never seen.
    pub create_users: bool,
    /// Whether the provider's tokens are refused for now.
    pub suspended: bool,
    /// The client id that the console has with the provider; null: nobody signs in there by this provider.
    pub console_client_id: Option<String>,
    /// Whether the console has a client secret. The secret itself is never shown.
    #[serde(rename = "console_has_secret", serialize_with = "whether_there")]
    #[schema(value_type = bool)]
    pub console_client_secret: Option<Secret>,
    /// The scopes that the console asks for.
    pub console_scopes: Vec<String>,
}

/// Shows of a secret whether there is one.
fn whether_there<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(secret.is_some())
}

impl ProviderSpec {
    /// A provider for callers of `org`, or, if `org` is `None`, of the organisation that the claim `organisation`
    /// names. Everything else has the default.
    pub fn new(name: &str, org_id: Option<OrgId>, issuer: &str, audience: &str, jwks_url: Url) -> Self {
        Self {
            name: name.into(),
            serves: Serves::Organisations,
            org_id,
            issuer: issuer.into(),
            audiences: vec![audience.into()],
            jwks_url,
            algorithms: SigningAlgorithm::ALL.into(),
            leeway_seconds: 60,
            user_claim: "sub".into(),
            org_claim: org_id.is_none().then(|| "organisation".into()),
            team_claim: None,
            role_claim: None,
            role_map: BTreeMap::new(),
            create_users: false,
            suspended: false,
            console_client_id: None,
            console_client_secret: None,
            console_scopes: vec![OPENID.into()],
        }
    }

    /// The role that these values of the role claim give; if several values give a role, the one that may do more.
    pub fn role_of(&self, values: &[&str]) -> Option<GivenRole> {
        let given = || values.iter().filter_map(|value| self.role_map.get(*value)).copied();
        given().find(|role| role.is_mighty()).or_else(|| given().next())
    }

    pub fn check(&self) -> Result<(), StoreError> {
        match self.problem() {
            None => Ok(()),
            Some(problem) => Err(StoreError::Invalid(problem.into())),
        }
    }

    /// What is wrong with the description, above all what no token could ever match.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let claims = [
            Some(&self.user_claim),
            self.org_claim.as_ref(),
            self.team_claim.as_ref(),
            self.role_claim.as_ref(),
        ];
        let texts = [Some(&self.name), Some(&self.issuer)].into_iter().chain(claims).flatten();
        let bad_text = |text: &String| text.trim().is_empty() || text.chars().count() > 500;
        // A token's texts are compared as they are.
        let padded = |text: &String| text.trim() != text || text.chars().any(char::is_control);
        let compared = [Some(&self.issuer)].into_iter().chain(claims).flatten();
        let compared = compared.chain(&self.audiences).chain(self.role_map.keys());
        let is_number = |claim: &Option<String>| claim.as_deref().is_some_and(|name| NUMBERS.contains(&name));
        let of_words = self.role_claim.as_deref().is_some_and(|name| LISTS_OF_WORDS.contains(&name));
        let of_operators = self.serves == Serves::Operators;
        Some(if texts.chain(&self.audiences).any(bad_text) || self.audiences.is_empty() {
            "name, issuer, audiences and claims must not be empty, nor longer than 500 characters"
        } else if self.role_map.keys().any(bad_text) {
            "the values in role_map must not be empty, nor longer than 500 characters"
        } else if compared.into_iter().any(padded) {
            "issuer, audiences, claims and the values in role_map must not begin or end with blanks, nor have control \
             characters: no token would match"
        } else if self.issuer.contains(['{', '}']) || has_placeholder(&self.jwks_url) {
            "issuer and jwks_url must not have a placeholder in braces: put the tenant's own id there"
        } else if NOT_OF_A_USER.contains(&self.user_claim.as_str()) {
            "user_claim must identify the user: iss, aud, exp, nbf, iat and jti do not"
        } else if [&self.org_claim, &self.team_claim, &self.role_claim].into_iter().any(is_number) {
            "org_claim, team_claim and role_claim must be texts: exp, nbf and iat are times, which name nothing"
        } else if of_words && self.role_map.keys().any(|value| value.contains(char::is_whitespace)) {
            "the values in role_map must be single words where role_claim is scope or scp, whose words are separated by \
             blanks: no token would match"
        } else if self.algorithms.is_empty() {
            "at least one algorithm is needed"
        } else if !is_safe(&self.jwks_url) {
            "jwks_url must be an https URL, or an http one on this machine, without user and password"
        } else if self.leeway_seconds > 300 {
            "leeway_seconds must be at most 300"
        } else if !self.role_map.values().all(|role| role.is_of(self.serves)) {
            "role_map must map to member or admin, for operators to operator or operator_read"
        } else if !self.role_map.is_empty() && self.role_claim.is_none() {
            "role_map needs a role_claim"
        } else if !of_operators && self.org_id.is_none() && self.org_claim.is_none() {
            "either org_id or org_claim must say for which organisation it speaks"
        } else if of_operators
            && (self.org_id.is_some()
                || self.org_claim.is_some()
                || self.team_claim.is_some()
                || self.create_users)
        {
            "operators belong to no organisation: no org_id, org_claim, team_claim, create_users"
        } else if of_operators && self.role_map.is_empty() {
            "a provider of operators needs a role_claim and a role_map"
        } else if self.role_claim.is_some() && self.role_map.is_empty() {
            "role_claim needs a role_map: without one it gives no role"
        } else {
            return self.problem_with_console();
        })
    }

    /// What is wrong with the settings by which people sign in at the console.
    fn problem_with_console(&self) -> Option<&'static str> {
        // RFC 6749, appendix A: a scope has no blank.
        let is_scope =
            |text: &String| (1..=200).contains(&text.len()) && printable(text) && !text.contains(' ');
        let (client, scopes) = (self.console_client_id.as_deref(), &self.console_scopes);
        // What is encrypted was checked before, and is longer.
        let given = self.console_client_secret.as_ref().filter(|secret| !is_encrypted(secret));
        let secret = given.map(Secret::expose);
        let problem = if scopes.len() > 20
            || !scopes.iter().all(is_scope)
            || !scopes.iter().any(|scope| scope == OPENID)
        {
            "console_scopes must have 'openid' and at most 19 others, of up to 200 printable characters"
        } else if secret.is_some_and(|secret| !sendable(secret)) {
            "console_client_secret must be 1 to 500 printable characters"
        } else if client.is_none() && self.console_client_secret.is_some() {
            "console_client_secret needs a console_client_id"
        } else if client.is_some_and(|client| !sendable(client)) {
            "console_client_id must be 1 to 500 printable characters"
        } else if client.is_some() && self.serves == Serves::Operators {
            "operators sign in at the console by their tokens: no console_client_id"
        } else if client.is_some() && !self.issuer_url().is_some_and(|url| is_safe(&url)) {
            "console_client_id needs an issuer that is an https URL, or an http one on this machine: its endpoints are published below it"
        } else {
            return None;
        };
        Some(problem)
    }

    /// Whether the client secret may be sent to the provider.
    pub fn has_usable_secret(&self) -> bool {
        self.console_client_secret.as_ref().is_some_and(|secret| sendable(secret.expose()))
    }

    /// The issuer as the URL that OpenID Connect wants it to be.
    fn issuer_url(&self) -> Option<Url> {
        let url: Url = self.issuer.parse().ok()?;
        (url.query().is_none() && url.fragment().is_none()).then_some(url)
    }
}

/// Whether a text is printable, as RFC 6749, appendix A, has it.
fn printable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Whether a client id or its secret may be sent.
fn sendable(text: &str) -> bool {
    (1..=500).contains(&text.len()) && printable(text)
}

/// The scope without which a provider makes no ID token.
const OPENID: &str = "openid";

/// Claims of tokens that do not identify a user: `jti` would make a new user of each token.
const NOT_OF_A_USER: &[&str] = &["iss", "aud", "exp", "nbf", "iat", "jti"];

/// Claims of tokens that are times (RFC 7519).
const NUMBERS: &[&str] = &["exp", "nbf", "iat"];

/// Claims whose text is a list of words, separated by spaces (RFC 8693, 4.2; Entra ID).
pub const LISTS_OF_WORDS: &[&str] = &["scope", "scp"];

/// Whether a URL has braces, which its parser has perhaps escaped.
fn has_placeholder(url: &Url) -> bool {
    let text = url.as_str().to_ascii_lowercase();
    ["{", "}", "%7b", "%7d"].iter().any(|brace| text.contains(brace))
}
