//! A request body that tells whether any byte of it may have been written.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::fail_point;

/// Whether a create may still be sent; asked at the last instant before its first byte.
pub type MaySend = Arc<dyn Fn() -> bool + Send + Sync>;

/// Whether the body of a request was polled: until then the request can be cancelled and nothing was sent.
#[derive(Debug, Default)]
pub(super) struct SendState(AtomicU8);

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const CANCELLED: u8 = 2;
const WITHHELD: u8 = 3;

impl SendState {
    fn start(&self) -> bool {
        self.leave(BEGUN)
    }

    pub(super) fn cancel(&self) -> bool {
        self.leave(CANCELLED)
    }

    fn withhold(&self) {
        // If the request was cancelled before, the first decision stands; it is not sent either way.
        self.leave(WITHHELD);
    }

    /// Leaves the state of waiting; only the first caller succeeds.
    fn leave(&self, to: u8) -> bool {
        self.0.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn never_begun(&self) -> bool {
        self.0.load(Ordering::Acquire) != BEGUN
    }

    pub(super) fn was_withheld(&self) -> bool {
        self.0.load(Ordering::Acquire) == WITHHELD
    }
}

/// A request body that asks whether it may be sent, and records that it was polled.
pub(super) struct TrackedBody {
    unsent: Option<(Bytes, MaySend)>,
    pub(super) sending: Arc<SendState>,
}

/// The bytes of a body. The connection drops them once they are written.
struct WrittenBytes(Bytes);

impl AsRef<[u8]> for WrittenBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for WrittenBytes {
    fn drop(&mut self) {
        fail_point::reach("create.sent");
    }
}

#[derive(Debug, thiserror::Error)]
#[error("withdrawn before it was sent")]
pub(super) struct Withdrawn;

impl TrackedBody {
    pub(super) fn of(body: Bytes, may_send: MaySend) -> Self {
        Self { unsent: Some((body, may_send)), sending: Arc::default() }
    }

    /// No body. Without a body nothing tells when a request begins, so that it counts as begun.
    pub(super) fn none() -> Self {
        let sending = SendState::default();
        sending.start();
        Self { unsent: None, sending: sending.into() }
    }
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = Withdrawn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Withdrawn>>> {
        let Some((bytes, may_send)) = self.unsent.take() else { return Poll::Ready(None) };
        fail_point::reach("create.before_send");
        // Head and body are written next, together. A process that was paused before this line asks `may_send` only now.
        if !may_send() {
            self.sending.withhold();
            return Poll::Ready(Some(Err(Withdrawn)));
        }
        let frame = if self.sending.start() {
            Ok(Frame::data(Bytes::from_owner(WrittenBytes(bytes))))
        } else {
            Err(Withdrawn)
        };
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.unsent.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.unsent.as_ref().map_or(0, |(bytes, _)| bytes.len() as u64))
    }
}
