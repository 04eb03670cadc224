//! The settings of quotes, and the secrets that stored secrets are encrypted under.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::check::Check;
use crate::encryption::StoredSecrets;
use crate::secret::Secret;

/// Quotes that promise a price.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quotes {
    /// Maximum validity of a quote that promises a price. 0: no such quotes. It is checked again when a quote is used.
    // At most 3,000 s, because a gateway keeps the books that were in force within the last hour.
    #[schemars(range(min = 0, max = 3_000))]
    pub max_valid_seconds: u32,
    /// A secret of at least 32 characters that quotes are signed with, together with a key in the database, and that the client
    /// secrets of identity providers are encrypted under; the same for all gateways. Omitted: whoever can read the database can
    /// sign quotes, and read those secrets.
    pub secret: Option<Secret>,
    /// File that holds the secret, instead of `secret`.
    pub secret_file: Option<PathBuf>,
    /// What `secret` was before, while it is being replaced: what is encrypted under it can be read, and a gateway encrypts it
    /// anew when it starts.
    pub former_secret: Option<Secret>,
    /// File that holds the former secret, instead of `former_secret`.
    pub former_secret_file: Option<PathBuf>,
}

impl Default for Quotes {
    fn default() -> Self {
        Self {
            max_valid_seconds: 900,
            secret: None,
            secret_file: None,
            former_secret: None,
            former_secret_file: None,
        }
    }
}

impl Quotes {
    /// What an operator should know: quotes are given out that the database alone is enough to sign.
    pub fn warning(&self) -> Option<&'static str> {
        (self.max_valid_seconds > 0 && self.secret.is_none()).then_some(
            "quotes.secret_file is not set: whoever can read the database can sign quotes for an organisation",
        )
    }

    /// What secrets in the database are encrypted under.
    pub fn stored_secrets(&self) -> StoredSecrets {
        StoredSecrets::under(self.secret.as_ref(), self.former_secret.as_ref())
    }

    pub(super) fn check(&mut self, check: &mut Check<'_>) {
        let (field, file) = ("quotes.secret", "quotes.secret_file");
        self.secret = long_secret(check, field, self.secret.take(), file, &mut self.secret_file);
        let (field, file) = ("quotes.former_secret", "quotes.former_secret_file");
        let former = self.former_secret.take();
        self.former_secret = long_secret(check, field, former, file, &mut self.former_secret_file);
        if self.former_secret.is_some() && self.secret.is_none() {
            check.wrong(field, "given without quotes.secret", "left out, or beside it");
        }
    }
}

/// A secret of at least 32 characters, or none.
fn long_secret(
    check: &mut Check<'_>,
    field: &str,
    value: Option<Secret>,
    file_field: &str,
    file: &mut Option<PathBuf>,
) -> Option<Secret> {
    if value.is_none() && file.is_none() {
        return None;
    }
    let secret = check.secret(field, value, file_field, file);
    if secret.as_ref().is_some_and(|secret| secret.expose().chars().count() < 32) {
        check.wrong(field, "too short", "at least 32 random characters");
    }
    secret
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::tests::{LEAST, problem};

    #[test]
    fn a_secret_of_quotes_is_long_enough_and_may_be_a_file() {
        let long = "0123456789abcdef0123456789abcdef";
        assert!(Config::from_toml(LEAST).unwrap().quotes.warning().is_some());
        assert!(
            Config::from_toml(&format!("{LEAST}\n[quotes]\nmax_valid_seconds = 0"))
                .unwrap()
                .quotes
                .warning()
                .is_none()
        );
        let config = Config::from_toml(&format!("{LEAST}\n[quotes]\nsecret = \"{long}\"")).unwrap();
        assert!(config.quotes.warning().is_none() && !format!("{config:?}").contains(long));
        let file = std::env::temp_dir().join(format!("tollgate-quotes-{}", std::process::id()));
        std::fs::write(&file, format!("{long}\n")).unwrap();
        let of_file = format!("{LEAST}\n[quotes]\nsecret_file = \"{}\"", file.display());
        assert_eq!(Config::from_toml(&of_file).unwrap().quotes.secret.unwrap().expose(), long);
        std::fs::remove_file(&file).unwrap();
        assert!(problem("[quotes]\nsecret = \"short\"").contains("quotes.secret is too short"));
        assert!(
            problem("[quotes]\nsecret_file = \"/nowhere\"").contains("quotes.secret_file names /nowhere")
        );
    }
}
