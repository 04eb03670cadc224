//! The socket of a connection, which can be watched while hyper reads and writes it.
//!
//! hyper does not read while a client that may have closed its half waits for its answer, so it would not notice that the
//! client has reset the connection. The socket itself does.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::call::Peer;

/// A peer that has been silent for this long is probed. One that has lost power or its network never answers; one that has
/// closed both directions forgets the connection after a while, and then answers with a reset.
const SILENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(10);

/// Ready when the peer has closed its direction, or has reset the connection; never because bytes have arrived.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOSED: Interest = Interest::PRIORITY.add(Interest::ERROR);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOSED: Interest = Interest::ERROR;

/// A TCP connection. Clones are the same connection; it is closed with the last of them.
#[derive(Debug, Clone)]
pub(super) struct Socket(Arc<TcpStream>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Neither option is needed for a right answer.
        drop(stream.set_nodelay(true));
        let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(INTERVAL);
        drop(SockRef::from(&stream).set_tcp_keepalive(&keepalive));
        Self(Arc::new(stream))
    }

    /// The connection, which may have been closed.
    pub(super) fn weak(&self) -> Weak<TcpStream> {
        Arc::downgrade(&self.0)
    }

    /// Waits until the peer has sent something; false: it has closed the connection instead.
    pub(super) async fn has_bytes(&self) -> bool {
        matches!(self.0.peek(&mut [0]).await, Ok(1..))
    }

    /// Tells `peer` when the client has closed its direction. Completes when the connection is broken: nothing that is written
    /// to it arrives.
    pub(super) async fn broken(&self, peer: &Peer) {
        match self.0.ready(CLOSED).await {
            Ok(ready) if ready.is_error() => return,
            Ok(_) => peer.has_half_closed(),
            Err(_) => std::future::pending().await,
        }
        if self.0.ready(Interest::ERROR).await.is_err() {
            std::future::pending().await
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(|_| ())),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match SockRef::from(&*self.0).shutdown(Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
            _ => Ok(()),
        })
    }
}
