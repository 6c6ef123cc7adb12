//! What an agent may do in its cluster, by its mode, and why: the manifest and its explanation are made of the same list.

use std::fmt::Write as _;

use ztka_api::{AccountMode, AgentMode};
use ztka_authz::{
    Binding, Cluster, ClusterSelector, PolicyDocument, PolicySet, Rule, Scope, Settings, Subject, builtin_roles,
};
use ztka_core::{ClusterId, CredentialId, OrgId, Principal, Session, UserId};

/// What the agent's own permissions depend on.
#[derive(Clone, Debug, Default)]
pub struct AgentAccess {
    /// How the agent comes by permissions to hand on.
    pub mode: AgentMode,
    /// How accounts come by theirs.
    pub accounts: AccountMode,
    /// Of a ceiling: the roles of policy that may do anything, each with what it may do at the most.
    pub ceiling: Vec<(String, Vec<Rule>)>,
}

/// A role of policy that there is not.
#[derive(Debug, thiserror::Error)]
#[error("there is no role {0:?} for the ceiling; name built-in roles and roles of the organisation")]
pub struct NoSuchRole(String);

/// One permission of the agent.
struct Own {
    groups: &'static str,
    resources: &'static str,
    /// Of which objects alone.
    names: Vec<String>,
    verbs: &'static str,
    why: &'static str,
}

const RBAC: &str = "rbac.authorization.k8s.io";
/// The ClusterRole of what everybody with an account may do, and the beginning of the others' names.
const CEILING: &str = "ztka:ceiling";
/// Roles of this name are in nobody's way: see [`builtin_roles`].
const BASIC: &str = "basic-user";

impl AgentAccess {
    /// A ceiling of these roles, as far as each reaches in `policy`.
    ///
    /// # Errors
    /// [`NoSuchRole`]
    pub fn ceiling(policy: &PolicyDocument, roles: &[String]) -> Result<Self, NoSuchRole> {
        let each = roles.iter().map(|name| Ok((name.clone(), rules_of(policy, name)?)));
        let ceiling = each.collect::<Result<_, NoSuchRole>>()?;
        Ok(Self { mode: AgentMode::Ceiling, accounts: AccountMode::ServiceAccount, ceiling })
    }

    /// What somebody could do who has stolen the agent with its token.
    pub fn if_stolen(&self) -> &'static str {
        match self.mode {
            AgentMode::Dynamic => {
                "Whoever steals this agent's token can give itself any permission in the cluster, by escalate and bind: treat it as \
                 you would treat cluster-admin."
            }
            AgentMode::Ceiling => {
                "Whoever steals this agent's token can do what the ClusterRoles ztka:ceiling and ztka:ceiling:… allow, in every \
                 namespace; can act as any ServiceAccount of namespace ztka-system; can take role bindings away from \
                 anybody, and so lock others out; and can join as this cluster's agent. It can write no role and bind \
                 no other, so that it gets no further than the ceiling."
            }
        }
    }

    fn in_the_cluster(&self) -> Vec<Own> {
        let own = |resources, verbs, why| Own { groups: RBAC, resources, names: Vec::new(), verbs, why };
        match self.mode {
            AgentMode::Dynamic => vec![
                own(
                    "clusterroles, clusterrolebindings, roles, rolebindings",
                    "list, create, patch, delete",
                    "Writes what each account may do, follows policy in it, finds what an earlier run has left, and removes it.",
                ),
                own(
                    "clusterroles, roles",
                    "escalate, bind",
                    "Gives to accounts what it does not have itself. This amounts to every permission.",
                ),
            ],
            AgentMode::Ceiling => vec![
                own(
                    "clusterrolebindings, rolebindings",
                    "list, create, patch, delete",
                    "Binds accounts to the ceiling's ClusterRoles, finds what an earlier run has left, and removes it.",
                ),
                Own {
                    names: self.names(),
                    ..own("clusterroles", "bind", "Gives to accounts what stands in these, and nothing else.")
                },
            ],
        }
    }

    fn names(&self) -> Vec<String> {
        let roles = self.ceiling.iter().map(|(role, _)| format!("{CEILING}:{role}"));
        std::iter::once(CEILING.to_owned()).chain(roles).collect()
    }

    fn at_home() -> Vec<Own> {
        let own = |resources, verbs, why| Own { groups: "\"\"", resources, names: Vec::new(), verbs, why };
        vec![
            own(
                "serviceaccounts",
                "list, create, patch, delete",
                "Makes the account of each user, notes when it was used, finds those that nobody uses, and removes them.",
            ),
            own("serviceaccounts/token", "create", "Has tokens made for accounts."),
            own(
                "secrets",
                "create, patch, delete",
                "Makes the empty Secret that an account's tokens end with, and removes it.",
            ),
            Own {
                names: vec!["ztka-agent-credential".into()],
                ..own(
                    "secrets",
                    "get, update",
                    "Keeps the cluster's credential, which all its agents share. No other Secret is read.",
                )
            },
            Own {
                names: vec!["ztka-agent-limits".into()],
                ..own(
                    "configmaps",
                    "get, patch",
                    "Reads the limits that the cluster's owner has set there, and says in it which are in force.",
                )
            },
        ]
    }

    /// The agent's namespace, ServiceAccount and permissions, as YAML.
    pub fn yaml(&self) -> String {
        let mut yaml = format!(
            "# {}\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: ztka-system\n---\napiVersion: v1\nkind: ServiceAccount\n\
             metadata:\n  name: ztka-agent\n  namespace: ztka-system\n",
            self.if_stolen()
        );
        role(&mut yaml, false, &self.in_the_cluster());
        role(&mut yaml, true, &Self::at_home());
        if self.mode == AgentMode::Ceiling {
            let basic = rules_of(&PolicyDocument::default(), BASIC).unwrap_or_default();
            ceiling(&mut yaml, CEILING, "What everybody may do who has an account here.", &basic);
            for (role, rules) in &self.ceiling {
                let why = format!("What those may do at the most who have the role {role} by policy: yours to narrow.");
                ceiling(&mut yaml, &format!("{CEILING}:{role}"), &why, rules);
            }
        }
        // Without data: what is in it is the owner's, and applying this again leaves it.
        yaml.push_str(
            "---\n# Limits that no policy widens go into data, as limits.toml; docs/agent.md says which there are.\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: ztka-agent-limits\n  namespace: ztka-system\n",
        );
        yaml
    }

    /// The agent's permissions, each with its reason, for people.
    pub fn explain(&self) -> String {
        let mode = match (self.mode, self.accounts) {
            (AgentMode::Ceiling, _) => {
                "ceiling: accounts are bound to ClusterRoles that the cluster's owner has in hand"
            }
            (AgentMode::Dynamic, AccountMode::ServiceAccount) => {
                "dynamic: accounts have roles that are written from policy"
            }
            (AgentMode::Dynamic, AccountMode::Impersonate) => {
                "dynamic: accounts may impersonate their one user, ztka:NAME with the groups ztka:GROUP, whom the cluster's own RBAC says \
                 what they may do"
            }
        };
        let mut text = format!("Mode {mode}.\n\n{}\n", self.if_stolen());
        for (place, rules) in
            [("In the whole cluster", self.in_the_cluster()), ("In namespace ztka-system", Self::at_home())]
        {
            let _ = write!(text, "\n{place}:\n");
            for Own { resources, names, verbs, why, .. } in rules {
                let names = if names.is_empty() { String::new() } else { format!(" named {}", names.join(", ")) };
                let _ = write!(text, "  {verbs}: {resources}{names}\n    {why}\n");
            }
        }
        if self.mode == AgentMode::Ceiling {
            let _ = write!(text, "\nThe ceiling, of which the agent changes nothing:\n");
            let _ = writeln!(text, "  {CEILING}: what everybody may do who has an account");
            for (role, _) in &self.ceiling {
                let _ = writeln!(
                    text,
                    "  {CEILING}:{role}: what those may do at the most who have the role {role} by policy"
                );
            }
        }
        text
    }
}

/// A role of the agent and its binding.
fn role(yaml: &mut String, at_home: bool, rules: &[Own]) {
    let (kind, namespace) = match at_home {
        true => ("Role", "  namespace: ztka-system\n"),
        false => ("ClusterRole", ""),
    };
    let metadata =
        format!("metadata:\n  name: ztka:agent\n{namespace}  labels:\n    app.kubernetes.io/managed-by: ztka\n");
    let _ = write!(yaml, "---\napiVersion: {RBAC}/v1\nkind: {kind}\n{metadata}rules:\n");
    for Own { groups, resources, names, verbs, why } in rules {
        let names = if names.is_empty() { String::new() } else { format!("  resourceNames: [{}]\n", quoted(names)) };
        let _ =
            write!(yaml, "# {why}\n- apiGroups: [{groups}]\n  resources: [{resources}]\n{names}  verbs: [{verbs}]\n");
    }
    let _ = write!(
        yaml,
        "---\napiVersion: {RBAC}/v1\nkind: {kind}Binding\n{metadata}roleRef:\n  apiGroup: {RBAC}\n  kind: {kind}\n  \
         name: ztka:agent\nsubjects:\n- kind: ServiceAccount\n  name: ztka-agent\n  namespace: ztka-system\n"
    );
}

/// A ClusterRole of the ceiling. Its last rule is about nothing that there is: by it the agent asks whether the cluster knows
/// of a binding.
fn ceiling(yaml: &mut String, name: &str, why: &str, rules: &[Rule]) {
    let _ = write!(
        yaml,
        "---\n# {why}\napiVersion: {RBAC}/v1\nkind: ClusterRole\nmetadata:\n  name: {}\n  labels:\n    \
         app.kubernetes.io/managed-by: ztka\nrules:\n",
        quoted(&[name.to_owned()])
    );
    let mark = Rule {
        verbs: vec!["get".into()],
        api_groups: vec!["ztka.dev".into()],
        resources: vec!["accounts".into()],
        resource_names: vec![name.into()],
        ..Rule::default()
    };
    for rule in rules {
        let _ = writeln!(yaml, "- {}", json(rule));
    }
    let _ = write!(
        yaml,
        "# Leave this one: by it the agent sees that the cluster knows of a binding.\n- {}\n",
        json(&mark)
    );
}

fn quoted(names: &[String]) -> String {
    let quoted = names.iter().map(|name| serde_json::Value::from(name.as_str()).to_string());
    quoted.collect::<Vec<_>>().join(", ")
}

/// JSON is YAML.
fn json(rule: &Rule) -> String {
    serde_json::to_string(rule).unwrap_or_default()
}

/// What a role of policy gives where nothing else is in the way, in the words of RBAC.
fn rules_of(policy: &PolicyDocument, role: &str) -> Result<Vec<Rule>, NoSuchRole> {
    let none = || NoSuchRole(role.to_owned());
    let exists = policy.roles.iter().chain(&builtin_roles(&policy.settings)).any(|known| known.name == role);
    exists.then_some(()).ok_or_else(none)?;
    let rendered = |role: &str| {
        let (cluster, name) = (ClusterId::generate(), "somebody".parse().ok()?);
        let binding = Binding {
            name: "somewhere".into(),
            subjects: vec![Subject::User(name)],
            role: role.into(),
            clusters: ClusterSelector { all: true, ..ClusterSelector::default() },
            scope: Scope::Cluster,
            ..Binding::default()
        };
        let document = PolicyDocument {
            clusters: vec![Cluster::new(cluster.clone(), "here")],
            roles: policy.roles.clone(),
            bindings: vec![binding],
            settings: Settings::clone(&policy.settings),
            guardrails: ztka_authz::Guardrails { gates: policy.guardrails.gates, ..ztka_authz::Guardrails::default() },
            ..PolicyDocument::default()
        };
        let org = OrgId::generate();
        let session = Session {
            user: UserId::generate(),
            credential: CredentialId::generate(),
            name: "somebody".parse().ok()?,
            groups: Vec::new(),
            attributes: ztka_core::Attributes::new(),
            active_until: jiff::Timestamp::MAX,
        };
        let who = Principal::new(org.clone(), session);
        Some(PolicySet::candidate(org, document).ok()?.render(&who, &cluster)?.cluster)
    };
    let basic = rendered(BASIC).ok_or_else(none)?;
    let rules = rendered(role).ok_or_else(none)?;
    let own = rules.into_iter().filter(|rule| role == BASIC || !basic.contains(rule));
    Ok(own.collect())
}
