//! The console: pages for people, `/console` on both listeners. Members and admins of organisations use the data listener,
//! operators the operations listener.
//!
//! The console is a client of the two APIs, within the process. A page calls the data plane and the management API as services,
//! with a request that carries the signed-in caller ([`SignedIn`](crate::access::sessions::SignedIn)) in place of a
//! credential. So a page can do nothing that the API would refuse, and limits, turns and quotas count as for the same caller
//! with its key. The console has no access to the database.
//!
//! # How a page is made
//!
//! | Part | What it is for |
//! |---|---|
//! | `frame` | what holds for every answer: content policy, request id, log event, the answer to a panic |
//! | `visit` | one request of a signed-in caller: its parameters and its form; [`visit::page`] makes a route of a function |
//! | `client` | calls of the APIs, at most [`client::MOST_CALLS`] a page; a refusal is a [`client::Problem`] |
//! | `answers` | the answers of the APIs, as far as pages read them |
//! | `shell` | what surrounds a page: title, navigation, organisation, balance, theme |
//! | `attention` | what needs a person, on every page of operators |
//! | `view` | the reusable pieces of pages: `Money`, `Id`, `When`, `Meter`, `Alert`; they escape what they print |
//! | `table` | tables and lists of facts, made of such pieces |
//! | `zone` | instants in the organisation's time zone |
//! | `pages` | the pages, a file each; those of operators are below `pages/operators` |
//! | `templates/` | `layout.html` surrounds a page, `bare.html` a page without a session; `fields.html` has macros for fields of forms, pagers and empty states. Included: `pager.html` (wants `next`), `clip_table.html` (`clips`, `show_user`), `budget_cards.html` (`mine`), `price.html` (`price`, `base`), `theme.html` |
//! | `static/` | the one style sheet, the one script, the icon |
//!
//! Classes of the style sheet for what pages repeat: `head` (title and its actions), `card`, `figures` (a row of large numbers),
//! `scroll` around every table, `number` for columns of numbers, `facts` (names and values), `field` (label, input, `hint`),
//! `stack` and `row` (fields below and beside each other), `actions` (buttons), `filter`, `empty` (what is told instead of an
//! empty list), `alert`, `notice`, `badge`, `two` (boxes side by side), `timeline`.
//!
//! A page is a function from a [`visit::Visit`] to an answer or a [`trouble::Trouble`], a template that extends `layout.html`, and a
//! line in [`router`]. A change is a form that is posted; its answer is a redirect, so that a reload repeats nothing.

mod answers;
mod assets;
mod attention;
mod client;
mod cookies;
mod frame;
mod mount;
mod pages;
mod shell;
mod table;
mod trouble;
mod view;
mod visit;
mod zone;

use std::sync::Arc;

use axum::routing::{get, post};
use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::csrf::CsrfLayer;

pub use self::client::Apis;
pub use self::mount::{Mounted, mount};
use self::visit::{form, page};
use crate::access::callers::Authenticator;
use crate::access::proxies::TrustedProxies;
use crate::config;
use crate::layers::body::BodyReader;
use crate::rate_limits::RateLimits;

/// For whom a console is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Members and admins of organisations, on the data listener.
    Members,
    /// Operators, on the operations listener.
    Operators,
}

/// What a console is built from.
#[derive(Debug, Clone)]
pub struct Parts {
    pub audience: Audience,
    pub settings: config::Console,
    pub authenticator: Arc<Authenticator>,
    /// The proxies that are trusted to name the client's address.
    pub proxies: TrustedProxies,
    pub bodies: BodyReader,
    pub limits: Arc<RateLimits>,
    pub apis: Apis,
    /// Whether the listener itself speaks HTTPS.
    pub https: bool,
}

/// A console that serves.
#[derive(Debug)]
pub(in crate::console) struct Console {
    parts: Parts,
    policy: http::HeaderValue,
}

impl Console {
    /// What stands before `/console` in every link.
    fn base(&self) -> &str {
        self.parts.settings.base()
    }
}

/// All pages of a console.
pub fn router(parts: Parts) -> Router {
    let origin = parts.settings.origin();
    let policy = frame::policy(&parts.settings.media_hosts);
    let audience = parts.audience;
    let console = Arc::new(Console { parts, policy });
    let shared = Router::new()
        .route("/console/sign-in", get(pages::sign_in::show).post(pages::sign_in::sign_in))
        .route("/console/link/{link}", get(pages::sign_in::show_link).post(pages::sign_in::use_link))
        .route("/console/sign-out", post(pages::sign_in::sign_out))
        .route("/console/theme", post(pages::sign_in::set_theme))
        .route("/console/sessions", page(pages::sessions::sessions).merge(form(pages::sessions::end_others)))
        .route("/console/assets/{name}", get(assets::serve));
    let pages = match audience {
        Audience::Members => members(),
        Audience::Operators => operators(),
    };
    let router = shared.merge(pages).fallback(frame::nothing_here);
    let mut csrf = CsrfLayer::new();
    if let Some(origin) = &origin
        && let Ok(trusting) = csrf.clone().add_trusted_origin(origin)
    {
        csrf = trusting;
    }
    router
        .layer(CatchPanicLayer::custom(frame::panicked))
        .layer(csrf.with_rejection_response(frame::forged))
        .layer(middleware::from_fn_with_state(console.clone(), frame::frame))
        .with_state(console)
}

fn members() -> Router<Arc<Console>> {
    Router::new()
        .route("/console/sign-in/with/{provider}", get(pages::provider::begin))
        .route("/console/sign-in/return", get(pages::provider::finish))
        .route("/console", page(pages::start::start))
        .route("/console/playground", page(pages::playground::show).merge(form(pages::playground::send)))
        .route("/console/clips", page(pages::clips::clips))
        .route("/console/clips/{task}", page(pages::clip::clip))
        .route("/console/clips/{task}/video", page(pages::clip::video))
        .route("/console/clips/{task}/erase", form(pages::clip::erase))
        .route("/console/keys", page(pages::keys::keys).merge(form(pages::keys::create)))
        .route("/console/keys/policy", form(pages::keys::set_policy))
        .route("/console/keys/{key}/rename", form(pages::keys::rename))
        .route("/console/keys/{key}/rotate", form(pages::keys::rotate))
        .route("/console/keys/{key}/revoke", form(pages::keys::revoke))
        .route("/console/usage", page(pages::usage::usage))
        .route("/console/usage.csv", page(pages::usage::csv))
        .route("/console/statement", page(pages::statement::statement))
        .route("/console/statement.csv", page(pages::statement::csv))
        .route("/console/budgets", page(pages::budgets::budgets).merge(form(pages::budgets::create)))
        .route("/console/budgets/{budget}", form(pages::budgets::change))
        .route("/console/budgets/{budget}/delete", form(pages::budgets::delete))
        .route("/console/people", page(pages::people::people))
        .route("/console/people/users", form(pages::people::create_user))
        .route("/console/people/invite", form(pages::people::invite))
        .route("/console/people/users/{user}", form(pages::people::change_user))
        .route("/console/people/users/{user}/invite", form(pages::people::invite_user))
        .route("/console/people/users/{user}/end-sessions", form(pages::people::end_sessions))
        .route("/console/people/teams", form(pages::people::create_team))
        .route("/console/people/teams/{team}", form(pages::people::change_team))
}

fn operators() -> Router<Arc<Console>> {
    pages::operators::routes()
}
