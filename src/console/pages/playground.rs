//! The playground: a form for each task type, its price as one types, and the create that buys exactly what was priced.
//!
//! The form has an idempotency key of its own, so that a double click, a reload or the back button buy one clip. The price is a
//! promise of the API for exactly this body: a form that was changed after its price was shown is priced again first.

use http::Method;
use serde::Deserialize;

use crate::console::answers::{Prices, Quote, TypePrice};
use crate::console::client::Problem;
use crate::console::frame::html;
use crate::console::pages::create::CreateForm;
use crate::console::pages::start::BudgetLine;
use crate::console::shell::{Member, Shell};
use crate::console::trouble::{Trouble, redirect};
use crate::console::view::{Alert, Money, When};
use crate::console::visit::{Fields, Outcome, Visit};
use crate::layers::body::MAX_BODY;

/// How long a price is promised, in seconds.
const PROMISED: u32 = 300;

/// The largest form: a body with files, whose characters a browser writes as three.
const MOST_FORM: usize = MAX_BODY / 2 * 3;

/// The largest file that is put into a form: in `data:` form it is a third larger, and the body has other fields.
const MOST_FILE: usize = 11 << 20;

#[derive(askama::Template)]
#[template(path = "playground.html")]
struct PlaygroundPage {
    shell: Shell,
    types: Vec<TypeChoice>,
    chosen: TypePrice,
    /// How the type is priced.
    tariff: String,
    form: CreateForm,
    key: String,
    price: FormPrice,
    curl: String,
    most_file: usize,
    book: String,
}

/// The price alone, for the script: the page itself may contain files.
#[derive(askama::Template)]
#[template(path = "price.html")]
struct PricePart {
    base: String,
    price: FormPrice,
}

struct TypeChoice {
    name: String,
    is_chosen: bool,
    allowed: bool,
}

/// The price of the form, or why it has none.
enum FormPrice {
    /// Nothing was filled in yet.
    Unknown,
    Refused(Alert),
    Quoted(Quoted),
    /// It is being created right now, by the same form.
    Creating,
}

/// A promised price, and what it leaves.
struct Quoted {
    credits: Money,
    list: Money,
    factor: String,
    left: Money,
    is_enough: bool,
    missing: Money,
    budgets: Vec<Remaining>,
    promise: String,
    until: Option<When>,
    /// Why the form is shown again although "Create" was pressed.
    note: Option<&'static str>,
}

/// What a budget has left after the create.
struct Remaining {
    whose: &'static str,
    period: &'static str,
    left: Money,
    is_exceeded: bool,
}

#[derive(Debug, Deserialize)]
struct CreatedTask {
    task_id: String,
}

/// A factor in basis points as people read it.
pub(in crate::console) fn factor(basis_points: i32) -> String {
    let (whole, part) = (basis_points / 10_000, (basis_points % 10_000).abs());
    let text = format!("{whole}.{part:04}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("× {text}")
}

/// How a type is priced, in words.
pub(in crate::console) fn tariff(price: &TypePrice) -> String {
    let tariff = &price.price;
    match (tariff.unit.as_str(), tariff.credits_with_audio) {
        ("second", Some(with)) => format!("{} credits a second, {with} with sound", tariff.credits),
        ("second", None) => format!("{} credits a second", tariff.credits),
        _ => format!("{} credits a clip", tariff.credits),
    }
}

/// What was chosen, or the first type that the key may create.
fn choose(prices: &Prices, wanted: Option<&str>) -> Result<TypePrice, Trouble> {
    let named = prices.types.iter().find(|one| Some(one.task_type.as_str()) == wanted);
    let first = prices.types.iter().filter(|one| one.allowed);
    // The cheapest type that needs nothing but a prompt is the easiest to begin with.
    let easy = first.clone().filter(|one| one.task_type.ends_with("text-to-video"));
    let easy = easy.min_by_key(|one| one.price.credits);
    let found = named.or(easy).or_else(|| first.clone().next()).or(prices.types.first());
    found
        .cloned()
        .ok_or_else(|| Trouble::not_found("The price book in force has no types: ask your operator."))
}

/// A key of the form: 128 random bits.
fn fresh_key() -> String {
    format!("console-{}", uuid::Uuid::new_v4().simple())
}

pub(in crate::console) async fn show(visit: Visit) -> Outcome {
    let fields = visit.filled();
    let loaded = Loaded::of(&visit, &fields).await?;
    Ok(html(&loaded.page(&visit, visit.form_key(), FormPrice::Unknown)))
}

/// Prices the form, or creates what it says.
pub(in crate::console) async fn send(visit: Visit) -> Outcome {
    let fields = visit.form_of(MOST_FORM).await?;
    let loaded = Loaded::of(&visit, &fields).await?;
    if visit.is_for_script() {
        let body = loaded.body(&visit).await?;
        return Ok(html(&PricePart {
            base: visit.base().to_owned(),
            price: loaded.price(&visit, body, None).await,
        }));
    }
    let key = fields.get("key").map_or_else(fresh_key, ToOwned::to_owned);
    let body = loaded.body(&visit).await?;
    let labels = loaded.labels();
    if fields.get("do") != Some("create") || labels.is_err() {
        let priced = loaded.price(&visit, body, None).await;
        return Ok(html(&loaded.page(&visit, key, priced)));
    }
    let call = visit.client.data(Method::POST, "/api/generate").header("idempotency-key", &key);
    let call = match labels.ok().flatten() {
        Some(labels) => call.header("x-tollgate-labels", &labels),
        None => call,
    };
    let call = match fields.get("quote") {
        Some(quote) => call.header("x-tollgate-quote", quote),
        None => {
            let priced = loaded.price(&visit, body, Some("This is the price: create it now?")).await;
            return Ok(html(&loaded.page(&visit, key, priced)));
        }
    };
    match call.body(body.clone()).data::<CreatedTask>().await {
        Ok(created) => Ok(redirect(&visit.link(&format!("/clips/{}", created.task_id)))),
        Err(problem) => loaded.refused(&visit, key, body, &problem).await,
    }
}

/// What the page is made of.
struct Loaded {
    member: Member,
    shell: Shell,
    prices: Prices,
    chosen: TypePrice,
    form: CreateForm,
}

impl Loaded {
    async fn of(visit: &Visit, fields: &Fields) -> Result<Self, Trouble> {
        let ((member, shell), prices) =
            tokio::try_join!(visit.member("Playground"), visit.client.read::<Prices>("/api/prices"),)?;
        let chosen = choose(&prices, fields.get("type"))?;
        let form = CreateForm::of(fields, &chosen.task_type, &chosen.fields);
        Ok(Self { member, shell, prices, chosen, form })
    }

    /// The body of the create; one with files is written on a thread of its own.
    async fn body(&self, visit: &Visit) -> Result<String, Trouble> {
        let (form, rules) = (self.form.clone(), self.chosen.fields.clone());
        visit.work(self.form.size(), move || form.body(&rules)).await
    }

    /// The header with the labels; a refusal of what was typed names the field.
    fn labels(&self) -> Result<Option<String>, Box<Problem>> {
        self.form.labels_header().map_err(|why| {
            let message = format!("Labels: {why}");
            Box::new(Problem::new(http::StatusCode::BAD_REQUEST, "INVALID_REQUEST", message))
        })
    }

    /// The promised price of a body.
    async fn price(&self, visit: &Visit, body: String, note: Option<&'static str>) -> FormPrice {
        if let Err(problem) = self.labels() {
            return FormPrice::Refused(Alert::of(&problem));
        }
        let place = format!("/api/quote?valid_for={PROMISED}");
        let quoted = match visit.client.data(Method::POST, &place).body(body.clone()).data::<Quote>().await {
            // A gateway that promises no prices still has prices.
            Err(problem) if problem.message.contains("valid_for") => {
                visit.client.data(Method::POST, "/api/quote").body(body).data::<Quote>().await
            }
            other => other,
        };
        match quoted {
            Ok(quote) => FormPrice::Quoted(self.quoted(&quote, note)),
            Err(problem) => FormPrice::Refused(Alert::of(&problem)),
        }
    }

    fn quoted(&self, quote: &Quote, note: Option<&'static str>) -> Quoted {
        let left = quote.available.saturating_sub(quote.credits);
        let zone = &self.member.zone;
        let lines = self.member.me.budgets.iter().filter_map(|budget| {
            let spent = budget.used.saturating_add(budget.held).saturating_add(quote.credits);
            let left = budget.limit?.saturating_sub(spent);
            let line = BudgetLine::new(budget, zone);
            Some(Remaining {
                whose: line.whose,
                period: line.period,
                left: Money(left),
                is_exceeded: left < 0,
            })
        });
        let is_enough = left >= -self.member.balance.overdraft;
        Quoted {
            credits: Money(quote.credits),
            list: Money(quote.list_price),
            factor: factor(quote.price_factor_bp),
            left: Money(left),
            is_enough,
            missing: Money(left.saturating_neg()),
            budgets: lines.collect(),
            promise: quote.quote.clone().unwrap_or_default(),
            until: When::maybe(zone, quote.valid_until),
            note,
        }
    }

    /// The form again, after a create that was refused.
    async fn refused(&self, visit: &Visit, key: String, body: String, problem: &Problem) -> Outcome {
        let again = |note| self.price(visit, body.clone(), Some(note));
        let (key, priced) = match problem.code.as_str() {
            "REQUEST_IN_PROGRESS" => (key, FormPrice::Creating),
            "IDEMPOTENCY_KEY_REUSED" => {
                (fresh_key(), again("This form has bought a clip already. Create another one?").await)
            }
            // The API knows the reference of a task whose outcome is unknown.
            "OUTCOME_UNKNOWN" => match problem.data.get("task_id").and_then(serde_json::Value::as_str) {
                Some(reference) => return Ok(redirect(&visit.link(&format!("/clips/{reference}")))),
                None => (fresh_key(), FormPrice::Refused(Alert::of(problem))),
            },
            "INVALID_REQUEST" if problem.message.contains("quote") => (
                key,
                again("The form or the price has changed since the price was shown. Create it for this?")
                    .await,
            ),
            _ => (key, FormPrice::Refused(Alert::of(problem))),
        };
        let mut answer = html(&self.page(visit, key, priced));
        *answer.status_mut() = problem.status;
        Ok(answer)
    }

    fn page(&self, visit: &Visit, key: String, price: FormPrice) -> PlaygroundPage {
        let choice = |one: &TypePrice| TypeChoice {
            name: one.task_type.clone(),
            is_chosen: one.task_type == self.chosen.task_type,
            allowed: one.allowed,
        };
        let prices = &self.prices;
        PlaygroundPage {
            shell: self.shell.clone(),
            types: prices.types.iter().map(choice).collect(),
            tariff: tariff(&self.chosen),
            curl: self.form.curl(&visit.public_url(), &self.chosen.fields),
            chosen: self.chosen.clone(),
            form: self.form.clone(),
            key,
            price,
            most_file: MOST_FILE,
            book: format!(
                "{} (version {}), your factor {}",
                prices.price_book_name,
                prices.price_book,
                factor(prices.price_factor_bp)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_shown_without_needless_digits() {
        assert_eq!([10_000, 12_500, 9_000, 10_001].map(factor), ["× 1", "× 1.25", "× 0.9", "× 1.0001"]);
    }
}
