//! As whom a request goes to the apiserver.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ztka_core::Principal;

static USER: HeaderName = HeaderName::from_static("impersonate-user");
static GROUP: HeaderName = HeaderName::from_static("impersonate-group");

/// Before names of users and groups, as the cluster sees them. Kubernetes' own begin with `system:`, and names have no
/// colon, so that none of ours can be one of those.
pub const NAME_PREFIX: &str = "ztka:";

/// The credential of an account, and in whose name it acts. Cheap to clone; its token is marked sensitive.
#[derive(Clone, Debug)]
pub struct Acting {
    authorization: HeaderValue,
    name: Option<Arc<ActsFor>>,
    fresh: bool,
}

/// A user and their groups in the words of the cluster.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct ActsFor {
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
    headers: (HeaderValue, Vec<HeaderValue>),
}

impl ActsFor {
    /// None if a name cannot be put into a header, which no name is like.
    pub(crate) fn new(who: &Principal) -> Option<Self> {
        let prefixed = |name: &dyn fmt::Display| format!("{NAME_PREFIX}{name}");
        let user = prefixed(who.name());
        let groups: Vec<_> = who.groups().iter().map(|group| prefixed(group)).collect();
        let of_groups = groups.iter().map(HeaderValue::try_from).collect::<Result<_, _>>().ok()?;
        let headers = (HeaderValue::try_from(&user).ok()?, of_groups);
        Some(Self { user, groups, headers })
    }
}

impl Acting {
    /// As the account that `authorization` is of, in nobody else's name.
    pub fn by_token(authorization: HeaderValue) -> Self {
        Self { authorization, name: None, fresh: false }
    }

    pub(crate) fn for_user(authorization: HeaderValue, name: Option<Arc<ActsFor>>, fresh: bool) -> Self {
        Self { authorization, name, fresh }
    }

    /// The value of `Authorization`.
    pub fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }

    /// True for an account so new that the apiserver may not know all its permissions yet.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Puts it into the headers of a request; nothing that was in its place before survives.
    pub fn apply(self, headers: &mut HeaderMap) {
        headers.insert(header::AUTHORIZATION, self.authorization);
        if let Some(name) = &self.name {
            let (user, groups) = &name.headers;
            headers.insert(&USER, user.clone());
            headers.remove(&GROUP);
            for group in groups {
                headers.append(&GROUP, group.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use ztka_core::Session;

    use super::*;

    #[test]
    fn says_the_user_and_the_groups_and_nothing_that_was_there_before() {
        let session = Session {
            user: "u1".parse().unwrap(),
            credential: "k1".parse().unwrap(),
            name: "alice".parse().unwrap(),
            groups: vec!["dev".parse().unwrap(), "ops".parse().unwrap()],
            attributes: ztka_core::Attributes::new(),
            active_until: Timestamp::MAX,
        };
        let who = Principal::new("acme".parse().unwrap(), session);
        let mut headers = HeaderMap::new();
        headers.append(&GROUP, HeaderValue::from_static("system:masters"));
        headers.append(&USER, HeaderValue::from_static("system:admin"));
        let name = ActsFor::new(&who).map(Arc::new);
        Acting::for_user(HeaderValue::from_static("Bearer t"), name, false).apply(&mut headers);
        assert_eq!(headers[&USER], "ztka:alice");
        assert_eq!(headers.get_all(&USER).iter().count(), 1);
        assert_eq!(headers.get_all(&GROUP).iter().collect::<Vec<_>>(), ["ztka:dev", "ztka:ops"]);
        assert_eq!(headers[header::AUTHORIZATION], "Bearer t");
    }
}
