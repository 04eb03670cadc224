//! The management API, `/admin/v1`: what operators and organisations' own admins do without SQL.
//!
//! Every route says in its OpenAPI description who may call it (`security`), and that very description is what
//! [`access`] enforces: a route that says nothing lets nobody in. What belongs to an organisation has its id in the path,
//! or an id whose organisation is looked up; an organisation's admin gets no further than its own.
//!
//! Errors are problem documents (RFC 9457), lists come in pages with a cursor, changes take `If-Match`, what is not known
//! in a body or a query is refused. A change runs to its end even if its caller has left.

pub mod access;
mod audit;
mod budgets;
mod credits;
mod csv;
mod holds;
mod identities;
mod keys;
mod me;
mod once;
mod operators;
mod orgs;
mod price_books;
mod price_factors;
pub mod problem;
mod providers;
mod request;
mod statements;
mod teams;
mod usage;
mod users;

use std::sync::Arc;

use axum::body::Body;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi as _, ToSchema as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::access::Access;
use self::problem::{Problem, ProblemDetails};
use crate::access::callers::Keys;
use crate::access::proxies::TrustedProxies;
use crate::docs_page;
use crate::store::Database;
use crate::telemetry::Tracing;

/// What the management API works on.
#[derive(Clone)]
pub struct Api {
    /// Where everything is.
    pub database: Database,
    /// Who may call.
    pub keys: Arc<Keys>,
    /// Whose word on a client's address is taken.
    pub proxies: TrustedProxies,
    /// Where changes run on when their caller has left.
    pub tasks: TaskTracker,
    /// Which calls are traced.
    pub tracing: Tracing,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Tollgate management API",
        description = "Organisations, teams, users, keys, budgets, credits, prices and usage of a Tollgate. \
                       The roles in each operation's `security` are those who may call it.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ProblemDetails))
)]
struct Document;

/// Every route there is, one line a resource.
fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(me::show_caller))
        .routes(routes!(orgs::list_orgs, orgs::create_org))
        .routes(routes!(orgs::show_org, orgs::update_org, orgs::delete_org))
        .routes(routes!(teams::list_teams, teams::create_team))
        .routes(routes!(teams::show_team, teams::update_team, teams::delete_team))
        .routes(routes!(users::list_users, users::create_user))
        .routes(routes!(users::show_user, users::update_user, users::delete_user))
        .routes(routes!(keys::list_keys, keys::create_key))
        .routes(routes!(keys::show_key, keys::update_key))
        .routes(routes!(keys::rotate_key))
        .routes(routes!(keys::revoke_key))
        .routes(routes!(providers::list_providers, providers::create_provider))
        .routes(routes!(providers::show_provider, providers::update_provider, providers::delete_provider))
        .routes(routes!(identities::list_identities, identities::create_identity))
        .routes(routes!(identities::delete_identity))
        .routes(routes!(budgets::list_org_budgets, budgets::create_org_budget))
        .routes(routes!(budgets::list_default_budgets, budgets::create_default_budget))
        .routes(routes!(budgets::show_budget, budgets::update_budget, budgets::delete_budget))
        .routes(routes!(budgets::raise_budget, budgets::end_budget_raise))
        .routes(routes!(budgets::list_budget_events))
        .routes(routes!(operators::list_operator_tokens, operators::create_operator_token))
        .routes(routes!(operators::revoke_operator_token))
        .routes(routes!(price_books::list_price_books, price_books::create_price_book))
        .routes(routes!(price_books::show_price_book_in_force))
        .routes(routes!(
            price_books::show_price_book,
            price_books::rename_price_book,
            price_books::delete_price_book
        ))
        .routes(routes!(price_books::set_price, price_books::remove_price))
        .routes(routes!(price_books::compare_price_books))
        .routes(routes!(price_books::replay_tasks))
        .routes(routes!(price_books::activate_price_book))
        .routes(routes!(price_books::unschedule_price_book))
        .routes(routes!(price_books::roll_back_price_book))
        .routes(routes!(price_books::list_price_activations))
        .routes(routes!(price_books::rotate_quote_key))
        .routes(routes!(price_factors::list_price_factors, price_factors::create_price_factor))
        .routes(routes!(price_factors::show_price_factor))
        .routes(routes!(price_factors::end_price_factor))
        .routes(routes!(audit::list_audit_log))
        .routes(routes!(audit::list_org_audit_log))
        .routes(routes!(credits::show_credits, credits::update_credits))
        .routes(routes!(credits::grant_credits))
        .routes(routes!(credits::adjust_credits))
        .routes(routes!(credits::transfer_credits))
        .routes(routes!(credits::set_overdraft))
        .routes(routes!(credits::list_entries))
        .routes(routes!(usage::show_usage))
        .routes(routes!(usage::show_org_usage))
        .routes(routes!(statements::show_statement))
        .routes(routes!(holds::list_doubts))
        .routes(routes!(holds::settle_hold))
        .routes(routes!(holds::release_hold))
        .routes(routes!(holds::list_losses))
        .routes(routes!(holds::show_drift))
}

/// The document, for people.
async fn docs(uri: Uri) -> Response {
    match docs_page::page(uri.path()) {
        Some(page) => page.map(Body::from),
        None => Problem::NotFound("there is nothing at this path".into()).into_response(),
    }
}

/// The OpenAPI document.
pub fn document() -> OpenApi {
    complete(routes().into_openapi())
}

/// What every operation has: its security scheme, and the answers that come from before its handler.
fn complete(mut document: OpenApi) -> OpenApi {
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An operator's token, an API key, or a token of a configured identity provider."));
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
    let problem = |description: &str| {
        let schema = Ref::from_schema_name(ProblemDetails::name());
        ResponseBuilder::new()
            .description(description)
            .content("application/problem+json", ContentBuilder::new().schema(Some(schema)).build())
            .build()
    };
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            for (status, description) in Problem::ANYWHERE {
                operation
                    .responses
                    .responses
                    .entry((*status).to_owned())
                    .or_insert_with(|| RefOr::T(problem(description)));
            }
        }
    }
    document
}

/// The routes, with who may call them in front.
pub fn router(api: Api) -> Router {
    access::register();
    let (router, document) = routes().split_for_parts();
    let document = complete(document);
    let access = Arc::new(Access::of(&document, api.clone()));
    let text = serde_json::to_value(&document).unwrap_or_default();
    let router = router
        .route_layer(middleware::from_fn_with_state(access, access::enforce))
        .layer(axum::extract::DefaultBodyLimit::max(access::MAX_BODY))
        .route("/openapi.json", get(move || std::future::ready(Json(text.clone()))))
        .route("/docs", get(docs))
        .route("/docs/{*file}", get(docs))
        .route("/docs/", get(docs))
        .fallback(|| std::future::ready(Problem::NotFound("there is nothing at this path".into())));
    let tracing = api.tracing.clone();
    guarded(router, tracing).with_state(api)
}

/// Every call gets an answer, also one that panics, and is logged.
fn guarded<S: Clone + Send + Sync + 'static>(router: Router<S>, tracing: Tracing) -> Router<S> {
    let trace = middleware::from_fn_with_state(tracing, access::trace);
    router.layer(CatchPanicLayer::custom(access::panicked)).layer(trace)
}
