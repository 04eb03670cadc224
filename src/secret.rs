//! Secrets, which cannot be printed by accident.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// A secret text. `Debug` does not show it and there is no `Display`; it is read only by [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The usual error would show the value.
        String::deserialize(deserializer).map(Self).map_err(|_| {
            D::Error::custom(
                "a secret must be a string; in the environment, put one that looks like a number in quotes",
            )
        })
    }
}

/// Deserializes a list of secrets. The error for another value does not show the value.
pub fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    Vec::deserialize(deserializer).map_err(|_| {
        D::Error::custom(r#"it must be a list of secret strings; in the environment: '["…","…"]'"#)
    })
}

/// Marked as write-only, so that no example or default of a secret is shown.
impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret text, only for code that must send or hash it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the secret is an empty text.
    pub fn is_empty(&self) -> bool {
        self.0.trim().is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_blind() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "<secret>");
    }
}
