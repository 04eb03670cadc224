//! `GET /videos/<task_id>.mp4`: every finished task got the same two seconds of test picture.

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, RANGE};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};

use super::answer;
use super::clock::Millis;
use super::shared::Shared;
use super::task::{Outcome, TaskState};
use super::wire::WireBody;

static SAMPLE: &[u8] = include_bytes!("sample.mp4");

pub(super) fn serve(shared: &Shared, parts: &Parts) -> Response<WireBody> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return answer::wrong_method("GET, HEAD");
    }
    let file = parts.uri.path().strip_prefix("/videos/").and_then(|name| name.strip_suffix(".mp4"));
    let task = file.and_then(|task_id| shared.books.task(task_id));
    if task.is_none_or(|task| task.state(Millis::now()) != TaskState::Ended(Outcome::Success)) {
        return answer::not_found();
    }
    let range = parts.headers.get(RANGE).and_then(|range| range.to_str().ok()).and_then(range);
    let mut response = match range {
        None => answer::bare(StatusCode::OK, "video/mp4", Bytes::from_static(SAMPLE)),
        Some((first, last)) => {
            let part = Bytes::from_static(&SAMPLE[first..=last]);
            let mut response = answer::bare(StatusCode::PARTIAL_CONTENT, "video/mp4", part);
            let content_range = format!("bytes {first}-{last}/{}", SAMPLE.len());
            if let Ok(value) = HeaderValue::try_from(content_range) {
                response.headers_mut().insert(CONTENT_RANGE, value);
            }
            response
        }
    };
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// First and last byte of a single range (some players insist on ranges). Anything else gets the whole file, which
/// the standard allows.
fn range(header: &str) -> Option<(usize, usize)> {
    let end = SAMPLE.len() - 1;
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = match (first, last) {
        ("", tail) => (SAMPLE.len().checked_sub(tail.parse().ok()?)?, end),
        (first, "") => (first.parse().ok()?, end),
        (first, last) => (first.parse().ok()?, last.parse::<usize>().ok()?.min(end)),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let end = SAMPLE.len() - 1;
        assert_eq!(range("bytes=0-1"), Some((0, 1)));
        assert_eq!(range("bytes=5-"), Some((5, end)));
        assert_eq!(range("bytes=-2"), Some((end - 1, end)));
        assert_eq!(range("bytes=0-99999999"), Some((0, end)));
        for whole in
            ["bytes=9-5", "bytes=-0", "bytes=99999999-", "bytes=0-1,4-5", "lines=0-1", "bytes=-99999999"]
        {
            assert_eq!(range(whole), None, "{whole}");
        }
    }

    #[test]
    fn the_sample_is_an_mp4_that_starts_playing_at_once() {
        assert_eq!(&SAMPLE[4..8], b"ftyp");
        let at = |name: &[u8]| SAMPLE.windows(4).position(|window| window == name).unwrap();
        assert!(at(b"moov") < at(b"mdat"));
        assert!(SAMPLE.len() < 20 * 1024);
    }
}
