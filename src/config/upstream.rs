//! The configuration of the vendor's backends and accounts.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::check::Check;
use super::ms;
use crate::https::Proxy;
use crate::secret::Secret;

#[cfg(test)]
mod tests;

/// The vendor's two backends, which may be the same one.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstreams {
    /// The backend of the 3.0 family of task types.
    pub kling_3: UpstreamConfig,
    /// The backend of task types that begin with `o3-`; omitted: the same as `kling_3`.
    pub kling_o3: Option<UpstreamConfig>,
    /// URL of a proxy, such as `http://proxy.example:3128`, through which the vendor and identity providers are called (HTTP
    /// `CONNECT`); omitted: they are called directly. Proxy variables of the environment are ignored.
    pub proxy_url: Option<Url>,
    /// `user:password` for the proxy.
    pub proxy_credentials: Option<Secret>,
    /// File that holds the credentials, instead of `proxy_credentials`.
    pub proxy_credentials_file: Option<PathBuf>,
    /// Hosts that are called directly although there is a proxy: names (with all names below them), addresses, networks; no
    /// scheme, no port. This machine always is.
    #[serde(default)]
    pub proxy_exceptions: Vec<String>,
}

impl Upstreams {
    /// One backend for all task types, which is called directly.
    pub fn of(kling_3: UpstreamConfig) -> Self {
        Self {
            kling_3,
            kling_o3: None,
            proxy_url: None,
            proxy_credentials: None,
            proxy_credentials_file: None,
            proxy_exceptions: Vec::new(),
        }
    }

    /// The proxy on the way to the internet.
    pub(super) fn proxy(&self) -> Option<Proxy> {
        let credentials = self.proxy_credentials.as_ref().map(Secret::expose);
        Proxy::new(self.proxy_url.as_ref()?, credentials, &self.proxy_exceptions)
    }
}

/// One backend of the vendor: its address and the accounts that pay for its tasks.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// URL of the backend, without `/api`, which the gateway adds.
    pub base_url: Url,
    /// Name of the only account in the ledger; omitted: `main`.
    pub account: Option<String>,
    /// Master key of the only account.
    pub master_key: Option<Secret>,
    /// File that holds the master key, instead of `master_key`.
    pub master_key_file: Option<PathBuf>,
    /// Several accounts, instead of `account` and `master_key`.
    #[serde(default)]
    pub accounts: Vec<AccountConfig>,
    /// Time-out for connecting, TLS included.
    #[serde(default = "five_seconds")]
    #[schemars(range(min = 10, max = 3_600_000))]
    pub connect_timeout_ms: u64,
    /// Time-out for the answer to a create to begin; omitted: 240000, or `create_timeout_ms` if that is less.
    #[schemars(range(min = 10, max = 3_600_000))]
    pub first_byte_timeout_ms: Option<u64>,
    /// Time-out for the whole answer to a create. It counts on when the client has left.
    #[serde(default = "five_minutes")]
    #[schemars(range(min = 10, max = 3_600_000))]
    pub create_timeout_ms: u64,
    /// Time-out for the whole answer to a status call.
    #[serde(default = "ten_seconds")]
    #[schemars(range(min = 10, max = 3_600_000))]
    pub status_timeout_ms: u64,
    /// Time after which idle connections are closed; less than the vendor's own time-out.
    #[serde(default = "fifteen_seconds")]
    #[schemars(range(min = 10, max = 3_600_000))]
    pub idle_timeout_ms: u64,
    /// How long a create that the vendor refuses with 429 is retried.
    #[serde(default = "ten_seconds")]
    #[schemars(range(min = 0, max = 10_000))]
    pub retry_429_ms: u64,
    /// Number of failures within ten seconds that opens the breaker, if they are at least half of the calls. Creates and
    /// status calls have a breaker each. 0: it never opens.
    #[serde(default = "five")]
    pub breaker_failures: u32,
    /// Approximate time that the breaker stays open, before it lets calls through again one at a time.
    #[serde(default = "ten_seconds")]
    #[schemars(range(min = 10, max = 3_600_000))]
    pub breaker_open_ms: u64,
    /// Maximum number of creates in flight; one organisation gets at most half of them.
    #[serde(default = "four_thousand_and_ninety_six")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_creates: usize,
    /// Maximum number of status calls in flight; one organisation gets at most half of them.
    #[serde(default = "sixty_four")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_polls: usize,
}

impl UpstreamConfig {
    /// The backend at `base_url` with one account, and defaults for everything else.
    pub fn of(base_url: Url, master_key: Secret) -> Self {
        Self {
            base_url,
            account: None,
            master_key: Some(master_key),
            master_key_file: None,
            accounts: Vec::new(),
            connect_timeout_ms: five_seconds(),
            first_byte_timeout_ms: None,
            create_timeout_ms: five_minutes(),
            status_timeout_ms: ten_seconds(),
            idle_timeout_ms: fifteen_seconds(),
            retry_429_ms: ten_seconds(),
            breaker_failures: five(),
            breaker_open_ms: ten_seconds(),
            max_creates: four_thousand_and_ninety_six(),
            max_polls: sixty_four(),
        }
    }

    /// The time-out for the answer to a create to begin.
    pub fn first_byte_timeout(&self) -> Duration {
        ms(self.first_byte_timeout_ms.unwrap_or(240_000).min(self.create_timeout_ms))
    }
}

/// An account of a backend, with its master key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
    /// Name of the account in the ledger. Tasks stay with their account: keep the name as long as the account has tasks.
    pub name: String,
    /// Master key of the account.
    pub master_key: Option<Secret>,
    /// File that holds the master key, instead of `master_key`.
    pub master_key_file: Option<PathBuf>,
    /// Weight of the account among the others when new tasks are spread; 0: it gets none and finishes those it has.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: u32,
}

fn one() -> u32 {
    1
}
fn five() -> u32 {
    5
}
fn sixty_four() -> usize {
    64
}
fn four_thousand_and_ninety_six() -> usize {
    4096
}
fn five_seconds() -> u64 {
    5_000
}
fn ten_seconds() -> u64 {
    10_000
}
fn fifteen_seconds() -> u64 {
    15_000
}
fn five_minutes() -> u64 {
    300_000
}

impl Upstreams {
    pub(super) fn check(&mut self, check: &mut Check<'_>) {
        let unnamed = |upstream: &UpstreamConfig| upstream.account.is_none() && upstream.accounts.is_empty();
        let kling_3 = &mut self.kling_3;
        let kling_3_unnamed = unnamed(kling_3);
        check_upstream(check, "upstream.kling_3", kling_3);
        check_proxy(check, &self.proxy_url, &self.proxy_exceptions);
        let (field, file) = ("upstream.proxy_credentials", "upstream.proxy_credentials_file");
        if self.proxy_credentials.is_some() || self.proxy_credentials_file.is_some() {
            let given = self.proxy_credentials.take();
            let credentials = check.secret(field, given, file, &mut self.proxy_credentials_file);
            let text = credentials.as_ref().map(Secret::expose);
            if text.is_some_and(|text| !text.contains(':') || text.chars().any(char::is_control)) {
                check.wrong(field, "not shown", "of the form user:password");
            }
            if self.proxy_url.is_none() {
                check.wrong(field, "given without proxy_url", "left out, or beside it");
            }
            self.proxy_credentials = credentials;
        }
        let Some(o3) = &mut self.kling_o3 else { return };
        // Then both accounts are called `main`, which is allowed: tasks are looked up by their backend too.
        let both_unnamed = kling_3_unnamed && unnamed(o3);
        check_upstream(check, "upstream.kling_o3", o3);
        let same = |a: &AccountConfig, b: &AccountConfig| {
            a.master_key == b.master_key && kling_3.base_url == o3.base_url
        };
        let clash = o3.accounts.iter().find(|theirs| {
            kling_3.accounts.iter().any(|ours| ours.name == theirs.name && !same(ours, theirs))
        });
        match clash {
            // Two tasks with the same id, on accounts with the same name, are one task to the ledger.
            Some(account) if !both_unnamed => check.wrong(
                "upstream.kling_o3: the name of an account",
                format!("'{}'", account.name),
                "another than those of kling_3, unless base_url and master_key are the same",
            ),
            _ => {}
        }
    }
}

fn check_upstream(check: &mut Check<'_>, section: &str, upstream: &mut UpstreamConfig) {
    let url = &upstream.base_url;
    let field = format!("{section}.base_url");
    if !matches!(url.scheme(), "http" | "https")
        || url.host().is_none()
        || url.query().is_some()
        || url.fragment().is_some()
        || !url.username().is_empty()
        || url.password().is_some()
    {
        // Not shown, because the URL may hold a password.
        check.wrong(&field, "not usable", "an http or https URL without user and query");
    }
    let path = url.path().trim_end_matches('/');
    if let Some(end) = ["/api", "/api/generate", "/api/status"].into_iter().find(|end| path.ends_with(end)) {
        check.problem(&field, format!("it ends in {end}, which the gateway adds by itself: leave that out"));
    }
    let first_byte = *upstream.first_byte_timeout_ms.get_or_insert(upstream.create_timeout_ms.min(240_000));
    if first_byte > upstream.create_timeout_ms {
        let field = format!("{section}.first_byte_timeout_ms");
        check.wrong(&field, first_byte.to_string(), "at most create_timeout_ms");
    }
    check_accounts(check, section, upstream);
}

fn check_proxy(check: &mut Check<'_>, url: &Option<Url>, exceptions: &[String]) {
    if let Some(url) = url {
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if url.scheme() != "http" || url.host().is_none() || !plain || url.path() != "/" {
            // Not shown, because the URL may hold a password.
            check.wrong(
                "upstream.proxy_url",
                "not usable",
                "an http URL without user and path, such as http://proxy.example:3128; credentials go into \
                 proxy_credentials_file",
            );
        }
    }
    let field = "upstream.proxy_exceptions";
    if let Some(host) = exceptions.iter().find(|host| !is_host(host)) {
        let right = "a list of names (as DNS has them), addresses and networks, each by itself, without scheme and port";
        check.wrong(field, format!("'{}'", host.escape_default()), right);
    }
    if url.is_none() && !exceptions.is_empty() {
        check.wrong(field, "given without proxy_url", "left out, or beside it");
    }
}

/// Whether a server can have this name or address, or an address in this network.
fn is_host(text: &str) -> bool {
    let network = text.parse::<IpNet>().ok();
    if let Some(address) = network.map(|network| network.addr()).or_else(|| text.parse().ok()) {
        // An IPv4 address is compared as one, and never in its IPv6 form.
        return !matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
    }
    let labels = text.strip_prefix('.').unwrap_or(text).split('.');
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    // What ends in a number is an address, if anything.
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    labels.clone().all(is_label) && !labels.clone().next_back().is_some_and(is_number)
}

/// Moves every account into `accounts`, checks it and reads its key.
fn check_accounts(check: &mut Check<'_>, section: &str, upstream: &mut UpstreamConfig) {
    let fields = |within: &str| {
        ["name", "master_key", "master_key_file"].map(|field| format!("{section}.{within}{field}"))
    };
    let [_, mut key_field, mut file_field] = fields("");
    let mut name_field = format!("{section}.account");
    let (name, key, file) =
        (upstream.account.take(), upstream.master_key.take(), upstream.master_key_file.take());
    if upstream.accounts.is_empty() {
        let name = name.unwrap_or_else(|| "main".into());
        upstream.accounts = vec![AccountConfig { name, master_key: key, master_key_file: file, weight: 1 }];
    } else {
        let given =
            [(&name_field, name.is_some()), (&key_field, key.is_some()), (&file_field, file.is_some())];
        for (field, _) in given.into_iter().filter(|(_, given)| *given) {
            check.wrong(field, "given beside accounts", "left out: each of the accounts has its own");
        }
        [name_field, key_field, file_field] = fields("accounts.");
    }
    let mut names = HashSet::new();
    for account in &mut upstream.accounts {
        if account.name.is_empty() || account.name.len() > 64 {
            check.wrong(&name_field, format!("'{}'", account.name), "a name of 1 to 64 characters");
        }
        if !names.insert(account.name.clone()) {
            check.wrong(&name_field, format!("'{}' twice", account.name), "a name that no other account has");
        }
        let key = account.master_key.take();
        account.master_key = check.secret(&key_field, key, &file_field, &mut account.master_key_file);
        let text = account.master_key.as_ref().map(Secret::expose).unwrap_or_default();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            check.wrong(&key_field, "not shown", "visible ASCII without spaces");
        }
    }
    if upstream.accounts.iter().all(|account| account.weight == 0) {
        let field = format!("{section}.accounts.weight");
        check.wrong(&field, "0 for all", "above 0 for one of them at least");
    }
}
