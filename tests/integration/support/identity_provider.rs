//! An identity provider for tests: keys of each kind, a JWKS endpoint that can misbehave, and tokens as they should not be.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tollgate::store::ProviderSpec;
use url::Url;

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Now, in seconds since 1970.
pub fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// A key that signs tokens.
pub enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    pub fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    /// Its public half, as a set publishes it.
    pub fn jwk(&self, kid: &str) -> Value {
        let mut jwk = match self {
            Self::Rsa(pair) => {
                let public = pair.public_key();
                json!({"kty": "RSA", "n": base64(public.modulus().big_endian_without_leading_zero()),
                       "e": base64(public.exponent().big_endian_without_leading_zero())})
            }
            Self::P256(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                json!({"kty": "EC", "crv": "P-256", "x": base64(&point[..32]), "y": base64(&point[32..])})
            }
            Self::Ed25519(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key())}),
        };
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        jwk
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with exactly this header and these claims.
    pub fn token_of(&self, header: &Value, claims: &Value) -> String {
        self.token_of_texts(&header.to_string(), &claims.to_string())
    }

    /// The same, of texts that need not be JSON.
    pub fn token_of_texts(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(header), base64(claims));
        let signature = base64(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// A token with these claims, as it should be.
    pub fn token(&self, kid: &str, claims: &Value) -> String {
        self.token_of(&json!({"alg": self.algorithm(), "typ": "JWT", "kid": kid}), claims)
    }
}

/// A token that is signed with a shared secret, or not at all.
pub fn forged(algorithm: &str, kid: &str, claims: &Value, secret: Option<&[u8]>) -> String {
    let header = json!({"alg": algorithm, "typ": "JWT", "kid": kid});
    let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
    let signature = secret.map_or_else(String::new, |secret| {
        base64(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes()))
    });
    format!("{message}.{signature}")
}

/// How the endpoint answers.
#[derive(Clone)]
pub enum Mood {
    Serve(Vec<Value>),
    Status(u16),
    Text(String),
    Redirect(String),
    Hang,
}

/// The endpoint. Ends when it is dropped.
pub struct Endpoint {
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Endpoint {
    pub async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mood, asked) = (Arc::new(Mutex::new(mood)), Arc::new(AtomicUsize::new(0)));
        let (current, count) = (mood.clone(), asked.clone());
        let answer = move || {
            count.fetch_add(1, Ordering::Relaxed);
            let mood = current.lock().unwrap().clone();
            async move { respond(mood).await }
        };
        let router = Router::new().fallback(answer);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, mood, asked, serving }
    }

    pub fn url(&self) -> Url {
        format!("http://{}/jwks.json", self.address).parse().unwrap()
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn respond(mood: Mood) -> Response<Body> {
    match mood {
        // Not every provider says that it is JSON.
        Mood::Serve(keys) => {
            ([("content-type", "text/plain")], json!({ "keys": keys }).to_string()).into_response()
        }
        Mood::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Mood::Text(text) => text.into_response(),
        Mood::Redirect(to) => (StatusCode::FOUND, [("location", to)]).into_response(),
        Mood::Hang => std::future::pending().await,
    }
}

pub const ISSUER: &str = "https://id.example";
pub const AUDIENCE: &str = "tollgate";

/// A provider with one RSA key, called `k1`.
pub struct TestProvider {
    pub signer: Signer,
    pub endpoint: Endpoint,
}

impl TestProvider {
    pub async fn start() -> Self {
        let signer = Signer::rsa();
        let endpoint = Endpoint::start(Mood::Serve(vec![signer.jwk("k1")])).await;
        Self { signer, endpoint }
    }

    /// What a gateway is told of it: users of `org` only, who are made at first sight.
    pub fn spec(&self, name: &str, org: Option<tollgate::ids::OrgId>) -> ProviderSpec {
        let create_users = true;
        ProviderSpec { create_users, ..ProviderSpec::new(name, org, ISSUER, AUDIENCE, self.endpoint.url()) }
    }

    /// A good token of `subject`, with these claims in addition or instead; null takes one away.
    pub fn token(&self, subject: &str, more: Value) -> String {
        self.signer.token("k1", &claims(subject, more))
    }
}

/// Good claims, but for these.
pub fn claims(subject: &str, more: Value) -> Value {
    let mut claims =
        json!({"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now() - 5, "exp": now() + 600});
    let claims_map = claims.as_object_mut().unwrap();
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            claims_map.remove(name);
        } else {
            claims_map.insert(name.clone(), value.clone());
        }
    }
    claims
}
