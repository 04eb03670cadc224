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
//! | `refusal` | a form that was refused: its page again, with what was typed and with the reason beside the field |
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
//! `wrong` (why a field is), `stack` and `row` (fields below and beside each other), `actions` (buttons), `filter`, `empty` (what is told instead of an
//! empty list), `alert`, `notice`, `badge`, `two` (boxes side by side), `timeline`.
//!
//! A page is a function from a [`visit::Visit`] to an answer or a [`trouble::Trouble`], a template that extends `layout.html`, and a
//! line in [`router`]. A change is a form that is posted; its answer is a redirect, so that a reload repeats nothing. A form that is
//! refused is the `Err` of its function: [`visit::Place`] shows the page again, whose template takes from `shell.form(place)` what
//! stands in the fields.

mod answers;
mod assets;
mod attention;
mod client;
mod cookies;
mod frame;
mod mount;
mod pages;
mod refusal;
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
use self::visit::{Place, page};
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
        .merge(
            Place::new("/console/sessions", pages::sessions::sessions)
                .form("", pages::sessions::end_others)
                .routes(),
        )
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
    use pages::{budgets, clip, clips, keys, people, playground, start, statement, usage};
    Router::new()
        .route("/console/sign-in/with/{provider}", get(pages::provider::begin))
        .route("/console/sign-in/return", get(pages::provider::finish))
        .route("/console", page(start::start))
        .merge(Place::new("/console/playground", playground::show).form("", playground::send).routes())
        .route("/console/clips", page(clips::clips))
        .merge(Place::new("/console/clips/{task}", clip::clip).form("/erase", clip::erase).routes())
        .route("/console/clips/{task}/video", page(clip::video))
        .merge(
            Place::new("/console/keys", keys::keys)
                .form("", keys::create)
                .form("/policy", keys::set_policy)
                .form("/{key}/rename", keys::rename)
                .form("/{key}/status", keys::set_status)
                .form("/{key}/rotate", keys::rotate)
                .form("/{key}/revoke", keys::revoke)
                .routes(),
        )
        .route("/console/usage", page(usage::usage))
        .route("/console/usage.csv", page(usage::csv))
        .route("/console/statement", page(statement::statement))
        .route("/console/statement.csv", page(statement::csv))
        .merge(
            Place::new("/console/budgets", budgets::budgets)
                .form("", budgets::create)
                .form("/requests", budgets::ask_for_more)
                .form("/requests/{request}/{answer}", budgets::answer)
                .form("/{budget}", budgets::change)
                .form("/{budget}/delete", budgets::delete)
                .routes(),
        )
        .merge(
            Place::new("/console/people", people::people)
                .form("/users", people::create_user)
                .form("/invite", people::invite)
                .form("/users/{user}", people::change_user)
                .form("/users/{user}/invite", people::invite_user)
                .form("/users/{user}/end-sessions", people::end_sessions)
                .form("/users/{user}/delete", people::delete_user)
                .form("/teams", people::create_team)
                .form("/teams/{team}", people::change_team)
                .form("/teams/{team}/delete", people::delete_team)
                .routes(),
        )
}

fn operators() -> Router<Arc<Console>> {
    pages::operators::routes()
}
