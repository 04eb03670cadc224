//! Forms that were refused. Their page is shown again, with what was typed, and with the reason above it and beside the field.

use std::borrow::Borrow;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use askama::filters::HtmlSafe;

use super::client::Problem;
use super::view::{Alert, escaped, sentence};
use super::visit::Fields;

/// A form that was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Where it was sent, below `/console`: no two forms of a page are sent to one place.
    place: String,
    fields: Arc<Fields>,
    problem: Problem,
    /// The field that is wrong, if the refusal names one.
    field: Option<String>,
}

/// What the APIs call a field, and what the forms call it.
const ALIASES: [(&str, &str); 15] = [
    ("create_per_minute", "creates"),
    ("status_per_minute", "others"),
    ("allowed_types", "types"),
    ("allowed_networks", "networks"),
    ("expires_at", "days"),
    ("expires_at", "expires"),
    ("until", "days"),
    ("max_keys", "most"),
    ("max_days", "days"),
    ("subject_id", "subject"),
    ("level", "subject"),
    ("user_id", "user"),
    ("team_id", "team"),
    ("org_id", "org"),
    ("to_org", "to"),
];

/// How many words of a refusal may name the field.
const WORDS: usize = 4;

/// The field that a refusal speaks of: the one that it names, or one among its first words.
fn field(problem: &Problem, fields: &Fields) -> Option<String> {
    let typed = |name: &str| fields.has(name).then(|| name.to_owned());
    let of_form = |name: &str| {
        let aliases = ALIASES.iter().filter(|(api, _)| *api == name).find_map(|(_, form)| typed(form));
        aliases.or_else(|| typed(name))
    };
    if let Some(name) = &problem.field {
        return of_form(name);
    }
    let words = problem.message.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut words = words.filter(|word| !word.is_empty()).take(WORDS);
    // Short words may be English.
    words.find_map(|word| of_form(word).filter(|name| name.len() > 3 || word.len() > 3))
}

impl Refusal {
    pub(super) fn new(place: String, fields: Arc<Fields>, mut problem: Problem) -> Self {
        if problem.code == "idempotency_key_reused" {
            problem.message = "This form was sent already, with other figures, and that counts. Look at what it did before you \
                               send this one: it would be done as well."
                .into();
        }
        let field = field(&problem, &fields);
        Self { place, fields, problem, field }
    }

    pub(super) fn problem(&self) -> &Problem {
        &self.problem
    }

    pub(super) fn fields(&self) -> &Arc<Fields> {
        &self.fields
    }

    pub(super) fn alert(&self) -> Alert {
        Alert::of(&self.problem)
    }

    /// The idempotency key of the form, which stays unless it was used for other figures before.
    pub(super) fn key(&self) -> Option<String> {
        let is_used = self.problem.code.eq_ignore_ascii_case("idempotency_key_reused");
        self.fields.get("key").filter(|_| !is_used).map(ToOwned::to_owned)
    }

    /// The form that is sent to `place`, if it is the one that was refused.
    pub(super) fn of(refusal: Option<&Self>, place: impl Display) -> Form<'_> {
        let place = place.to_string();
        Form(refusal.filter(|refusal| refusal.place == place))
    }
}

/// A form in a page: what stands in its fields. Templates print its pieces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form<'a>(Option<&'a Refusal>);

impl Form<'_> {
    /// What a field holds: what was typed, or `otherwise`.
    pub(super) fn text(&self, name: &str, otherwise: impl Display) -> String {
        match self.0 {
            Some(refusal) if refusal.fields.has(name) => refusal.fields.text(name),
            _ => otherwise.to_string(),
        }
    }

    /// The same as an attribute of an input, with what says that it is wrong.
    pub(super) fn value(&self, name: &str, otherwise: impl Display) -> Value {
        Value { text: self.text(name, otherwise), is_wrong: self.is_wrong(name) }
    }

    /// What stands below a field that is wrong; nothing below the others.
    pub(super) fn wrong(&self, name: &str) -> Wrong {
        let refusal = self.0.filter(|_| self.is_wrong(name));
        Wrong(refusal.map(|refusal| refusal.problem.message.clone()))
    }

    /// Whether an option is the chosen one. Templates pass fields by reference, and results by value.
    pub(super) fn chosen(&self, name: &str, value: impl Display, otherwise: impl Borrow<bool>) -> bool {
        match self.0.and_then(|refusal| refusal.fields.sent(name)) {
            Some(typed) => typed == value.to_string(),
            None => *otherwise.borrow(),
        }
    }

    /// Whether a box is ticked: one that is not is not sent.
    pub(super) fn ticked(&self, name: &str, otherwise: impl Borrow<bool>) -> bool {
        self.0.map_or(*otherwise.borrow(), |refusal| refusal.fields.is_set(name))
    }

    /// Whether this form was refused: what hides it is open then.
    pub(super) fn is_refused(&self) -> bool {
        self.0.is_some()
    }

    fn is_wrong(&self, name: &str) -> bool {
        self.0.is_some_and(|refusal| refusal.field.as_deref() == Some(name))
    }
}

/// The attributes of an input that say what it holds.
#[derive(Debug)]
pub(super) struct Value {
    text: String,
    is_wrong: bool,
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, r#" value="{}""#, escaped(&self.text))?;
        if self.is_wrong { f.write_str(r#" aria-invalid="true" aria-describedby="wrong""#) } else { Ok(()) }
    }
}

impl HtmlSafe for Value {}

/// Why a field is wrong.
#[derive(Debug)]
pub(super) struct Wrong(Option<String>);

impl Display for Wrong {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(why) => write!(f, r#"<p class="wrong" id="wrong">{}</p>"#, escaped(&sentence(why))),
            None => Ok(()),
        }
    }
}

impl HtmlSafe for Wrong {}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn refused(typed: &[u8], message: &str) -> Refusal {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid_request", message);
        Refusal::new("/keys".into(), Arc::new(Fields::parse(typed).unwrap()), problem)
    }

    #[test]
    fn only_the_form_that_was_refused_has_what_was_typed() {
        let refusal = refused(b"name=%3Cb%3E&days=x&enabled=yes&role=admin", "the days must be a number");
        let form = Refusal::of(Some(&refusal), "/keys");
        assert_eq!(form.value("name", "").to_string(), " value=\"&#60;b&#62;\"");
        assert!(form.value("days", 90).to_string().contains("aria-invalid=\"true\""));
        assert!(form.wrong("days").to_string().contains("The days must be a number."));
        assert!(form.wrong("name").to_string().is_empty() && form.is_refused());
        assert!(form.chosen("role", "admin", false) && !form.chosen("role", "member", true));
        assert!(form.ticked("enabled", false) && !form.ticked("other", true));
        let other = Refusal::of(Some(&refusal), "/keys/policy");
        assert_eq!(other.value("days", 90).to_string(), " value=\"90\"");
        assert!(!other.is_refused() && other.ticked("other", true) && other.chosen("role", "member", true));
    }

    #[test]
    fn the_field_of_a_refusal_is_found_by_the_names_of_the_api() {
        let typed = b"types=x&days=9&name=n&to=org&key=k";
        for (message, field) in [
            ("allowed_types: it is empty", Some("types")),
            ("expires_at must be later", Some("days")),
            ("name must have 1 to 100 characters", Some("name")),
            ("to_org: there is no such organisation", Some("to")),
            // A word of English is no field.
            ("try to use the key again", None),
            ("there is no such organisation", None),
        ] {
            assert_eq!(refused(typed, message).field.as_deref(), field, "{message}");
        }
    }

    #[test]
    fn the_key_of_a_form_stays_unless_it_counts_for_something_else() {
        let problem = |code| Problem::new(StatusCode::CONFLICT, code, "x");
        let fields = || Arc::new(Fields::parse(b"key=k").unwrap());
        let key = |code| Refusal::new(String::new(), fields(), problem(code)).key();
        assert_eq!(key("conflict").as_deref(), Some("k"));
        assert_eq!(key("idempotency_key_reused"), None);
        assert_eq!(key("IDEMPOTENCY_KEY_REUSED"), None);
    }
}
