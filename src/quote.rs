//! Quotes that promise a price for one body of one organisation for some minutes. The quote is a signed text that the
//! caller keeps; no gateway stores it.

use std::fmt;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::credits::{Credits, PriceFactor};
use crate::ids::OrgId;
use crate::pricing::{BookVersion, PriceList};
use crate::secret::Secret;

const PREFIX: &str = "tgq1_";
const CONTENT: usize = 76;
const SIGNATURE: usize = 32;

/// A key that signs quotes, shared by all gateways of a database.
#[derive(Clone)]
pub struct SigningKey {
    /// The number of the key; a newer key has a higher number.
    pub generation: i32,
    /// When the key was created.
    pub created_at: OffsetDateTime,
    secret: [u8; 32],
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<signing key {}>", self.generation)
    }
}

impl SigningKey {
    /// A key from the database; nothing if `secret` does not have 32 bytes.
    pub fn new(generation: i32, created_at: OffsetDateTime, secret: &[u8]) -> Option<Self> {
        Some(Self { generation, created_at, secret: secret.try_into().ok()? })
    }

    /// The random secret of a new key.
    pub fn fresh_secret() -> [u8; 32] {
        rand::random()
    }

    /// The key that signs when the gateways have a secret of their own: it follows from both, so that neither the database
    /// nor the secret alone is enough to sign.
    #[must_use]
    pub fn under(self, own: &Secret) -> Self {
        let own: [u8; 32] = Sha256::digest(own.expose().as_bytes()).into();
        let derived = keyed(&own).chain_update(b"tollgate quotes").chain_update(self.secret).finalize();
        Self { secret: derived.into_bytes().into(), ..self }
    }

    fn mac(&self) -> Hmac<Sha256> {
        keyed(&self.secret)
    }
}

fn keyed(secret: &[u8; 32]) -> Hmac<Sha256> {
    // HMAC pads a key that is shorter than a block with zeros.
    let mut block = [0; 64];
    block[..32].copy_from_slice(secret);
    Hmac::new(&block.into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    pub org: OrgId,
    /// The price book that the price is from.
    pub book: BookVersion,
    /// The price factor that the price includes.
    pub factor: PriceFactor,
    /// The credits that a create with this quote holds.
    pub hold: Credits,
    /// The SHA-256 of the quoted body.
    pub fingerprint: [u8; 32],
    /// When the quote expires, in seconds of Unix time.
    pub expires: i64,
}

/// Why a quote is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadQuote {
    /// The text was not signed by one of our keys, or was changed.
    #[error("this quote is not from POST /api/quote, or it was changed: send it exactly as it was answered")]
    Forged,
    #[error("this quote belongs to another organisation")]
    OtherOrg,
    #[error("this quote is for another body: send the body that was quoted, byte for byte")]
    OtherBody,
    #[error("this quote has expired: request a new one")]
    Expired,
    /// A gateway with another `quotes.max_valid_seconds` gave it out, or somebody else has the key.
    #[error("this quote is valid for longer than prices are promised: request a new one")]
    TooLong,
    /// Somebody else has the key.
    #[error("the price of this quote was never in force for your organisation: request a new one")]
    NeverInForce,
}

/// What a quote may promise: it is checked when the quote is used, so that a stolen key gives no more than the key's owner
/// would have given.
#[derive(Debug, Clone, Copy)]
pub struct Promises<'a> {
    /// The prices in force now and within the last hour.
    pub list: &'a PriceList,
    /// The organisation's default price factor now.
    pub default_factor: PriceFactor,
    /// The longest validity of a quote.
    pub longest: Duration,
}

/// By how much the gateways' readings of the database's clock, and of its prices, may differ.
pub const SPREAD: Duration = Duration::from_secs(15);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

impl Quote {
    /// The signed text of the quote, for the caller.
    pub fn sign(&self, key: &SigningKey) -> String {
        let mut bytes = Vec::with_capacity(CONTENT + SIGNATURE);
        bytes.extend(key.generation.to_be_bytes());
        bytes.extend(self.org.as_uuid().into_bytes());
        bytes.extend(self.book.get().to_be_bytes());
        bytes.extend(self.factor.basis_points().to_be_bytes());
        bytes.extend(self.hold.get().to_be_bytes());
        bytes.extend(self.fingerprint);
        bytes.extend(self.expires.to_be_bytes());
        let signature = key.mac().chain_update(&bytes).finalize().into_bytes();
        bytes.extend(signature);
        format!("{PREFIX}{}", hex(&bytes))
    }

    /// Parses and verifies `text`, which one of `keys` must have signed.
    pub fn open(text: &str, keys: &[SigningKey]) -> Result<Self, BadQuote> {
        Self::verified(text, keys).ok_or(BadQuote::Forged)
    }

    fn verified(text: &str, keys: &[SigningKey]) -> Option<Self> {
        let bytes = unhex(text.strip_prefix(PREFIX)?)?;
        if bytes.len() != CONTENT + SIGNATURE {
            return None;
        }
        let (content, signature) = bytes.split_at(CONTENT);
        let (generation, rest) = content.split_first_chunk()?;
        let generation = i32::from_be_bytes(*generation);
        let key = keys.iter().find(|key| key.generation == generation)?;
        key.mac().chain_update(content).verify_slice(signature).ok()?;
        let (org, rest) = rest.split_first_chunk()?;
        let (book, rest) = rest.split_first_chunk()?;
        let (factor, rest) = rest.split_first_chunk()?;
        let (hold, rest) = rest.split_first_chunk()?;
        let (fingerprint, rest) = rest.split_first_chunk()?;
        let (expires, _) = rest.split_first_chunk()?;
        Some(Self {
            org: OrgId::from_uuid(uuid::Uuid::from_bytes(*org)),
            book: BookVersion::new(i32::from_be_bytes(*book)),
            factor: PriceFactor::new(i32::from_be_bytes(*factor))?,
            hold: Credits::new(i64::from_be_bytes(*hold)),
            fingerprint: *fingerprint,
            expires: i64::from_be_bytes(*expires),
        })
    }

    /// Checks that the quote is valid for this organisation, this body and this instant, and that an honest gateway may have
    /// given it out: it expires no later than `longest` from now, and its book and factor were in force for the organisation at
    /// some instant since it can have been given out.
    pub fn check(
        &self,
        org: OrgId,
        fingerprint: &[u8],
        now: OffsetDateTime,
        promises: &Promises<'_>,
    ) -> Result<(), BadQuote> {
        if self.org != org {
            return Err(BadQuote::OtherOrg);
        }
        if self.expires <= now.unix_timestamp() {
            return Err(BadQuote::Expired);
        }
        if self.fingerprint != fingerprint {
            return Err(BadQuote::OtherBody);
        }
        let given_out = OffsetDateTime::from_unix_timestamp(self.expires)
            .ok()
            .and_then(|expires| expires.checked_sub(promises.longest.try_into().ok()?));
        let Some(given_out) = given_out.filter(|earliest| *earliest <= now + SPREAD) else {
            return Err(BadQuote::TooLong);
        };
        let Promises { list, default_factor, .. } = *promises;
        let since = (given_out - SPREAD).min(now);
        if !list.had_book(self.book, since, now)
            || !list.had_factor(org, self.factor, default_factor, since, now)
        {
            return Err(BadQuote::NeverInForce);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::pricing::PriceBook;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    fn key(generation: i32) -> SigningKey {
        SigningKey::new(generation, NOW, &SigningKey::fresh_secret()).unwrap()
    }

    fn quote() -> Quote {
        Quote {
            org: OrgId::generate(),
            book: BookVersion::new(3),
            factor: PriceFactor::new(8_333).unwrap(),
            hold: Credits::new(334),
            fingerprint: [7; 32],
            expires: NOW.unix_timestamp() + 60,
        }
    }

    fn list() -> PriceList {
        let book = PriceBook { version: quote().book, name: "a book".into(), prices: BTreeMap::new() };
        PriceList {
            books: [(book.version, Arc::new(book))].into(),
            starts: vec![(NOW - Duration::from_secs(3600), quote().book)],
            ..PriceList::default()
        }
    }

    fn promises(list: &PriceList) -> Promises<'_> {
        Promises { list, default_factor: quote().factor, longest: Duration::from_secs(60) }
    }

    #[test]
    fn a_stolen_key_signs_nothing_that_was_never_promised() {
        let (honest, mut list) = (quote(), list());
        let check = |quote: &Quote, list: &PriceList| {
            let promises = Promises { default_factor: honest.factor, ..promises(list) };
            quote.check(quote.org, &quote.fingerprint, NOW, &promises)
        };
        assert_eq!(check(&honest, &list), Ok(()));
        let later = |seconds| Quote { expires: NOW.unix_timestamp() + seconds, ..honest };
        assert_eq!(check(&later(60 + 15), &list), Ok(()), "the clocks of gateways differ a little");
        for seconds in [60 + 16, 3600, 2_366_841_600, i64::MAX - NOW.unix_timestamp()] {
            assert_eq!(check(&later(seconds), &list), Err(BadQuote::TooLong), "{seconds}");
        }
        let free = Quote { factor: PriceFactor::new(0).unwrap(), ..honest };
        assert_eq!(check(&free, &list), Err(BadQuote::NeverInForce));
        let of_another_book = Quote { book: BookVersion::new(4), ..honest };
        assert_eq!(check(&of_another_book, &list), Err(BadQuote::NeverInForce));
        // What was the organisation's own price when the quote can have been given out is kept.
        list.former.insert(honest.org, vec![(NOW - Duration::from_secs(10), free.factor)]);
        assert_eq!(check(&free, &list), Ok(()));
        assert_eq!(check(&Quote { org: OrgId::generate(), ..free }, &list), Err(BadQuote::NeverInForce));
        list.former.insert(honest.org, vec![(NOW - Duration::from_secs(100), free.factor)]);
        assert_eq!(check(&free, &list), Err(BadQuote::NeverInForce), "it had another price by then");
    }

    #[test]
    fn neither_the_database_nor_the_secret_alone_signs() {
        let (of_database, quote) = (key(1), quote());
        let own = Secret::new("0123456789abcdef0123456789abcdef");
        let signing = of_database.clone().under(&own);
        let text = quote.sign(&signing);
        assert_eq!(Quote::open(&text, &[of_database.clone().under(&own)]), Ok(quote));
        assert_eq!(Quote::open(&text, std::slice::from_ref(&of_database)), Err(BadQuote::Forged));
        assert_eq!(Quote::open(&text, &[key(1).under(&own)]), Err(BadQuote::Forged));
        let other = Secret::new("another secret of 32 characters.");
        assert_eq!(Quote::open(&text, &[of_database.clone().under(&other)]), Err(BadQuote::Forged));
        assert_eq!(Quote::open(&quote.sign(&of_database), &[signing]), Err(BadQuote::Forged));
    }

    #[test]
    fn what_one_key_signed_opens_with_it_and_with_no_other() {
        let (old, new, quote) = (key(1), key(2), quote());
        let text = quote.sign(&old);
        assert_eq!(
            Quote::open(&text, &[new.clone(), old.clone()]),
            Ok(quote),
            "a rotation invalidates nothing"
        );
        assert_eq!(Quote::open(&text, std::slice::from_ref(&new)), Err(BadQuote::Forged));
        assert_eq!(Quote::open(&text, &[key(1)]), Err(BadQuote::Forged));
        assert!(!format!("{old:?}").contains(&hex(&old.secret)));
    }

    #[test]
    fn a_quote_binds_its_organisation_its_body_and_its_time() {
        let (quote, list) = (quote(), list());
        let check = |org, body: u8, seconds| {
            quote.check(org, &[body; 32], NOW + Duration::from_secs(seconds), &promises(&list))
        };
        assert_eq!(check(quote.org, 7, 59), Ok(()));
        assert_eq!(check(quote.org, 7, 60), Err(BadQuote::Expired));
        assert_eq!(check(quote.org, 8, 0), Err(BadQuote::OtherBody));
        assert_eq!(check(OrgId::generate(), 7, 0), Err(BadQuote::OtherOrg));
    }

    proptest! {
        #[test]
        fn no_changed_character_passes(place in any::<prop::sample::Index>(), other in "[0-9a-fA-F_ é]") {
            let key = key(1);
            let text = quote().sign(&key);
            let place = place.index(text.len());
            let mut changed = text.clone();
            changed.replace_range(place..=place, &other);
            // Digits in capitals are the same digits.
            prop_assume!(!changed.eq_ignore_ascii_case(&text));
            prop_assert_eq!(Quote::open(&changed, &[key]), Err(BadQuote::Forged));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,300}", hex in "[0-9a-f]{216}") {
            let key = key(1);
            prop_assert!(Quote::open(&text, std::slice::from_ref(&key)).is_err());
            let formed = format!("{PREFIX}{hex}");
            prop_assert!(Quote::open(&formed, &[key]).is_err());
        }
    }
}
