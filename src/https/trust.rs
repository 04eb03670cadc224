//! The server certificates that are accepted.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::unverified::AnyCertificate;

/// The server certificates that are accepted.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Certificates of the authorities that this machine trusts, and of additional ones. `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` replace what the machine trusts, as for other programs. A machine without any authority, such as
    /// an empty container, trusts the public authorities that are built into the program.
    Machine(Option<Authorities>),
    /// Certificates of the authorities in this PEM text, and of no others.
    Only(Vec<u8>),
    /// Every certificate. Only for a server on this machine that is sent no secret and whose answer permits nothing.
    Any,
}

/// Why a file cannot be read, in words for people.
pub fn unread(error: &std::io::Error) -> String {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::NotFound => "there is no such file".into(),
        K::PermissionDenied => "this user may not read it".into(),
        K::IsADirectory => "it is a directory".into(),
        K::NotADirectory => "a part of its path is no directory".into(),
        K::InvalidData => "it is not text (UTF-8)".into(),
        other => other.to_string(),
    }
}

/// Authorities that are trusted besides those of the machine: a company's own.
#[derive(Debug, Clone)]
pub struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Reads the certificates in a PEM file, which must have one at least.
    pub fn read(file: &Path) -> Result<Self, BadTrust> {
        let pem = std::fs::read(file)
            .map_err(|error| BadTrust::Pem(format!("it cannot be read: {}", unread(&error))))?;
        Ok(Self(Arc::new(authorities(&pem)?)))
    }
}

/// The configured trust cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BadTrust {
    /// The PEM text has no certificate, or a broken one.
    #[error("{0}")]
    Pem(String),
    /// `SSL_CERT_FILE` or `SSL_CERT_DIR` names no usable certificate.
    #[error("SSL_CERT_FILE and SSL_CERT_DIR name no certificate that can be used: {0}")]
    Machine(String),
    /// The TLS library refuses its configuration.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

pub(super) fn tls(trust: &Trust) -> Result<ClientConfig, BadTrust> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(match trust {
        Trust::Machine(more) => {
            let mut roots = machine()?;
            if let Some(Authorities(more)) = more {
                roots.roots.extend(more.roots.iter().cloned());
            }
            config.with_root_certificates(roots)
        }
        Trust::Only(pem) => config.with_root_certificates(authorities(pem)?),
        Trust::Any => {
            config.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate::default()))
        }
    }
    .with_no_client_auth())
}

/// The authorities that this machine trusts. They are read once: reading them takes some milliseconds, and there are
/// several clients.
fn machine() -> Result<RootCertStore, BadTrust> {
    static ROOTS: OnceLock<Result<RootCertStore, String>> = OnceLock::new();
    ROOTS.get_or_init(read_machine).clone().map_err(BadTrust::Machine)
}

fn read_machine() -> Result<RootCertStore, String> {
    // A file that somebody names is meant, whatever else is found.
    if let Some(file) = named("SSL_CERT_FILE")
        && let Err(error) = std::fs::File::open(&file)
    {
        return Err(format!("SSL_CERT_FILE is {}, which cannot be read: {}", file.display(), unread(&error)));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some of a machine's certificates are often unusable, and nobody misses them.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable > 0 {
        return Ok(roots);
    }
    if ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| named(name).is_some()) {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(if errors.is_empty() { "there is none".into() } else { errors.join("; ") });
    }
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Ok(roots)
}

/// What a variable says; nothing if it is empty, as Compose leaves variables that have no value.
fn named(variable: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(variable).filter(|value| !value.is_empty())
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, BadTrust> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| BadTrust::Pem(error.to_string()))?;
        roots.add(certificate).map_err(|error| BadTrust::Pem(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(BadTrust::Pem("there is no certificate in it (PEM)".into()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        for pem in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(tls(&Trust::Only(pem.into())), Err(BadTrust::Pem(_))), "{pem}");
        }
        let missing = Authorities::read(Path::new("/nowhere/ca.crt")).unwrap_err().to_string();
        assert!(missing.contains("cannot be read"), "{missing}");
    }
}
