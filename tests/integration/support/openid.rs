//! An OpenID Connect provider for tests of signing in: it describes itself, gives codes to whom the test says, and exchanges each
//! once for the ID token that the test wants. It checks what a real one checks, and can misbehave.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tollgate::ids::OrgId;
use tollgate::secret::Secret;
use tollgate::store::ProviderSpec;
use url::{Url, form_urlencoded};

use super::identity_provider::{Signer, now};

pub const CLIENT: &str = "the console";
/// Must not be seen in a log, and in no answer of ours.
pub const CLIENT_SECRET: &str = "0idc-canary-of-a-secret";

/// What one of its pages does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    Serve,
    Hang,
    Answer(u16, String),
}

/// A code that was given, and for what.
struct Grant {
    challenge: String,
    redirect: String,
    id_token: String,
}

struct Books {
    grants: BTreeMap<String, Grant>,
    given: usize,
    /// By the last part of the path.
    manners: BTreeMap<&'static str, Manner>,
    description: Value,
    keys: Value,
    /// What came to the token endpoint: headers and form.
    exchanges: Vec<(HeaderMap, BTreeMap<String, String>)>,
    described: usize,
}

pub struct OpenId {
    pub signer: Signer,
    pub issuer: String,
    books: Arc<Mutex<Books>>,
    serving: JoinHandle<()>,
}

/// What the gateway sends a browser to the provider with.
#[derive(Debug, Clone)]
pub struct Asked {
    pub place: Url,
    pub fields: BTreeMap<String, String>,
}

impl Asked {
    pub fn of(place: &str) -> Self {
        let place: Url = place.parse().unwrap();
        Self { fields: place.query_pairs().into_owned().collect(), place }
    }

    /// The place within a console that the provider sends the browser back to, with this code.
    pub fn back(&self, code: &str) -> String {
        self.back_with(&[("code", code), ("state", &self.fields["state"])])
    }

    pub fn back_with(&self, fields: &[(&str, &str)]) -> String {
        let redirect: Url = self.fields["redirect_uri"].parse().unwrap();
        let place = redirect.path().trim_start_matches("/a/b").to_owned();
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        format!("{place}?{query}")
    }
}

impl OpenId {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}/realm", listener.local_addr().unwrap());
        let signer = Signer::rsa();
        let books = Arc::new(Mutex::new(Books {
            grants: BTreeMap::new(),
            given: 0,
            manners: BTreeMap::new(),
            description: json!({
                "issuer": issuer, "authorization_endpoint": format!("{issuer}/auth"),
                "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
            }),
            keys: json!({"keys": [signer.jwk("k1")]}),
            exchanges: Vec::new(),
            described: 0,
        }));
        let serves = books.clone();
        let answer =
            move |uri: Uri, headers: HeaderMap, body: Bytes| answer(serves.clone(), uri, headers, body);
        let router = Router::new().fallback(answer);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { signer, issuer, books, serving }
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// What a gateway is told of it: users of `org`, who are made at first sight and sign in at the console.
    pub fn spec(&self, name: &str, org: OrgId) -> ProviderSpec {
        let keys = format!("{}/jwks", self.issuer).parse().unwrap();
        ProviderSpec {
            create_users: true,
            console_client_id: Some(CLIENT.into()),
            console_client_secret: Some(Secret::new(CLIENT_SECRET)),
            ..ProviderSpec::new(name, Some(org), &self.issuer, "an api", keys)
        }
    }

    /// Lets one of its pages (`openid-configuration`, `token`, `jwks`) do this.
    pub fn set(&self, page: &'static str, manner: Manner) {
        self.books().manners.insert(page, manner);
    }

    /// Changes a field of its description.
    pub fn describe(&self, field: &str, value: Value) {
        self.books().description[field] = value;
    }

    /// How often its description was read.
    pub fn described(&self) -> usize {
        self.books().described
    }

    /// What came to its token endpoint last.
    pub fn last_exchange(&self) -> (HeaderMap, BTreeMap<String, String>) {
        self.books().exchanges.last().cloned().unwrap()
    }

    pub fn exchanges(&self) -> usize {
        self.books().exchanges.len()
    }

    /// Good claims for what was asked, but for these; null takes one away.
    pub fn claims(&self, asked: &Asked, subject: &str, more: Value) -> Value {
        let mut claims = json!({
            "iss": self.issuer, "aud": CLIENT, "sub": subject, "iat": now() - 5, "exp": now() + 600,
            "nonce": asked.fields["nonce"],
        });
        let fields = claims.as_object_mut().unwrap();
        for (name, value) in more.as_object().unwrap() {
            if value.is_null() {
                fields.remove(name);
            } else {
                fields.insert(name.clone(), value.clone());
            }
        }
        claims
    }

    /// A code for this person.
    pub fn code(&self, asked: &Asked, subject: &str, more: Value) -> String {
        let token = self.signer.token("k1", &self.claims(asked, subject, more));
        self.code_for(asked, token)
    }

    /// A code for this ID token.
    pub fn code_for(&self, asked: &Asked, id_token: String) -> String {
        assert_eq!(asked.fields["code_challenge_method"], "S256");
        let mut books = self.books();
        books.given += 1;
        let code = format!("0idc-canary-of-a-code-{}", books.given);
        let grant = Grant {
            challenge: asked.fields["code_challenge"].clone(),
            redirect: asked.fields["redirect_uri"].clone(),
            id_token,
        };
        books.grants.insert(code.clone(), grant);
        code
    }
}

impl Drop for OpenId {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(books: Arc<Mutex<Books>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let page = uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let manner = {
        let mut books = books.lock().unwrap();
        books.described += usize::from(page == "openid-configuration");
        books.manners.get(page.as_str()).cloned().unwrap_or(Manner::Serve)
    };
    match manner {
        Manner::Hang => return std::future::pending().await,
        Manner::Answer(status, text) => return (StatusCode::from_u16(status).unwrap(), text).into_response(),
        Manner::Serve => {}
    }
    let mut books = books.lock().unwrap();
    match page.as_str() {
        "openid-configuration" => books.description.to_string().into_response(),
        "jwks" => books.keys.to_string().into_response(),
        "token" => {
            let form: BTreeMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
            books.exchanges.push((headers, form.clone()));
            exchange(&mut books, &form)
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn exchange(books: &mut Books, form: &BTreeMap<String, String>) -> Response<Body> {
    let refuse = |error: &str| (StatusCode::BAD_REQUEST, json!({"error": error}).to_string()).into_response();
    // Used once, whatever comes of it.
    let Some(grant) = form.get("code").and_then(|code| books.grants.remove(code)) else {
        return refuse("invalid_grant");
    };
    let verifier = form.get("code_verifier").map_or("", String::as_str);
    let fits = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == grant.challenge
        && form.get("redirect_uri") == Some(&grant.redirect)
        && form.get("grant_type").map(String::as_str) == Some("authorization_code");
    if !fits {
        return refuse("invalid_grant");
    }
    json!({"access_token": "opaque", "token_type": "Bearer", "id_token": grant.id_token})
        .to_string()
        .into_response()
}

/// What a client sends in a header to say who it is.
pub fn basic() -> String {
    let both: Vec<String> =
        [CLIENT, CLIENT_SECRET].map(|text| form_urlencoded::byte_serialize(text.as_bytes()).collect()).into();
    format!("Basic {}", STANDARD.encode(both.join(":")))
}
