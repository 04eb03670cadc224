//! The body of an answer of the vendor's: kept as it came, or, if it is too large for that, read as it streams by.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;

use crate::bulk::{Bulk, ByteShare, CountedAnswer, Payer, SMALL, Streaming};
use crate::https::Decoded;
use crate::upstream::figures;
use crate::upstream::outcome::Envelope;

/// The most bytes of an answer that is kept as it came: answers may echo a request with its images.
const MOST_KEPT: usize = 24 << 20;

/// The most bytes of an answer that is read as it streams by; fewer in unit tests, which are not optimised.
const MOST_READ: usize = if cfg!(test) { 64 << 20 } else { 256 << 20 };

/// How many times its own size an answer needs: as it came, as it is kept, and as a caller is shown it.
const COPIES: usize = 3;

/// Room for an answer that streams by: for the parts of it that are on their way to the reader, each of which has at most
/// what is read from the network at a time, and for what is kept of it.
const STREAM: usize = 4 << 20;

const NO_ROOM: &str = "there was no room for the upstream's answer";
const TOO_LONG: &str = "the upstream's answer is too long";

/// What the vendor said.
pub(super) enum Said {
    Whole(Bytes),
    /// It was too large; this is what was read of it, if it could be read.
    Figures(Option<Envelope<'static>>),
}

impl Said {
    /// How many bytes are still to be read.
    pub(super) fn unread(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Figures(_) => 0,
        }
    }

    /// The vendor's envelope; none: it is none.
    pub(super) fn envelope(&self) -> Option<Envelope<'_>> {
        match self {
            Self::Whole(bytes) => Envelope::parse(bytes),
            Self::Figures(envelope) => envelope.clone(),
        }
    }
}

/// Reads the body of an answer; returns room for what is kept of it, if that is large.
pub(super) async fn read(
    bulk: &Bulk,
    body: Decoded,
    payer: Payer,
) -> Result<(Said, Option<ByteShare>), &'static str> {
    let mut body = Box::pin(body);
    let mut counted = bulk.pace.counted(payer);
    let announced = body.size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced.is_some_and(|announced| announced > MOST_READ) {
        return Err(TOO_LONG);
    }
    if announced.is_some_and(|announced| announced > MOST_KEPT) {
        let share = bulk.budget.wait(payer, STREAM).await.map_err(|_| NO_ROOM)?;
        return stream(bulk, [Bytes::new(), Bytes::new()], body, (payer, counted), share).await;
    }
    let (mut chunks, mut share) = (BytesMut::new(), None);
    while let Some(data) = next(&mut body, &mut counted).await? {
        let length = chunks.len() + data.len();
        if share.is_none() && (length > SMALL || announced.is_some_and(|announced| announced > SMALL)) {
            let most = announced.unwrap_or(MOST_KEPT);
            share = Some(bulk.budget.wait(payer, COPIES * most).await.map_err(|_| NO_ROOM)?);
            chunks.reserve(most.saturating_sub(chunks.len()));
        }
        if length > MOST_KEPT
            && let Some(share) = share.take()
        {
            return stream(bulk, [chunks.freeze(), data], body, (payer, counted), share).await;
        }
        chunks.extend_from_slice(&data);
    }
    if let Some(share) = &mut share {
        share.shrink(COPIES * chunks.len());
    }
    Ok((Said::Whole(chunks.freeze()), share))
}

/// Reads an answer as it streams by; `head`: what has come of it already.
async fn stream(
    bulk: &Bulk,
    head: [Bytes; 2],
    mut body: Pin<Box<Decoded>>,
    (payer, mut counted): (Payer, CountedAnswer<'_>),
    mut share: ByteShare,
) -> Result<(Said, Option<ByteShare>), &'static str> {
    let mut length = head.iter().map(Bytes::len).sum::<usize>();
    share.shrink(length + STREAM);
    // It waits with room that it has already, and what waits for room has no stream: they never wait for one another.
    let streaming = bulk.stream(payer, figures::read).await.map_err(|_| NO_ROOM)?;
    let mut fed = 0;
    let mut goes_on = true;
    for some in head {
        goes_on = goes_on && (some.is_empty() || streaming.feed(some).await);
    }
    while goes_on && let Some(data) = next(&mut body, &mut counted).await? {
        length += data.len();
        if length > MOST_READ {
            return Err(TOO_LONG);
        }
        goes_on = streaming.feed(data).await;
        fed += 1;
        if fed == Streaming::<Option<Envelope>>::BEHIND {
            share.shrink(STREAM);
        }
    }
    let envelope = streaming.finish().await.map_err(|_| "the upstream's answer could not be read")?;
    let kept = envelope.as_ref().and_then(|envelope| envelope.data.as_ref()).map_or(0, |data| data.len());
    share.shrink(COPIES * kept);
    Ok((Said::Figures(envelope), Some(share)))
}

async fn next(
    body: &mut Pin<Box<Decoded>>,
    counted: &mut CountedAnswer<'_>,
) -> Result<Option<Bytes>, &'static str> {
    while let Some(frame) = body.frame().await {
        // A few compressed bytes can become thousands of frames, none of which has to be waited for.
        tokio::task::coop::consume_budget().await;
        if let Ok(data) = frame.map_err(|_| "the upstream's answer broke off")?.into_data() {
            counted.add(data.len());
            return Ok(Some(data));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    use super::*;
    use crate::clock::Clock;
    use crate::config::Config;
    use crate::credits::Credits;
    use crate::telemetry::Span;
    use crate::upstream::client::{StatusError, VendorClient};
    use crate::upstream::{CreateOutcome, Progress};

    /// A client, and the vendor that it calls.
    async fn client(bulk: &Bulk) -> (TcpListener, VendorClient) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config::from_toml(&format!(
            "[database]\nurl = \"postgres://x\"\n[upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"k\"\n\
             status_timeout_ms = 600000",
            listener.local_addr().unwrap()
        ));
        (
            listener,
            VendorClient::new(
                &config.unwrap().upstream.kling_3,
                &crate::https::Egress::default(),
                bulk.clone(),
                Clock,
            )
            .unwrap(),
        )
    }

    const KEY: HeaderValue = HeaderValue::from_static("Bearer k");

    async fn status(client: &VendorClient) -> Result<crate::upstream::Report, StatusError> {
        client.status(&KEY, "n75a", Payer::Operators, &mut Span::default()).await
    }

    async fn create(client: &VendorClient) -> CreateOutcome {
        let (body, may_send) = (Bytes::from_static(b"{}"), Arc::new(|| true));
        client.create(&KEY, body, may_send, Payer::Operators, &mut Span::default()).await
    }

    /// Reads a request, which is short.
    async fn accept(vendor: &TcpListener) -> TcpStream {
        let (mut stream, _) = vendor.accept().await.unwrap();
        stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
        stream
    }

    const BEFORE: &str = r#"{"code":200,"message":"success","data":{"request":{"prompt":"p","image":""#;
    const AFTER: &str = r#""},"task_id":"n75a","status":"SUCCESS","consumed_credits":400,"response":["u"]}}"#;

    /// The parts of a chunked answer whose echo has so many MiB.
    async fn write_chunked(stream: &mut TcpStream, megabytes: usize) {
        let chunk = |text: &[u8]| [format!("{:x}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat();
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        stream.write_all(&chunk(BEFORE.as_bytes())).await.unwrap();
        for _ in 0..megabytes {
            stream.write_all(&chunk(&[b'A'; 1 << 20])).await.unwrap();
        }
        stream.write_all(&chunk(AFTER.as_bytes())).await.unwrap();
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    }

    #[tokio::test]
    async fn the_figures_behind_forty_megabytes_are_found_and_few_bytes_are_kept() {
        // Less than the answer has.
        let bulk = Bulk::new(16 << 20);
        let (vendor, client) = client(&bulk).await;
        let (sent, most_sent) = oneshot::channel();
        let (go_on, goes_on) = oneshot::channel();
        let telling = async {
            let mut stream = accept(&vendor).await;
            let length = BEFORE.len() + (40 << 20) + AFTER.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{BEFORE}");
            stream.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..39 {
                stream.write_all(&[b'A'; 1 << 20]).await.unwrap();
            }
            sent.send(()).unwrap();
            let () = goes_on.await.unwrap();
            stream.write_all(&[b'A'; 1 << 20]).await.unwrap();
            stream.write_all(AFTER.as_bytes()).await.unwrap();
        };
        let watching = async {
            let () = most_sent.await.unwrap();
            assert_eq!(bulk.budget.taken(), STREAM, "whatever has come of it already");
            go_on.send(()).unwrap();
        };
        let (report, (), ()) = tokio::join!(status(&client), telling, watching);
        let report = report.unwrap();
        assert_eq!((report.progress, report.raw), (Progress::Succeeded, Some(Credits::new(400))));
        assert!(report.data().contains(r#""response":["u"]"#), "{}", report.data());
        assert!(report.data().contains("[41943040 bytes left out]"), "{}", report.data());
        assert_eq!(bulk.budget.taken(), COPIES * report.data().len());
        drop(report);
        assert_eq!(bulk.budget.taken(), 0);
    }

    #[tokio::test]
    async fn an_answer_that_does_not_announce_its_length_is_kept_or_streams_by() {
        let bulk = Bulk::new(160 << 20);
        let (vendor, client) = client(&bulk).await;
        for (megabytes, whole) in [(23, true), (25, false), (60, false)] {
            let telling = async { write_chunked(&mut accept(&vendor).await, megabytes).await };
            let create = create(&client);
            let (outcome, ()) = tokio::join!(create, telling);
            let CreateOutcome::Accepted { task, report } = outcome else {
                panic!("{megabytes}: {}", outcome.label())
            };
            assert_eq!((&*task, report.data().len() > 20 << 20), ("n75a", whole), "{megabytes}");
            assert_eq!(bulk.budget.taken() > STREAM, whole, "{megabytes}");
        }
        assert_eq!(bulk.budget.taken(), 0);
    }

    #[tokio::test]
    async fn an_answer_without_end_is_given_up() {
        let bulk = Bulk::new(160 << 20);
        let (vendor, client) = client(&bulk).await;
        let announced = async {
            let mut stream = accept(&vendor).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", MOST_READ + 1);
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.read_buf(&mut Vec::with_capacity(1)).await.unwrap();
        };
        let (report, ()) = tokio::join!(status(&client), announced);
        assert_eq!(report, Err(StatusError::Unanswered(TOO_LONG)));
        let endless = async {
            let mut stream = accept(&vendor).await;
            let head = format!("HTTP/1.1 200 OK\r\n\r\n{BEFORE}");
            stream.write_all(head.as_bytes()).await.unwrap();
            while stream.write_all(&[b'A'; 1 << 20]).await.is_ok() {}
        };
        let (report, ()) = tokio::join!(status(&client), endless);
        assert_eq!(report, Err(StatusError::Unanswered(TOO_LONG)));
        assert_eq!(bulk.budget.taken(), 0);
        // What breaks off after its figures is no answer.
        let cut = async {
            let mut stream = accept(&vendor).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{BEFORE}{AFTER}", MOST_READ);
            stream.write_all(head.as_bytes()).await.unwrap();
        };
        let (report, ()) = tokio::join!(status(&client), cut);
        assert_eq!(report, Err(StatusError::Unanswered("the upstream's answer broke off")));
    }
}
