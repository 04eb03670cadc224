//! The listener, its connections and their end.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::service::handle;
use super::shared::Shared;

/// How long calls in flight may take once the simulator is told to stop.
const GRACE: Duration = Duration::from_secs(1);

/// Accepts until `shutdown`, then lets calls in flight finish for a moment.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, shutdown: impl Future<Output = ()>) {
    let connections = TaskTracker::new();
    let kill = CancellationToken::new();
    // A caller may drop this future instead of shutting it down; its connections must not outlive it.
    let _stop_on_drop = shared.stopping.clone().drop_guard();
    let _kill_on_drop = kill.clone().drop_guard();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, Arc::clone(&shared), kill.clone()));
            }
            Err(error) => refused(&error).await,
        }
    }
    drop(listener);
    shared.stopping.cancel();
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        kill.cancel();
        connections.wait().await;
    }
}

/// Waits before the next attempt: the process is most likely out of file descriptors, and a loop would only burn CPU.
async fn refused(error: &io::Error) {
    let one_client =
        matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
    if !one_client {
        tracing::warn!(%error, "the simulator cannot accept a connection; trying again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, kill: CancellationToken) {
    // Small answers would otherwise wait for the peer's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the client left before its connection was set up");
        return;
    }
    let stopping = shared.stopping.clone();
    let service = service_fn(move |request| handle(Arc::clone(&shared), request));
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let mut result = tokio::select! {
        biased;
        result = connection.as_mut() => Some(result),
        () = stopping.cancelled() => None,
    };
    if result.is_none() {
        connection.as_mut().graceful_shutdown();
        result = tokio::select! {
            result = connection.as_mut() => Some(result),
            () = kill.cancelled() => None,
        };
    }
    // Scripted cuts end here too, so this is logged at debug level only.
    if let Some(Err(error)) = result {
        tracing::debug!(%error, "a connection of the simulator ended early");
    }
}
