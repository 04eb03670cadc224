//! The body of an answer, able to come too large, too slowly or not to its end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// Closes the connection without (further) answering.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut here")]
pub(super) struct Cut;

static PADDING: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// `head`, then `padding` letters, then `tail`: a huge body costs no memory.
pub(super) struct WireBody {
    head: Bytes,
    padding: u64,
    tail: Bytes,
    /// What is left of the announced length.
    left: u64,
    cut_in: Option<u64>,
    drip: Option<Drip>,
    flushed: bool,
}

struct Drip {
    every: Duration,
    pause: Pin<Box<Sleep>>,
}

impl WireBody {
    pub(super) fn whole(bytes: Bytes) -> WireBody {
        WireBody {
            left: bytes.len() as u64,
            head: bytes,
            padding: 0,
            tail: Bytes::new(),
            cut_in: None,
            drip: None,
            flushed: false,
        }
    }

    /// Blown up by `padding` bytes. An envelope gets them as a field of its `data`, anything else as a tail.
    pub(super) fn padded(mut self, padding: u64) -> WireBody {
        const FIELD: &[u8] = b",\"padding\":\"";
        if padding == 0 {
            return self;
        }
        if self.head.ends_with(b"}}") {
            let mut head = self.head.split_to(self.head.len() - 2).to_vec();
            head.extend_from_slice(FIELD);
            self.head = head.into();
            self.tail = Bytes::from_static(b"\"}}");
        }
        self.padding = padding;
        self.left = (self.head.len() as u64 + self.tail.len() as u64).saturating_add(padding);
        self
    }

    /// Announces and sends the first half only.
    pub(super) fn truncated(mut self) -> WireBody {
        self.left /= 2;
        self
    }

    /// Announces everything, sends the first half and cuts the connection.
    pub(super) fn cut_half_way(mut self) -> WireBody {
        self.cut_in = Some(self.left / 2);
        self
    }

    /// One byte at a time.
    pub(super) fn dripping(mut self, every: Duration) -> WireBody {
        self.drip = Some(Drip { every, pause: Box::pin(sleep(every)) });
        self
    }

    /// The next piece, of at most `most` bytes (at least one).
    fn take(&mut self, most: u64) -> Bytes {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let piece = if !self.head.is_empty() {
            self.head.split_to(self.head.len().min(most))
        } else if self.padding > 0 {
            let padding = usize::try_from(self.padding).unwrap_or(usize::MAX);
            let piece = Bytes::from_static(&PADDING[..padding.min(most).min(PADDING.len())]);
            self.padding -= piece.len() as u64;
            piece
        } else {
            self.tail.split_to(self.tail.len().min(most))
        };
        self.left -= piece.len() as u64;
        self.cut_in = self.cut_in.map(|left| left - piece.len() as u64);
        piece
    }
}

impl Body for WireBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut most = self.left;
        if let Some(left) = self.cut_in {
            if left == 0 {
                if self.flushed {
                    return Poll::Ready(Some(Err(Cut)));
                }
                // hyper throws away what it has buffered when a body fails; by pending once we let it be sent.
                self.flushed = true;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            most = most.min(left);
        }
        if let Some(drip) = &mut self.drip {
            ready!(drip.pause.as_mut().poll(context));
            drip.pause = Box::pin(sleep(drip.every));
            most = 1;
        }
        Poll::Ready(Some(Ok(Frame::data(self.take(most)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
