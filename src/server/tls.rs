//! TLS served by the gateway itself. The certificate is read again when its files change; open connections keep theirs.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinError;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::config::{BadPair, Pair, Tls};
use crate::metrics as m;

/// The interval at which the files are checked for changes.
pub const LOOK: Duration = Duration::from_secs(2);

/// A listener's certificate and TLS settings.
pub struct Certificate {
    listener: &'static str,
    files: Tls,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
    /// The state of the files at the last check.
    seen: Mutex<Seen>,
}

/// A digest of the files (not their contents, which include a key), or why they could not be read.
type Seen = Result<[u8; 32], String>;

/// The certificate and key for new connections.
struct Current(ArcSwap<CertifiedKey>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<certificate and key>")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn seen(files: &Result<[Vec<u8>; 2], BadPair>) -> Seen {
    match files {
        // Each file by itself first, so that bytes that move from one file to the other change the digest.
        Ok(files) => Ok(Sha256::digest(files.each_ref().map(Sha256::digest).concat()).into()),
        Err(error) => Err(error.to_string()),
    }
}

impl Certificate {
    /// Reads the certificate and the key of `listener`.
    pub fn new(listener: &'static str, files: &Tls) -> Result<Arc<Self>, BadPair> {
        let read = files.read();
        let seen = Mutex::new(seen(&read));
        let pair = files.parse(&read?)?;
        for outcome in ["ok", "failed"] {
            metrics::counter!(m::TLS_RELOADS, "listener" => listener, "outcome" => outcome).increment(0);
        }
        metrics::counter!(m::TLS_FAILURES, "listener" => listener).increment(0);
        note_end(listener, &pair);
        let current = Arc::new(Current(ArcSwap::from(pair.key)));
        // Early data stays off, as it is by default: an attacker could replay it.
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions();
        let config = config.map_err(|reason| BadPair::Together {
            certificate: files.certificate_file.clone(),
            key: files.key_file.clone(),
            reason,
        })?;
        let mut config = config.with_no_client_auth().with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Arc::new(Self { listener, files: files.clone(), current, acceptor, seen }))
    }

    /// The name of the listener in metrics and in the log.
    pub fn listener(&self) -> &'static str {
        self.listener
    }

    /// Performs the TLS handshake.
    pub(super) async fn accept<I>(&self, stream: I) -> io::Result<TlsStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        self.acceptor.accept(stream).await
    }

    /// Counts a failed handshake.
    pub(super) fn failed(&self, error: impl fmt::Display) {
        metrics::counter!(m::TLS_FAILURES, "listener" => self.listener).increment(1);
        tracing::debug!(%error, listener = self.listener, "a TLS handshake failed");
    }

    /// Reads the files again and takes a new certificate over. Reading may block, because the files may be on a network
    /// file system; so it runs on a thread for such work.
    pub async fn look(self: Arc<Self>) -> Result<(), JoinError> {
        tokio::task::spawn_blocking(move || self.look_at_files()).await
    }

    fn look_at_files(&self) {
        let files = self.files.read();
        let now = seen(&files);
        // Never contended: only one task checks the files.
        let mut last = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == now {
            return;
        }
        *last = now;
        let pair = files.and_then(|files| self.files.parse(&files));
        let outcome = match pair {
            Ok(pair) => {
                note_end(self.listener, &pair);
                self.current.0.store(pair.key);
                tracing::info!(listener = self.listener, "new connections use the new certificate");
                "ok"
            }
            Err(error) => {
                tracing::warn!(%error, listener = self.listener, "the certificate's files have changed but cannot be used: the previous certificate stays in use");
                "failed"
            }
        };
        metrics::counter!(m::TLS_RELOADS, "listener" => self.listener, "outcome" => outcome).increment(1);
    }
}

/// Notifies `changed` at each SIGHUP, until `stop`.
pub async fn hangups(changed: Arc<Notify>, stop: CancellationToken) {
    // Without a handler for the signal the files are read all the same, a little later.
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let hearing = async {
        while hangup.recv().await.is_some() {
            changed.notify_one();
        }
    };
    stop.run_until_cancelled(hearing).await;
}

fn note_end(listener: &'static str, pair: &Pair) {
    metrics::gauge!(m::TLS_EXPIRY, "listener" => listener).set(pair.ends.as_secs_f64());
}
