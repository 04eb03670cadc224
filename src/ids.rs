//! Identifiers: one newtype for each kind of object, so that an organisation's id cannot be used as a hold's.
//!
//! Each has a prefixed text form (`org_0192…`, 32 hex digits) that people, logs and the wire see.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A text that is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an id of the form {prefix}_<32 hex digits>")]
pub struct InvalidId {
    prefix: &'static str,
    text: String,
}

macro_rules! ids {
    ($($(#[doc = $doc:literal])+ $name:ident = $prefix:literal;)*) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The prefix of the text form, before the `_`.
            pub const PREFIX: &str = $prefix;

            /// A new id. Ids ascend with the time (UUIDv7), so that new rows are added at the end of an index.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id as the database stores it.
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }

            /// An id as the database stores it.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "_"))
                    .filter(|hex| hex.len() == 32)
                    .and_then(|hex| Uuid::try_parse(hex).ok())
                    .map(Self)
                    .ok_or_else(|| InvalidId { prefix: $prefix, text: text.chars().take(64).collect() })
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some(concat!("^", $prefix, "_[0-9a-f]{32}$")))
                    .description(Some(concat!($($doc),+).trim()))
                    // Nobody has this id: a call with the example reaches nothing.
                    .examples([concat!($prefix, "_00000000000000000000000000000000")])
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// An organisation: the tenant that owns a balance.
    OrgId = "org";
    /// A team of an organisation.
    TeamId = "team";
    /// A person or program of an organisation.
    UserId = "usr";
    /// An API key; stable over rotations of its secret.
    KeyId = "key";
    /// A reservation of credits for one create. Also the reference a caller gets when the outcome is unknown.
    HoldId = "hold";
    /// An entry of the ledger.
    EntryId = "ent";
    /// A limit of what a key, user, team or organisation may spend in a period.
    BudgetId = "bud";
    /// A request for a temporary raise of a budget.
    BudgetRequestId = "brq";
    /// A token of an operator.
    OperatorTokenId = "opt";
    /// One run of a gateway process.
    GatewayId = "gw";
    /// A price factor with a validity.
    FactorId = "fac";
    /// An identity provider, whose JWTs authenticate callers.
    ProviderId = "idp";
    /// The link of an identity provider's subject to a user.
    IdentityId = "idn";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_refuses_other_kinds() {
        let id = HoldId::generate();
        assert_eq!(id.to_string().parse::<HoldId>().unwrap(), id);
        assert!(id.to_string().parse::<OrgId>().is_err());
        assert!("hold_".parse::<HoldId>().is_err());
        assert!(format!("hold_{}", id.as_uuid()).parse::<HoldId>().is_err(), "hyphens are not the text form");
    }
}
