//! Which scope a request belongs to, and which tenant.

use std::sync::Arc;

use http::request::Parts;

use super::problem::Fault;
use super::problem_kind::ProblemKind;
use crate::{Engine, Scope};

/// A name for a request; `None` where it has none.
pub(super) type NameOf = Arc<dyn Fn(&Parts) -> Option<String> + Send + Sync>;

/// Where the scope of a request comes from.
#[derive(Clone)]
pub(super) enum ScopeSource {
    Fixed(Scope),
    Function(NameOf),
}

impl ScopeSource {
    pub(super) fn scope(&self, engine: &Engine, parts: &Parts) -> Result<Scope, Fault> {
        match self {
            Self::Fixed(scope) => Ok(scope.clone()),
            Self::Function(name) => match name(parts) {
                Some(name) => Ok(engine.scope(name)),
                None => {
                    Err(Fault::new(ProblemKind::Misconfigured, "The request belongs to no scope of keys."))
                }
            },
        }
    }
}

/// The tenant of a request: `None` where the layer knows no tenants.
pub(super) fn tenant(tenant_of: Option<&NameOf>, parts: &Parts) -> Result<Option<String>, Fault> {
    let Some(tenant_of) = tenant_of else { return Ok(None) };
    let no_tenant = || Fault::new(ProblemKind::TenantMissing, "The request does not say whom it is for.");
    tenant_of(parts).ok_or_else(no_tenant).map(Some)
}
