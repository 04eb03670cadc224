//! Idempotency keys: what makes two requests the same, and the answer that a repetition gets.

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::db::error::StoreError;

/// The SHA-256 of a create's raw body: what makes two requests "the same" (contract, "Idempotency").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of `body`.
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }

    /// The digest, as the database stores it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads a stored digest; `None` if it is not 32 bytes long.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// The idempotency key of a call: it counts once, however often it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Once<'a> {
    /// The caller's idempotency key.
    pub key: &'a str,
    /// The raw body of the request: the same key with another body is refused.
    pub body: &'a [u8],
}

/// The answer of a call that may be a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done<T> {
    /// The answer; for a replay, the stored one.
    pub answer: T,
    /// Whether an earlier call with the same idempotency key has moved the credits.
    pub replayed: bool,
}

/// An idempotency key as the database's functions take it; without a key nothing is claimed.
pub(in crate::store) struct KeyClaim<'a> {
    pub(in crate::store) endpoint: &'static str,
    pub(in crate::store) key: Option<&'a str>,
    fingerprint: Fingerprint,
}

impl<'a> KeyClaim<'a> {
    /// The fingerprint covers the body and the id of what the request is about.
    pub(in crate::store) fn of(endpoint: &'static str, about: Uuid, once: Option<Once<'a>>) -> Self {
        let body = once.map_or(&b""[..], |once| once.body);
        Self {
            endpoint,
            key: once.map(|once| once.key),
            fingerprint: Fingerprint::of(&[about.as_bytes(), body].concat()),
        }
    }

    pub(in crate::store) fn fingerprint(&self) -> &[u8] {
        self.fingerprint.as_bytes()
    }
}

/// The stored answer of an earlier call with the same idempotency key.
pub(in crate::store) fn replayed<T: DeserializeOwned>(stored: Option<String>) -> Result<Done<T>, StoreError> {
    Ok(Done { answer: told(stored)?, replayed: true })
}

/// The answer that the database has stored.
pub(in crate::store) fn told<T: DeserializeOwned>(answer: Option<String>) -> Result<T, StoreError> {
    let answer = answer.and_then(|answer| serde_json::from_str(&answer).ok());
    answer.ok_or(StoreError::Corrupt("idempotency.answer".into()))
}
