//! The roles that the OpenAPI document names in `security`.

use crate::access::callers::Caller;
use crate::store::{OperatorRole, Role};

/// A caller's role in the management API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApiRole {
    Operator,
    /// Reads everything and changes nothing.
    OperatorRead,
    /// Manages its own organisation.
    OrgAdmin,
    /// Belongs to an organisation without managing it.
    Member,
}

impl ApiRole {
    /// The roles that the people of an organisation have.
    pub(super) const OF_TENANTS: [Self; 2] = [Self::OrgAdmin, Self::Member];

    pub(super) fn of(caller: &Caller) -> Self {
        match caller {
            Caller::Operator(operator) => match operator.role {
                OperatorRole::Operator => Self::Operator,
                OperatorRole::OperatorRead => Self::OperatorRead,
            },
            Caller::Tenant(principal) => match principal.role {
                Role::Admin => Self::OrgAdmin,
                Role::Member => Self::Member,
            },
        }
    }

    /// The name in `security`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::OperatorRead => "operator-read",
            Self::OrgAdmin => "org-admin",
            Self::Member => "member",
        }
    }
}
