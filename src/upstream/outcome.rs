//! The meaning of the vendor's answers. Pure functions: bytes in, meaning out.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::breaker::Observation;
use super::report::Report;
use crate::pricing::whole_figure;

/// The outcome of a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateOutcome {
    /// The vendor accepted the task.
    Accepted {
        /// The vendor's id of the task.
        task: Arc<str>,
        /// The `data` of the answer.
        report: Report,
    },
    /// The vendor refused the request, with its own code and message.
    Refused { error: String, message: String },
    /// Refused without a code or a message.
    RefusedBare,
    /// The vendor has no such endpoint: the fault of our configuration, and never of the request.
    NoEndpoint { status: u16 },
    /// The vendor refused the master key.
    KeyRejected,
    /// The account has no credits left.
    Exhausted,
    /// Refused because the vendor is busy (429).
    Busy { retry_after: Option<Duration> },
    /// A 500 in the vendor's envelope: refused, but the vendor may have charged.
    Failed,
    /// Whether the vendor accepted the task is unknown.
    Unknown {
        /// The cause in a few words, for logs and the client.
        reason: &'static str,
    },
    /// Answered by a redirect, which is not followed. The request was written, so it is not sent again.
    Redirected,
    /// No byte of the request was written.
    NotSent {
        /// The cause in a few words, for logs and the client.
        reason: &'static str,
    },
    /// No byte of the request was written, because this gateway was no longer allowed to send it (its lease ended).
    Withheld,
}

impl CreateOutcome {
    /// All names in metrics.
    pub(super) const LABELS: [&str; 11] = [
        "accepted",
        "refused",
        "no endpoint",
        "key rejected",
        "account exhausted",
        "busy",
        "failed",
        "unknown",
        "redirected",
        "not sent",
        "withheld",
    ];

    /// The name in metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Refused { .. } | Self::RefusedBare => "refused",
            Self::NoEndpoint { .. } => "no endpoint",
            Self::KeyRejected => "key rejected",
            Self::Exhausted => "account exhausted",
            Self::Busy { .. } => "busy",
            Self::Failed => "failed",
            Self::Unknown { .. } => "unknown",
            Self::Redirected => "redirected",
            Self::NotSent { .. } => "not sent",
            Self::Withheld => "withheld",
        }
    }

    /// What the outcome tells about the backend; none: nothing.
    pub(super) fn evidence(&self) -> Option<Observation> {
        match self {
            Self::NotSent { .. } | Self::Redirected => Some(Observation::CannotBeReached),
            Self::Unknown { .. } | Self::Failed => Some(Observation::FailedRequest),
            // A backend that refuses, even if it refuses our key, works.
            Self::Accepted { .. }
            | Self::Refused { .. }
            | Self::RefusedBare
            | Self::NoEndpoint { .. }
            | Self::KeyRejected
            | Self::Exhausted
            | Self::Busy { .. } => Some(Observation::Works),
            Self::Withheld => None,
        }
    }
}

/// The vendor's envelope. Fields of the wrong type count as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    pub(super) code: Option<u16>,
    pub(super) error: Option<String>,
    pub(super) message: Option<String>,
    pub(super) data: Option<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    #[expect(
        clippy::disallowed_methods,
        reason = "an envelope with a field twice is no envelope: serde refuses it"
    )]
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            code: Option<&'a RawValue>,
            #[serde(borrow)]
            error: Option<&'a RawValue>,
            #[serde(borrow)]
            message: Option<&'a RawValue>,
            #[serde(borrow)]
            data: Option<&'a RawValue>,
        }
        let raw: Raw = serde_json::from_slice(without_mark(body)).ok()?;
        let [code, error, message, data] =
            [raw.code, raw.error, raw.message, raw.data].map(|field| field.map(RawValue::get));
        Some(Self::of(code, error, message, data.map(Cow::Borrowed)))
    }

    /// An envelope with these fields, which are JSON.
    #[expect(clippy::disallowed_methods, reason = "a string has no keys")]
    pub(super) fn of(
        code: Option<&str>,
        error: Option<&str>,
        message: Option<&str>,
        data: Option<Cow<'a, str>>,
    ) -> Self {
        let text = |value: Option<&str>| value.and_then(|json| serde_json::from_str::<String>(json).ok());
        let code = code.and_then(|code| whole_figure(code.trim_matches('"').trim()));
        let code = code.and_then(|code| code.get().try_into().ok());
        Self { code, error: text(error), message: text(message), data }
    }

    /// Whether the vendor wrote this answer, and not a proxy or CDN on the way.
    pub(super) fn is_vendors(&self) -> bool {
        self.code.is_some() && (self.error.is_some() || self.message.is_some())
    }

    /// What the answer says about a task, if it is the answer to a success.
    fn report(&self) -> Option<Report> {
        let data = self.data.as_deref().filter(|_| self.code == Some(200))?;
        Report::parse(data.into())
    }
}

/// A text without the byte order mark that some servers put before their JSON.
fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// The outcome that an answer to a create means; without an envelope: something else has answered, or nothing that can be
/// read.
pub(super) fn create_outcome(
    status: StatusCode,
    retry_after: Option<Duration>,
    envelope: Option<Envelope>,
) -> CreateOutcome {
    if let Some(report) = envelope.as_ref().and_then(Envelope::report)
        && let Some(task) = report.task_id()
    {
        return CreateOutcome::Accepted { task, report };
    }
    if status.is_redirection() {
        return CreateOutcome::Redirected;
    }
    let enveloped = envelope.as_ref().is_some_and(Envelope::is_vendors);
    let code = if status.is_success() {
        match envelope.as_ref().and_then(|envelope| envelope.code) {
            None => return CreateOutcome::Unknown { reason: "the upstream's answer cannot be read" },
            Some(200) => return CreateOutcome::Unknown { reason: "the upstream answered without a task id" },
            Some(code) => code,
        }
    } else {
        status.as_u16()
    };
    match code {
        401 | 403 if enveloped => CreateOutcome::KeyRejected,
        402 => CreateOutcome::Exhausted,
        404 | 405 | 410 => CreateOutcome::NoEndpoint { status: code },
        408 => CreateOutcome::Unknown { reason: "the upstream timed out" },
        429 => CreateOutcome::Busy { retry_after },
        400..=499 => match envelope.filter(Envelope::is_vendors) {
            Some(envelope) => CreateOutcome::Refused {
                error: envelope.error.unwrap_or_else(|| "INVALID_REQUEST".into()),
                message: envelope.message.unwrap_or_else(|| "refused".into()),
            },
            None => CreateOutcome::RefusedBare,
        },
        500 if enveloped => CreateOutcome::Failed,
        _ => CreateOutcome::Unknown { reason: "the upstream failed without saying whether it took the task" },
    }
}

/// Reads an answer to a status call; none: it is not about `task`.
pub(super) fn status_report(task: &str, envelope: Option<Envelope>) -> Option<Report> {
    let report = envelope?.report()?;
    // An answer about another task must not end this one.
    if report.task_id().is_some_and(|id| &*id != task) {
        return None;
    }
    Some(report)
}

#[cfg(test)]
mod tests {
    use super::super::report::Progress;
    use super::*;
    use crate::credits::Credits;

    fn outcome(status: u16, body: &str) -> &'static str {
        create_outcome(StatusCode::from_u16(status).unwrap(), None, Envelope::parse(body.as_bytes())).label()
    }

    #[test]
    fn every_row_of_the_table() {
        let ok = r#"{"code":200,"message":"success","data":{"task_id":"n75a","status":"IN_PROGRESS","consumed_credits":400}}"#;
        let no = r#"{"code":400,"error":"X","message":"m"}"#;
        let html = "<html>502</html>";
        let cases = [
            (200, ok, "accepted"),
            (500, ok, "accepted"),
            (200, r#"{"code":402,"error":"INSUFFICIENT_CREDITS","message":"m"}"#, "account exhausted"),
            (200, r#"{"code":"402","error":"INSUFFICIENT_CREDITS","message":"m"}"#, "account exhausted"),
            (200, r#"{"code":429,"message":"m"}"#, "busy"),
            (200, r#"{"code":500,"message":"m"}"#, "failed"),
            (200, r#"{"code":401,"message":"m"}"#, "key rejected"),
            (200, no, "refused"),
            (400, no, "refused"),
            (400, html, "refused"),
            (404, no, "no endpoint"),
            (404, html, "no endpoint"),
            (405, no, "no endpoint"),
            (410, html, "no endpoint"),
            (200, r#"{"code":404,"error":"NOT_FOUND","message":"m"}"#, "no endpoint"),
            (200, &ok.replace("200", "200.0"), "accepted"),
            (200, &ok.replace("200", "\"200\""), "accepted"),
            (200, &ok.replace("200", "\"200.0\""), "accepted"),
            (200, &format!("\u{feff}{ok}"), "accepted"),
            (200, &ok.replace("200", "200.5"), "unknown"),
            (200, &ok.replace("200", "2e2"), "unknown"),
            (200, &ok.replace("200", "-200"), "unknown"),
            (200, &format!("\u{feff}\u{feff}{ok}"), "unknown"),
            (200, r#"{"code":402.0,"message":"m"}"#, "account exhausted"),
            (413, html, "refused"),
            (401, r#"{"code":401,"error":"INVALID_API_KEY","message":"m"}"#, "key rejected"),
            (403, r#"{"code":403,"error":"F","message":"m"}"#, "key rejected"),
            (403, html, "refused"),
            (402, html, "account exhausted"),
            (429, html, "busy"),
            (500, r#"{"code":500,"error":"INTERNAL_ERROR","message":"m"}"#, "failed"),
            (500, html, "unknown"),
            (502, html, "unknown"),
            (503, r#"{"code":503,"error":"X","message":"m"}"#, "unknown"),
            (408, no, "unknown"),
            (200, html, "unknown"),
            (200, "", "unknown"),
            (204, "", "unknown"),
            (200, r#"{"code":200,"data":{}}"#, "unknown"),
            (200, r#"{"code":200,"data":{"task_id":""}}"#, "unknown"),
            (200, r#"{"code":200,"data":{"task_id":{"a":1}}}"#, "unknown"),
            (200, r#"{"code":200,"data":null}"#, "unknown"),
            (302, html, "redirected"),
            (304, "", "redirected"),
        ];
        for (status, body, expected) in cases {
            assert_eq!(outcome(status, body), expected, "{status} {body}");
            assert!(CreateOutcome::LABELS.contains(&expected));
        }
    }

    #[test]
    fn status_answers() {
        let body = |data: &str| format!(r#"{{"code":200,"message":"success","data":{data}}}"#);
        let read = |data: &str| status_report("n75a", Envelope::parse(body(data).as_bytes()));
        let report =
            read(r#"{"task_id":"n75a","status":"SUCCESS","consumed_credits":400.0,"response":{"x":[1]}}"#)
                .unwrap();
        assert_eq!((report.progress, report.raw), (Progress::Succeeded, Some(Credits::new(400))));
        assert_eq!(read(r#"{"status":"QUEUED"}"#).unwrap().progress, Progress::Running);
        assert_eq!(read(r#"{"status":"FAILED","consumed_credits":"x"}"#).unwrap().raw, None);
        assert!(read(r#"{"task_id":"n75other","status":"SUCCESS"}"#).is_none());
        assert!(status_report("n75a", Envelope::parse(br#"{"code":402,"message":"m"}"#)).is_none());
        assert!(status_report("n75a", Envelope::parse(b"<html>")).is_none());
        let marked = format!("\u{feff}{}", body(r#"{"status":"QUEUED"}"#).replace("200", "200.0"));
        assert!(status_report("n75a", Envelope::parse(marked.as_bytes())).is_some());
    }
}
