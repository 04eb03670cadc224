//! Settings of traces, and their check.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::check::Check;
use crate::secret::Secret;

/// Traces, sent to an OpenTelemetry collector.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// URL of the collector; omitted: no traces are sent.
    pub otlp_endpoint: Option<Url>,
    /// Protocol of the collector.
    pub protocol: OtlpProtocol,
    /// Share of requests, and of the reconciler's polls, whose spans are sent; from 0 to 1.
    pub sample_ratio: f64,
    /// Whether the caller's `traceparent` decides if a trace is sent. Only behind a proxy that sets this header itself:
    /// otherwise a caller can have all of its requests traced.
    pub trust_parent: bool,
    /// Whether calls to the vendor carry the trace, in `traceparent` and `tracestate`.
    pub propagate: bool,
    /// File with headers for the collector, one `name: value` a line.
    pub headers_file: Option<PathBuf>,
    /// Resource attributes of this gateway, besides its name, version and id.
    pub resource: BTreeMap<String, String>,
    /// The headers that were in `headers_file`.
    #[serde(skip)]
    pub headers: Vec<(String, Secret)>,
}

/// The protocol of a collector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OtlpProtocol {
    /// OTLP over gRPC, usually on port 4317.
    #[default]
    Grpc,
    /// OTLP in Protobuf over HTTP, usually on port 4318.
    Http,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            protocol: OtlpProtocol::default(),
            sample_ratio: 0.05,
            trust_parent: false,
            propagate: false,
            headers_file: None,
            resource: BTreeMap::new(),
            headers: Vec::new(),
        }
    }
}

impl Telemetry {
    pub(super) fn check(&mut self, check: &mut Check<'_>) {
        if let Some(url) = &self.otlp_endpoint {
            let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
            if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !plain {
                // Not shown, because the URL may hold a password.
                check.wrong(
                    "telemetry.otlp_endpoint",
                    "not usable",
                    "an http or https URL without user and query, such as http://127.0.0.1:4317; secrets go into headers_file",
                );
            }
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            check.wrong("telemetry.sample_ratio", self.sample_ratio.to_string(), "from 0 to 1");
        }
        for name in self.resource.keys().filter(|name| name.is_empty() || name.len() > 255) {
            check.wrong("telemetry.resource", format!("'{name}'"), "names of 1 to 255 characters");
        }
        let file = "telemetry.headers_file";
        if self.headers_file.is_some()
            && let Some(text) = check.secret(file, None, file, &mut self.headers_file)
        {
            self.read_headers(check, file, &text);
        }
    }

    fn read_headers(&mut self, check: &mut Check<'_>, file: &str, text: &Secret) {
        for line in text.expose().lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.split_once(':').map(|(name, value)| (name.trim(), value.trim())) {
                Some((name, value))
                    if HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok() =>
                {
                    let name = name.to_ascii_lowercase();
                    if self.headers.iter().any(|(given, _)| *given == name) {
                        let value = format!("not shown; it has {name} twice");
                        check.wrong(file, value, "a file with each header once");
                        return;
                    }
                    self.headers.push((name, Secret::new(value)));
                }
                _ => {
                    check.wrong(file, "not shown", "lines of the form 'name: value'");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    const LEAST: &str = "[database]\nurl = \"postgres://x\"\n[upstream.kling_3]\nbase_url = \"http://x\"\nmaster_key = \"k\"\n[telemetry]\n";

    fn load(more: &str) -> Result<super::Telemetry, String> {
        Config::from_toml(&format!("{LEAST}{more}"))
            .map(|config| config.telemetry)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn headers_come_from_a_file_and_do_not_show() {
        let file = std::env::temp_dir().join(format!("tollgate-headers-{}", std::process::id()));
        let named = format!("headers_file = \"{}\"", file.display());
        std::fs::write(&file, "Authorization: Bearer abc:def\n\nX-Scope-OrgID: 7\n").unwrap();
        let telemetry = load(&named).unwrap();
        assert!(!format!("{telemetry:?}").contains("abc"));
        let headers: Vec<_> =
            telemetry.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(headers, [("authorization", "Bearer abc:def"), ("x-scope-orgid", "7")]);
        std::fs::write(&file, "x-scope-orgid: 7\nX-Scope-OrgID: 8\n").unwrap();
        assert!(load(&named).unwrap_err().contains("x-scope-orgid twice"));
        std::fs::write(&file, "hunter2").unwrap();
        let problem = load(&named).unwrap_err();
        std::fs::remove_file(&file).unwrap();
        assert!(problem.contains("'name: value'") && !problem.contains("hunter2"), "{problem}");
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        for (more, expected) in [
            ("otlp_endpoint = \"127.0.0.1:4317\"", "otlp_endpoint"),
            ("otlp_endpoint = \"http://u:hunter2@x\"", "http or https URL without user"),
            ("protocol = \"thrift\"", "telemetry.protocol"),
            ("sample_ratio = 1.5", "sample_ratio is 1.5; it must be from 0 to 1"),
            ("sample_ratio = nan", "sample_ratio is NaN"),
            ("headers_file = \"/nowhere\"", "headers_file names /nowhere"),
            ("resource = { \"\" = \"x\" }", "telemetry.resource"),
        ] {
            let problem = load(more).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains("hunter2"), "{more}: {problem}");
        }
    }
}
