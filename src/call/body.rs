//! The body of a request, which is drained if it is refused.

use std::pin::Pin;
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
}

impl RequestBody {
    /// `draining` runs the task that drains the body; without it the body is not drained.
    pub fn new(body: Body, draining: Option<TaskTracker>) -> Self {
        Self { body: Some(body), draining }
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
        let (Some(mut body), Some(draining)) = (self.body.take(), self.draining.take()) else { return };
        if http_body::Body::is_end_stream(&body) {
            return;
        }
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
