//! The REST API: one table of routes, each with who may call it.
//!
//! The table is the only way to a handler: a route without a rule cannot be written, and the guard in front of each
//! finds out who calls, whether they still may, and whether the rule lets them, before the handler sees anything. What
//! changes something is on record before it happens.
mod answer;
mod attributes;
mod changes;
mod clusters;
mod credentials;
mod events;
mod groups;
mod guard;
mod keys;
pub(crate) mod labels;
mod log;
mod orgs;
mod paging;
mod pki;
mod policy;
mod policy_whole;
mod precondition;
mod proxies;
mod recordings;
mod revocations;
mod status;
mod tokens;
mod users;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    handler::Handler,
    middleware::from_fn,
    routing::{MethodFilter, MethodRouter, on},
};
use http::Method;
use ztka_api::{Code, PREFIX, Problem};

use self::answer::StoreFailed;
use crate::Controller;

pub(crate) use self::{
    answer::{Answer, ApiError},
    credentials::CredentialError,
};

/// Larger than any role or manifest request.
const LARGEST: usize = 1 << 20;
/// A policy as a whole is larger.
const LARGEST_POLICY: usize = 16 << 20;

/// Who may call a route. Everybody else is refused before the handler runs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Needs {
    /// Any user whose session is active.
    Caller,
    /// A user of the organisation in the path, or who may administer it.
    Member,
    /// The user in the path, or who may administer the organisation.
    Oneself,
    /// Who may administer the organisation in the path.
    OrgAdmin,
    /// Who may look at what concerns the organisation as a whole.
    OrgReader,
    /// Who may administer the cluster in the path.
    ClusterAdmin,
    /// Who may look at the cluster in the path.
    ClusterReader,
    /// Who may make clusters.
    ClusterMaker,
    /// Who may change some of the policy; the handler looks at what the change is of.
    PolicyAdmin,
    /// Who may look at some of the policy; the handler leaves out the rest.
    PolicyReader,
    /// Who may see recordings of the organisation in the path, and belongs to it; every look is on record.
    RecordingViewer,
    /// Who may administer the installation.
    SystemAdmin,
}

/// A route of the API.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Route {
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: &'static str,
    /// The path below [`PREFIX`], parameters in braces.
    pub path: &'static str,
    /// Who may call it.
    pub needs: Needs,
}

macro_rules! routes {
    ($($method:ident $path:literal $needs:ident $handler:path;)+) => {
        /// Every route of the API. The router is made from this table and from nothing else.
        pub const ROUTES: &[Route] = &[
            $(Route { method: stringify!($method), path: $path, needs: Needs::$needs },)+
        ];

        fn table(controller: &Controller) -> Router<Controller> {
            Router::new()$(.route(
                concat!("/api/v1", $path),
                guarded(
                    controller,
                    Method::$method,
                    Route { method: stringify!($method), path: $path, needs: Needs::$needs },
                    $handler,
                ),
            ))+
        }
    };
}

routes! {
    GET    "/whoami"                                              Caller       users::whoami;
    GET    "/status"                                              SystemAdmin  status::status;
    GET    "/orgs"                                                Caller       orgs::list;
    POST   "/renew"                                               Caller       credentials::renew;
    POST   "/orgs"                                                SystemAdmin  orgs::create;
    PUT    "/orgs/{org}"                                          OrgAdmin     orgs::update;
    DELETE "/orgs/{org}"                                          SystemAdmin  orgs::delete;
    GET    "/deletions"                                           SystemAdmin  orgs::deletions;
    GET    "/master-keys"                                         SystemAdmin  keys::masters;
    POST   "/master-keys/rewrap"                                  SystemAdmin  keys::rewrap;
    GET    "/orgs/{org}/data-keys"                                OrgReader    keys::list;
    POST   "/orgs/{org}/data-keys"                                OrgAdmin     keys::rotate;
    GET    "/proxies"                                             SystemAdmin  proxies::list;
    POST   "/proxies"                                             SystemAdmin  proxies::create;
    GET    "/pki"                                                 SystemAdmin  pki::status;
    POST   "/pki/authorities/{authority}/{step}"                  SystemAdmin  pki::step;
    GET    "/revocations"                                         SystemAdmin  revocations::list_all;
    POST   "/revocations"                                         SystemAdmin  revocations::create_any;
    DELETE "/revocations/orgs/{org}"                              SystemAdmin  revocations::restore;
    GET    "/orgs/{org}/revocations"                              OrgReader    revocations::list;
    POST   "/orgs/{org}/revocations"                              OrgAdmin     revocations::create;
    GET    "/orgs/{org}/clusters"                                 Member       clusters::list;
    POST   "/orgs/{org}/clusters"                                 ClusterMaker clusters::create;
    GET    "/orgs/{org}/clusters/{cluster}"                       ClusterReader clusters::read;
    DELETE "/orgs/{org}/clusters/{cluster}"                       ClusterAdmin clusters::delete;
    GET    "/orgs/{org}/clusters/{cluster}/tokens"                ClusterReader tokens::list;
    POST   "/orgs/{org}/clusters/{cluster}/tokens"                ClusterAdmin tokens::create;
    DELETE "/orgs/{org}/clusters/{cluster}/tokens/{token}"        ClusterAdmin tokens::revoke;
    POST   "/orgs/{org}/clusters/{cluster}/tokens/{token}/keys/{key}/approve" ClusterAdmin tokens::approve;
    POST   "/orgs/{org}/clusters/{cluster}/tokens/{token}/keys/{key}/refuse"  ClusterAdmin tokens::refuse;
    POST   "/orgs/{org}/clusters/{cluster}/manifest"              ClusterAdmin clusters::create_manifest;
    GET    "/orgs/{org}/users"                                    OrgReader    users::list;
    POST   "/orgs/{org}/users"                                    OrgAdmin     users::create;
    GET    "/orgs/{org}/users/{user}"                             Oneself      users::read;
    PATCH  "/orgs/{org}/users/{user}"                             OrgAdmin     users::update;
    POST   "/orgs/{org}/users/{user}/disable"                     OrgAdmin     users::disable;
    POST   "/orgs/{org}/users/{user}/enable"                      OrgAdmin     users::enable;
    GET    "/orgs/{org}/users/{user}/access"                      Oneself      credentials::access;
    GET    "/orgs/{org}/users/{user}/credentials"                 Oneself      credentials::list;
    POST   "/orgs/{org}/users/{user}/credentials"                 Oneself      credentials::create;
    DELETE "/orgs/{org}/users/{user}/credentials/{credential}"    Oneself      credentials::revoke;
    POST   "/orgs/{org}/users/{user}/kubeconfig"                  Oneself      credentials::download;
    GET    "/orgs/{org}/groups"                                   OrgReader    groups::list;
    POST   "/orgs/{org}/groups"                                   OrgAdmin     groups::create;
    PUT    "/orgs/{org}/groups/{group}/members/{user}"            OrgAdmin     groups::add;
    DELETE "/orgs/{org}/groups/{group}/members/{user}"            OrgAdmin     groups::remove;
    GET    "/orgs/{org}/roles"                                    PolicyReader policy::roles;
    POST   "/orgs/{org}/roles"                                    PolicyAdmin  policy::create_role;
    DELETE "/orgs/{org}/roles/{role}"                             PolicyAdmin  policy::delete_role;
    GET    "/orgs/{org}/bindings"                                 PolicyReader policy::bindings;
    POST   "/orgs/{org}/bindings"                                 PolicyAdmin  policy::create_binding;
    DELETE "/orgs/{org}/bindings/{binding}"                       PolicyAdmin  policy::delete_binding;
    GET    "/orgs/{org}/policy"                                   OrgReader    policy_whole::read;
    PUT    "/orgs/{org}/policy"                                   OrgAdmin     policy_whole::write;
    GET    "/orgs/{org}/policy/history"                           OrgReader    policy_whole::history;
    POST   "/orgs/{org}/policy/rollback"                          OrgAdmin     policy_whole::roll_back;
    POST   "/orgs/{org}/policy/explain"                           OrgReader    policy_whole::explain;
    POST   "/orgs/{org}/policy/who-can"                           OrgReader    policy_whole::who_can;
    PUT    "/orgs/{org}/policy/{kind}/{object}"                   PolicyAdmin  policy::put_object;
    DELETE "/orgs/{org}/policy/{kind}/{object}"                   PolicyAdmin  policy::delete_object;
    GET    "/orgs/{org}/changes"                                  OrgReader    changes::changes;
    GET    "/orgs/{org}/events"                                   OrgReader    events::events;
    GET    "/orgs/{org}/findings"                                 OrgReader    events::findings;
    GET    "/orgs/{org}/recordings"                               RecordingViewer recordings::list;
    GET    "/orgs/{org}/recordings/{recording}"                   RecordingViewer recordings::read;
    GET    "/orgs/{org}/recordings/{recording}/cast"              RecordingViewer recordings::cast;
    GET    "/orgs/{org}/recordings/{recording}/watch"             RecordingViewer recordings::watch;
    GET    "/orgs/{org}/log/head"                                 OrgReader    log::head;
    GET    "/orgs/{org}/log/proof"                                OrgReader    log::proof;
    GET    "/orgs/{org}/log/consistency"                          OrgReader    log::consistency;
    GET    "/orgs/{org}/log/export"                               OrgReader    log::export;
}

fn guarded<H, T>(controller: &Controller, method: Method, route: Route, handler: H) -> MethodRouter<Controller>
where
    H: Handler<T, Controller>,
    T: 'static,
{
    let filter = match method {
        Method::GET => MethodFilter::GET,
        Method::PUT => MethodFilter::PUT,
        Method::PATCH => MethodFilter::PATCH,
        Method::DELETE => MethodFilter::DELETE,
        _ => MethodFilter::POST,
    };
    let controller = controller.clone();
    let guard = from_fn(move |request, next| {
        let controller = controller.clone();
        async move {
            let answer = guard::guard(controller.clone(), route.needs, request, next).await;
            let counts = &controller.0.counts;
            counts.request(route, answer.status());
            let Some(failed) = answer.extensions().get::<StoreFailed>() else { return answer };
            counts.store_failed();
            match controller.store_failing() {
                Some(failing) => failed.saying(&format!(", for {} s now", failing.age(controller.now()).as_secs())),
                None => answer,
            }
        }
    });
    let largest = if route.path == "/orgs/{org}/policy" { LARGEST_POLICY } else { LARGEST };
    on(filter, handler).route_layer(DefaultBodyLimit::max(largest)).route_layer(guard)
}

impl Controller {
    /// The REST API below `/api/v1`, for `api.<domain>`: client certificates of users, requested.
    pub fn api(&self) -> Router {
        debug_assert_eq!(PREFIX, "/api/v1");
        table(self)
            .fallback(async || ApiError::from(not_found()))
            .method_not_allowed_fallback(async || ApiError::from(wrong_method()))
            .with_state(self.clone())
            // Signed, and for whoever relies on a certificate: the one thing here that asks nobody who they are.
            .merge(self.crls())
    }
}

fn not_found() -> Problem {
    Problem::new(
        Code::NotFound,
        "there is no such path",
        "check the address, and the versions of client and controller",
    )
}

fn wrong_method() -> Problem {
    Problem::new(Code::MethodNotAllowed, "this path does not take this method", "check the client's version")
}
