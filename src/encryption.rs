//! Secrets that are sent to others, and so cannot be kept as hashes. In the database they are encrypted under a secret of the
//! gateways, so that neither the database nor a backup of it is enough to read them.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::secret::Secret;

/// How an encrypted text begins. The id of its key and the rest follow, each after a dot.
const PREFIX: &str = "enc1.";

/// Why a stored secret cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    #[error("it is encrypted under another secret than quotes.secret and quotes.former_secret")]
    OtherKey,
    /// It was changed, or copied from where it belongs.
    #[error("it was changed in the database, or belongs to another issuer")]
    Changed,
    #[error("it cannot be encrypted")]
    NotEncrypted,
}

struct Key {
    /// Tells the key from others, and says nothing about it.
    id: String,
    cipher: RandomizedNonceKey,
}

impl Key {
    fn of(secret: &Secret) -> Option<Self> {
        let hashed: [u8; 32] = Sha256::digest(secret.expose().as_bytes()).into();
        let derived = |purpose: &[u8]| -> [u8; 32] {
            let mut block = [0; 64];
            block[..32].copy_from_slice(&hashed);
            Hmac::<Sha256>::new(&block.into()).chain_update(purpose).finalize().into_bytes().into()
        };
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &derived(b"tollgate stored secrets")).ok()?;
        let id = URL_SAFE_NO_PAD.encode(&derived(b"tollgate id of the key of stored secrets")[..6]);
        Some(Self { id, cipher })
    }
}

/// Encrypts and decrypts stored secrets. Without a key they are stored as they are.
#[derive(Clone, Default)]
pub struct StoredSecrets {
    current: Option<Arc<Key>>,
    former: Option<Arc<Key>>,
}

impl fmt::Debug for StoredSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<stored secrets>")
    }
}

/// Whether a stored text is encrypted.
pub fn is_encrypted(stored: &Secret) -> bool {
    stored.expose().starts_with(PREFIX)
}

impl StoredSecrets {
    /// Encrypts under `current`; also decrypts what `former` has encrypted.
    pub fn under(current: Option<&Secret>, former: Option<&Secret>) -> Self {
        let key = |secret: Option<&Secret>| secret.and_then(Key::of).map(Arc::new);
        Self { current: key(current), former: key(former) }
    }

    /// The text to store for a secret that is for `owner` alone.
    pub fn encrypt(&self, secret: &Secret, owner: &str) -> Result<Secret, BadSecret> {
        let Some(key) = &self.current else {
            return if is_encrypted(secret) { Err(BadSecret::NotEncrypted) } else { Ok(secret.clone()) };
        };
        let mut text = secret.expose().as_bytes().to_vec();
        let sealed = key.cipher.seal_in_place_append_tag(Aad::from(owner.as_bytes()), &mut text);
        let nonce = sealed.map_err(|_| BadSecret::NotEncrypted)?;
        let whole = [nonce.as_ref().as_slice(), &text].concat();
        Ok(Secret::new(format!("{PREFIX}{}.{}", key.id, URL_SAFE_NO_PAD.encode(whole))))
    }

    /// The secret that is stored as this text for `owner`.
    pub fn decrypt(&self, stored: &Secret, owner: &str) -> Result<Secret, BadSecret> {
        let Some(rest) = stored.expose().strip_prefix(PREFIX) else { return Ok(stored.clone()) };
        let (id, text) = rest.split_once('.').ok_or(BadSecret::Changed)?;
        let mut keys = self.current.iter().chain(&self.former);
        let key = keys.find(|key| key.id == id).ok_or(BadSecret::OtherKey)?;
        let whole = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadSecret::Changed)?;
        let (nonce, text) = whole.split_first_chunk::<NONCE_LEN>().ok_or(BadSecret::Changed)?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.cipher.open_in_place(nonce, Aad::from(owner.as_bytes()), &mut text);
        let opened = opened.map_err(|_| BadSecret::Changed)?;
        std::str::from_utf8(opened).map(Secret::new).map_err(|_| BadSecret::Changed)
    }

    /// Whether the text should be encrypted anew: it is not, or under the former secret.
    pub fn is_outdated(&self, stored: &Secret) -> bool {
        let current = |key: &Arc<Key>| stored.expose().starts_with(&format!("{PREFIX}{}.", key.id));
        self.current.as_ref().is_some_and(|key| !current(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under(current: &str, former: &str) -> StoredSecrets {
        let secret = |text: &str| (!text.is_empty()).then(|| Secret::new(text));
        StoredSecrets::under(secret(current).as_ref(), secret(former).as_ref())
    }

    const ISSUER: &str = "https://id.example";

    #[test]
    fn what_is_stored_says_nothing_and_is_read_again_for_its_owner_alone() {
        let secrets = under("one", "");
        let plain = Secret::new("hunter2");
        let stored = secrets.encrypt(&plain, ISSUER).unwrap();
        assert!(is_encrypted(&stored) && !stored.expose().contains("hunter2"));
        assert_ne!(stored, secrets.encrypt(&plain, ISSUER).unwrap(), "equal secrets do not show");
        assert_eq!(secrets.decrypt(&stored, ISSUER).as_ref(), Ok(&plain));
        assert_eq!(secrets.decrypt(&stored, "https://evil.example"), Err(BadSecret::Changed));
        for place in 0..stored.expose().len() {
            let mut changed = stored.expose().as_bytes().to_vec();
            changed[place] ^= 1;
            let changed = Secret::new(String::from_utf8(changed).unwrap());
            assert_ne!(secrets.decrypt(&changed, ISSUER).as_ref(), Ok(&plain), "{place}");
        }
        for cut in [PREFIX, "enc1.x", "enc1.x.", &stored.expose()[..stored.expose().len() - 1]] {
            assert!(secrets.decrypt(&Secret::new(cut), ISSUER).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_new_secret_reads_what_the_former_has_encrypted() {
        let (old, both, new) = (under("one", ""), under("two", "one"), under("two", ""));
        let plain = Secret::new("hunter2");
        let stored = old.encrypt(&plain, ISSUER).unwrap();
        assert!(!old.is_outdated(&stored) && both.is_outdated(&stored) && both.is_outdated(&plain));
        let again = both.encrypt(&both.decrypt(&stored, ISSUER).unwrap(), ISSUER).unwrap();
        assert!(!both.is_outdated(&again));
        assert_eq!(new.decrypt(&again, ISSUER).as_ref(), Ok(&plain));
        assert_eq!(new.decrypt(&stored, ISSUER), Err(BadSecret::OtherKey));
    }

    #[test]
    fn without_a_key_texts_are_stored_as_they_are() {
        let (none, plain) = (under("", ""), Secret::new("hunter2"));
        assert_eq!(none.encrypt(&plain, ISSUER).as_ref(), Ok(&plain));
        assert_eq!(none.decrypt(&plain, ISSUER).as_ref(), Ok(&plain));
        assert!(!none.is_outdated(&plain));
        assert_eq!(none.encrypt(&Secret::new("enc1.a.b"), ISSUER), Err(BadSecret::NotEncrypted));
        let stored = under("one", "").encrypt(&plain, ISSUER).unwrap();
        assert_eq!(none.decrypt(&stored, ISSUER), Err(BadSecret::OtherKey));
    }
}
