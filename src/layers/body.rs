//! Request bodies: read within bounds, and read to their end when they are refused.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio_util::task::TaskTracker;

use crate::call::{Notes, RequestBody};
use crate::clock::Clock;
use crate::error::GatewayError;

/// The largest body that is accepted.
pub const MAX_BODY: usize = 16 << 20;

/// Reads a body of at most [`MAX_BODY`]. A larger one is read on for a while and thrown away: a client that is still
/// sending would otherwise see a broken connection in place of the 413.
pub async fn read_body(
    mut body: RequestBody,
    timeout: Duration,
    notes: &Notes,
) -> Result<Bytes, GatewayError> {
    let begun = Clock.now();
    let read = async {
        let mut chunks = BytesMut::new();
        let mut first: Option<Bytes> = None;
        let mut total = 0usize;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| GatewayError::invalid_request("the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            total += data.len();
            if total > 4 * MAX_BODY {
                break;
            }
            if total > MAX_BODY {
                (first, chunks) = (None, BytesMut::new());
                continue;
            }
            // Most bodies are one frame: no copy then.
            match first.take() {
                None if chunks.is_empty() => first = Some(data),
                None => chunks.extend_from_slice(&data),
                Some(start) => {
                    chunks.extend_from_slice(&start);
                    chunks.extend_from_slice(&data);
                }
            }
        }
        if total > MAX_BODY {
            Err(GatewayError::BodyTooLarge)
        } else {
            Ok(first.unwrap_or_else(|| chunks.freeze()))
        }
    };
    let body = tokio::time::timeout(timeout, read).await;
    notes.add(|notes| notes.waited += Clock.since(begun));
    body.unwrap_or_else(|_| Err(GatewayError::invalid_request("the body did not arrive in time")))
}

/// A request's body that is read to its end, within bounds, when it is refused unread. A client that is still sending
/// would otherwise find its connection reset, and never see why.
pub(super) struct Lingering {
    body: Option<RequestBody>,
    draining: Option<TaskTracker>,
}

impl Lingering {
    pub(super) fn new(body: RequestBody, draining: Option<TaskTracker>) -> Self {
        Self { body: Some(body), draining }
    }
}

/// How much of a refused body is read, and for how long.
const DRAIN_BYTES: usize = 32 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

impl Body for Lingering {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let (Some(mut body), Some(draining)) = (self.body.take(), self.draining.take()) else { return };
        if body.is_end_stream() {
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
