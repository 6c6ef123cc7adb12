//! Policy of ZTKA: what an organisation writes down, the engine that answers from it, and the RBAC that carries it out.
//!
//! ```text
//! PolicyDocument ─signed─► Verified<SignedDocument> ─► Engine ◄─ AuthorizeLayer: Access<Recorded> ─► Access<Permitted>
//! roles, bindings                                       └─► Rendered: rules of one user's just-in-time account
//! ```
//!
//! Roles are Kubernetes' own rules and match exactly as its RBAC does. A binding gives a role to users and groups, on
//! clusters chosen by id, name, project or label, cluster-wide or in some namespaces, for some time, under conditions and
//! obligations. What no binding gives is denied, and a denial wins over all of them. So is everything denied while there
//! is no policy, or none that is still believed. What a version does not understand, or cannot know, gives nothing.
//!
//! A decision is a pure function ([`PolicySet::weigh`]): time, address and whatever else counts are [`Facts`].
//!
//! What was permitted is not forgotten: [`Open`] holds everything under way, looks at it again at each change and as
//! sessions end, and [`CutLayer`] ends what would no longer be let in.
//!
//! Whatever a role says, some things stay shut: the agent's namespace ([`AGENT_NAMESPACE`]), changes to the RBAC objects
//! that the agent makes ([`AGENT_PREFIX`]), and impersonation. Secrets of all namespaces in one list, the agent's own
//! keys among them, take a role that allows everything.
//!
//! ```
//! # use std::sync::Arc;
//! # use jiff::Timestamp;
//! use ztka_authz::{Action, Engine, Target};
//! use ztka_core::{Decision, SystemClock};
//! # use ztka_core::{*};
//!
//! let policy = r#"{
//!     "clusters": [{"id": "c1", "name": "prod", "labels": {"stage": "prod"}}],
//!     "bindings": [{
//!         "name": "developers-look",
//!         "subjects": [{"group": "dev"}],
//!         "role": "view",
//!         "clusters": {"matchLabels": {"stage": "prod"}},
//!         "scope": {"namespaces": ["shop"]}
//!     }]
//! }"#;
//! # struct Any;
//! # impl SignatureCheck for Any { fn is_signed(&self, _: &KeyId, _: &[u8], _: &[u8]) -> bool { true } }
//! # let series = SeriesKey { kind: DocumentKind::Policy, org: Some("acme".parse()?), subject: String::new() };
//! # let (issued, expires) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
//! # let header = DocumentHeader { series, revision: Revision::default(), issued, expires };
//! # let policy: ztka_authz::PolicyDocument = serde_json::from_str(policy)?;
//! # let sign = |_: &[u8]| Ok::<_, serde_json::Error>((KeyId(String::new()), Vec::new()));
//! # let verified = SignedDocument::sign(header, &policy, sign)?.accept(&Any, None, issued)?;
//! # let (user, credential, name) = ("u1".parse()?, "k1".parse()?, "alice".parse()?);
//! # let (groups, attributes) = (vec!["dev".parse()?], ztka_core::Attributes::new());
//! # let session = Session { user, credential, name, groups, attributes, active_until: expires };
//! # let alice = Principal::new("acme".parse()?, session);
//! # let prod = "c1".parse()?;
//! let engine = Engine::new(Arc::new(SystemClock));
//! engine.apply(&verified)?; // signed by the controller, and checked
//!
//! let pods = |namespace| Target::Resource { group: "", resource: "pods", subresource: None, namespace, name: None };
//! let asks = |verb, namespace| engine.review(&alice, &prod, &Action::new(verb, pods(namespace)));
//! assert!(matches!(asks("list", Some("shop")), Decision::Allow(grant) if *grant.binding == *"developers-look"));
//! assert!(matches!(asks("list", None), Decision::Deny(_)));
//! assert!(matches!(asks("delete", Some("shop")), Decision::Deny(_)));
//! # Ok::<(), ztka_core::BoxError>(())
//! ```
mod action;
mod builtin;
mod candidates;
mod cedar;
mod compile;
mod condition;
mod document;
mod engine;
mod facts;
mod forward;
mod freshness;
mod grant;
mod groups;
mod lateness;
mod layer;
mod limits;
mod matcher;
mod names;
mod open;
mod policy;
mod ports;
mod project;
mod refusal;
mod render;
mod rule;
mod size;
#[cfg(feature = "tools")]
pub mod tools;
mod validate;
mod verdict;
mod words;

pub use self::{
    action::{Action, Target},
    builtin::builtin_roles,
    document::{
        AuditLevel, Binding, Clause, Cluster, ClusterSelector, CommandPattern, Conditions, Day, Denial, Gate, Gates,
        Group, Guardrails, Hours, InvalidClause, Labels, MfaDemand, MfaStrength, Obligations, Opening, Operator,
        PolicyDocument, Project, ProtectedAccess, ProtectedNamespaces, Requirement, Role, Rule, Scope, Settings,
        Subject, UtcOffset,
    },
    engine::Engine,
    facts::{Facts, Mfa, Supported},
    grant::{Excess, Holdings, KnownClusters},
    groups::Membership,
    layer::{Authorize, AuthorizeLayer},
    limits::{Limits, LocalDenial, LocalLimits},
    open::{Cut, CutLayer, Open, Sessions},
    policy::{AGENT_NAMESPACE, AGENT_PREFIX, PolicyError, PolicySet},
    ports::{InvalidPorts, Port, Ports},
    project::Projector,
    render::{Named, Rendered},
    validate::InvalidPolicy,
    verdict::{Granted, Obligation, Refused, Unmet, Verdict},
};
