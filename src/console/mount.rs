//! Puts a console in front of the service of a listener: what is below `/console` is the console's, everything else passes.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use futures_util::future::{BoxFuture, Either, MapOk, TryFutureExt};
use http::header::LOCATION;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Either as EitherBody;
use tower::Service;

/// A service with a console in front.
#[derive(Debug, Clone)]
pub struct Mounted<S> {
    /// None: the console is off.
    console: Option<Router>,
    /// The place of the console, for the redirect of `/`.
    place: HeaderValue,
    inner: S,
}

/// Puts `console` in front of `inner`, whose links begin with `base`.
pub fn mount<S>(console: Option<Router>, base: &str, inner: S) -> Mounted<S> {
    let place = HeaderValue::try_from(format!("{base}/console"));
    Mounted { console, place: place.unwrap_or(HeaderValue::from_static("/console")), inner }
}

/// Whether `path` is the console's.
fn is_below(path: &str) -> bool {
    path.strip_prefix("/console").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

type Body2<B> = EitherBody<B, Body>;

fn left<B>(answer: Response<B>) -> Response<Body2<B>> {
    answer.map(EitherBody::Left)
}

impl<S, B> Service<Request<Body>> for Mounted<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>,
    B: Send + 'static,
{
    type Response = Response<Body2<B>>;
    type Error = Infallible;
    type Future = Either<
        MapOk<S::Future, fn(Response<B>) -> Response<Body2<B>>>,
        BoxFuture<'static, Result<Response<Body2<B>>, Infallible>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The console is always ready.
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        match &self.console {
            Some(console) if is_below(path) => {
                let mut console = console.clone();
                Either::Right(Box::pin(async move {
                    let answer = Service::<Request<Body>>::call(&mut console, without_slash(request)).await?;
                    Ok(answer.map(EitherBody::Right))
                }))
            }
            Some(_) if path == "/" && [Method::GET, Method::HEAD].contains(request.method()) => {
                let mut answer = Response::new(Body::empty());
                *answer.status_mut() = StatusCode::SEE_OTHER;
                answer.headers_mut().insert(LOCATION, self.place.clone());
                Either::Right(Box::pin(std::future::ready(Ok(answer.map(EitherBody::Right)))))
            }
            _ => Either::Left(self.inner.call(request).map_ok(left::<B> as fn(_) -> _)),
        }
    }
}

/// Drops slashes at the end of the path.
fn without_slash(mut request: Request<Body>) -> Request<Body> {
    let path = request.uri().path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() < path.len() {
        let query = request.uri().query().map_or(String::new(), |query| format!("?{query}"));
        if let Ok(meant) = format!("{trimmed}{query}").parse() {
            *request.uri_mut() = meant;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_has_its_own_paths_and_no_others() {
        for ours in ["/console", "/console/", "/console/keys"] {
            assert!(is_below(ours), "{ours}");
        }
        for other in ["/", "/api/console", "/consoles", "/Console", "//console"] {
            assert!(!is_below(other), "{other}");
        }
    }
}
