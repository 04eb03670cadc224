//! The management API, `/admin/v1`: what operators and organisations' own people do without SQL.
//!
//! The OpenAPI description of each operation names the roles that may call it (`security`), and [`rules`] enforces exactly
//! that: an operation that names no role lets nobody in. A resource of an organisation has the organisation's id in its
//! path, or an id from which the organisation is looked up; an organisation's admin reaches its own organisation only, and a
//! member only itself and its own keys. The data listener serves what is for organisations ([`Audience`]).
//!
//! Errors are problem documents (RFC 9457), lists come in pages with a cursor, changes take `If-Match`, unknown fields of
//! a body or a query are refused. A change runs to its end even if its caller has left.

mod audience;
mod audit;
mod budget_requests;
mod budgets;
mod call;
mod caller;
mod conditions;
mod credits;
mod csv;
mod evidence;
mod examples;
mod extract;
mod health;
mod holds;
mod idempotent;
mod identities;
mod invitations;
mod key_policy;
mod keys;
mod me;
mod names;
mod operators;
mod orgs;
mod page;
mod price_books;
mod price_factors;
pub mod problem;
mod providers;
mod quotas;
mod resource;
mod retention;
mod rules;
mod statements;
mod teams;
mod trace;
mod usage;
mod users;

use std::sync::Arc;

use axum::body::Body;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use bytes::Bytes;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi as _, ToSchema as _};
use utoipa_axum::router::OpenApiRouter;

pub use self::audience::Audience;
use self::audience::Routes;
use self::problem::{Problem, ProblemDetails};
use self::resource::resource;
use super::figures::Figures;
use crate::access::callers::Authenticator;
use crate::access::proxies::TrustedProxies;
use crate::call::Party;
use crate::config;
use crate::credits::Credits;
use crate::docs_page::{self, Shown};
use crate::encryption::StoredSecrets;
use crate::layers::body::BodyReader;
use crate::price_cache::Prices;
use crate::rate_limits::RateLimits;
use crate::store::{Contents, SharedDatabase};
use crate::telemetry::Tracing;
use crate::upstream::Upstream;

/// The connections of the management API. One organisation, or one operator, gets half of what is free.
pub const MANAGEMENT_CONNECTIONS: u32 = 6;

/// What the management API is built from.
#[derive(Clone)]
pub struct Api {
    /// Whom the listener serves.
    pub audience: Audience,
    pub database: SharedDatabase<Party>,
    pub limits: Arc<RateLimits>,
    pub authenticator: Arc<Authenticator>,
    /// The proxies that are trusted to name the client's address.
    pub proxies: TrustedProxies,
    /// The exposure of an organisation in a day at which its creates are stopped; 0: no limit.
    pub max_exposure: Credits,
    /// Where people find the console, for links to it.
    pub console: Arc<config::Console>,
    /// Encrypts secrets that are stored.
    pub secrets: StoredSecrets,
    /// What the vendor said about tasks: forgetting a user may erase it.
    pub contents: Contents,
    /// The vendor, with whose word an operator's is compared.
    pub upstream: Arc<Upstream>,
    /// The prices in force, for tasks that are adopted.
    pub prices: Arc<Prices>,
    /// Changes run as tasks of this tracker, so that they end even if their callers leave, and a shutdown waits for them.
    pub tasks: TaskTracker,
    pub bodies: BodyReader,
    /// What the metrics of this gateway say.
    pub figures: Figures,
    pub tracing: Tracing,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Tollgate management API",
        description = "Organisations, teams, users, API keys, budgets, credits, prices and usage of a Tollgate \
                       installation. Each operation's `security` names the roles that may call it.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ProblemDetails))
)]
struct Document;

/// Every operation that is for the audience, one line for each path.
fn routes(audience: Audience) -> OpenApiRouter<Api> {
    Routes { audience, router: OpenApiRouter::with_openapi(Document::openapi()) }
        .routes(resource!(me::show_caller))
        .routes(resource!(orgs::list_orgs, orgs::create_org))
        .routes(resource!(orgs::show_org, orgs::update_org, orgs::delete_org))
        .routes(resource!(orgs::restore_org))
        .routes(resource!(quotas::show_quotas, quotas::update_quotas))
        .routes(resource!(retention::show_retention, retention::update_retention))
        .routes(resource!(teams::list_teams, teams::create_team))
        .routes(resource!(teams::show_team, teams::update_team, teams::delete_team))
        .routes(resource!(users::list_users, users::create_user))
        .routes(resource!(users::show_user, users::update_user, users::delete_user))
        .routes(resource!(users::forget_user))
        .routes(resource!(invitations::create_invitation))
        .routes(resource!(invitations::end_user_sessions))
        .routes(resource!(keys::list_keys, keys::create_key))
        .routes(resource!(keys::show_key, keys::update_key))
        .routes(resource!(keys::rotate_key))
        .routes(resource!(keys::revoke_key))
        .routes(resource!(key_policy::show_key_policy, key_policy::update_key_policy))
        .routes(resource!(providers::list_providers, providers::create_provider))
        .routes(resource!(providers::show_provider, providers::update_provider, providers::delete_provider))
        .routes(resource!(identities::list_identities, identities::create_identity))
        .routes(resource!(identities::delete_identity))
        .routes(resource!(budgets::list_org_budgets, budgets::create_org_budget))
        .routes(resource!(budgets::list_default_budgets, budgets::create_default_budget))
        .routes(resource!(budgets::show_budget, budgets::update_budget, budgets::delete_budget))
        .routes(resource!(budgets::raise_budget, budgets::end_budget_raise))
        .routes(resource!(budgets::list_budget_events))
        .routes(resource!(budget_requests::list_budget_requests, budget_requests::create_budget_request))
        .routes(resource!(budget_requests::show_budget_request))
        .routes(resource!(budget_requests::grant_budget_request))
        .routes(resource!(budget_requests::decline_budget_request))
        .routes(resource!(operators::list_operator_tokens, operators::create_operator_token))
        .routes(resource!(operators::revoke_operator_token))
        .routes(resource!(price_books::list_price_books, price_books::create_price_book))
        .routes(resource!(price_books::show_price_book_in_force))
        .routes(resource!(
            price_books::show_price_book,
            price_books::rename_price_book,
            price_books::delete_price_book
        ))
        .routes(resource!(price_books::set_price, price_books::remove_price))
        .routes(resource!(price_books::compare_price_books))
        .routes(resource!(price_books::replay_tasks))
        .routes(resource!(price_books::activate_price_book))
        .routes(resource!(price_books::unschedule_price_book))
        .routes(resource!(price_books::roll_back_price_book))
        .routes(resource!(price_books::list_price_activations))
        .routes(resource!(price_books::rotate_quote_key))
        .routes(resource!(price_factors::list_price_factors, price_factors::create_price_factor))
        .routes(resource!(price_factors::show_price_factor))
        .routes(resource!(price_factors::end_price_factor))
        .routes(resource!(audit::list_audit_log))
        .routes(resource!(audit::list_org_audit_log))
        .routes(resource!(credits::show_credits, credits::update_credits))
        .routes(resource!(credits::grant_credits))
        .routes(resource!(credits::adjust_credits))
        .routes(resource!(credits::transfer_credits))
        .routes(resource!(credits::set_overdraft))
        .routes(resource!(credits::resume_creates))
        .routes(resource!(credits::list_entries))
        .routes(resource!(usage::show_usage))
        .routes(resource!(usage::show_org_usage))
        .routes(resource!(statements::show_statement))
        .routes(resource!(holds::list_doubts))
        .routes(resource!(holds::list_running_tasks))
        .routes(resource!(holds::show_hold))
        .routes(resource!(evidence::settle_hold))
        .routes(resource!(evidence::take_back_hold))
        .routes(resource!(evidence::release_hold))
        .routes(resource!(evidence::adopt_task))
        .routes(resource!(holds::read_hold_request))
        .routes(resource!(holds::list_losses))
        .routes(resource!(holds::show_drift))
        .routes(resource!(health::show_health))
        .routes(resource!(health::list_gateways))
        .routes(resource!(health::show_this_gateway))
        .router
}

/// The pages that show the OpenAPI document to people.
async fn docs(uri: Uri) -> Response {
    match docs_page::page(Shown::Management, uri.path()) {
        Some(page) => page.map(Body::from),
        None => Problem::NotFound("there is nothing at this path".into()).into_response(),
    }
}

/// The OpenAPI document of the management API, as it is for the audience.
pub fn document(audience: Audience) -> OpenApi {
    complete(routes(audience).into_openapi(), audience)
}

/// Adds what all operations share: the security scheme, and the errors that any of them may answer.
fn complete(mut document: OpenApi, audience: Audience) -> OpenApi {
    audience.complete(&mut document);
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(match audience {
        Audience::Everybody => {
            "An operator token, an API key, or a token (JWT) of a configured identity provider."
        }
        Audience::Tenants => "An API key, or a token (JWT) of a configured identity provider.",
    }));
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
    docs_page::describe_bodies(&mut document);
    docs_page::give_examples(&mut document, |_, schema| {
        examples::of(schema).map(|body| ("", body)).into_iter().collect()
    });
    document
}

/// The management API with its document. The operations listener has no other API: the document is at the root there too, with the
/// pages that show it.
pub fn router(api: Api) -> Router {
    trace::register();
    let (router, document) = routes(api.audience).split_for_parts();
    let text = serde_json::to_vec(&complete(document, api.audience)).unwrap_or_default();
    let text = Bytes::from(text);
    let shown = move || std::future::ready(([(CONTENT_TYPE, "application/json")], text.clone()));
    let mut router = router.route("/admin/v1/openapi.json", get(shown.clone()));
    if api.audience == Audience::Everybody {
        router = router
            .route("/openapi.json", get(shown))
            .route("/docs", get(docs))
            .route("/docs/{*file}", get(docs))
            .route("/docs/", get(docs));
    }
    let router =
        router.fallback(|| std::future::ready(Problem::NotFound("there is nothing at this path".into())));
    let tracing = api.tracing.clone();
    guarded(router, tracing).with_state(api)
}

/// Traces every call, and answers those that panic.
fn guarded<S: Clone + Send + Sync + 'static>(router: Router<S>, tracing: Tracing) -> Router<S> {
    let trace = middleware::from_fn_with_state(tracing, trace::trace);
    router.layer(CatchPanicLayer::custom(trace::panicked)).layer(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_handler_reads_is_in_its_description() {
        let document = serde_json::to_value(document(Audience::Everybody)).unwrap();
        let parameters = |path: &str, method: &str| -> Vec<String> {
            let parameters = document["paths"][path][method]["parameters"].as_array().unwrap();
            parameters.iter().map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
        };
        let of_org = "/admin/v1/orgs/{org_id}";
        assert_eq!(parameters(of_org, "get"), ["org_id", "If-None-Match"]);
        assert_eq!(parameters(of_org, "patch"), ["org_id", "If-Match"]);
        assert_eq!(parameters(&format!("{of_org}/credits/grants"), "post"), ["org_id", "Idempotency-Key"]);
        assert_eq!(parameters(&format!("{of_org}/price-factors"), "get"), ["org_id", "limit", "cursor"]);
        assert_eq!(parameters("/admin/v1/price-activations", "get"), ["limit", "cursor"]);
    }
}
