//! The text form of API keys: `tg_<env>_<public id>_<secret>`. The secret ends with a checksum of everything before it, so
//! that a malformed key is refused without a look-up.

use std::fmt;

use rand::RngExt;
use rand::distr::Alphanumeric;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::secret::Secret;

/// The environment label of operator tokens, which API keys cannot have.
pub const OPERATOR_ENV: &str = "op";

const PUBLIC_LEN: usize = 12;
const SECRET_LEN: usize = 32;
const CHECKSUM_LEN: usize = 6;

/// The SHA-256 of a key's secret, which is all that the database stores of the secret.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The digest, as the database stores it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A digest from the database; nothing if it does not have 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Compares the digests in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hash>")
    }
}

/// A key that a caller presented: well-formed, but not yet looked up.
#[derive(Debug, Clone)]
pub struct PresentedKey {
    pub env: String,
    /// The public id, by which the key is looked up.
    pub public_id: String,
    /// The digest of the secret, which must match the stored one.
    pub secret: SecretHash,
}

impl PresentedKey {
    /// Parses a key; nothing if its form or checksum is wrong.
    pub fn parse(text: &str) -> Option<Self> {
        let (body, checksum) = text.split_at_checked(text.len().checked_sub(CHECKSUM_LEN)?)?;
        let [scheme, env, public_id, secret] = body.split('_').collect::<Vec<_>>().try_into().ok()?;
        let formed = scheme == "tg"
            && valid_env(env)
            && public_id.len() == PUBLIC_LEN
            && secret.len() == SECRET_LEN
            && checksum == checksum_of(body);
        formed.then(|| Self { env: env.to_owned(), public_id: public_id.to_owned(), secret: hash(secret) })
    }
}

/// A new key. Its text exists only in this value and is not stored.
#[derive(Debug)]
pub struct NewKey {
    /// The public id, by which the key is looked up.
    pub public_id: String,
    pub secret: SecretHash,
    /// The whole text, which is shown once.
    pub text: Secret,
}

impl NewKey {
    /// Makes a key with the environment label `env`: 1 to 12 lower-case letters or digits, not the operators'; else nothing.
    pub fn generate(env: &str) -> Option<Self> {
        (valid_env(env) && env != OPERATOR_ENV).then(|| Self::of(env))
    }

    /// Makes a new operator token.
    pub fn generate_operator() -> Self {
        Self::of(OPERATOR_ENV)
    }

    fn of(env: &str) -> Self {
        let random =
            |len| rand::rng().sample_iter(Alphanumeric).take(len).map(char::from).collect::<String>();
        let (public_id, secret) = (random(PUBLIC_LEN), random(SECRET_LEN));
        let body = format!("tg_{env}_{public_id}_{secret}");
        let text = Secret::new(format!("{body}{}", checksum_of(&body)));
        Self { public_id, secret: hash(&secret), text }
    }
}

fn valid_env(env: &str) -> bool {
    (1..=12).contains(&env.len()) && env.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn hash(secret: &str) -> SecretHash {
    SecretHash(Sha256::digest(secret.as_bytes()).into())
}

fn checksum_of(body: &str) -> String {
    Sha256::digest(body.as_bytes()).iter().take(CHECKSUM_LEN / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_round_trips_and_any_changed_character_is_noticed() {
        let key = NewKey::generate("live").unwrap();
        let text = key.text.expose();
        let parsed = PresentedKey::parse(text).unwrap();
        assert_eq!(parsed.public_id, key.public_id);
        assert!(parsed.secret.matches(&key.secret));
        for index in 0..text.len() {
            let mut broken = text.as_bytes().to_vec();
            broken[index] = if broken[index] == b'x' { b'y' } else { b'x' };
            assert!(PresentedKey::parse(std::str::from_utf8(&broken).unwrap()).is_none(), "{index}");
        }
        for garbage in ["", "tg", "YOUR_API_KEY", "sk-123", "tg_live__", "tg_live_a_b_c_d", "ééé"] {
            assert!(PresentedKey::parse(garbage).is_none(), "{garbage}");
        }
        assert!(NewKey::generate("Bad_Env").is_none());
        assert!(NewKey::generate(OPERATOR_ENV).is_none(), "a tenant's key that looks like an operator's");
    }
}
