//! The controller's REST API: its wire types, and a typed client.
//!
//! Everything is JSON below `/api/v1`, over TLS with a client certificate of the `users` purpose. Paths name things by
//! their immutable ids, roles, bindings and groups by their names, which are unique in an organisation. Requests refuse
//! unknown fields; answers may grow new ones. What changes or deletes something takes `If-Match: "<version>"`, with the
//! version that a listing of `…/changes` has given for it, and then does so only if nobody else has changed it since. Times are RFC 3339, durations whole seconds. Every error is a
//! [`Problem`] (RFC 9457) with a stable [`Code`] and what to do about it.
//!
//! Lists of what there may be many of (organisations, deletions, proxies, users, credentials, groups, clusters, roles, bindings,
//! revocations) are answered a page at a time: [`DEFAULT_PAGE`] items, or as many as `?limit=` says, [`LARGEST_PAGE`] at
//! most. If there are more the answer has a `Link: <…?limit=…&continue=…>; rel="next"` (RFC 8288) to the next page. Whoever goes
//! through all of them sees everything exactly once that was there all the time, whatever comes and goes meanwhile.
//! [`Client`] does so.
//!
//! | path | what | who may |
//! |---|---|---|
//! | `GET /whoami` | the caller | everybody |
//! | `POST /renew` | a new certificate for the credential that the caller comes with | everybody |
//! | `GET /status` | how certificates are renewed | system-admin |
//! | `GET, POST /orgs` | organisations | one's own; all and new ones: system-admin |
//! | `PUT /orgs/{org}` | how long its credentials may last | org-admin |
//! | `DELETE /orgs/{org}`, `GET /deletions` | an organisation goes, with all it has | system-admin |
//! | `GET, POST /orgs/{org}/data-keys` | the keys that what an organisation has is sealed under; a new one | org-admin |
//! | `GET /master-keys`, `POST /master-keys/rewrap` | the keys that wrap those | system-admin |
//! | `GET, POST /proxies` | proxies, join tokens | system-admin |
//! | `GET /pki`, `POST /pki/authorities/{authority}/{step}` | certificate authorities and their rotation | system-admin |
//! | `GET, POST /orgs/{org}/clusters` | clusters | members see those policy lets them reach; org-admin |
//! | `GET, DELETE /orgs/{org}/clusters/{cluster}` | one cluster | org-admin |
//! | `GET, POST …/clusters/{cluster}/tokens`, `DELETE …/tokens/{token}`, `POST …/manifest` | enrolment | org-admin |
//! | `POST …/tokens/{token}/keys/{key}/approve`, `…/refuse` | whether the key that has come with a token is certified | org-admin |
//! | `GET, POST /orgs/{org}/users`, `POST …/users/{user}/disable`, `…/enable` | users | org-admin |
//! | `GET /orgs/{org}/users/{user}` | one user | the user, org-admin |
//! | `GET, POST …/users/{user}/credentials`, `DELETE …/{credential}` | kubeconfigs' certificates | the user, org-admin |
//! | `POST …/users/{user}/kubeconfig` | a whole kubeconfig (YAML), the key made by the controller | the user, org-admin |
//! | `GET …/users/{user}/access` | clusters the user may see, and how to reach them | the user, org-admin |
//! | `GET, POST /orgs/{org}/groups`, `PUT, DELETE …/groups/{group}/members/{user}` | groups | org-admin |
//! | `GET, POST /orgs/{org}/roles`, `DELETE …/roles/{role}` | roles | org-admin |
//! | `GET, POST /orgs/{org}/bindings`, `DELETE …/bindings/{binding}` | bindings | org-admin |
//! | `GET, PUT /orgs/{org}/policy` | the policy as a whole, also as it was at a `version`; `dry_run=true` | org-admin |
//! | `PUT, DELETE /orgs/{org}/policy/{kind}/{object}` | one object of it: `projects`, `clusters`, `groups`, `roles`, `bindings`, `denials`, `guardrails/default`, `settings/default` | org-admin |
//! | `GET /orgs/{org}/policy/history`, `POST …/rollback` | who has changed it when, and back | org-admin |
//! | `POST /orgs/{org}/policy/explain`, `…/who-can` | why, and who | org-admin |
//! | `GET, POST /orgs/{org}/revocations` | certificates and agents that are not believed any more | org-admin |
//! | `GET, POST /revocations`, `DELETE /revocations/orgs/{org}` | servers, proxies, whole organisations; and back | system-admin |
//! | `GET /orgs/{org}/changes` | everything there is, at a revision; `from=<revision>` watches from there; 410: list again | org-admin |
//! | `GET /orgs/{org}/events` | audit events, newest first; `follow=true` goes on with new ones | org-admin |
//! | `GET /orgs/{org}/findings` | where receipts and events disagree | org-admin |
//!
//! Where it says org-admin, that is an owner (a user made as one), or who is bound to the built-in role `org-admin` on all
//! clusters; by such a binding to another administrative role one may call what concerns the clusters, roles and bindings
//! that it reaches, and by a `-read-only` twin look at the same (`docs/policy.md`, who may change it).
//!
//! ```
//! use ztka_api::CreateBinding;
//!
//! let binding: CreateBinding = serde_json::from_str(
//!     r#"{"name": "team", "role": "edit", "subjects": [{"group": "dev"}],
//!         "clusters": {"matchLabels": {"stage": "test"}}, "scope": {"namespaces": ["shop"]}}"#,
//! )?;
//! assert!(!binding.clusters.all);
//! let typo = r#"{"name": "team", "rolle": "edit", "subjects": [], "clusters": {"all": true}, "scope": "cluster"}"#;
//! assert!(serde_json::from_str::<CreateBinding>(typo).is_err());
//! # Ok::<(), serde_json::Error>(())
//! ```
mod audit;
mod change;
mod client;
mod cluster;
mod connection;
mod credential;
mod encryption;
mod kubeconfig;
mod log;
mod page;
mod people;
mod pki;
mod policy;
mod policy_whole;
mod problem;
mod recording;
mod revocation;
mod secret;

pub use self::{
    audit::{Event, EventQuery, Finding, FindingQuery},
    change::{ChangeLine, ChangeQuery, Listing, Resource},
    client::{CastStream, Client, Endpoint, EventStream, LogExport},
    cluster::{
        AccountMode, AgentMode, Cluster, CreateCluster, CreateManifest, CreateToken, EnrolmentToken, HostAlias,
        Instance, OwnCertificate, Proxy, Status, Token, TokenState,
    },
    connection::ClientError,
    credential::CredentialFile,
    encryption::{DataKey, DataKeys, MasterKey, MasterKeys, Progress},
    kubeconfig::Kubeconfig,
    log::{ConsistencyQuery, ExportQuery, LogProofQuery, TreeHeadQuery},
    page::{DEFAULT_PAGE, LARGEST_PAGE},
    people::{
        Access, AdminRole, CreateCredential, CreateGroup, CreateKubeconfig, CreateOrg, CreateUser, Credential,
        Deletion, Group, IssuedCredential, Member, Org, ReachableCluster, RenewCredential, UpdateOrg, UpdateUser, User,
        WhoAmI,
    },
    pki::{Authority, NewRoot, Pki, PkiRotation, PkiStep, StepTaken, TakeStep, UnknownStep, Waiting},
    policy::{Binding, ClusterSelector, CreateBinding, CreateRole, Role, Rule, Scope, Subject},
    policy_whole::{
        AskPolicy, AskWhoCan, PolicyAnswer, PolicyChanged, PolicyHistoryQuery, PolicyObject, PolicyPermissions,
        PolicyQuery, PolicyState, PolicyVersion, RollBack, WhoCan, WriteQuery,
    },
    problem::{Code, Problem},
    recording::{Recording, RecordingQuery},
    revocation::{Revocation, Revoke},
    secret::SecretPem,
};

/// The content type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What every path begins with.
pub const PREFIX: &str = "/api/v1";
