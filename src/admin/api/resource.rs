//! The operations of one path, each with its description and its handler.

use std::future::ready;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, MethodRouter};
use serde::de::DeserializeOwned;
use utoipa::openapi::path::{HttpMethod, Operation, Paths};
use utoipa::openapi::{RefOr, Schema};
use utoipa_axum::router::UtoipaMethodRouter;

use super::Api;
use super::audience::Audience;
use super::call::{ApiCall, Handle, answer};
use super::conditions;
use super::extract::Input;
use super::problem::Problem;
use super::rules::AccessRule;

/// The schemas that the description of an operation refers to, by name.
pub(super) type Schemas = Vec<(String, RefOr<Schema>)>;

/// One path of the API under construction, as it is for one audience.
pub(super) struct Resource {
    audience: Audience,
    schemas: Schemas,
    paths: Paths,
    router: MethodRouter<Api>,
    methods: Vec<&'static str>,
    /// Whether somebody may change this under a condition, even if nobody of the audience may.
    conditional: bool,
}

/// Path, operation and methods, as `#[utoipa::path]` describes a handler.
pub(super) type Described = (String, Operation, Vec<HttpMethod>);

impl Resource {
    pub(super) fn new(audience: Audience) -> Self {
        let (paths, router) = (Paths::new(), MethodRouter::new());
        Self { audience, schemas: Schemas::new(), paths, router, methods: Vec::new(), conditional: false }
    }

    /// Adds a handler behind the rule that its description states, unless that lets nobody of the audience in. What the
    /// handler reads is added to the description.
    pub(super) fn operation<H, P, I, F, R>(
        mut self,
        (path, mut operation, methods): Described,
        schemas: Schemas,
        handler: impl Fn(ApiCall<H, P, I>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        H: Handle,
        P: DeserializeOwned + Send + 'static,
        I: Input,
        F: Future<Output = R> + Send + 'static,
        R: IntoResponse,
    {
        I::describe(operation.parameters.get_or_insert_default());
        self.conditional |= conditions::is_conditional(&operation);
        let rule = Arc::new(AccessRule::of(&operation));
        if !self.audience.includes(&rule) {
            return self;
        }
        self.schemas.extend(schemas);
        for method in &methods {
            let (filter, name) = filter(method);
            let (rule, handler) = (rule.clone(), handler.clone());
            let served = move |State(api): State<Api>, request: Request| {
                let answer = answer(api, rule.clone(), request, handler.clone());
                async move { answer.await.unwrap_or_else(Problem::into_response) }
            };
            self.router = self.router.on(filter, served);
            self.methods.push(name);
        }
        self.paths.add_path_operation(path, methods, operation);
        self
    }

    /// The routes, and their part of the OpenAPI document; none: the audience may call nothing here.
    pub(super) fn routes(mut self) -> Option<UtoipaMethodRouter<Api>> {
        if self.conditional {
            self.paths.paths.values_mut().for_each(conditions::describe_read);
        }
        self.methods.sort_unstable();
        let allowed = self.methods.join(", ");
        let refuse = move || ready(Problem::MethodNotAllowed(allowed.clone()));
        (!self.methods.is_empty()).then(|| (self.schemas, self.paths, self.router.fallback(refuse)))
    }
}

fn filter(method: &HttpMethod) -> (MethodFilter, &'static str) {
    match method {
        HttpMethod::Get => (MethodFilter::GET, "GET"),
        HttpMethod::Put => (MethodFilter::PUT, "PUT"),
        HttpMethod::Post => (MethodFilter::POST, "POST"),
        HttpMethod::Delete => (MethodFilter::DELETE, "DELETE"),
        HttpMethod::Options => (MethodFilter::OPTIONS, "OPTIONS"),
        HttpMethod::Head => (MethodFilter::HEAD, "HEAD"),
        HttpMethod::Patch => (MethodFilter::PATCH, "PATCH"),
        HttpMethod::Trace => (MethodFilter::TRACE, "TRACE"),
    }
}

/// The operations of one path: `resource!(orgs::list_orgs, orgs::create_org)`.
macro_rules! resource {
    ($($handler:path),+ $(,)?) => {
        |resource: $crate::admin::api::resource::Resource| {
            $(
                let mut schemas = $crate::admin::api::resource::Schemas::new();
                let described = utoipa_axum::routes!(@resolve_types $handler : schemas);
                let resource = resource.operation(described, schemas, $handler);
            )+
            resource
        }
    };
}
pub(super) use resource;
