//! The operations listener: health and metrics, and the management API. Keep it off public networks. The part of the API that
//! is for organisations is served on the data listener too ([`api::Audience`]).

pub mod api;
mod figures;
mod gauges;
mod operations;

pub use self::figures::Figures;
pub use self::gauges::Gauges;
pub use self::operations::Operations;

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use tower::Layer;
use tower::util::MapRequestLayer;

use self::api::Api;
use crate::docs_page;

/// All routes of the operations listener.
pub fn router(operations: Operations, api: Api) -> Router {
    let routes = operations::router(operations).merge(api::router(api));
    // Routes see the path as it is meant.
    Router::new().fallback_service(MapRequestLayer::new(without_slash_at_end).layer(routes))
}

/// Drops slashes at the end of a path. The pages below `/docs/` stay where they are, because their links are relative.
fn without_slash_at_end(mut request: Request) -> Request {
    let path = request.uri().path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() == path.len() || trimmed.is_empty() || docs_page::is_below(path) {
        return request;
    }
    let query = request.uri().query().map_or(String::new(), |query| format!("?{query}"));
    let meant = format!("{trimmed}{query}").parse().ok();
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = meant;
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}
