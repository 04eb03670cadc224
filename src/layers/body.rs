//! Reads request bodies, within limits of size and time, and within the bytes that may be in memory. A body that is
//! compressed is decoded, within the same limits.

use std::io::Read;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;

use crate::bulk::{Bulk, ByteShare, Payer, SMALL};
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
    /// The bytes that may be in memory, and the threads that decode megabytes.
    pub bulk: Bulk,
}

/// How a body is coded (RFC 9110, section 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    /// The coding that the headers name. Several lines of the header are one list.
    pub fn of(headers: &HeaderMap) -> Result<Self, BadBody> {
        let mut coding = Self::Identity;
        for line in headers.get_all(CONTENT_ENCODING) {
            for word in line.to_str().map_err(|_| BadBody::UnknownCoding)?.split(',').map(str::trim) {
                let gzip = ["gzip", "x-gzip"].iter().any(|name| word.eq_ignore_ascii_case(name));
                match coding {
                    _ if word.is_empty() || word.eq_ignore_ascii_case("identity") => {}
                    Self::Identity if gzip => coding = Self::Gzip,
                    _ => return Err(BadBody::UnknownCoding),
                }
            }
        }
        Ok(coding)
    }
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadBody {
    CutOff,
    TooLarge,
    TooSlow,
    /// Too many bytes are in memory already.
    NoRoom,
    /// It is in a content coding that is not understood, or in more than one.
    UnknownCoding,
    /// It is not in the coding that the headers name.
    NotGzip,
}

impl BodyReader {
    /// Reads a body and decodes it. If its length is known and there is no room for it, no byte is read. Of a body that is too
    /// large the rest is read and discarded, within limits.
    pub async fn read<B>(&self, body: B, coding: Coding, payer: Payer) -> Result<ReadBody, BadBody>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let came = tokio::time::timeout(self.timeout, self.whole(body, payer)).await;
        let came = came.unwrap_or(Err(BadBody::TooSlow))?;
        match coding {
            Coding::Identity => Ok(came),
            Coding::Gzip => Box::pin(self.decoded(came, payer)).await,
        }
    }

    /// Reads the body of a call, and notes the time that its client took.
    pub async fn read_call<B>(
        &self,
        body: B,
        coding: Coding,
        payer: Payer,
        notes: &Notes,
    ) -> Result<ReadBody, GatewayError>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let begun = Clock.now();
        let body = self.read(body, coding, payer).await;
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
        let mut share = self.bulk.budget.take(payer, COPIES * room).ok_or(BadBody::NoRoom)?;
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

    /// Decodes a body that is compressed with gzip. A few bytes may become megabytes, so it is done on another thread unless
    /// the outcome is small.
    async fn decoded(&self, came: ReadBody, payer: Payer) -> Result<ReadBody, BadBody> {
        let ReadBody { bytes, mut share } = came;
        let most = self.most;
        if bytes.len() <= SMALL {
            match gunzip(&bytes, &mut share, SMALL.min(most)) {
                // Smaller than the limit of a body, perhaps.
                Err(BadBody::TooLarge) => {}
                Err(bad) => return Err(bad),
                Ok(decoded) => return Ok(worth(decoded, share)),
            }
        }
        let decode = move || gunzip(&bytes, &mut share, most).map(|decoded| worth(decoded, share));
        self.bulk.workers.run(payer, usize::MAX, decode).await.unwrap_or(Err(BadBody::NoRoom))
    }
}

/// A decoded body, with room for itself and its copy.
fn worth(decoded: Vec<u8>, mut share: ByteShare) -> ReadBody {
    share.shrink(COPIES * decoded.len());
    ReadBody { bytes: decoded.into(), share }
}

/// Decodes at most `most` bytes. There is room for every byte before it is there.
fn gunzip(coded: &[u8], share: &mut ByteShare, most: usize) -> Result<Vec<u8>, BadBody> {
    let mut decoder = MultiGzDecoder::new(coded);
    let mut decoded = Vec::new();
    let mut chunk = vec![0; SMALL];
    loop {
        let read = decoder.read(&mut chunk).map_err(|_| BadBody::NotGzip)?;
        if read == 0 {
            decoded.shrink_to_fit();
            return Ok(decoded);
        }
        let total = decoded.len() + read;
        if total > most {
            return Err(BadBody::TooLarge);
        }
        // The coded bytes stay until all are decoded.
        let missing = (coded.len() + COPIES * total).saturating_sub(share.amount());
        if missing > 0 && !share.grow(missing) {
            return Err(BadBody::NoRoom);
        }
        decoded.extend_from_slice(chunk.get(..read).unwrap_or_default());
    }
}

impl From<BadBody> for GatewayError {
    fn from(bad: BadBody) -> Self {
        match bad {
            BadBody::CutOff => Self::invalid_request("the body was cut off"),
            BadBody::TooLarge => Self::BodyTooLarge,
            BadBody::TooSlow => Self::invalid_request("the body did not arrive in time"),
            BadBody::NoRoom => Self::NoRoom,
            BadBody::UnknownCoding => Self::UnknownCoding,
            BadBody::NotGzip => {
                Self::invalid_request("the body is not gzip, although 'Content-Encoding: gzip' says so")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;
    use http_body_util::Full;

    use super::*;

    const MOST: usize = 1 << 20;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn reader(bytes_in_memory: usize) -> BodyReader {
        BodyReader { most: MOST, timeout: Duration::from_secs(60), bulk: Bulk::new(bytes_in_memory) }
    }

    async fn read(reader: &BodyReader, bytes: Vec<u8>) -> Result<ReadBody, BadBody> {
        reader.read(Full::new(Bytes::from(bytes)), Coding::Gzip, Payer::Operators).await
    }

    #[test]
    fn codings_are_understood_or_refused() {
        let of = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            lines.iter().for_each(|line| {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(line));
            });
            Coding::of(&headers)
        };
        for lines in [&[][..], &[""], &["identity"], &["Identity, "]] {
            assert_eq!(of(lines), Ok(Coding::Identity), "{lines:?}");
        }
        for lines in [&["gzip"][..], &["X-GZIP"], &["identity", "gzip"]] {
            assert_eq!(of(lines), Ok(Coding::Gzip), "{lines:?}");
        }
        for lines in
            [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"], &["deflate"], &["gzip;q=1"], &["zstd, gzip"]]
        {
            assert_eq!(of(lines), Err(BadBody::UnknownCoding), "{lines:?}");
        }
    }

    #[tokio::test]
    async fn a_body_is_decoded_and_counted_as_what_it_becomes() {
        let reader = reader(64 << 20);
        for size in [0, 10, SMALL + 1, MOST] {
            let plain = vec![b'x'; size];
            let read = read(&reader, gzip(&plain)).await.unwrap();
            assert_eq!((read.bytes.len(), read.share.amount()), (size, COPIES * size));
            assert!(read.bytes == plain);
        }
        let twice = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read(&reader, twice).await.unwrap().bytes, "one two", "members follow one another");
    }

    #[tokio::test]
    async fn what_becomes_too_large_or_is_not_gzip_is_refused_within_its_room() {
        let wide = reader(64 << 20);
        let bomb = gzip(&vec![0; 64 * MOST]);
        assert!(bomb.len() < MOST / 10);
        assert_eq!(read(&wide, bomb.clone()).await.unwrap_err(), BadBody::TooLarge);
        assert_eq!(read(&wide, gzip(&vec![0; MOST + 1])).await.unwrap_err(), BadBody::TooLarge);
        // One payer gets half of what is free: room for the coded bytes, but not for what they become.
        let narrow = reader(MOST);
        assert_eq!(read(&narrow, gzip(&vec![0; MOST])).await.unwrap_err(), BadBody::NoRoom);
        let cut = gzip(b"something");
        for bad in [b"plain".to_vec(), cut[..cut.len() - 4].to_vec(), [cut, b"rest".to_vec()].concat()] {
            assert_eq!(read(&wide, bad).await.unwrap_err(), BadBody::NotGzip);
        }
        for reader in [wide, narrow] {
            assert!(reader.bulk.budget.take(Payer::Operators, MOST / 2).is_some(), "all room is given back");
        }
    }
}
