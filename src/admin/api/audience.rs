//! For whom a listener serves the management API: everybody, or an organisation's own people.

use utoipa::openapi::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::SecurityRequirement;
use utoipa_axum::router::OpenApiRouter;

use super::Api;
use super::caller::ApiRole;
use super::resource::Resource;
use super::rules::{AccessRule, roles};
use crate::access::callers::Caller;

/// Who is served. What is for nobody of the audience does not exist there: neither its path nor its description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The operations listener: operators, and the people of organisations.
    Everybody,
    /// The data listener: the people of organisations, by the rules that hold for them everywhere.
    Tenants,
}

impl Audience {
    pub(super) fn includes(self, rule: &AccessRule) -> bool {
        match self {
            Self::Everybody => true,
            Self::Tenants => ApiRole::OF_TENANTS.into_iter().any(|role| rule.names(role)),
        }
    }

    /// Whether this caller is served here at all.
    pub(super) fn admits(self, caller: &Caller) -> bool {
        self == Self::Everybody || matches!(caller, Caller::Tenant(_))
    }

    /// Takes the roles that are not served here out of a description.
    pub(super) fn complete(self, document: &mut OpenApi) {
        if self == Self::Everybody {
            return;
        }
        document.info.title = "Tollgate: management of your organisation".into();
        document.info.description = Some(
            "Teams, users, API keys, budgets, usage and statements of your organisation. Each operation's `security` names \
             the roles that may call it."
                .into(),
        );
        for item in document.paths.paths.values_mut() {
            let operations =
                [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
            operations.into_iter().flatten().for_each(only_tenants);
        }
    }
}

fn only_tenants(operation: &mut Operation) {
    let of_tenants = ApiRole::OF_TENANTS.map(ApiRole::as_str);
    let named = operation.security.iter().flatten().flat_map(roles);
    let named: Vec<String> = named.filter(|role| of_tenants.contains(&role.as_str())).collect();
    operation.security = Some(vec![SecurityRequirement::new("bearer", named)]);
}

/// The routes for one audience, under construction.
pub(super) struct Routes {
    pub(super) audience: Audience,
    pub(super) router: OpenApiRouter<Api>,
}

impl Routes {
    /// Adds one path, with the operations that are for the audience.
    pub(super) fn routes(self, add: impl FnOnce(Resource) -> Resource) -> Self {
        let Self { audience, router } = self;
        let router = match add(Resource::new(audience)).routes() {
            Some(routes) => router.routes(routes),
            None => router,
        };
        Self { audience, router }
    }
}
