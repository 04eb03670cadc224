//! Answers that a client has not read yet. A client that reads nothing must not keep them, and its connection, for ever.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::clock::Clock;

/// An answer is handed to the connection in pieces of this size, so that a client that reads slowly is not taken for one that
/// does not read.
const PIECE: usize = 64 << 10;

/// The answers that one connection owes, by when each of them last moved on.
#[derive(Debug, Default)]
pub(super) struct Owed {
    answers: Mutex<BTreeMap<u64, Instant>>,
    clock: Clock,
}

/// One answer that is owed, with what is held until it is written.
#[derive(Debug)]
struct OwedAnswer<W> {
    owed: Arc<Owed>,
    id: u64,
    _with: W,
}

impl Owed {
    fn add<W>(self: &Arc<Self>, with: W) -> OwedAnswer<W> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let id = answers.last_key_value().map_or(0, |(last, _)| last + 1);
        answers.insert(id, self.clock.now());
        OwedAnswer { owed: self.clone(), id, _with: with }
    }

    /// Completes when an answer has not moved on for `limit`.
    pub(super) async fn stalled(&self, limit: Duration) {
        loop {
            let oldest = {
                let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.values().min().copied()
            };
            let idle = oldest.map_or(Duration::ZERO, |oldest| self.clock.since(oldest));
            let Some(left) = limit.checked_sub(idle).filter(|left| !left.is_zero()) else { return };
            tokio::time::sleep(left).await;
        }
    }
}

impl<W> OwedAnswer<W> {
    fn moves(&self) {
        let mut answers = self.owed.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(self.id, self.owed.clock.now());
    }
}

impl<W> Drop for OwedAnswer<W> {
    fn drop(&mut self) {
        self.owed.answers.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// A piece of an answer. The connection drops it when it has written it.
struct Piece<W> {
    bytes: Bytes,
    owed: Arc<OwedAnswer<W>>,
}

impl<W> AsRef<[u8]> for Piece<W> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<W> Drop for Piece<W> {
    fn drop(&mut self) {
        self.owed.moves();
    }
}

/// The body of an answer that is owed until its last byte is written, and `with` until then.
pub(super) struct AnswerBody<B, W> {
    body: B,
    rest: Bytes,
    owed: Arc<OwedAnswer<W>>,
}

impl<B, W> AnswerBody<B, W> {
    pub(super) fn new(body: B, owed: &Arc<Owed>, with: W) -> Self {
        Self { body, rest: Bytes::new(), owed: Arc::new(owed.add(with)) }
    }
}

impl<B: Body<Data = Bytes> + Unpin, W: Send + Sync + 'static> Body for AnswerBody<B, W> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return Poll::Ready(other),
            }
        }
        self.owed.moves();
        let length = self.rest.len().min(PIECE);
        let bytes = self.rest.split_to(length);
        let piece = Bytes::from_owner(Piece { bytes, owed: self.owed.clone() });
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}
