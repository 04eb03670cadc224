//! Who calls, and whether the operation's own description lets them: the OpenAPI document is the rule.

use std::any::Any;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use utoipa::openapi::OpenApi;

use super::Api;
use super::problem::Problem;
use crate::access::callers;
use crate::access::callers::Operator;
use crate::access::peer::Peer;
use crate::access::proxies::TrustedProxies;
use crate::clock::Clock;
use crate::ids::OrgId;
use crate::metrics as m;
use crate::store::{Actor, OperatorRole, Owned, Principal, Role};
use crate::telemetry::{Span, TraceContext, Tracing, carry};

/// Roles as the OpenAPI document names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Runs the platform.
    Operator,
    /// Looks at the platform.
    OperatorRead,
    /// Manages its own organisation.
    OrgAdmin,
    /// Belongs to an organisation.
    Member,
}

impl Who {
    /// The name in `security`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::OperatorRead => "operator-read",
            Self::OrgAdmin => "org-admin",
            Self::Member => "member",
        }
    }
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub enum Caller {
    /// One of those who run the platform.
    Operator(Operator),
    /// Somebody of an organisation.
    Tenant(Arc<Principal>),
}

impl Caller {
    /// Its role.
    pub fn who(&self) -> Who {
        match self {
            Self::Operator(operator) if operator.role == OperatorRole::Operator => Who::Operator,
            Self::Operator(_) => Who::OperatorRead,
            Self::Tenant(principal) if principal.role == Role::Admin => Who::OrgAdmin,
            Self::Tenant(_) => Who::Member,
        }
    }

    /// Its organisation; none: an operator's calls are about any.
    pub fn org(&self) -> Option<OrgId> {
        match self {
            Self::Operator(_) => None,
            Self::Tenant(principal) => Some(principal.org),
        }
    }

    /// Its name in the audit log.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Operator(operator) => operator.name.clone(),
            Self::Tenant(principal) => match principal.key {
                Some(key) => format!("key:{key}"),
                None => format!("user:{}", principal.user),
            },
        }
    }
}

/// What an operation's description says.
#[derive(Debug, Clone)]
struct Operation {
    id: String,
    roles: Vec<String>,
}

/// Every operation, by path and method.
pub(super) struct Access {
    operations: HashMap<String, HashMap<Method, Operation>>,
    api: Api,
}

impl Access {
    pub(super) fn of(document: &OpenApi, api: Api) -> Self {
        let operation = |operation: &utoipa::openapi::path::Operation| Operation {
            id: operation.operation_id.clone().unwrap_or_default(),
            roles: operation.security.iter().flatten().flat_map(roles).collect(),
        };
        let of_path = |item: &utoipa::openapi::PathItem| {
            [
                (Method::GET, &item.get),
                (Method::PUT, &item.put),
                (Method::POST, &item.post),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ]
            .into_iter()
            .filter_map(|(method, found)| found.as_ref().map(|found| (method, operation(found))))
            .collect()
        };
        let operations =
            document.paths.paths.iter().map(|(path, item)| (path.clone(), of_path(item))).collect();
        Self { operations, api }
    }

    fn operation(&self, path: &str, method: &Method) -> Result<&Operation, Problem> {
        let none = || Problem::NotFound("there is nothing at this path".into());
        let methods = self.operations.get(path).ok_or_else(none)?;
        let method = if method == Method::HEAD { &Method::GET } else { method };
        methods.get(method).ok_or_else(|| {
            let mut allowed: Vec<&str> = methods.keys().map(Method::as_str).collect();
            allowed.sort_unstable();
            Problem::MethodNotAllowed(allowed.join(", "))
        })
    }

    async fn caller(&self, parts: &Parts, peer: IpAddr) -> Result<Caller, Problem> {
        let header = parts.headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        Ok(match self.api.keys.authenticate(header, peer, false).await? {
            callers::Caller::Operator(operator) => Caller::Operator(operator),
            callers::Caller::Tenant(principal) => Caller::Tenant(principal),
        })
    }

    /// An organisation's own people get to nothing but what is their organisation's.
    async fn within(&self, org: OrgId, params: &RawPathParams) -> Result<(), Problem> {
        for (name, text) in params {
            let owned = match name {
                "org_id" => match text.parse::<OrgId>() {
                    Ok(named) if named == org => continue,
                    _ => return Err(nothing_there(text)),
                },
                "team_id" => text.parse().map(Owned::Team),
                "user_id" => text.parse().map(Owned::User),
                "key_id" => text.parse().map(Owned::Key),
                "hold_id" => text.parse().map(Owned::Hold),
                "budget_id" => text.parse().map(Owned::Budget),
                _ => continue,
            };
            let owner = match owned {
                Ok(owned) => self.api.database.owner(owned).await?,
                Err(_) => None,
            };
            if owner != Some(org) {
                return Err(nothing_there(text));
            }
        }
        Ok(())
    }
}

fn roles(requirement: &utoipa::openapi::security::SecurityRequirement) -> Vec<String> {
    let value = serde_json::to_value(requirement).unwrap_or_default();
    let scopes = value.get("bearer").and_then(|scopes| scopes.as_array()).cloned().unwrap_or_default();
    scopes.iter().filter_map(|scope| scope.as_str().map(str::to_owned)).collect()
}

pub(super) fn nothing_there(id: &str) -> Problem {
    Problem::NotFound(format!("there is no {id}"))
}

/// The id of a request, for the log.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// Bytes that a body may have.
pub(super) const MAX_BODY: usize = 1 << 20;

/// For so long a body may be under way.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

fn only_looks(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// Lets through who may call, and runs changes to their end.
pub(super) async fn enforce(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let admitted = match admit(&access, request).await {
        Ok(request) if only_looks(request.method()) => return next.run(request).await,
        Ok(request) => arrived(request).await,
        Err(problem) => Err(problem),
    };
    let request = match admitted {
        Ok(request) => request,
        Err(problem) => return problem.into_response(),
    };
    // A caller that leaves must not cut a change in two. One that is still sending has changed nothing, and must not hold
    // up the gateway's end.
    match access.api.tasks.spawn(carry(next.run(request))).await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => panicked(panic),
            Err(_) => Problem::Internal.into_response(),
        },
    }
}

/// A request with all of its body.
async fn arrived(request: Request) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let body = tokio::time::timeout(BODY_TIMEOUT, read(body)).await.map_err(|_| Problem::TooSlow)??;
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// What is too much is read as well, up to a bound: a caller that is cut off while it sends does not hear why.
async fn read(mut body: Body) -> Result<Bytes, Problem> {
    let (mut kept, mut length) = (BytesMut::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let cut = |_| Problem::Invalid("the body could not be read to its end".into());
        let Ok(data) = frame.map_err(cut)?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length <= MAX_BODY {
            kept.extend_from_slice(&data);
        } else if length > 8 * MAX_BODY {
            break;
        }
    }
    if length > MAX_BODY { Err(Problem::TooLarge) } else { Ok(kept.freeze()) }
}

/// What a defect is answered with, wherever it is met.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("no message"), "a management call panicked");
    Problem::Internal.into_response()
}

async fn admit(access: &Access, request: Request) -> Result<Request, Problem> {
    let (mut parts, body) = request.into_parts();
    let path = parts.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let operation = access.operation(&path, &parts.method)?;
    let peer = address(&parts, &access.api.proxies);
    let caller = access.caller(&parts, peer).await?;
    let who = caller.who();
    if !operation.roles.iter().any(|role| role == who.as_str()) {
        return Err(Problem::Forbidden(format!(
            "this is for {}; you are {}",
            operation.roles.join(", "),
            who.as_str()
        )));
    }
    if let Caller::Tenant(principal) = &caller
        && principal.suspended
        && !only_looks(&parts.method)
    {
        return Err(Problem::Forbidden(
            "your organisation, your team or you are suspended: you can only look".into(),
        ));
    }
    if let Some(org) = caller.org() {
        let none = |_| Problem::NotFound("there is nothing at this path".into());
        let params = RawPathParams::from_request_parts(&mut parts, &()).await.map_err(none)?;
        access.within(org, &params).await?;
    }
    let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
    let actor =
        Actor { name: caller.name(), address: Some(peer), action: Some(operation.id.clone()), request_id };
    parts.extensions.insert(actor);
    parts.extensions.insert(caller);
    Ok(Request::from_parts(parts, body))
}

fn address(parts: &Parts, proxies: &TrustedProxies) -> IpAddr {
    let peer = parts.extensions.get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
    proxies.client(peer, &parts.headers)
}

/// The database, acting on behalf of the caller.
pub(super) struct Acting(pub(super) crate::store::Acting);

impl FromRequestParts<Api> for Acting {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let actor = parts.extensions.get::<Actor>().cloned().ok_or(Problem::Internal)?;
        Ok(Self(api.database.acting(actor)))
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or(Problem::Internal)
    }
}

/// Gives each request an id, and, where something is managed, logs one event about it and has a span for it.
pub(super) async fn trace(State(tracing): State<Tracing>, mut request: Request, next: Next) -> Response {
    let id = format!("req_{}", uuid::Uuid::now_v7().simple());
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let managing = request.uri().path().starts_with("/admin/");
    // What was asked for may be anything, a key by mistake: the log names the route.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let begun = Clock.now();
    // Probes and scrapes are no calls that anybody looks for.
    let context = match managing {
        true => tracing.request(request.headers(), Some(&id)),
        false => TraceContext::of_untraced(&id),
    };
    let call = async {
        let mut span = Span::of_request();
        let named = span.set_method(&method);
        if let Some(route) = &route {
            span.rename(format!("{named} {}", route.as_str()));
            span.set("http.route", route.as_str());
        }
        let answer = next.run(request).await;
        if managing {
            count(&method, answer.status(), Clock.since(begun));
            let (method, route) = (known(&method), route.as_ref().map_or("none", MatchedPath::as_str));
            tracing::info!(method, route, status = answer.status().as_u16(), "management call");
            span.set_number("http.response.status_code", answer.status().as_u16());
            match answer.status() {
                StatusCode::SERVICE_UNAVAILABLE => span.fail("503"),
                status if status.is_server_error() => span.fail("500"),
                _ => {}
            }
        }
        answer
    };
    let mut answer = context.around(call).await;
    if let Ok(value) = HeaderValue::try_from(id) {
        answer.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    answer
}

/// The methods in metrics; anybody may say anything else.
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", OTHER];
const OTHER: &str = "other";

fn known(method: &Method) -> &'static str {
    METHODS.into_iter().find(|known| *known == method.as_str()).unwrap_or(OTHER)
}

fn count(method: &Method, status: StatusCode, took: Duration) {
    let method = known(method);
    metrics::counter!(m::ADMIN_REQUESTS, "method" => method, "status" => status.as_u16().to_string())
        .increment(1);
    metrics::histogram!(m::ADMIN_SECONDS, "method" => method).record(took);
}

/// Calls that end well, and those that end by our fault, are counted from 0.
pub(super) fn register() {
    for method in METHODS {
        for status in ["200", "500", "503"] {
            metrics::counter!(m::ADMIN_REQUESTS, "method" => method, "status" => status).increment(0);
        }
        drop(metrics::histogram!(m::ADMIN_SECONDS, "method" => method));
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered() {
        let defect = get(|| async {
            assert_eq!(1, 2, "a defect");
        });
        let router = Router::new().route("/admin/v1/defect", defect);
        let router = super::super::guarded(router, Tracing::default());
        let request = Request::get("/admin/v1/defect").body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), 500);
        assert!(answer.headers().contains_key("x-request-id"), "it is traced");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
}
