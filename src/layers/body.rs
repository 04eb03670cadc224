//! Reads request bodies, within limits of size and time, and within the bytes that may be in memory.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::bulk::{ByteBudget, Payer};
use crate::call::{Notes, ReadBody};
use crate::clock::Clock;
use crate::error::GatewayError;

/// The largest body of a create or a quote, in bytes.
pub const MAX_BODY: usize = 16 << 20;

/// The largest body of a management call, in bytes.
pub const MAX_MANAGEMENT_BODY: usize = 1 << 20;

/// How much of a body that is too large is read and discarded: a client that is still sending would otherwise see a broken
/// connection instead of the reason.
const DISCARDED: usize = 64 << 20;

/// How many times its own size a body needs while it is worked on: once as it came, and once as it will be sent.
const COPIES: usize = 2;

/// Reads the bodies of one kind of request.
#[derive(Debug, Clone)]
pub struct BodyReader {
    /// The most bytes a body may have.
    pub most: usize,
    /// How long a client may take to send it.
    pub timeout: Duration,
    pub budget: ByteBudget,
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadBody {
    CutOff,
    TooLarge,
    TooSlow,
    /// Too many bytes are in memory already.
    NoRoom,
}

impl BodyReader {
    /// Reads a body. If its length is known and there is no room for it, no byte is read. Of a body that is too large
    /// the rest is read and discarded, within limits.
    pub async fn read<B>(&self, body: B, payer: Payer) -> Result<ReadBody, BadBody>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        tokio::time::timeout(self.timeout, self.whole(body, payer)).await.unwrap_or(Err(BadBody::TooSlow))
    }

    /// Reads the body of a call, and notes the time that its client took.
    pub async fn read_call<B>(&self, body: B, payer: Payer, notes: &Notes) -> Result<ReadBody, GatewayError>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let begun = Clock.now();
        let body = self.read(body, payer).await;
        notes.add(|notes| notes.waited += Clock.since(begun));
        body.map_err(GatewayError::from)
    }

    async fn whole<B>(&self, mut body: B, payer: Payer) -> Result<ReadBody, BadBody>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let known = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
        let announced = known.unwrap_or(0);
        let room = if announced > self.most { 0 } else { announced };
        let mut share = self.budget.take(payer, COPIES * room).ok_or(BadBody::NoRoom)?;
        let (mut chunks, mut first, mut total) = (BytesMut::new(), None::<Bytes>, 0usize);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| BadBody::CutOff)?.into_data() else { continue };
            total = total.saturating_add(data.len());
            if total > DISCARDED {
                break;
            }
            if total > self.most {
                (first, chunks) = (None, BytesMut::new());
                share.shrink(0);
                continue;
            }
            let missing = (COPIES * total).saturating_sub(share.amount());
            if missing > 0 && !share.grow(missing) {
                return Err(BadBody::NoRoom);
            }
            // Most bodies are a single frame, which need not be copied.
            match first.take() {
                None if chunks.is_empty() => first = Some(data),
                None => chunks.extend_from_slice(&data),
                Some(start) => {
                    chunks.reserve(room.max(start.len() + data.len()));
                    chunks.extend_from_slice(&start);
                    chunks.extend_from_slice(&data);
                }
            }
        }
        if total > self.most {
            return Err(BadBody::TooLarge);
        }
        Ok(ReadBody { bytes: first.unwrap_or_else(|| chunks.freeze()), share })
    }
}

impl From<BadBody> for GatewayError {
    fn from(bad: BadBody) -> Self {
        match bad {
            BadBody::CutOff => Self::invalid_request("the body was cut off"),
            BadBody::TooLarge => Self::BodyTooLarge,
            BadBody::TooSlow => Self::invalid_request("the body did not arrive in time"),
            BadBody::NoRoom => Self::NoRoom,
        }
    }
}
