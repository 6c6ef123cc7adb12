//! `If-Match`: a change is made only if nobody else has changed the same thing meanwhile.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::{header, request::Parts};
use ztka_identity::Directory;

use super::answer::ApiError;
use crate::{
    Controller,
    policy::Expecting,
    store::{Conditional, ResourceStore},
};

/// The version that the caller has seen, if it says so: `If-Match: "7"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected(Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for Expected {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut values = parts.headers.get_all(header::IF_MATCH).iter();
        let version = match (values.next(), values.next()) {
            (None, _) => return Ok(Self(None)),
            (Some(value), None) => value.to_str().ok().and_then(|text| text.strip_prefix('"')?.strip_suffix('"')),
            (Some(_), Some(_)) => None,
        };
        let version = version.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
            ApiError::invalid(
                "If-Match is not one version in quotes, such as \"7\"; use one that a listing has given you",
            )
        })?;
        Ok(Self(Some(version)))
    }
}

impl Expected {
    /// For changes of an object of a policy: the version is that object's.
    pub(super) fn of_object(self) -> Expecting {
        Expecting { object: self.0, ..Expecting::default() }
    }

    /// For changes of a policy as a whole: the version is the policy's.
    pub(super) fn of_policy(self, dry_run: bool) -> Expecting {
        Expecting { policy: self.0, dry_run, ..Expecting::default() }
    }

    fn stores(self, controller: &Controller) -> Option<Conditional> {
        self.0.map(|version| controller.0.stores.changes.at_version(version))
    }

    /// Where clusters, roles and bindings are changed.
    pub(super) fn resources(self, controller: &Controller) -> Arc<dyn ResourceStore> {
        self.stores(controller).map_or_else(|| controller.0.stores.resources.clone(), |stores| stores.resources)
    }

    /// Where users, groups and credentials are changed.
    pub(super) fn directory(self, controller: &Controller) -> Directory {
        match self.stores(controller) {
            None => controller.directory().clone(),
            Some(stores) => Directory::new(stores.identity, controller.0.clock.clone()),
        }
    }
}
