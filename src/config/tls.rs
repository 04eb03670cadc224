//! Certificates and keys, read from files: a listener's own, and those that are trusted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode;

use super::ConfigError;
use super::check::Check;
use super::files::written_by_others;
use crate::https::{BadTrust, unread};

/// HTTPS, with TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2. Both files are read again when they change, and at SIGHUP.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate, followed by its intermediate certificates.
    pub certificate_file: PathBuf,
    /// PEM file with the private key of the certificate.
    pub key_file: PathBuf,
}

/// What the gateway trusts when it connects to others by TLS: the vendor, identity providers, the trace collector, the
/// database.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Trusted {
    /// PEM file of certificate authorities that are trusted besides those that the machine trusts, such as a company's own. For
    /// the database it counts with `sslmode=verify-full` or `verify-ca`, unless its URL has an `sslrootcert`.
    pub extra_ca_file: Option<PathBuf>,
}

/// The file of `tls.extra_ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("tls.extra_ca_file: {}: {reason}", file.display())]
pub struct BadExtraAuthorities {
    pub(super) file: PathBuf,
    pub(super) reason: BadTrust,
}

/// A certificate with its key.
pub struct Pair {
    pub key: Arc<CertifiedKey>,
    /// When the certificate expires, since the Unix epoch.
    pub ends: Duration,
}

/// Why two files are not a certificate and its key.
#[derive(Debug, thiserror::Error)]
pub enum BadPair {
    /// A file cannot be read, or is not PEM of the right kind.
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    /// The key does not belong to the certificate.
    #[error("{key} is not the key of {certificate}: {reason}")]
    Together { certificate: PathBuf, key: PathBuf, reason: rustls::Error },
}

impl Tls {
    /// The contents of both files, to parse, and to notice changes by.
    pub fn read(&self) -> Result<[Vec<u8>; 2], BadPair> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| BadPair::File {
                path: path.to_owned(),
                reason: format!("cannot be read: {}", unread(&error)),
            })
        };
        Ok([read(&self.certificate_file)?, read(&self.key_file)?])
    }

    /// Parses the contents that [`Tls::read`] has read.
    pub fn parse(&self, [certificate, key]: &[Vec<u8>; 2]) -> Result<Pair, BadPair> {
        let bad = |path: &Path, what: &str| {
            let (path, what) = (path.to_owned(), what.to_owned());
            // Without the parser's message, which may quote a key.
            move |_: pem::Error| BadPair::File { path, reason: format!("there is no {what} in it (PEM)") }
        };
        let no_chain = || bad(&self.certificate_file, "certificate");
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(no_chain())?;
        if chain.is_empty() {
            return Err(no_chain()(pem::Error::NoItemsFound));
        }
        let ends = CertificateInner::<Raw>::from_der(&chain[0]).map_err(|reason| BadPair::File {
            path: self.certificate_file.clone(),
            reason: format!("its first certificate cannot be read ({reason})"),
        })?;
        let ends = ends.tbs_certificate().validity().not_after.to_unix_duration();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(bad(&self.key_file, "private key"))?;
        match CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()) {
            Ok(key) => Ok(Pair { key: Arc::new(key), ends }),
            Err(reason) => Err(BadPair::Together {
                certificate: self.certificate_file.clone(),
                key: self.key_file.clone(),
                reason,
            }),
        }
    }

    /// Reads both files of the listener of `section`, whose problems name that section.
    pub(super) fn check(&self, section: &'static str, check: &mut Check<'_>) {
        if let Err(reason) = self.read().and_then(|files| self.parse(&files)) {
            let reason = Box::new(reason);
            check.add(&format!("{section}.tls"), |origin| ConfigError::Tls { origin, section, reason });
        }
        if let Some(mode) = written_by_others(&self.key_file) {
            let path = self.key_file.display();
            check.problem(
                &format!("{section}.tls.key_file"),
                format!(
                    "{path} may be written by every user of this machine (mode {mode:03o}): chmod o-w it"
                ),
            );
        }
    }
}
