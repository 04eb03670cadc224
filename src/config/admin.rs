//! The settings of the operations listener.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Tls;
use super::check::Check;
use crate::api_key::{OPERATOR_ENV, PresentedKey};
use crate::secret::Secret;

/// The operations listener: health, metrics, the management API.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address of the operations listener; keep it off public networks.
    pub listen: SocketAddr,
    /// The first operator token, used while the database has none. Omitted: the first start creates one and prints it.
    pub bootstrap_token: Option<Secret>,
    /// File that holds the token, instead of `bootstrap_token`.
    pub bootstrap_token_file: Option<PathBuf>,
    /// Serve HTTPS instead of HTTP.
    pub tls: Option<Tls>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            bootstrap_token: None,
            bootstrap_token_file: None,
            tls: None,
        }
    }
}

impl Admin {
    pub(super) fn check(&mut self, check: &mut Check<'_>) {
        let (field, file) = ("admin.bootstrap_token", "admin.bootstrap_token_file");
        if self.bootstrap_token.is_none() && self.bootstrap_token_file.is_none() {
            return;
        }
        let token = check.secret(field, self.bootstrap_token.take(), file, &mut self.bootstrap_token_file);
        let Some(token) = token else { return };
        if PresentedKey::parse(token.expose()).is_none_or(|presented| presented.env != OPERATOR_ENV) {
            check.wrong(field, "not a token", "one that 'tollgate operator-token' printed");
        }
        self.bootstrap_token = Some(token);
    }
}
