//! Sends what is below one path to a service with layers of its own, which stands beside the data plane on its listener.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::future::{BoxFuture, Either};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use tower::{Layer, Service, ServiceExt};
use tower_http::body::UnsyncBoxBody;

use super::trace::normal_path;

/// The body of an answer of either side.
type AnswerBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A service for the paths below `/admin/v1`.
#[derive(Debug, Clone)]
pub struct BesideLayer(pub Router);

/// The first part of the paths that the service beside is asked for.
const BELOW: &str = "/admin/v1";

impl<S> Layer<S> for BesideLayer {
    type Service = Beside<S>;

    fn layer(&self, inner: S) -> Beside<S> {
        Beside { inner, router: self.0.clone() }
    }
}

/// A service for every path but those that another service answers.
#[derive(Debug, Clone)]
pub struct Beside<S> {
    inner: S,
    router: Router,
}

/// The request's path as it is meant, if it is one of the other service.
fn path_beside(uri: &Uri) -> Option<String> {
    // Paths of the data plane are told by their first letters, because creates and polls are many.
    if !uri.path().trim_start_matches('/').starts_with("admin") {
        return None;
    }
    let path = normal_path(uri.path());
    let below = path.strip_prefix(BELOW)?;
    (below.is_empty() || below.starts_with('/')).then_some(path)
}

fn set_path(uri: &mut Uri, path: String) {
    let meant = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(meant).ok();
    if let Ok(meant) = Uri::from_parts(parts) {
        *uri = meant;
    }
}

impl<S> Service<Request<Body>> for Beside<S>
where
    S: Service<Request<Body>, Response = Response<AnswerBody>, Error = Infallible>,
{
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Self::Response, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(path) = path_beside(request.uri()) else {
            return Either::Left(self.inner.call(request));
        };
        set_path(request.uri_mut(), path);
        // A router is always ready.
        let router = self.router.clone();
        Either::Right(Box::pin(async move {
            let answer = router.oneshot(request).await?;
            Ok(answer.map(|body| AnswerBody::new(http_body_util::BodyExt::map_err(body, Into::into))))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_path_goes_beside() {
        let beside = |uri: &str| path_beside(&uri.parse().unwrap());
        assert_eq!(beside("/admin/v1/me").unwrap(), "/admin/v1/me");
        assert_eq!(beside("//admin//v1/me/?x=1").unwrap(), "/admin/v1/me");
        assert_eq!(beside("/admin/v1").unwrap(), "/admin/v1");
        for elsewhere in ["/admin", "/admin/v10/me", "/administrator", "/api/tasks", "/", "/x/admin/v1"] {
            assert_eq!(beside(elsewhere), None, "{elsewhere}");
        }
        let mut uri: Uri = "http://x//admin/v1/me/?x=1".parse().unwrap();
        set_path(&mut uri, "/admin/v1/me".into());
        assert_eq!(uri.to_string(), "http://x/admin/v1/me?x=1");
    }
}
