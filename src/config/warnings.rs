//! What will work, but should not stay so, in sentences for the operator.

use std::path::PathBuf;

use url::Url;

use super::database_url::{is_exposed, is_local};
use super::files::{changeable, read_by_others};
use super::{Config, UpstreamConfig};

impl Config {
    /// What will work, but should not stay so: secrets that cross a network unencrypted, and keys that others may read.
    /// `files` are those that this configuration named before they were read.
    pub(super) fn find_warnings(&self, files: &[(String, PathBuf)]) -> Vec<String> {
        let mut found = self.in_clear();
        found.extend(self.open_files(files));
        found
    }

    /// Secrets that cross a network unencrypted.
    fn in_clear(&self) -> Vec<String> {
        let mut found = Vec::new();
        let is_plain = |url: &Url| url.scheme() == "http" && !is_local(url);
        for (name, backend) in self.backends() {
            if is_plain(&backend.base_url) {
                found.push(format!(
                    "upstream.{name}.base_url is plain HTTP to another host: everybody on the way can read the master key \
                     and change answers; use https"
                ));
            }
        }
        if let Some(url) = &self.telemetry.otlp_endpoint
            && is_plain(url)
            && !self.telemetry.headers.is_empty()
        {
            found.push(
                "telemetry.otlp_endpoint is plain HTTP to another host, and telemetry.headers_file has secrets for it; use \
                 https"
                    .into(),
            );
        }
        if self.database.servers().iter().any(|url| is_exposed(url.expose())) {
            found.push(
                "the database is on another host, and its URL does not ask for TLS: add ?sslmode=verify-full and \
                 sslrootcert=FILE (or ?sslmode=require, which does not check whose server it is)"
                    .into(),
            );
        }
        for (section, listen, tls, behind) in [
            ("server", self.server.listen, &self.server.tls, !self.server.trusted_proxies.is_empty()),
            ("admin", self.admin.listen, &self.admin.tls, false),
        ] {
            if !listen.ip().is_loopback() && tls.is_none() && !behind {
                found.push(format!(
                    "{section}.listen is {listen} without {section}.tls: keys and tokens cross the network in clear, unless \
                     something in front of it has TLS and no other host reaches it; use {section}.tls, or 127.0.0.1"
                ));
            }
        }
        found
    }

    /// Files of secrets and of trusted authorities that others may read or replace.
    fn open_files(&self, files: &[(String, PathBuf)]) -> Vec<String> {
        let authorities = self.tls.extra_ca_file.iter().map(|path| ("tls.extra_ca_file", path));
        let secrets = files.iter().map(|(field, path)| (field.as_str(), path));
        let all = authorities.chain(secrets);
        let mut found: Vec<String> = all.filter_map(|(field, path)| changeable(field, path)).collect();
        for (field, path) in files.iter().filter(|(_, path)| read_by_others(path)) {
            found.push(format!(
                "{field}: {} may be read by every user of this machine: chmod o-r it",
                path.display()
            ));
        }
        found
    }

    /// The files of secrets that are named, before they are read.
    pub(super) fn secret_files(&self) -> Vec<(String, PathBuf)> {
        let mut files = vec![
            ("admin.bootstrap_token_file".to_owned(), self.admin.bootstrap_token_file.clone()),
            ("database.url_file".to_owned(), self.database.url_file.clone()),
            ("telemetry.headers_file".to_owned(), self.telemetry.headers_file.clone()),
            ("quotes.secret_file".to_owned(), self.quotes.secret_file.clone()),
            ("quotes.former_secret_file".to_owned(), self.quotes.former_secret_file.clone()),
            ("upstream.proxy_credentials_file".to_owned(), self.upstream.proxy_credentials_file.clone()),
        ];
        for (section, tls) in [("server", &self.server.tls), ("admin", &self.admin.tls)] {
            files.push((format!("{section}.tls.key_file"), tls.as_ref().map(|tls| tls.key_file.clone())));
        }
        for (name, backend) in self.backends() {
            files.push((format!("upstream.{name}.master_key_file"), backend.master_key_file.clone()));
            for account in &backend.accounts {
                files.push((
                    format!("upstream.{name}.accounts.master_key_file"),
                    account.master_key_file.clone(),
                ));
            }
        }
        files.into_iter().filter_map(|(field, path)| Some((field, path?))).collect()
    }

    /// The backends that are configured, by the names of their sections.
    fn backends(&self) -> impl Iterator<Item = (&'static str, &UpstreamConfig)> {
        let second = self.upstream.kling_o3.as_ref().map(|backend| ("kling_o3", backend));
        std::iter::once(("kling_3", &self.upstream.kling_3)).chain(second)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::tests::LEAST;

    #[test]
    fn a_listener_for_other_hosts_without_tls_is_warned_of() {
        let warned = |more: &str| Config::from_toml(&format!("{LEAST}\n{more}")).unwrap().warnings.join("\n");
        assert!(!warned("").contains("in clear"));
        assert!(
            warned("[server]\nlisten = \"0.0.0.0:8080\"").contains("server.listen is 0.0.0.0:8080 without")
        );
        assert!(warned("[admin]\nlisten = \"[::]:8081\"").contains("admin.listen is [::]:8081 without"));
        let behind = "[server]\nlisten = \"0.0.0.0:8080\"\ntrusted_proxies = [\"10.0.0.0/8\"]";
        assert!(!warned(behind).contains("in clear"));
    }

    #[test]
    fn what_crosses_a_network_unencrypted_is_warned_of() {
        let warnings = |database: &str, upstream: &str| {
            let text = format!(
                "[database]\nurl = \"{database}\"\n[upstream.kling_3]\nbase_url = \"{upstream}\"\nmaster_key = \"k\"\n"
            );
            Config::from_toml(&text).unwrap().warnings.len()
        };
        assert_eq!(warnings("postgres://localhost/x", "https://vendor.example"), 0);
        assert_eq!(warnings("postgres://localhost/x", "http://127.0.0.1:9090"), 0);
        assert_eq!(warnings("postgres://db.example/x?sslmode=verify-full", "https://vendor.example"), 0);
        assert_eq!(warnings("postgres://db.example/x", "http://vendor.example"), 2);
    }
}
