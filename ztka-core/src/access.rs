//! A request together with the proof of how far it has come.

use std::{fmt, net::IpAddr};

use http::{HeaderMap, Method, Request, Uri, request::Parts};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    ClusterId, Decision, DecisionSlot, Evidence, Grant, Malformed, Principal, ProxyId, Reason, RequestAttributes,
    Revision, Status, Upgrade, Verified, headers,
};

/// Names one audit record, in our log, in the agent's receipts and in the apiserver's own audit log.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct AuditId(Uuid);

impl AuditId {
    /// A new id; later ones sort later (UUID version 7).
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl fmt::Display for AuditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who asks for which cluster, as an authenticator has found out.
#[derive(Clone, Debug)]
pub struct Identity {
    principal: Verified<Principal>,
    cluster: ClusterId,
    evidence: Evidence,
    prefix: String,
    source: Option<IpAddr>,
    recorded_as: Option<AuditId>,
    policy: Option<Revision>,
    handed_on_by: Option<ProxyId>,
}

impl Identity {
    /// `principal` asks for `cluster`, and `evidence` proves to others who it is.
    pub fn new(principal: Verified<Principal>, cluster: ClusterId, evidence: Evidence) -> Self {
        let (prefix, source, recorded_as, policy) = (String::new(), None, None, None);
        Self { principal, cluster, evidence, prefix, source, recorded_as, policy, handed_on_by: None }
    }

    /// The path begins with `prefix`, which named the cluster and is not part of what is asked.
    #[must_use]
    pub fn addressed_by(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The request came from this address.
    #[must_use]
    pub fn from_source(mut self, source: Option<IpAddr>) -> Self {
        self.source = source;
        self
    }

    /// A proxy keeps a record of this request under `id` already.
    #[must_use]
    pub fn recorded_as(mut self, id: AuditId) -> Self {
        self.recorded_as = Some(id);
        self
    }

    /// Another proxy, to which the user is connected, has handed the request on.
    #[must_use]
    pub fn handed_on_by(mut self, proxy: ProxyId) -> Self {
        self.handed_on_by = Some(proxy);
        self
    }

    /// A proxy has allowed the request by this policy; whoever has it next asks one that is not older.
    #[must_use]
    pub fn allowed_by(mut self, policy: Revision) -> Self {
        self.policy = Some(policy);
        self
    }
}

/// A request that has passed stage `S`.
///
/// The fields are private, no stage is `Clone`, and each stage is made by consuming the one before it: a proof can
/// neither be kept nor be moved to another request. The request as received ends where [`Authenticated`] is made.
#[derive(Debug)]
pub struct Access<S, B> {
    identity: Identity,
    headers: HeaderMap, // those that travel on; method and target are the stage's
    body: B,
    stage: S,
}

impl<S, B> Access<S, B> {
    /// Who asks.
    pub fn principal(&self) -> &Verified<Principal> {
        &self.identity.principal
    }

    /// The cluster that is asked.
    pub fn cluster(&self) -> &ClusterId {
        &self.identity.cluster
    }

    /// What proves to the agent who asks.
    pub fn evidence(&self) -> &Evidence {
        &self.identity.evidence
    }

    /// The user's network address, where it is known.
    pub fn source(&self) -> Option<IpAddr> {
        self.identity.source
    }

    /// The proxy that has handed the request on to this one.
    pub fn handed_on_by(&self) -> Option<&ProxyId> {
        self.identity.handed_on_by.as_ref()
    }

    /// The policy by which a proxy has allowed the request already; set by whoever has it from a proxy.
    pub fn allowed_by(&self) -> Option<Revision> {
        self.identity.policy
    }

    /// What the stage has established.
    pub fn stage(&self) -> &S {
        &self.stage
    }

    /// The headers that travel on.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The body.
    pub fn body(&self) -> &B {
        &self.body
    }

    /// Wraps or replaces the body, the one part that no decision is made on.
    pub fn map_body<C>(self, f: impl FnOnce(B) -> C) -> Access<S, C> {
        let Self { identity, headers, body, stage } = self;
        Access { identity, headers, body: f(body), stage }
    }

    fn advance<T>(self, next: impl FnOnce(S) -> T) -> Access<T, B> {
        let Self { identity, headers, body, stage } = self;
        Access { identity, headers, body, stage: next(stage) }
    }
}

/// It is known who asks, and what they ask has been read once and for all.
#[derive(Debug)]
pub struct Authenticated {
    attributes: Result<RequestAttributes, Malformed>,
}

impl Authenticated {
    /// States that this request is `identity`'s. Called by `ztka-pki` only.
    ///
    /// A malformed request passes as well, so that it is recorded before it is refused. The upgrade asked for is read
    /// from an [`Upgrade`] extension or from the headers of HTTP/1.1.
    pub fn assertion<B>(identity: Identity, head: &Parts, body: B) -> Access<Self, B> {
        let attributes = read(&identity, head);
        let cookies = attributes.as_ref().is_ok_and(RequestAttributes::is_service_proxy);
        let headers = headers::travelling(&head.headers, cookies);
        Access { identity, headers, body, stage: Self { attributes } }
    }

    /// What is asked.
    pub fn attributes(&self) -> Result<&RequestAttributes, &Malformed> {
        self.attributes.as_ref()
    }
}

impl<B> Access<Authenticated, B> {
    /// The id under which a proxy keeps a record of this request already; set by whoever has it from a proxy.
    pub fn recorded_as(&self) -> Option<AuditId> {
        self.identity.recorded_as
    }
}

fn read(identity: &Identity, head: &Parts) -> Result<RequestAttributes, Malformed> {
    let malformed = |reason| Malformed::new(&head.uri, reason);
    let upgrade = Upgrade::asked(head).map_err(malformed)?;
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let target = target.strip_prefix(identity.prefix.as_str());
    let target = target.ok_or_else(|| malformed("the path does not begin with its prefix"))?;
    let uri = match target {
        "" => Uri::from_static("/"),
        _ if target.starts_with('?') => format!("/{target}").parse().map_err(|_| malformed("not a target"))?,
        _ if target.starts_with('/') => target.parse().map_err(|_| malformed("not a target"))?,
        _ => return Err(malformed("the prefix of the path ends within a segment; write /clusters/<cluster-id>/…")),
    };
    RequestAttributes::parse(&head.method, &uri, upgrade).map(|read| read.impersonating(&head.headers))
}

/// A durable audit record is open.
#[derive(Debug)]
pub struct Recorded {
    attributes: Result<RequestAttributes, Malformed>,
    id: AuditId,
    decision: DecisionSlot,
}

impl Recorded {
    /// States that record `id` is open and waits for its `decision`. Called by `ztka-audit` only.
    pub fn assertion<B>(from: Access<Authenticated, B>, id: AuditId, decision: DecisionSlot) -> Access<Self, B> {
        from.advance(|Authenticated { attributes }| Self { attributes, id, decision })
    }
}

/// Said where a policy has not said it itself.
const IMPERSONATION: &str = "impersonation is not granted; leave out --as, --as-group and --as-uid";

/// Policy allowed what is about to be sent.
#[derive(Debug)]
pub struct Permitted {
    attributes: RequestAttributes,
    id: AuditId,
    grant: Grant,
}

impl Permitted {
    /// States that `policy` decides. Called by `ztka-authz` only.
    ///
    /// What is written into the open record is what is enforced, and `policy` never sees a malformed request. A request
    /// that asks to act as somebody else is refused even if `policy` allows it: nobody carries that on.
    ///
    /// # Errors
    /// The refusal as the user is to see it.
    pub fn assertion<B>(
        from: Access<Recorded, B>,
        policy: impl FnOnce(&Principal, &ClusterId, &RequestAttributes) -> Decision,
    ) -> Result<Access<Self, B>, Status> {
        let Access { identity, headers, body, stage } = from;
        let Recorded { attributes, id, decision } = stage;
        let principal = &identity.principal;
        let verdict = match attributes {
            Ok(attributes) => match policy(principal, &identity.cluster, &attributes) {
                // The request would go on as the user's own, which is not what was asked.
                Decision::Allow(_) if attributes.impersonation().is_some() => {
                    let reason = Reason::Denied(IMPERSONATION.into());
                    let status = Status::forbidden(principal, &attributes, IMPERSONATION);
                    Err((reason, status))
                }
                Decision::Allow(grant) => Ok((attributes, grant)),
                Decision::Deny(reason @ Reason::Denied(_)) => {
                    let status = Status::forbidden(principal, &attributes, &reason.to_string());
                    Err((reason, status))
                }
                Decision::Deny(reason) => {
                    let status = Status::from(&reason);
                    Err((reason, status))
                }
            },
            Err(malformed) => {
                let reason = Reason::Malformed(malformed);
                let status = Status::from(&reason);
                Err((reason, status))
            }
        };
        match verdict {
            Ok((attributes, grant)) => {
                decision.fill(Decision::Allow(grant.clone()));
                let stage = Self { attributes, id, grant };
                Ok(Access { identity, headers, body, stage })
            }
            Err((reason, status)) => {
                decision.fill(Decision::Deny(reason));
                Err(status)
            }
        }
    }

    /// What was asked.
    pub fn attributes(&self) -> &RequestAttributes {
        &self.attributes
    }

    /// The method that was decided on.
    pub fn method(&self) -> &Method {
        self.attributes.method()
    }

    /// The record that this request is under.
    pub fn id(&self) -> AuditId {
        self.id
    }

    /// What was granted.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }
}

impl<B> Access<Permitted, B> {
    /// The request to send: method and canonical target as decided on, the headers that travel on, the body, and the
    /// [`Upgrade`] asked for as an extension. Whoever sends it adds its own headers last.
    pub fn into_request(self) -> Request<B> {
        let attributes = self.stage.attributes;
        let mut request = Request::new(self.body);
        *request.method_mut() = attributes.method().clone();
        *request.uri_mut() = attributes.path_and_query().clone().into();
        *request.headers_mut() = self.headers;
        if let Some(upgrade) = attributes.upgrade() {
            request.extensions_mut().insert(upgrade);
        }
        request
    }
}

#[cfg(test)]
mod tests;
