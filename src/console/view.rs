//! The reusable pieces of pages. Each prints HTML of its own and escapes what it shows, so a template prints it by `{{ piece }}`.
//! Names that people have chosen are [`Name`]s: they may have marks that turn the direction of what stands beside them.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use askama::filters::{Html, HtmlSafe, escape};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::form_urlencoded::byte_serialize;

use super::client::Problem;
use super::zone::Zone;

/// A text for HTML, with what has a meaning there escaped.
pub(super) fn escaped(text: &str) -> String {
    escape(text, Html).map(|safe| safe.to_string()).unwrap_or_default()
}

/// A whole number, its digits in groups of three.
pub(super) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("\u{2212}{text}") } else { text }
}

/// An amount of credits, with its unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Money(pub(super) i64);

impl Display for Money {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let unit = if self.0 == 1 { "credit" } else { "credits" };
        write!(f, r#"<span class="money">{}&nbsp;<span class="unit">{unit}</span></span>"#, grouped(self.0))
    }
}

impl HtmlSafe for Money {}

/// A number without a unit, for columns whose head names the unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number(pub(super) i64);

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&grouped(self.0))
    }
}

impl HtmlSafe for Number {}

/// A name that people have chosen.
#[derive(Debug, Clone)]
pub(super) struct Name(pub(super) String);

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, r#"<bdi class="name">{}</bdi>"#, escaped(&self.0))
    }
}

impl HtmlSafe for Name {}

/// The labels of a task. Each leads to the list of clips with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels {
    base: String,
    labels: Vec<String>,
}

impl Labels {
    pub(super) fn new(base: &str, labels: &BTreeMap<String, String>) -> Self {
        let labels = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Self { base: base.to_owned(), labels }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

impl Display for Labels {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(r#"<span class="labels">"#)?;
        for label in &self.labels {
            let wanted: String = byte_serialize(label.as_bytes()).collect();
            let (base, shown) = (escaped(&self.base), escaped(label));
            write!(
                f,
                r#"<a class="label" href="{base}/console/clips?label={wanted}"><bdi>{shown}</bdi></a> "#
            )?;
        }
        f.write_str("</span>")
    }
}

impl HtmlSafe for Labels {}

/// An id, shortened, with a button that copies the whole of it.
#[derive(Debug, Clone)]
pub(super) struct Id(pub(super) String);

/// Ids up to this length are shown whole.
const WHOLE: usize = 16;

impl Id {
    fn short(&self) -> String {
        let count = self.0.chars().count();
        if count <= WHOLE {
            return self.0.clone();
        }
        let start: String = self.0.chars().take(9).collect();
        let end: String = self.0.chars().skip(count - 4).collect();
        format!("{start}…{end}")
    }
}

impl Id {
    /// The id as a link to the page about it.
    pub(super) fn linked(&self, to: &str) -> String {
        let (whole, short, to) = (escaped(&self.0), escaped(&self.short()), escaped(to));
        format!(
            r#"<span class="id"><a href="{to}"><code title="{whole}">{short}</code></a><button type="button" class="copy" data-copy="{whole}" aria-label="Copy {whole}" hidden>Copy</button></span>"#
        )
    }
}

impl Display for Id {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (whole, short) = (escaped(&self.0), escaped(&self.short()));
        write!(
            f,
            r#"<span class="id"><code title="{whole}">{short}</code><button type="button" class="copy" data-copy="{whole}" aria-label="Copy {whole}" hidden>Copy</button></span>"#
        )
    }
}

impl HtmlSafe for Id {}

/// Who did something, as the audit log names it, with ids shortened.
#[derive(Debug, Clone)]
pub(super) struct Actor(pub(super) String);

impl Actor {
    /// The name as people know it: without the id before it, where there is a name.
    pub(super) fn short(&self) -> String {
        let (kind, rest) = self.0.split_once(':').unwrap_or(("", &self.0));
        let named = rest.split_once(" (").and_then(|(_, name)| name.strip_suffix(')'));
        match named {
            Some(name) => format!("{kind} {name}"),
            None if rest.chars().count() > WHOLE => format!("{kind} {}", Id(rest.to_owned()).short()),
            None => self.0.clone(),
        }
    }
}

impl Display for Actor {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, r#"<bdi title="{}">{}</bdi>"#, escaped(&self.0), escaped(&self.short()))
    }
}

impl HtmlSafe for Actor {}

/// An instant, in the organisation's zone; the offset is told when the pointer rests on it.
#[derive(Debug, Clone)]
pub(super) struct When {
    machine: String,
    short: String,
    full: String,
}

impl When {
    pub(super) fn new(zone: &Zone, at: OffsetDateTime) -> Self {
        Self { machine: at.format(&Rfc3339).unwrap_or_default(), short: zone.short(at), full: zone.full(at) }
    }

    pub(super) fn maybe(zone: &Zone, at: Option<OffsetDateTime>) -> Option<Self> {
        at.map(|at| Self::new(zone, at))
    }
}

impl Display for When {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { machine, short, full } = self;
        write!(f, r#"<time datetime="{machine}" title="{}">{}</time>"#, escaped(full), escaped(short))
    }
}

impl HtmlSafe for When {}

/// How much of a limit is used, as a bar. The figures stand beside it in text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter {
    pub(super) used: i64,
    pub(super) limit: i64,
}

impl Meter {
    fn percent(self) -> i64 {
        if self.limit <= 0 {
            return 100;
        }
        self.used.max(0).saturating_mul(100).checked_div(self.limit).unwrap_or(100).clamp(0, 100)
    }
}

impl Display for Meter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let percent = self.percent();
        let level = if percent >= 90 { "high" } else { "fine" };
        write!(
            f,
            r#"<svg class="meter {level}" viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label="{percent} % used"><rect class="rail" width="100" height="4" rx="2"/><rect class="fill" width="{percent}" height="4" rx="2"/></svg>"#
        )
    }
}

impl HtmlSafe for Meter {}

/// The state of a task, as a badge in words.
#[derive(Debug, Clone)]
pub(super) struct Badge {
    kind: &'static str,
    text: &'static str,
}

impl Badge {
    /// By the state in the ledger, and by what callers are told.
    pub(super) fn of_task(state: &str, status: &str) -> Self {
        let (kind, text) = match (state, status) {
            (_, "SUCCESS") => ("good", "Done"),
            ("IN_DOUBT", _) => ("warn", "In doubt"),
            ("WRITTEN_OFF", "FAILED") => ("warn", "Written off"),
            (_, "FAILED") => ("bad", "Failed"),
            ("HELD", _) => ("busy", "Starting"),
            _ => ("busy", "Running"),
        };
        Self { kind, text }
    }

    pub(super) const fn new(kind: &'static str, text: &'static str) -> Self {
        Self { kind, text }
    }
}

impl Display for Badge {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, r#"<span class="badge {}">{}</span>"#, self.kind, self.text)
    }
}

impl HtmlSafe for Badge {}

/// A box that tells why something did not work, with the id of the request.
#[derive(Debug, Clone)]
pub(super) struct Alert {
    message: String,
    code: String,
    request_id: Option<String>,
}

impl Alert {
    pub(super) fn of(problem: &Problem) -> Self {
        Self {
            message: problem.message.clone(),
            code: problem.code.clone(),
            request_id: problem.request_id.clone(),
        }
    }
}

impl Alert {
    /// Whether it tells of a refusal with this code.
    pub(super) fn is(&self, code: &str) -> bool {
        self.code == code
    }
}

impl Display for Alert {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, r#"<div class="alert" role="alert"><p>{}</p>"#, escaped(&sentence(&self.message)))?;
        write!(f, r#"<p class="fine">{}"#, escaped(&self.code))?;
        if let Some(id) = &self.request_id {
            write!(f, " · request {}", Id(id.clone()))?;
        }
        f.write_str("</p></div>")
    }
}

impl HtmlSafe for Alert {}

/// The text with a capital at its beginning and a full stop at its end, unless it has its own.
pub(super) fn sentence(text: &str) -> String {
    let mut characters = text.trim().chars();
    let Some(first) = characters.next() else { return String::new() };
    let mut text: String = first.to_uppercase().chain(characters).collect();
    if !text.ends_with(['.', '!', '?']) {
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "<script>alert(1)</script>\"'&\u{202e}";

    #[test]
    fn no_piece_prints_markup_that_it_was_given() {
        let pieces = [
            Name(HOSTILE.into()).to_string(),
            Id(HOSTILE.into()).to_string(),
            Labels::new(HOSTILE, &[(HOSTILE.into(), HOSTILE.into())].into()).to_string(),
            Alert { message: HOSTILE.into(), code: HOSTILE.into(), request_id: Some(HOSTILE.into()) }
                .to_string(),
        ];
        for piece in pieces {
            assert!(!piece.contains("<script") && !piece.contains("\"'&"), "{piece}");
        }
    }

    #[test]
    fn numbers_are_grouped_and_signed() {
        let shown = [0, 7, 999, 1_000, 1_234_567, -12_345, i64::MIN].map(grouped);
        let expected = ["0", "7", "999", "1,000", "1,234,567", "−12,345", "−9,223,372,036,854,775,808"];
        assert_eq!(shown, expected);
        assert!(Money(1).to_string().contains("credit<"));
    }

    #[test]
    fn long_ids_are_shortened_and_whole_ones_can_be_copied() {
        let id = "hold_0192f3a4b5c6d7e8f90112233445566";
        let shown = Id(id.into()).to_string();
        assert!(
            shown.contains("hold_0192…5566") && shown.contains(&format!("data-copy=\"{id}\"")),
            "{shown}"
        );
        assert!(Id("short".into()).to_string().contains(">short<"));
    }

    #[test]
    fn an_actor_is_shown_by_name_or_by_a_short_id() {
        let short = |text: &str| Actor(text.into()).short();
        let id = "opt_01a22b2d4bc07201853f78456580dc2c";
        assert_eq!(short(&format!("operator:{id} (night shift)")), "operator night shift");
        assert_eq!(short(&format!("operator:{id}")), "operator opt_01a22…dc2c");
        assert_eq!(short("tollgate:demo"), "tollgate:demo");
        assert!(!Actor(HOSTILE.into()).to_string().contains("<script"));
    }

    #[test]
    fn a_meter_is_full_at_its_limit() {
        let percent = |used, limit| Meter { used, limit }.percent();
        assert_eq!(
            [percent(0, 10), percent(5, 10), percent(20, 10), percent(1, 0), percent(-5, 10)],
            [0, 50, 100, 100, 0]
        );
    }

    #[test]
    fn a_message_is_a_sentence() {
        assert_eq!(sentence("not enough credits"), "Not enough credits.");
        assert_eq!(sentence("Done!"), "Done!");
        assert_eq!(sentence(""), "");
    }
}
