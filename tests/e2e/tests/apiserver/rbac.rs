//! Rendered RBAC, asked by SubjectAccessReview, against the engine: they agree, or the engine is stricter in a way that is
//! written down ([`Stricter`], docs/policy.md).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use http::{Method, StatusCode, Version};
use jiff::Timestamp;
use proptest::{
    prelude::*,
    sample::Index,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use ztka_authz::{Action, Facts, PolicyDocument, PolicySet, Refused, Rendered, Role, Rule, Scope, Target, Verdict};
use ztka_core::{ClusterId, Principal};
use ztka_e2e::{Client, Connection};
use ztka_test_cluster::{Cluster, Options, wait_for};

#[path = "../../../../ztka-authz/tests/generated/mod.rs"]
mod generated;

const NAMESPACES: [&str; 3] = ["dev", "web", "ztka-system"];
const QUESTIONS: usize = 250;
const CONNECTIONS: usize = 16;
const SARS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const MARK: &str = "ready.test.ztka.dev";

/// Where the engine denies what RBAC, as it is rendered, allows: what RBAC cannot say.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Stricter {
    /// The agent's namespace, its objects, and RBAC objects as a collection.
    Agents,
    /// RBAC knows no denials.
    Denial,
    /// Nor protected namespaces.
    Protected,
    /// Secrets of all namespaces in one answer are for roles that allow everything.
    EverybodysSecrets,
    /// A verb or subresource that a gate keeps, in rules whose `*` is more than that.
    Gate,
    /// A rule of a read-only role whose `*` is more than looking.
    ReadOnly,
    /// RBAC knows no conditions.
    Condition,
    /// Nor obligations.
    Obligation,
    /// What is given in all namespaces is rendered cluster-wide.
    AllNamespaces,
    /// RBAC knows no ports.
    Ports,
    /// `get` on exec, attach and port-forward means `create`.
    Stream,
}

const ALL: [Stricter; 11] = [
    Stricter::Agents,
    Stricter::Denial,
    Stricter::Protected,
    Stricter::EverybodysSecrets,
    Stricter::Gate,
    Stricter::ReadOnly,
    Stricter::Condition,
    Stricter::Obligation,
    Stricter::AllNamespaces,
    Stricter::Ports,
    Stricter::Stream,
];

#[tokio::test]
async fn twenty_thousand_answers_are_the_apiservers_or_stricter() -> Result<()> {
    compare(20_000).await
}

#[tokio::test]
#[ignore = "takes minutes; part of cargo xtask test --long"]
async fn a_hundred_thousand_answers_are_the_apiservers_or_stricter() -> Result<()> {
    compare(100_000).await
}

async fn compare(pairs: usize) -> Result<()> {
    // What is asked here is not worth a line each.
    let silent = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: None\n";
    let cluster = Cluster::level1(Options::default().without_controllers().audit_policy(silent)).await?;
    let client = Client::of(&cluster.kubectl()).await?;
    let mut admin = client.connect(Version::HTTP_2).await?;
    for name in NAMESPACES {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        create(&mut admin, "/api/v1/namespaces", &namespace).await?;
    }

    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let cases: Vec<Arc<Case>> = (0..pairs.div_ceil(QUESTIONS))
        .map(|number| Case::generate(number, &mut runner).map(Arc::new))
        .collect::<Result<_>>()?;
    let mut workers = JoinSet::new();
    for worker in 0..CONNECTIONS {
        let mine: Vec<_> = cases.iter().skip(worker).step_by(CONNECTIONS).cloned().collect();
        let mut connection = client.connect(Version::HTTP_2).await?;
        workers.spawn(async move {
            let mut tally = Tally::default();
            for case in mine {
                case.install(&mut connection).await?;
                case.ask(&mut connection, &mut tally).await.with_context(|| case.describe())?;
            }
            anyhow::Ok(tally)
        });
    }
    let mut sum = Tally::default();
    while let Some(tally) = workers.join_next().await {
        sum.add(tally??);
    }
    println!(
        "{} pairs: {} allowed and {} denied by both; stricter: {:?}",
        sum.asked, sum.allowed, sum.denied, sum.stricter
    );
    ensure!(sum.asked >= pairs && sum.allowed > pairs / 10 && sum.denied > pairs / 10, "{sum:?}");
    let missing: Vec<_> = ALL.iter().filter(|case| !sum.stricter.contains_key(case)).collect();
    ensure!(missing.is_empty(), "no pair has met {missing:?}: {sum:?}");
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    allowed: usize,
    denied: usize,
    stricter: BTreeMap<Stricter, usize>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.allowed += other.allowed;
        self.denied += other.denied;
        for (case, count) in other.stricter {
            *self.stricter.entry(case).or_default() += count;
        }
    }
}

/// A policy, what is rendered of it for alice, and questions about her.
struct Case {
    name: String,
    now: Timestamp,
    source: Option<std::net::IpAddr>,
    document: PolicyDocument,
    policy: PolicySet,
    rendered: Rendered,
    who: Principal,
    cluster: ClusterId,
    questions: BTreeSet<(&'static str, Asked)>,
}

/// A target that can be sorted.
type Asked = Result<
    (&'static str, &'static str, Option<&'static str>, Option<&'static str>, Option<&'static str>),
    &'static str,
>;

impl Case {
    fn generate(number: usize, runner: &mut TestRunner) -> Result<Self> {
        let (now, source) =
            (prop::sample::select(generated::TIMES), prop::sample::select(vec!["10.1.2.3", "192.0.2.1"]));
        let strategy = (generated::policy(), now, source);
        let cluster: ClusterId = "c1".parse()?;
        loop {
            let tree = strategy.new_tree(runner).map_err(|reason| anyhow::anyhow!("{reason}"))?;
            let (mut document, now, source) = tree.current();
            let rare = rare(number);
            if let Some((role, _)) = &rare {
                let binding = json!({"name": "b", "subjects": [{"user": "alice"}], "role": role.name, "scope": "cluster",
                                     "clusters": {"all": true}});
                (document.roles, document.bindings) = (vec![role.clone()], vec![serde_json::from_value(binding)?]);
                (document.denials, document.guardrails) = Default::default();
            }
            let (now, source) = (now.parse()?, Some(source.parse()?));
            let policy = PolicySet::candidate("acme".parse()?, document.clone())?;
            let who = policy.somebody("alice", &["dev"]).context("alice")?;
            // Whoever has no role has no account either.
            let Some(rendered) = policy.render_at(&who, &cluster, now) else { continue };
            let mut questions: BTreeSet<_> = rare.map(|(_, question)| question).into_iter().collect();
            let namespaced = rendered.namespaces.values().flatten();
            let rules: Vec<Rule> = rendered.cluster.iter().chain(namespaced).cloned().collect();
            while questions.len() < QUESTIONS {
                let strategy = (generated::question(), any::<[Index; 5]>(), any::<bool>());
                let tree = strategy.new_tree(runner).map_err(|reason| anyhow::anyhow!("{reason}"))?;
                let ((verb, target), picks, aimed) = tree.current();
                // Without the names that no request says, as the engine takes no notice of them.
                let action = Action::new(verb, target);
                let asked = match action.target() {
                    Target::Path(path) => Err(path),
                    Target::Resource { group, resource, subresource, namespace, name } => {
                        Ok((group, resource, subresource, namespace, name))
                    }
                };
                questions.insert(match aimed {
                    true => aim(verb, asked, picks[4].get(&rules), &picks),
                    false => (verb, asked),
                });
            }
            let name = format!("case-{number}");
            return Ok(Self { name, now, source, document, policy, rendered, who, cluster, questions });
        }
    }

    fn describe(&self) -> String {
        format!("at {} from {:?}\n{}", self.now, self.source, serde_json::to_string(&self.document).unwrap_or_default())
    }

    /// The rendered rules as objects, and a rule of our own in each by which it shows that they are in force.
    async fn install(&self, connection: &mut Connection) -> Result<()> {
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let name = &self.name;
        let with_mark = |rules: &[Rule]| -> Result<Value> {
            let mark = json!({"verbs": ["get"], "apiGroups": [MARK], "resources": ["marks"]});
            let rules: Vec<Value> = rules.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
            Ok(rules.into_iter().chain([mark]).collect())
        };
        let object = |kind: &str, more: Value| {
            let mut object =
                json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}});
            if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
                object.extend(more);
            }
            object
        };
        let subject = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
        let binds = |kind: &str, subjects: &[Value]| json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}, "subjects": subjects});
        // Somebody else who has what is given in namespaces alone, so that it can be asked about by itself.
        let marker = format!("{name}-marker");
        let rules = json!({"rules": with_mark(&self.rendered.cluster)?});
        create(connection, &format!("{rbac}/clusterroles"), &object("ClusterRole", rules)).await?;
        let binding = object("ClusterRoleBinding", binds("ClusterRole", &[subject(name)]));
        create(connection, &format!("{rbac}/clusterrolebindings"), &binding).await?;
        for (namespace, rules) in &self.rendered.namespaces {
            let rules = json!({"rules": with_mark(rules)?});
            create(connection, &format!("{rbac}/namespaces/{namespace}/roles"), &object("Role", rules)).await?;
            let binding = object("RoleBinding", binds("Role", &[subject(name), subject(&marker)]));
            create(connection, &format!("{rbac}/namespaces/{namespace}/rolebindings"), &binding).await?;
        }
        let connection = tokio::sync::Mutex::new(connection);
        wait_for("the objects to be in force", || async {
            let mut connection = connection.lock().await;
            let mark = |namespace| Ok((MARK, "marks", None, namespace, None));
            ensure!(review(&mut connection, name, "get", mark(None)).await?, "not yet cluster-wide");
            for namespace in NAMESPACES.into_iter().filter(|name| self.rendered.namespaces.contains_key(*name)) {
                ensure!(
                    review(&mut connection, &marker, "get", mark(Some(namespace))).await?,
                    "not yet in {namespace}"
                );
            }
            Ok(())
        })
        .await
    }

    async fn ask(&self, connection: &mut Connection, tally: &mut Tally) -> Result<()> {
        for (verb, asked) in &self.questions {
            let theirs = review(connection, &self.name, verb, *asked).await?;
            let action = Action::new(verb, target(*asked));
            let facts = Facts::at(self.now).from_source(self.source);
            tally.asked += 1;
            match (theirs, self.policy.weigh(&self.who, &self.cluster, &action, &facts)) {
                (true, Verdict::Allow { .. }) => tally.allowed += 1,
                (false, Verdict::Deny { .. }) => tally.denied += 1,
                (true, Verdict::Deny { reason }) => {
                    let why = self.stricter(verb, *asked, &facts);
                    let why =
                        why.with_context(|| format!("{verb} {asked:?}: RBAC allows it, policy says {reason:?}"))?;
                    *tally.stricter.entry(why).or_default() += 1;
                }
                (false, Verdict::Allow { grant, .. }) => {
                    bail!("{verb} {asked:?}: policy allows it by {}, RBAC does not", grant.binding());
                }
            }
        }
        Ok(())
    }

    /// Why policy denies what RBAC allows; none if nothing that is written down is the cause.
    fn stricter(&self, verb: &str, asked: Asked, facts: &Facts<'_>) -> Option<Stricter> {
        // What has run out, or not begun, is not rendered.
        let mut document = self.document.clone();
        document.bindings.retain(|binding| {
            binding.valid_from.is_none_or(|from| from <= self.now)
                && binding.valid_until.is_none_or(|until| self.now < until)
        });
        let weighed = |document: &PolicyDocument| {
            let policy = PolicySet::candidate("acme".parse().ok()?, document.clone()).ok()?;
            let action = Action::new(verb, target(asked));
            Some(match policy.weigh(&self.who, &self.cluster, &action, facts) {
                Verdict::Allow { .. } => Ok(()),
                Verdict::Deny { reason } => Err(match reason {
                    Refused::AgentNamespace | Refused::AgentObjects | Refused::AgentCollection => {
                        Some(Stricter::Agents)
                    }
                    Refused::Denial { .. } => Some(Stricter::Denial),
                    Refused::Protected(_) => Some(Stricter::Protected),
                    Refused::EverybodysSecrets => Some(Stricter::EverybodysSecrets),
                    Refused::Gate(_) => Some(Stricter::Gate),
                    Refused::ReadOnly { .. } => Some(Stricter::ReadOnly),
                    Refused::Unmet { .. } => Some(Stricter::Condition),
                    Refused::Unsupported { .. } => Some(Stricter::Obligation),
                    Refused::NoRole | Refused::NotGiven | Refused::NoCluster => None,
                }),
            })
        };
        if let Err(Some(case)) = weighed(&document)? {
            return Some(case);
        }
        // Otherwise it is the thing without which policy would allow it as well.
        let without = |change: &dyn Fn(&mut PolicyDocument)| {
            let mut document = document.clone();
            change(&mut document);
            // Or what is given so is denied for another reason that is written down.
            weighed(&document).is_some_and(|weighed| !matches!(weighed, Err(None)))
        };
        let cluster_wide = |document: &mut PolicyDocument| {
            let bindings = document.bindings.iter_mut().filter(|binding| binding.scope == Scope::AllNamespaces);
            bindings.for_each(|binding| binding.scope = Scope::Cluster);
        };
        let portless = |document: &mut PolicyDocument| {
            document.roles.iter_mut().flat_map(|role| &mut role.rules).for_each(|rule| rule.ports.clear());
        };
        let both = |document: &mut PolicyDocument| {
            cluster_wide(document);
            portless(document);
        };
        let by_get = |document: &mut PolicyDocument| {
            both(document);
            for rule in document.roles.iter_mut().flat_map(|role| &mut role.rules) {
                if rule.verbs.iter().any(|verb| verb == "get") {
                    rule.verbs.push("create".into());
                }
            }
        };
        let is_stream = matches!(asked, Ok(("", "pods", Some("exec" | "attach" | "portforward"), ..))) && verb == "get";
        [
            (Stricter::AllNamespaces, without(&cluster_wide)),
            (Stricter::Ports, without(&portless) || without(&both)),
            (Stricter::Stream, is_stream && without(&by_get)),
        ]
        .into_iter()
        .find_map(|(case, explains)| explains.then_some(case))
    }
}

/// The same question about what a rule names, so that much is allowed, or nearly.
fn aim(verb: &'static str, asked: Asked, rule: &Rule, picks: &[Index; 5]) -> (&'static str, Asked) {
    let pick = |words: &[String], at: usize, other: &'static str| -> &'static str {
        match words.is_empty() {
            true => other,
            false => match picks[at].get(words).as_str() {
                "*" => other,
                word => word.to_owned().leak(),
            },
        }
    };
    let verb = pick(&rule.verbs, 0, verb);
    let asked = match asked {
        _ if !rule.non_resource_urls.is_empty() => Err(pick(&rule.non_resource_urls, 1, "/api").trim_end_matches('*')),
        Err(path) => Err(path),
        Ok((group, resource, subresource, namespace, name)) => {
            let group = pick(&rule.api_groups, 1, group);
            let (resource, subresource) = match pick(&rule.resources, 2, "*").split_once('/') {
                Some((of, "*")) => (if of == "*" { resource } else { of }, Some(subresource.unwrap_or("log"))),
                Some((of, sub)) => (if of == "*" { resource } else { of }, Some(sub)),
                None => match pick(&rule.resources, 2, "*") {
                    "*" => (resource, subresource),
                    word => (word, None),
                },
            };
            Ok((group, resource, subresource, namespace, name.map(|name| pick(&rule.resource_names, 3, name))))
        }
    };
    // Again without the names that no request says.
    match Action::new(verb, target(asked)).target() {
        Target::Path(path) => (verb, Err(path)),
        Target::Resource { group, resource, subresource, namespace, name } => {
            (verb, Ok((group, resource, subresource, namespace, name)))
        }
    }
}

/// What is too rare to be met by chance: `get` alone on a stream, `*` in a read-only role, some ports only.
fn rare(number: usize) -> Option<(Role, (&'static str, Asked))> {
    let asked = |verb, resource, subresource| (verb, Ok(("", resource, subresource, Some("dev"), Some("a"))));
    let (read_only, verb, resource, ports, question) = match number {
        0 => (false, "get", "pods/exec", None, asked("get", "pods", Some("exec"))),
        1 => (true, "*", "*", None, asked("get", "secrets", None)),
        2 => (false, "create", "pods/portforward", Some("8080"), asked("create", "pods", Some("portforward"))),
        _ => return None,
    };
    let rule = Rule {
        verbs: vec![verb.into()],
        api_groups: vec![String::new()],
        resources: vec![resource.into()],
        ports: ports.into_iter().filter_map(|ports| ports.parse().ok()).collect(),
        ..Rule::default()
    };
    Some((Role { name: "rare".into(), rules: vec![rule], read_only }, question))
}

fn target(asked: Asked) -> Target<'static> {
    match asked {
        Err(path) => Target::Path(path),
        Ok((group, resource, subresource, namespace, name)) => {
            Target::Resource { group, resource, subresource, namespace, name }
        }
    }
}

/// What the apiserver's authorizer says.
async fn review(connection: &mut Connection, user: &str, verb: &str, asked: Asked) -> Result<bool> {
    let spec = match asked {
        Err(path) => json!({"user": user, "nonResourceAttributes": {"path": path, "verb": verb}}),
        Ok((group, resource, subresource, namespace, name)) => json!({"user": user, "resourceAttributes": {
            "verb": verb, "group": group, "resource": resource, "subresource": subresource.unwrap_or_default(),
            "namespace": namespace.unwrap_or_default(), "name": name.unwrap_or_default(),
        }}),
    };
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
    let answer = connection.send(Method::POST, SARS, review.to_string()).await?;
    ensure!(answer.status == StatusCode::CREATED, "{} {:?}", answer.status, answer.body);
    let answer: Value = serde_json::from_slice(&answer.body)?;
    ensure!(answer["status"].get("evaluationError").is_none(), "{answer}");
    answer["status"]["allowed"].as_bool().context("no answer")
}

async fn create(connection: &mut Connection, path: &str, object: &Value) -> Result<()> {
    let answer = connection.send(Method::POST, path, object.to_string()).await?;
    ensure!(answer.status == StatusCode::CREATED, "{path}: {} {:?}", answer.status, answer.body);
    Ok(())
}
