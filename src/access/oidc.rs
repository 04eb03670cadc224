//! What a gateway asks an identity provider when somebody signs in at the console: where its endpoints are (OpenID Connect
//! Discovery), and the ID token for a code (authorization code with PKCE, RFC 6749 and RFC 7636). The ID token is checked by
//! [`super::token`], by the rules for all tokens of that provider.
//!
//! A provider that hangs or answers garbage costs its own people a bounded time, and nobody else anything: answers have a
//! deadline and a size, one provider has a share of the questions under way, and what could not be read is not asked for again
//! for some seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use moka::sync::Cache;
use serde::Deserialize;
use tokio::sync::Mutex;
use url::{Url, form_urlencoded};

use crate::clock::Clock;
use crate::encryption::StoredSecrets;
use crate::https::{Answer, BadTrust, CallError, Client, ClientSettings, Egress, HttpVersion, Trust};
use crate::ids::ProviderId;
use crate::safe_url::is_safe;
use crate::secret::Secret;
use crate::shares::Shares;
use crate::store::Provider;
use crate::strict;

/// The longest time a question to a provider takes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long somebody who signs in waits for a turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer: three tokens of 24 KiB, or a description, which has a few kilobytes.
const MAX_BODY: usize = 256 << 10;

/// How long endpoints that were read are used, and how long those that could not be read are not asked for again.
const FRESH: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(5);

/// How many codes may be exchanged at a time, and how many people may wait for their turn. One provider gets half of it.
const EXCHANGES: usize = 16;
const WAITING: usize = 256;

/// Why somebody cannot sign in; what else is known is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoToken {
    /// The provider takes the code for none of its own.
    WrongCode,
    /// The sign-in cannot be finished now, in words for the person.
    Unavailable(&'static str),
}

const UNREACHED: &str = "your identity provider cannot be reached right now: try again";
const SILENT: &str = "your identity provider did not answer in time: try again";
const GARBAGE: &str = "your identity provider's answer cannot be read: tell an operator of this service";
const WRONG_ISSUER: &str = "your identity provider says that it is another one than is configured here: tell an operator of this service";
const UNSAFE: &str =
    "your identity provider's endpoints are not protected by https: tell an operator of this service";
const CLIENT_REFUSED: &str =
    "your identity provider refuses this console's client id or secret: tell an operator of this service";
const BUSY: &str = "too many people sign in by your identity provider at this moment: try again";
/// Told to people who sign in, and by `doctor`.
pub const UNREADABLE_SECRET: &str =
    "this console's secret for your identity provider cannot be read: tell an operator of this service";
const NO_ID_TOKEN: &str = "your identity provider gave no ID token: tell an operator of this service";

/// Where a provider's endpoints are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoints {
    authorization: Url,
    token: Url,
    /// The secret goes into the body, because the provider does not take it in a header.
    secret_in_body: bool,
    /// The provider names itself in its answers (RFC 9207).
    pub(super) names_itself: bool,
}

/// The description that a provider publishes, as far as it is used.
#[derive(Deserialize)]
struct Description {
    issuer: String,
    authorization_endpoint: Url,
    token_endpoint: Url,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl Description {
    fn read(body: &[u8], issuer: &str) -> Result<Endpoints, &'static str> {
        let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
        let read: Self = strict::read_json(body).map_err(|_| GARBAGE)?;
        if read.issuer != issuer {
            return Err(WRONG_ISSUER);
        }
        if !is_safe(&read.authorization_endpoint) || !is_safe(&read.token_endpoint) {
            return Err(UNSAFE);
        }
        let methods = read.token_endpoint_auth_methods_supported;
        let takes = |method: &str| methods.as_ref().is_some_and(|all| all.iter().any(|one| one == method));
        Ok(Endpoints {
            authorization: read.authorization_endpoint,
            token: read.token_endpoint,
            // A provider that names no method takes the header.
            secret_in_body: takes("client_secret_post") && !takes("client_secret_basic"),
            names_itself: read.authorization_response_iss_parameter_supported,
        })
    }
}

/// What is known of a provider's endpoints, and since when.
type Known = Arc<Mutex<Option<(Instant, Result<Arc<Endpoints>, &'static str>)>>>;

/// What one sign-in sends to the provider, and what its answer must fit to.
#[derive(Debug)]
pub(super) struct SignInRequest {
    pub(super) state: String,
    pub(super) nonce: String,
    pub(super) challenge: String,
}

/// A code that the provider gave, and what it was given for.
#[derive(Debug)]
pub(super) struct AuthorizationCode<'a> {
    pub(super) code: &'a str,
    pub(super) verifier: Secret,
    /// Where the provider has sent the browser with it.
    pub(super) redirect: &'a Url,
}

/// Asks identity providers on behalf of people who sign in at the console.
#[derive(Debug)]
pub struct SignInClient {
    http: Client,
    /// By issuer, so that a provider that is changed is asked anew.
    endpoints: Cache<String, Known>,
    exchanges: Arc<Shares<ProviderId>>,
    secrets: StoredSecrets,
    clock: Clock,
}

impl SignInClient {
    /// Asks nothing yet: a provider is asked when somebody signs in by it.
    pub fn new(egress: &Egress, secrets: StoredSecrets, clock: Clock) -> Result<Self, BadTrust> {
        let settings = ClientSettings {
            trust: Trust::Machine(egress.authorities.clone()),
            proxy: egress.proxy.clone(),
            version: HttpVersion::Http1,
            connect_timeout: TIMEOUT,
            idle_timeout: Duration::ZERO,
        };
        Ok(Self {
            http: Client::new(&settings, TIMEOUT, MAX_BODY)?,
            endpoints: Cache::new(1_000),
            exchanges: Shares::with_queue(EXCHANGES, WAITING, metrics::Gauge::noop()),
            secrets,
            clock,
        })
    }

    /// Whether people could be sent to this provider; otherwise why not.
    pub async fn check(&self, provider: &Provider) -> Result<(), &'static str> {
        self.secret(provider)?;
        self.endpoints(provider).await.map(drop)
    }

    /// The secret that the console has with the provider, if it has one.
    fn secret(&self, provider: &Provider) -> Result<Option<Secret>, &'static str> {
        let stored = provider.spec.console_client_secret.as_ref();
        let secret = stored.map(|stored| self.secrets.decrypt(stored, &provider.spec.issuer));
        secret.transpose().map_err(|why| {
            log(provider, "secret", &why.to_string());
            UNREADABLE_SECRET
        })
    }

    /// Where the provider's endpoints are. However many people sign in at once, one of them asks.
    pub(super) async fn endpoints(&self, provider: &Provider) -> Result<Arc<Endpoints>, &'static str> {
        let known = self.endpoints.get_with(provider.spec.issuer.clone(), Known::default);
        // Who waits here waits for a question that ends in time.
        let waiting = tokio::time::timeout(TIMEOUT + PATIENCE, known.lock());
        let mut known = waiting.await.map_err(|_| SILENT)?;
        if let Some((asked, answer)) = known.as_ref() {
            let lasts = if answer.is_ok() { FRESH } else { PAUSE };
            if self.clock.since(*asked) < lasts {
                return answer.clone();
            }
        }
        let described = self.describe(provider).await.map(Arc::new);
        *known = Some((self.clock.now(), described.clone()));
        described
    }

    async fn describe(&self, provider: &Provider) -> Result<Endpoints, &'static str> {
        let issuer = &provider.spec.issuer;
        let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let url: Url = place.parse().map_err(|_| UNSAFE)?;
        if !is_safe(&url) {
            return Err(UNSAFE);
        }
        let request = Request::new(Bytes::new());
        let answer = self.ask(provider, "description", &url, request).await?;
        if answer.status != StatusCode::OK {
            log(provider, "description", &format!("the answer is {}, not 200", answer.status.as_u16()));
            return Err(GARBAGE);
        }
        Description::read(&answer.body, issuer).inspect_err(|why| log(provider, "description", why))
    }

    /// Exchanges a code for an ID token.
    pub(super) async fn exchange(
        &self,
        provider: &Provider,
        client_id: &str,
        code: AuthorizationCode<'_>,
    ) -> Result<Secret, NoToken> {
        let endpoints = self.endpoints(provider).await.map_err(NoToken::Unavailable)?;
        let turn = tokio::time::timeout(PATIENCE, self.exchanges.wait(provider.provider_id, 1)).await;
        let Ok(Ok(_turn)) = turn else { return Err(NoToken::Unavailable(BUSY)) };
        let secret = self.secret(provider).map_err(NoToken::Unavailable)?;
        let request =
            endpoints.request(client_id, secret.as_ref(), code).ok_or(NoToken::Unavailable(GARBAGE))?;
        let answer = self.ask(provider, "token", &endpoints.token, request).await;
        read_answer(provider, &answer.map_err(NoToken::Unavailable)?)
    }

    async fn ask(
        &self,
        provider: &Provider,
        what: &'static str,
        url: &Url,
        mut request: Request<Bytes>,
    ) -> Result<Answer, &'static str> {
        *request.uri_mut() = url.as_str().parse::<Uri>().map_err(|_| UNSAFE)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        self.http.call(request).await.map_err(|error| {
            log(provider, what, &error.to_string());
            match error {
                CallError::TimedOut => SILENT,
                CallError::NotReached(_) | CallError::Broken(_) => UNREACHED,
                CallError::TooLarge(_) => GARBAGE,
            }
        })
    }
}

fn log(provider: &Provider, what: &'static str, why: &str) {
    tracing::warn!(provider = %provider.provider_id, what, why, "an identity provider lets nobody sign in");
}

impl Endpoints {
    /// Where the browser asks the provider for a code.
    pub(super) fn authorize(
        &self,
        provider: &Provider,
        client_id: &str,
        redirect: &Url,
        asked: &SignInRequest,
    ) -> Url {
        let mut url = self.authorization.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", client_id)
            .append_pair("redirect_uri", redirect.as_str())
            .append_pair("scope", &provider.spec.console_scopes.join(" "))
            .append_pair("state", &asked.state)
            .append_pair("nonce", &asked.nonce)
            .append_pair("code_challenge", &asked.challenge)
            .append_pair("code_challenge_method", "S256");
        url
    }

    /// The request for the ID token, without its address. Nothing: the client id or its secret fits into no header.
    fn request(
        &self,
        client_id: &str,
        secret: Option<&Secret>,
        code: AuthorizationCode<'_>,
    ) -> Option<Request<Bytes>> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code.code)
            .append_pair("redirect_uri", code.redirect.as_str())
            .append_pair("code_verifier", code.verifier.expose());
        let mut request = Request::new(Bytes::new());
        match secret {
            Some(secret) if !self.secret_in_body => {
                // RFC 6749, 2.3.1: both are written as in a form, so that no colon of theirs separates them.
                let written =
                    |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let both = format!("{}:{}", written(client_id), written(secret.expose()));
                let mut header = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(both))).ok()?;
                header.set_sensitive(true);
                request.headers_mut().insert(AUTHORIZATION, header);
            }
            Some(secret) => {
                form.append_pair("client_id", client_id).append_pair("client_secret", secret.expose());
            }
            None => {
                form.append_pair("client_id", client_id);
            }
        }
        *request.method_mut() = Method::POST;
        let content = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, content);
        *request.body_mut() = form.finish().into();
        Some(request)
    }
}

/// The ID token in the answer to a code.
fn read_answer(provider: &Provider, answer: &Answer) -> Result<Secret, NoToken> {
    #[derive(Deserialize)]
    struct Tokens {
        id_token: Option<Secret>,
    }
    #[derive(Deserialize)]
    struct SignInRefusal {
        error: String,
    }
    if answer.status == StatusCode::OK {
        let read: Result<Tokens, _> = strict::read_json(&answer.body);
        let unreadable = |_| {
            log(provider, "token", "the answer is no JSON with tokens");
            NoToken::Unavailable(GARBAGE)
        };
        let token = read.map_err(unreadable)?.id_token;
        return token.ok_or_else(|| {
            log(provider, "token", "the answer has no id_token");
            NoToken::Unavailable(NO_ID_TOKEN)
        });
    }
    // The word is one of a short list (RFC 6749, 5.2); what stands beside it may repeat what was sent.
    let word =
        strict::read_json(&answer.body).map(|refusal: SignInRefusal| refusal.error).unwrap_or_default();
    let known =
        ["invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "invalid_scope"];
    let known = known.into_iter().find(|one| *one == word).unwrap_or("another error");
    log(provider, "token", &format!("the answer is {}: {known}", answer.status.as_u16()));
    Err(match known {
        "invalid_grant" => NoToken::WrongCode,
        "invalid_client" | "unauthorized_client" => NoToken::Unavailable(CLIENT_REFUSED),
        _ if answer.status.is_server_error() => NoToken::Unavailable(UNREACHED),
        _ => NoToken::Unavailable(GARBAGE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://id.example/realm";

    fn described(more: &str) -> Result<Endpoints, &'static str> {
        let text = format!(
            "{{\"issuer\":\"{ISSUER}\",\"authorization_endpoint\":\"https://id.example/auth?tenant=1\",\
             \"token_endpoint\":\"https://id.example/token\"{more}}}"
        );
        Description::read(text.as_bytes(), ISSUER)
    }

    fn code(redirect: &Url) -> AuthorizationCode<'_> {
        AuthorizationCode { code: "c&d", verifier: Secret::new("v"), redirect }
    }

    #[test]
    fn only_the_description_of_the_issuer_with_safe_endpoints_is_taken() {
        assert!(!described("").unwrap().secret_in_body);
        let methods = |list: &str| described(&format!(",\"token_endpoint_auth_methods_supported\":[{list}]"));
        assert!(methods("\"client_secret_post\"").unwrap().secret_in_body);
        assert!(!methods("\"client_secret_post\",\"client_secret_basic\"").unwrap().secret_in_body);
        assert_eq!(described(",\"issuer\":\"https://other.example\"").unwrap_err(), GARBAGE, "said twice");
        let of = |text: &str| Description::read(text.as_bytes(), ISSUER).unwrap_err();
        let with = |issuer: &str, auth: &str, token: &str| {
            format!(
                "{{\"issuer\":\"{issuer}\",\"authorization_endpoint\":\"{auth}\",\"token_endpoint\":\"{token}\"}}"
            )
        };
        let good = "https://id.example/x";
        assert_eq!(of(&with("https://id.example/realm/", good, good)), WRONG_ISSUER);
        for bad in ["http://id.example/x", "javascript://id.example/x", "https://user:pw@id.example/x"] {
            assert_eq!(of(&with(ISSUER, bad, good)), UNSAFE, "{bad}");
            assert_eq!(of(&with(ISSUER, good, bad)), UNSAFE, "{bad}");
        }
        for garbage in ["", "<html>", "{}", "[]"] {
            assert_eq!(of(garbage), GARBAGE, "{garbage}");
        }
    }

    #[test]
    fn the_secret_is_sent_as_the_provider_takes_it_and_no_text_leaves_its_field() {
        let redirect: Url = "https://v.example/a/console/sign-in/return".parse().unwrap();
        let mut endpoints = described("").unwrap();
        let secret = Secret::new("s:e&c");
        let body = |request: &Request<Bytes>| String::from_utf8(request.body().to_vec()).unwrap();
        let request = endpoints.request("i:d", Some(&secret), code(&redirect)).unwrap();
        let header = &request.headers()[AUTHORIZATION];
        assert!(header.is_sensitive());
        let sent = STANDARD.decode(header.to_str().unwrap().trim_start_matches("Basic ")).unwrap();
        assert_eq!(sent, b"i%3Ad:s%3Ae%26c");
        assert!(body(&request).contains("code=c%26d&") && !body(&request).contains("client"));
        endpoints.secret_in_body = true;
        let request = endpoints.request("i:d", Some(&secret), code(&redirect)).unwrap();
        assert!(!request.headers().contains_key(AUTHORIZATION));
        assert!(body(&request).ends_with("&client_id=i%3Ad&client_secret=s%3Ae%26c"), "{}", body(&request));
        let request = endpoints.request("i:d", None, code(&redirect)).unwrap();
        assert!(body(&request).ends_with("&client_id=i%3Ad"), "a client without a secret names itself");
    }
}
