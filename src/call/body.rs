//! The body of a request, which is drained if it is refused.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio_util::task::TaskTracker;

use crate::bulk::ByteShare;

/// Limits for draining a refused body.
const DRAIN_BYTES: usize = 32 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A rest of at most this many bytes arrives before its draining ends, and its connection can be used again.
const SHORT: u64 = 1 << 20;

/// A body that has arrived.
#[derive(Debug)]
pub struct ReadBody {
    pub bytes: Bytes,
    /// Room for the body and one copy of it.
    pub share: ByteShare,
}

/// The unread body of a request. When it is dropped unread, a task drains it, within limits: a client that is still sending
/// would otherwise find its connection reset, and never see why it was refused.
#[derive(Debug, Default)]
pub struct RequestBody {
    /// None once the body has ended or was cut off.
    body: Option<Body>,
    draining: Option<TaskTracker>,
    left: Left,
}

/// Whether so much of a request's body was left unread that its connection may be closed before the rest has arrived. The
/// answer must say so, or the client uses the connection for its next request, which is then cut off.
#[derive(Debug, Clone, Default)]
pub struct Left(Arc<AtomicBool>);

impl Left {
    /// Only to be asked once the body is dropped.
    pub fn much(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl RequestBody {
    /// `draining` runs the task that drains the body; without it the body is not drained.
    pub fn new(body: Body, draining: Option<TaskTracker>) -> Self {
        Self { body: Some(body), draining, left: Left::default() }
    }

    /// Tells what was left of the body when it was dropped.
    pub fn left(&self) -> Left {
        self.left.clone()
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        if http_body::Body::is_end_stream(&body) {
            return;
        }
        let short = http_body::Body::size_hint(&body).upper().is_some_and(|rest| rest <= SHORT);
        let Some(draining) = self.draining.take() else {
            self.left.0.store(true, Ordering::Relaxed);
            return;
        };
        self.left.0.store(!short, Ordering::Relaxed);
        draining.spawn(tokio::time::timeout(DRAIN_TIME, async move {
            let mut read = 0;
            while read < DRAIN_BYTES
                && let Some(Ok(frame)) = body.frame().await
            {
                read += frame.data_ref().map_or(0, Bytes::len);
            }
        }));
    }
}
