//! The bootstrap manifest: the YAML that starts the agent in a cluster.

mod rbac;

use std::fmt::Write as _;

use ztka_api::{AccountMode, AgentMode, CreateManifest, HostAlias};
use ztka_authz::PolicyDocument;

pub use self::rbac::{AgentAccess, NoSuchRole};

use crate::Controller;

/// What goes into a manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Container image of the agent.
    pub image: String,
    /// Where the agent finds the apiserver; none: as every pod does.
    pub apiserver: Option<String>,
    /// Names that the pod resolves by itself.
    pub host_aliases: Vec<HostAlias>,
    /// Domain of the installation.
    pub domain: String,
    /// `host:port` where the token is redeemed, documents are followed and certificates renewed.
    pub front: String,
    /// `host:port` of each proxy, for tunnels.
    pub proxies: Vec<String>,
    /// The one-time token: a secret.
    pub token: String,
    /// What the agent may do.
    pub access: AgentAccess,
}

/// A YAML scalar that can be nothing but this text: JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The first thing that is wrong, and what to do.
pub(crate) fn validate(asked: &CreateManifest) -> Result<(), String> {
    let plain =
        |text: &str, most: usize| !text.is_empty() && text.len() <= most && text.bytes().all(|b| b.is_ascii_graphic());
    if !plain(&asked.image, 512) {
        return Err("image is not the name of a container image; use one like registry.example.com/ztka-agent:1".into());
    }
    if let Some(url) = &asked.apiserver
        && !(plain(url, 512) && url.starts_with("https://"))
    {
        return Err("apiserver is not a URL; use one like https://192.0.2.1:6443".into());
    }
    let is_name = |name: &String| {
        plain(name, 253) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b))
    };
    if asked.host_aliases.len() > 64 || asked.host_aliases.iter().any(|alias| alias.hostnames.is_empty()) {
        return Err("host_aliases are at most 64, each with a name; correct them".into());
    }
    match (asked.mode, asked.accounts, asked.ceiling.as_slice()) {
        (AgentMode::Ceiling, AccountMode::Impersonate, _) => {
            return Err("accounts that impersonate need an agent in mode dynamic; choose one of the two".into());
        }
        (AgentMode::Ceiling, _, []) => {
            return Err(
                "a ceiling without roles lets nobody do anything; name the roles of policy that count here".into()
            );
        }
        (AgentMode::Dynamic, _, [_, ..]) => return Err("a ceiling is for mode ceiling; set the mode".into()),
        (AgentMode::Ceiling, _, roles) if roles.len() > 64 => return Err("ceiling has 64 roles at the most".into()),
        _ => {}
    }
    match asked.host_aliases.iter().flat_map(|alias| &alias.hostnames).find(|name| !is_name(name)) {
        Some(bad) => Err(format!("{bad:?} is not a host name in lower case; correct host_aliases")),
        None => Ok(()),
    }
}

impl Controller {
    /// What the agent is to be allowed; `policy` says what the roles of a ceiling are.
    pub(crate) fn agent_access(asked: &CreateManifest, policy: &PolicyDocument) -> Result<AgentAccess, NoSuchRole> {
        match asked.mode {
            AgentMode::Dynamic => Ok(AgentAccess { accounts: asked.accounts, ..AgentAccess::default() }),
            AgentMode::Ceiling => {
                let roles: Vec<_> = asked.ceiling.iter().map(ToString::to_string).collect();
                AgentAccess::ceiling(policy, &roles)
            }
        }
    }

    pub(crate) fn manifest(&self, asked: &CreateManifest, access: AgentAccess, token: &str) -> Manifest {
        let settings = &self.0.settings;
        Manifest {
            image: asked.image.clone(),
            apiserver: asked.apiserver.clone(),
            host_aliases: asked.host_aliases.clone(),
            domain: self.domain().into(),
            front: settings.agents_at.clone(),
            proxies: settings.tunnels_at.clone(),
            token: token.into(),
            access,
        }
    }
}

/// The YAML that `kubectl apply` takes. It has the token in it: keep it as secret as the token.
pub fn render(manifest: &Manifest) -> String {
    let mut config = format!("domain = {}\nfront = {}\n", quoted(&manifest.domain), quoted(&manifest.front));
    let proxies: Vec<_> = manifest.proxies.iter().map(|address| quoted(address)).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(config, "proxies = [{}]", proxies.join(", "));
    let _ = writeln!(config, "state_dir = \"/var/lib/ztka/agent\"");
    let _ = writeln!(config, "credential = \"secret\"");
    let _ = writeln!(config, "token_file = \"/etc/ztka/enrolment/token\"");
    let _ = writeln!(config, "limits_config_map = true");
    let AgentAccess { mode, accounts, ceiling } = &manifest.access;
    if *mode == AgentMode::Ceiling {
        let roles: Vec<_> = ceiling.iter().map(|(role, _)| quoted(role)).collect();
        let _ = writeln!(config, "mode = \"ceiling\"\nceiling = [{}]", roles.join(", "));
    }
    if *accounts != AccountMode::default() {
        let _ = write!(config, "\n[accounts]\nmode = {}\n", quoted(accounts.as_str()));
    }
    if let Some(apiserver) = &manifest.apiserver {
        let _ = writeln!(config, "\n[apiserver]\nurl = {}", quoted(apiserver));
    }
    let mut aliases = String::new();
    if !manifest.host_aliases.is_empty() {
        aliases.push_str("      hostAliases:\n");
        for alias in &manifest.host_aliases {
            let _ = writeln!(aliases, "      - ip: {}\n        hostnames:", quoted(&alias.ip.to_string()));
            for name in &alias.hostnames {
                let _ = writeln!(aliases, "        - {}", quoted(name));
            }
        }
    }
    format!(
        "{rbac}---
apiVersion: v1
kind: Secret
metadata:
  name: ztka-agent-enrolment
  namespace: ztka-system
type: Opaque
stringData:
  token: {token}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: ztka-agent
  namespace: ztka-system
data:
  agent.toml: {config}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ztka-agent
  namespace: ztka-system
  labels:
    app.kubernetes.io/name: ztka-agent
spec:
  # As many as you like. The first one spends the token, and keeps what it gives in the Secret ztka-agent-credential; the
  # others, and those that are made anew, obtain certificates of their own with that.
  replicas: 1
  selector:
    matchLabels:
      app.kubernetes.io/name: ztka-agent
  template:
    metadata:
      labels:
        app.kubernetes.io/name: ztka-agent
    spec:
      serviceAccountName: ztka-agent
{aliases}      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        fsGroup: 65532
        seccompProfile:
          type: RuntimeDefault
      containers:
      - name: agent
        image: {image}
        args: [\"--config\", \"/etc/ztka/config/agent.toml\"]
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop: [ALL]
        volumeMounts:
        - name: config
          mountPath: /etc/ztka/config
          readOnly: true
        - name: enrolment
          mountPath: /etc/ztka/enrolment
          readOnly: true
        - name: state
          mountPath: /var/lib/ztka
      volumes:
      - name: config
        configMap:
          name: ztka-agent
      - name: enrolment
        secret:
          secretName: ztka-agent-enrolment
          defaultMode: 0440
          optional: true
      - name: state
        emptyDir: {{}}
",
        rbac = manifest.access.yaml(),
        token = quoted(&manifest.token),
        config = quoted(&config),
        image = quoted(&manifest.image),
    )
}
