//! Clusters made by the API, and an agent of each enrolled by its token.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use ztka_api::{Client, CreateCluster, CreateOrg, CreateToken, CredentialFile, Endpoint};
use ztka_core::{Clock, OrgId, SystemClock};
use ztka_e2e::Fleet;
use ztka_follow::{Member, Membership};
use ztka_pki::{CredentialSource, Purpose, TrustSource};

use super::Plan;
use crate::connect::{certificates, key};

/// At the same time.
const ABREAST: usize = 16;
/// Between two words of progress.
const WORD: usize = 1000;

/// The agents, and whom they trust.
pub(super) struct Enrolled {
    pub(super) credentials: Vec<CredentialSource>,
    pub(super) trust: TrustSource,
    pub(super) domain: String,
}

pub(super) struct Enroller {
    api: Client,
    folder: PathBuf,
    front: String,
    domain: String,
}

impl Enroller {
    /// As the first administrator.
    pub(super) fn new(fleet: &Fleet) -> Result<Self> {
        let credential: CredentialFile = toml::from_str(&fs::read_to_string(fleet.path("controller/admin.toml"))?)?;
        let folder = fleet.path("crowd");
        fs::create_dir_all(&folder)?;
        let front = credential.address.clone();
        let domain = credential.server_name.split_once('.').context("the API has no domain")?.1.to_owned();
        Ok(Self { api: api(&credential, &folder)?, folder, front, domain })
    }

    pub(super) async fn enrol(&self, plan: Plan, progress: &mut impl FnMut(&str)) -> Result<Enrolled> {
        let mut orgs = Vec::new();
        for number in 0..plan.orgs.max(1) {
            let name = format!("org-{number}").parse().context("a name")?;
            orgs.push(self.api.create_org(&CreateOrg { name }).await?.id);
        }
        let of = |number: usize| orgs.get(number % orgs.len()).cloned();
        let numbers = (0..plan.agents).filter_map(|number| Some((number, of(number)?)));
        let mut joined = stream::iter(numbers).map(|(number, org)| self.one(number, org)).buffer_unordered(ABREAST);
        let (mut credentials, mut trust) = (Vec::with_capacity(plan.agents), None);
        while let Some(member) = joined.try_next().await? {
            credentials.push(member.credentials().clone());
            trust.get_or_insert_with(|| member.documents().trust().clone());
            if credentials.len().is_multiple_of(WORD) {
                progress(&format!("{} of {} agents have enrolled", credentials.len(), plan.agents));
            }
        }
        Ok(Enrolled { credentials, trust: trust.context("no agents")?, domain: self.domain.clone() })
    }

    async fn one(&self, number: usize, org: OrgId) -> Result<Member> {
        let name = format!("cluster-{number}").parse().context("a name")?;
        let cluster = self.api.create_cluster(&org, &CreateCluster { name, labels: BTreeMap::new() }).await?;
        let token = self.api.create_enrolment_token(&org, &cluster.id, &CreateToken::default()).await?;
        let state = self.folder.join(number.to_string());
        let at = |label: &str| -> Result<_> {
            Ok((self.front.clone(), ServerName::try_from(format!("{label}.{}", self.domain))?))
        };
        let membership = Membership {
            state: state.clone(),
            token: Some(token.token.parse().context("the token")?),
            enrol: at("enroll")?,
            controller: at("agents")?,
            controller_purpose: Purpose::Servers,
            shared: None,
            egress: ztka_tunnel::Egress::direct(),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let member = Member::join(membership, provider, clock).await?;
        fs::remove_dir_all(state)?;
        Ok(member)
    }
}

/// Calls the API with a credential, whose parts are written into `folder`.
pub(crate) fn api(credential: &CredentialFile, folder: &std::path::Path) -> Result<Client> {
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let mut roots = RootCertStore::empty();
    for anchor in certificates(&write("ca.pem", &credential.ca_bundle)?)? {
        roots.add(anchor)?;
    }
    let chain = certificates(&write("admin.pem", &credential.chain)?)?;
    let key = key(&write("admin.key", credential.key.expose())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut tls = builder.with_root_certificates(roots).with_client_auth_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let (host, port) = credential.address.rsplit_once(':').context("the address has no port")?;
    let server_name = ServerName::try_from(credential.server_name.clone())?;
    Ok(Client::new(Endpoint { host: host.into(), port: port.parse()?, server_name }, Arc::new(tls)))
}
