//! The controller, who may do what, and what of it is changed.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use ztka_api::{
    Client, CreateCluster, CreateCredential, CreateGroup, CreateOrg, CreateToken, CreateUser, CredentialFile,
    UpdateUser,
};
use ztka_core::{ClusterId, CredentialId, GroupName, OrgId, UserId};
use ztka_e2e::free_port;
use ztka_pki::SoftwareKey;
use ztka_runtime::Process;
use ztka_test_cluster::wait_for_within;

use crate::agents::api;

const DOMAIN: &str = "ztka.test";
const TEAM: &str = "team";
/// The first start makes the certificate authorities.
const STARTS: Duration = Duration::from_secs(60);

/// What is changed, each of a user, a namespace and a binding of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Binding,
    Group,
    Role,
    Session,
    Guardrail,
    Condition,
    Attribute,
}

impl Kind {
    pub(super) const ALL: [Self; 7] =
        [Self::Binding, Self::Group, Self::Role, Self::Session, Self::Guardrail, Self::Condition, Self::Attribute];

    /// As a table has it.
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Binding => "binding removed",
            Self::Group => "user taken out of a group",
            Self::Role => "rule of a role removed",
            Self::Session => "credential revoked",
            Self::Guardrail => "namespace protected",
            Self::Condition => "condition added to a binding",
            Self::Attribute => "attribute of the user removed",
        }
    }

    /// The name of its user, namespace, binding and role.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Binding => "of-binding",
            Self::Group => "of-group",
            Self::Role => "of-role",
            Self::Session => "of-session",
            Self::Guardrail => "of-guardrail",
            Self::Condition => "of-condition",
            Self::Attribute => "of-attribute",
        }
    }

    /// The binding that lets its user in.
    fn binding(self) -> Value {
        let subject = match self {
            Self::Group => json!({ "group": TEAM }),
            _ => json!({ "user": self.name() }),
        };
        let when = match self {
            Self::Attribute => json!({ "user": { TEAM: ["shop"] } }),
            _ => json!({}),
        };
        json!({
            "name": self.name(), "subjects": [subject], "role": self.name(), "clusters": { "all": true },
            "scope": { "namespaces": [self.name()] }, "when": when,
        })
    }

    fn role(self, resource: &str) -> Value {
        let rule = json!({ "verbs": ["list", "watch"], "apiGroups": [""], "resources": [resource] });
        json!({ "name": self.name(), "rules": [rule] })
    }
}

/// A user with a certificate.
#[derive(Clone, Debug)]
pub(super) struct Person {
    user: UserId,
    credential: CredentialId,
    pub(super) chain: Vec<CertificateDer<'static>>,
}

/// The controller on a runtime of its own, and its administrator. Gone when dropped.
pub(super) struct World {
    pub(super) address: SocketAddr,
    pub(super) domain: String,
    pub(super) cluster: ClusterId,
    api: Client,
    org: OrgId,
    people: Vec<(Kind, Person)>,
    process: Process,
    server: Option<Runtime>,
    folder: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.process.stop();
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

impl World {
    /// Starts a controller and makes everything that is changed later, among so many bindings of others.
    pub(super) async fn start(bindings: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ztka-change-").tempdir()?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let data = folder.path().join("controller");
        let config = format!(
            "domain = '{DOMAIN}'\ndata_dir = '{}'\nfront = '{address}'\nlisten = '{address}'\n",
            data.display()
        );
        let config: ztka_controller_server::Config = toml::from_str(&config)?;
        let server = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let process = Process::new(CancellationToken::new());
        let mut ended = server.spawn(ztka_controller_server::run(config, process.clone()));
        let starts = wait_for_within(STARTS, "the controller", || administrator(&data, folder.path()));
        let api = tokio::select! {
            api = starts => api?,
            ended = &mut ended => return Err(ended?.err().unwrap_or_else(|| anyhow!("the controller has ended"))),
        };
        let org = api.create_org(&CreateOrg { name: "bench".parse()? }).await?.id;
        let cluster = CreateCluster { name: "bench".parse()?, labels: Default::default() };
        let cluster = api.create_cluster(&org, &cluster).await?.id;
        let domain = DOMAIN.to_owned();
        let mut world =
            Self { address, domain, cluster, api, org, people: Vec::new(), process, server: Some(server), folder };
        world.populate(bindings).await?;
        Ok(world)
    }

    async fn populate(&mut self, bindings: usize) -> Result<()> {
        self.api.create_group(&self.org, &CreateGroup { name: TEAM.parse()? }).await?;
        for kind in Kind::ALL {
            let user = CreateUser { name: kind.name().parse()?, admin: None };
            let user = self.api.create_user(&self.org, &user).await?.id;
            let person = self.credential(user).await?;
            self.people.push((kind, person));
        }
        let others = (0..bindings).map(|number| {
            json!({
                "name": format!("other-{number}"), "subjects": [{ "user": format!("other-{number}") }], "role": "view",
                "clusters": { "all": true }, "scope": { "namespaces": [format!("other-{}", number % 100)] },
            })
        });
        let policy = json!({
            "roles": Kind::ALL.map(|kind| kind.role("configmaps")),
            "bindings": Kind::ALL.map(Kind::binding).into_iter().chain(others).collect::<Vec<_>>(),
        });
        self.api.write_policy(&self.org, &policy, None, false).await?;
        self.take_back(Kind::Group).await?;
        self.take_back(Kind::Attribute).await
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A one-time token for a proxy.
    pub(super) async fn proxy_token(&self) -> Result<String> {
        Ok(self.api.create_proxy(&CreateToken::default()).await?.token)
    }

    /// Whom a change of this kind is about.
    #[expect(clippy::indexing_slicing, reason = "there is one of each kind, in this order")]
    pub(super) fn person(&self, kind: Kind) -> &Person {
        &self.people[kind as usize].1
    }

    async fn credential(&self, user: UserId) -> Result<Person> {
        let key = SoftwareKey::generate(&Arc::new(rustls::crypto::ring::default_provider()))?;
        let asked = CreateCredential { csr: key.csr_pem()?, life_seconds: None };
        let issued = self.api.create_credential(&self.org, &user, &asked).await?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect();
        Ok(Person { user, credential: issued.credential.id, chain: chain.context("the chain")? })
    }

    async fn put(&self, kind: &str, name: &str, object: &Value) -> Result<()> {
        self.api.put_policy_object(&self.org, kind, name, object).await.map(drop).map_err(Into::into)
    }

    async fn describe(&self, team: Option<&str>) -> Result<()> {
        let attributes = [(TEAM.to_owned(), team.map(str::to_owned))].into();
        let user = &self.person(Kind::Attribute).user;
        self.api.update_user(&self.org, user, &UpdateUser { attributes }).await?;
        Ok(())
    }

    /// Makes the change.
    pub(super) async fn apply(&self, kind: Kind) -> Result<()> {
        let (api, org, person, name) = (&self.api, &self.org, self.person(kind), kind.name());
        match kind {
            Kind::Binding => api.delete_policy_object(org, "bindings", name).await?,
            Kind::Group => api.remove_member(org, &team()?, &person.user).await?,
            Kind::Role => self.put("roles", name, &kind.role("services")).await?,
            Kind::Session => api.revoke_credential(org, &person.user, &person.credential).await?,
            Kind::Guardrail => {
                let rail = json!({ "namespaces": [name], "access": "none", "clusters": { "all": true } });
                self.put("guardrails", "default", &json!({ "protectedNamespaces": [rail] })).await?;
            }
            Kind::Condition => {
                let mut binding = kind.binding();
                if let Some(binding) = binding.as_object_mut() {
                    binding.insert("when".into(), json!({ "networks": ["198.51.100.0/24"] }));
                }
                self.put("bindings", name, &binding).await?;
            }
            Kind::Attribute => self.describe(None).await?,
        }
        Ok(())
    }

    /// Everything is as it was before the change.
    pub(super) async fn take_back(&mut self, kind: Kind) -> Result<()> {
        let name = kind.name();
        match kind {
            Kind::Binding | Kind::Condition => self.put("bindings", name, &kind.binding()).await,
            Kind::Group => Ok(self.api.add_member(&self.org, &team()?, &self.person(kind).user).await?),
            Kind::Role => self.put("roles", name, &kind.role("configmaps")).await,
            Kind::Session => {
                let person = self.credential(self.person(kind).user.clone()).await?;
                self.people.iter_mut().filter(|(of, _)| *of == kind).for_each(|(_, old)| *old = person.clone());
                Ok(())
            }
            Kind::Guardrail => self.put("guardrails", "default", &json!({})).await,
            Kind::Attribute => self.describe(Some("shop")).await,
        }
    }
}

fn team() -> Result<GroupName> {
    Ok(TEAM.parse()?)
}

/// The first administrator, once the controller answers.
async fn administrator(data: &Path, folder: &Path) -> Result<Client> {
    let file: PathBuf = data.join("admin.toml");
    let credential: CredentialFile = toml::from_str(&fs::read_to_string(file)?)?;
    let api = api(&credential, folder)?;
    api.whoami().await?;
    Ok(api)
}
