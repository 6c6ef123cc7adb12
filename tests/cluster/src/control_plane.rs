//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler: their flags.

use std::{fs, net::Ipv4Addr, path::PathBuf};

use anyhow::Result;
use serde_json::json;

use crate::{
    Authority, Identity, Options, Slot,
    binaries::{self, Program},
    certificates,
    process::Process,
};

/// Every request once with its metadata, at both stages.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n";

/// The files of a control plane, made before its processes start.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    pub(crate) authority: Authority,
    pub(crate) url: String,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) audit_log: PathBuf,
    address: Ipv4Addr,
    port: u16,
    server: Identity,
    kubelet_client: Identity,
    service_account_keys: (PathBuf, PathBuf),
}

impl ControlPlane {
    /// Makes certificates, the audit policy and the admin kubeconfig for an apiserver at `address`.
    pub(crate) fn prepare(slot: &Slot, options: &Options, address: Ipv4Addr, port: u16) -> Result<Self> {
        let folder = slot.folder();
        let pki = folder.join("pki");
        fs::create_dir_all(&pki)?;
        let authority = Authority::create(&pki, "ca")?;
        let names = [
            "localhost".to_owned(),
            "kubernetes".to_owned(),
            "kubernetes.default".to_owned(),
            "kubernetes.default.svc".to_owned(),
            Ipv4Addr::LOCALHOST.to_string(),
            slot.bridge_address().to_string(),
            slot.service_address().to_string(),
        ];
        let server = authority.server("kube-apiserver", &names)?;
        let kubelet_client = authority.client("kube-apiserver-kubelet-client", &["system:masters"])?;
        let admin = authority.client("kubernetes-admin", &["system:masters"])?;
        let url = if port == 443 { format!("https://{address}") } else { format!("https://{address}:{port}") };
        let kubeconfig = folder.join("admin.kubeconfig");
        write_kubeconfig(&kubeconfig, &url, &authority, &Credential::Certificate(&admin))?;
        fs::write(folder.join("audit-policy.yaml"), options.audit_policy.as_deref().unwrap_or(AUDIT_POLICY))?;
        Ok(Self {
            service_account_keys: certificates::service_account_keys(&pki)?,
            audit_log: folder.join("audit.jsonl"),
            authority,
            url,
            kubeconfig,
            address,
            port,
            server,
            kubelet_client,
        })
    }

    pub(crate) async fn start_etcd(slot: &Slot) -> Result<Process> {
        let client = format!("http://127.0.0.1:{}", slot.kit_port(0));
        let peer = format!("http://127.0.0.1:{}", slot.kit_port(1));
        let args = [
            "--name=etcd".to_owned(),
            "--data-dir=etcd".to_owned(),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=etcd={peer}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        Process::start(slot.folder(), "etcd", &binaries::find_one(Program::Etcd).await?, args)
    }

    pub(crate) async fn start_apiserver(&self, slot: &Slot, options: &Options) -> Result<Process> {
        let (private, public) = &self.service_account_keys;
        let mut args = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", slot.kit_port(0)),
            format!("--bind-address={}", self.address),
            format!("--advertise-address={}", self.address),
            format!("--secure-port={}", self.port),
            format!("--tls-cert-file={}", self.server.certificate_path.display()),
            format!("--tls-private-key-file={}", self.server.key_path.display()),
            format!("--client-ca-file={}", self.authority.path().display()),
            format!("--kubelet-client-certificate={}", self.kubelet_client.certificate_path.display()),
            format!("--kubelet-client-key={}", self.kubelet_client.key_path.display()),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--service-account-signing-key-file={}", private.display()),
            format!("--service-account-key-file={}", public.display()),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-cluster-ip-range={}", slot.service_cidr()),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--audit-policy-file=audit-policy.yaml".to_owned(),
            format!("--audit-log-path={}", self.audit_log.display()),
            "--audit-log-mode=blocking".to_owned(),
            // Tests send hundreds of requests at once; priority and fairness would hold them back.
            "--max-requests-inflight=3000".to_owned(),
            "--max-mutating-requests-inflight=1000".to_owned(),
        ];
        args.extend(options.apiserver_args.iter().cloned());
        Process::start(slot.folder(), "kube-apiserver", &binaries::find_one(Program::Apiserver).await?, args)
    }

    pub(crate) async fn start_controller_manager(&self, slot: &Slot) -> Result<Process> {
        let args = [
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--root-ca-file={}", self.authority.path().display()),
            format!("--service-account-private-key-file={}", self.service_account_keys.0.display()),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", slot.kit_port(3)),
        ];
        let program = binaries::find_one(Program::ControllerManager).await?;
        Process::start(slot.folder(), "kube-controller-manager", &program, args)
    }

    pub(crate) async fn start_scheduler(&self, slot: &Slot) -> Result<Process> {
        let config = json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": { "kubeconfig": self.kubeconfig },
            "leaderElection": { "leaderElect": false },
        });
        let path = slot.folder().join("scheduler.json");
        fs::write(&path, config.to_string())?;
        let args = [
            format!("--config={}", path.display()),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", slot.kit_port(4)),
        ];
        Process::start(slot.folder(), "kube-scheduler", &binaries::find_one(Program::Scheduler).await?, args)
    }
}

/// How a kubeconfig authenticates.
pub(crate) enum Credential<'a> {
    Certificate(&'a Identity),
    Token(&'a str),
}

/// Writes a kubeconfig that refers to files by path, as JSON, which is YAML too.
pub(crate) fn write_kubeconfig(
    path: &std::path::Path,
    url: &str,
    authority: &Authority,
    credential: &Credential<'_>,
) -> Result<()> {
    let user = match credential {
        Credential::Certificate(identity) => {
            json!({ "client-certificate": identity.certificate_path, "client-key": identity.key_path })
        }
        Credential::Token(token) => json!({ "token": token }),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": { "server": url, "certificate-authority": authority.path() } }],
        "users": [{ "name": "test", "user": user }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        "current-context": "test",
    });
    Ok(fs::write(path, serde_json::to_vec_pretty(&config)?)?)
}
