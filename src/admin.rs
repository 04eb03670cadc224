//! The operations listener: health and metrics, and the management API. Keep it off public networks.

pub mod api;
mod gauges;
mod operations;

pub use self::gauges::Gauges;
pub use self::operations::Operations;

use axum::Router;

use self::api::Api;

/// All routes of the operations listener.
pub fn router(operations: Operations, api: Api) -> Router {
    operations::router(operations).merge(api::router(api))
}
