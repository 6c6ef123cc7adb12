//! Whom a request asks to act as (`kubectl --as`).

use http::HeaderMap;

use super::percent;

/// Whom a request asks to act as: the `Impersonate-*` headers, which themselves never travel on
/// (`k8s.io/apiserver/pkg/endpoints/filters/impersonation`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Impersonation {
    user: String,
    uid: Option<String>,
    groups: Vec<String>,
    extra: Vec<(String, String)>,
}

/// `Impersonate-*` headers that do not name one user.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("impersonation cannot be read: {0}")]
pub struct InvalidImpersonation(&'static str);

impl Impersonation {
    /// Reads the `Impersonate-*` headers; `None` if there are none.
    ///
    /// # Errors
    /// [`InvalidImpersonation`] unless they name exactly one user, in readable and non-empty values, and nobody whom
    /// Kubernetes keeps for itself (`system:`).
    pub fn asked(headers: &HeaderMap) -> Option<Result<Self, InvalidImpersonation>> {
        // An underscore is a hyphen to some servers; a name with one is noticed here and refused below.
        let is = |name: &str| name.starts_with("impersonate-") || name.starts_with("impersonate_");
        headers.keys().any(|name| is(name.as_str())).then(|| Self::read(headers).map_err(InvalidImpersonation))
    }

    fn read(headers: &HeaderMap) -> Result<Self, &'static str> {
        let (mut users, mut uids, mut groups, mut extra) = (vec![], vec![], vec![], vec![]);
        for (name, value) in headers {
            let Some(name) = name.as_str().strip_prefix("impersonate").filter(|rest| rest.starts_with(['-', '_']))
            else {
                continue;
            };
            let value = std::str::from_utf8(value.as_bytes()).map_err(|_| "a value is not UTF-8")?;
            if value.is_empty() {
                return Err("a value is empty");
            }
            match name {
                "-user" => users.push(value.to_owned()),
                "-uid" => uids.push(value.to_owned()),
                "-group" => groups.push(value.to_owned()),
                _ => {
                    let key = name.strip_prefix("-extra-").ok_or("there is no such Impersonate header")?;
                    let key = percent::decode(key, b'+').and_then(|key| String::from_utf8(key.into_owned()).ok());
                    let key = key.filter(|key| !key.is_empty()).ok_or("the name of an extra value is not readable")?;
                    extra.push((key, value.to_owned()));
                }
            }
        }
        let mut users = users.into_iter();
        let (Some(user), None) = (users.next(), users.next()) else {
            return Err("exactly one Impersonate-User is needed; use --as together with --as-group and --as-uid");
        };
        if uids.len() > 1 {
            return Err("Impersonate-Uid occurs twice");
        }
        if user.starts_with("system:") || groups.iter().any(|group| group.starts_with("system:")) {
            return Err("users and groups that begin with system: are Kubernetes' own and cannot be impersonated here");
        }
        Ok(Self { user, uid: uids.pop(), groups, extra })
    }

    /// The user to act as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The uid to act as.
    pub fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }

    /// The groups to act as a member of, in the order received.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Extra facts about the user, key (lower case, decoded) and value, in the order received.
    pub fn extra(&self) -> &[(String, String)] {
        &self.extra
    }
}
