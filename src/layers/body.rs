//! Reads request bodies, within limits of size and time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::call::{Notes, RequestBody};
use crate::clock::Clock;
use crate::error::GatewayError;

/// The largest body that is accepted, in bytes.
pub const MAX_BODY: usize = 16 << 20;

/// Reads a body of at most [`MAX_BODY`] bytes within `timeout`. Up to four times as much is read and discarded: a client
/// that is still sending would otherwise see a broken connection instead of the 413.
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
            let frame = frame.map_err(|_| GatewayError::invalid_request("the body was cut off"))?;
            let Ok(data) = frame.into_data() else { continue };
            total += data.len();
            if total > 4 * MAX_BODY {
                break;
            }
            if total > MAX_BODY {
                (first, chunks) = (None, BytesMut::new());
                continue;
            }
            // Most bodies are a single frame, which need not be copied.
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
