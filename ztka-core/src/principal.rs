//! Who asks, and the proof that somebody checked it.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{CredentialId, GroupName, OrgId, UserId, UserName};

/// Proof that `T` was verified. Every origin is a call to [`Self::assertion`], so that one grep finds them all.
#[derive(Clone, Debug)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// States that the caller has verified `checked`.
    pub fn assertion(checked: T) -> Self {
        Self(checked)
    }

    /// The value without the proof.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What an organisation says of a user beside name and groups, `team: shop`; one value for each key.
pub type Attributes = BTreeMap<String, String>;

/// Body of a `session` document: what the controller states about the user of one credential.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The user.
    pub user: UserId,
    /// The credential that the session is for; also the document's subject.
    pub credential: CredentialId,
    /// What the user is called.
    pub name: UserName,
    /// The user's groups.
    pub groups: Vec<GroupName>,
    /// What else is known of the user; a document that says nothing says that there is nothing.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// From then on the user has to log in again.
    pub active_until: Timestamp,
}

/// A user of an organisation, as a certificate and the session document of its credential describe them. Cheap to clone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Principal(Arc<Inner>);

#[derive(Debug, Eq, PartialEq)]
struct Inner {
    org: OrgId,
    session: Session,
}

impl Principal {
    /// The user of `session` in `org`.
    pub fn new(org: OrgId, session: Session) -> Self {
        Self(Arc::new(Inner { org, session }))
    }

    /// The organisation that the user belongs to.
    pub fn org(&self) -> &OrgId {
        &self.0.org
    }

    /// The user's immutable id.
    pub fn user(&self) -> &UserId {
        &self.0.session.user
    }

    /// The credential in use.
    pub fn credential(&self) -> &CredentialId {
        &self.0.session.credential
    }

    /// The user's name in policy, audit and Kubernetes.
    pub fn name(&self) -> &UserName {
        &self.0.session.name
    }

    /// The user's groups.
    pub fn groups(&self) -> &[GroupName] {
        &self.0.session.groups
    }

    /// The user's attributes.
    pub fn attributes(&self) -> &Attributes {
        &self.0.session.attributes
    }

    /// End of the login session.
    pub fn active_until(&self) -> Timestamp {
        self.0.session.active_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_without_attributes_is_written_as_it_was_before_there_were_any() {
        let before =
            r#"{"user":"u1","credential":"k1","name":"alice","groups":["dev"],"active_until":"2026-01-05T12:00:00Z"}"#;
        let session: Session = serde_json::from_str(before).unwrap();
        assert!(session.attributes.is_empty());
        assert_eq!(serde_json::to_string(&session).unwrap(), before);
        let team = Attributes::from([("team".to_owned(), "shop".to_owned())]);
        let with = Session { attributes: team, ..session };
        let text = serde_json::to_string(&with).unwrap();
        assert!(text.contains(r#""attributes":{"team":"shop"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Session>(&text).unwrap(), with);
    }
}
