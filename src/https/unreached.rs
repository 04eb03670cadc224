//! Why a server was not reached: a word for figures and records, and a sentence for whoever must mend it.

use std::error::Error;
use std::io::{self, ErrorKind};

use rustls::CertificateError;

use super::route::NoTunnel;

/// Why no connection to a server could be opened. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreached {
    /// The name of the server has no address.
    Name,
    /// Nobody listens at the address.
    Refused,
    /// The connection was not there in time.
    Time,
    /// The server's certificate is not accepted.
    Certificate,
    /// The TLS handshake failed for another reason.
    Tls,
    /// The proxy opened no tunnel to the server.
    Proxy,
    /// Another reason, such as a network that cannot be reached.
    Other,
}

/// The errors behind `error`, which stands first. The error inside an [`io::Error`] is not its source, but is looked at too.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

/// Whether a server's certificate was refused because its authority is not trusted here.
fn is_untrusted(cause: &(dyn Error + 'static)) -> bool {
    let tls = cause.downcast_ref::<rustls::Error>();
    matches!(tls, Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)))
}

const UNTRUSTED: &str = "the server's certificate is signed by an authority that is not trusted here: if it is a company's own, \
                         name its certificate in tls.extra_ca_file";

/// What to do, if an error is about a server whose certificate's authority is not trusted here.
pub fn untrusted(error: &(dyn Error + 'static)) -> Option<&'static str> {
    causes(error).any(is_untrusted).then_some(UNTRUSTED)
}

/// The texts of an error and of its causes: a library's own text is often only `client error (Connect)`.
pub fn reasons(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = if is_untrusted(cause) { UNTRUSTED.into() } else { cause.to_string() };
        // An `io::Error` has the text of what is inside it.
        if texts.last().is_none_or(|last| *last != text) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

impl Unreached {
    /// The reason that an error of connecting gives.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut found = Self::Other;
        for cause in causes(error) {
            if cause.is::<NoTunnel>() {
                return Self::Proxy;
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                let certificate = matches!(tls, rustls::Error::InvalidCertificate(_));
                return if certificate { Self::Certificate } else { Self::Tls };
            }
            if cause.is::<tokio::time::error::Elapsed>() {
                return Self::Time;
            }
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                match error.kind() {
                    ErrorKind::ConnectionRefused => return Self::Refused,
                    ErrorKind::TimedOut => return Self::Time,
                    _ => {}
                }
            }
            // The library has no public type for it.
            if cause.to_string() == "dns error" {
                found = Self::Name;
            }
        }
        found
    }
}
