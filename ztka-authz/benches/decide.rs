//! Decisions of policy in figures: `cargo xtask bench authz`, or `cargo bench -p ztka-authz --bench decide`.
//!
//! 500 roles, 5,000 users in 250 groups, 100 clusters; users ask for what they may and for what they may not. Each figure
//! is of single decisions, the cost of looking at the clock taken off.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a bench may panic")]

#[cfg(feature = "cedar")]
#[path = "decide/beside.rs"]
mod beside;
#[path = "../tests/readings/naive.rs"]
#[allow(dead_code, reason = "a part of it is measured")]
mod naive;

use std::{hint::black_box, time::Instant};

use serde_json::{Value, json};
use ztka_authz::{
    Action, Facts, PolicyDocument, PolicySet, Target, Verdict,
    tools::{Recorded, recorded},
};
use ztka_core::{ClusterId, Principal, Session};

const ROLES: usize = 500;
const USERS: usize = 5_000;
const GROUPS: usize = 250;
const CLUSTERS: usize = 100;
const NAMESPACES: usize = 200;
const KINDS: &[(&str, &str)] = &[
    ("", "pods"),
    ("", "configmaps"),
    ("", "services"),
    ("apps", "deployments"),
    ("apps", "statefulsets"),
    ("batch", "jobs"),
    ("networking.k8s.io", "ingresses"),
    ("example.com", "widgets"),
];
const VERBS: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];

/// Numbers that look random and are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Half of the bindings name a user, half a group; by name, by label and by project in turn.
fn document(bindings: usize, when: &Value) -> PolicyDocument {
    let mut random = Random(7);
    let clusters: Vec<_> = (0..CLUSTERS)
        .map(|n| {
            let labels = json!({"stage": if n % 2 == 0 { "prod" } else { "test" }, "zone": format!("z{}", n % 10)});
            json!({"id": format!("c{n}"), "name": format!("cluster-{n}"), "labels": labels, "project": format!("p{}", n % 20)})
        })
        .collect();
    let projects: Vec<_> = (0..20).map(|n| json!({"name": format!("p{n}")})).collect();
    let roles: Vec<_> = (0..ROLES)
        .map(|n| {
            let rules: Vec<_> = (0..4)
                .map(|_| {
                    let (group, resource) = KINDS[random.below(KINDS.len())];
                    let verbs = &VERBS[..1 + random.below(VERBS.len())];
                    json!({"verbs": verbs, "apiGroups": [group], "resources": [resource, format!("{resource}/status")]})
                })
                .collect();
            json!({"name": format!("role-{n}"), "rules": rules})
        })
        .collect();
    let bindings: Vec<_> = (0..bindings)
        .map(|n| {
            let subject = match n % 2 {
                0 => json!({"user": format!("user-{}", random.below(USERS))}),
                _ => json!({"group": format!("group-{}", random.below(GROUPS))}),
            };
            let clusters = match n % 3 {
                0 => json!({"names": [format!("cluster-{}", random.below(CLUSTERS))]}),
                1 => json!({"matchLabels": {"stage": "prod", "zone": format!("z{}", random.below(10))}}),
                _ => json!({"projects": [format!("p{}", random.below(20))]}),
            };
            let role = format!("role-{}", random.below(ROLES));
            let scope = json!({"namespaces": [format!("ns-{}", random.below(NAMESPACES))]});
            json!({"name": format!("b{n}"), "subjects": [subject], "role": role, "clusters": clusters, "scope": scope,
                   "when": when})
        })
        .collect();
    serde_json::from_value(json!({"clusters": clusters, "projects": projects, "roles": roles, "bindings": bindings}))
        .unwrap()
}

fn user(number: usize) -> Principal {
    let session = Session {
        user: "u1".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: format!("user-{number}").parse().unwrap(),
        groups: (0..3).map(|n| format!("group-{}", (number * 7 + n * 31) % GROUPS).parse().unwrap()).collect(),
        attributes: ztka_core::Attributes::new(),
        active_until: jiff::Timestamp::MAX,
    };
    Principal::new("acme".parse().unwrap(), session)
}

struct Question {
    who: Principal,
    cluster: ClusterId,
    verb: &'static str,
    kind: (&'static str, &'static str),
    namespace: String,
}

impl Question {
    fn action(&self) -> Action<'_> {
        let (group, resource) = self.kind;
        let namespace = Some(self.namespace.as_str());
        Action::new(self.verb, Target::Resource { group, resource, subresource: None, namespace, name: Some("web-1") })
    }
}

/// Half of them about what a binding names, so that many are allowed.
fn questions(document: &PolicyDocument, policy: &PolicySet, facts: &Facts<'_>) -> Vec<Question> {
    let mut random = Random(11);
    let people: Vec<_> = (0..USERS).map(user).collect();
    let mut found = (Vec::new(), Vec::new());
    while found.0.len() < 2_000 || found.1.len() < 2_000 {
        let who = people[random.below(USERS)].clone();
        let aimed = policy.clusters_of(&who);
        let cluster = match aimed.is_empty() {
            true => document.clusters[random.below(CLUSTERS)].id.clone(),
            false => aimed[random.below(aimed.len())].id.clone(),
        };
        let own = policy.permissions(&who, &cluster);
        let namespace = match own.is_empty() {
            true => format!("ns-{}", random.below(NAMESPACES)),
            false => match &own[random.below(own.len())].place {
                ztka_authz::tools::Place::Namespace(name) => name.clone(),
                _ => panic!("all are in a namespace"),
            },
        };
        let (verb, kind) = (VERBS[random.below(VERBS.len())], KINDS[random.below(KINDS.len())]);
        let question = Question { who, cluster, verb, kind, namespace };
        let verdict = policy.weigh(&question.who, &question.cluster, &question.action(), facts);
        let list = if matches!(verdict, Verdict::Allow { .. }) { &mut found.0 } else { &mut found.1 };
        if list.len() < 2_000 {
            list.push(question);
        }
    }
    let (mut all, denied) = found;
    all.extend(denied);
    all
}

/// Nanoseconds of each of many calls, sorted.
fn measure(questions: &[Question], rounds: usize, mut ask: impl FnMut(&Question) -> bool) -> Vec<u64> {
    let mut empty: Vec<u64> = (0..10_000).map(|_| elapsed(|| true)).collect();
    empty.sort_unstable();
    let clock = empty[empty.len() / 2];
    let mut order: Vec<usize> = (0..questions.len()).collect();
    let mut random = Random(13);
    let mut times = Vec::with_capacity(rounds * questions.len());
    for round in 0..=rounds {
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at + 1));
        }
        for at in &order {
            let time = elapsed(|| ask(&questions[*at])).saturating_sub(clock);
            if round > 0 {
                times.push(time);
            }
        }
    }
    times.sort_unstable();
    times
}

fn elapsed(work: impl FnOnce() -> bool) -> u64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_nanos() as u64
}

fn row(what: &str, times: &[u64], limit: &str) {
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!("{what:48} p50 {:>8} ns   p99 {:>8} ns   {limit}", at(0.5), at(0.99));
}

fn main() {
    let world = naive::plain();
    let facts = world.facts();
    let org = || "acme".parse().unwrap();
    for (bindings, limit) in [(10_000, "≤ 300 ns, ≤ 1.5 µs"), (100_000, "≤ 2 × that")] {
        let document = document(bindings, &json!({}));
        let mut compiled: Vec<_> = (0..3)
            .map(|_| {
                let copy = document.clone();
                let start = Instant::now();
                let policy = PolicySet::candidate(org(), copy).unwrap();
                let time = start.elapsed();
                drop(policy);
                time
            })
            .collect();
        compiled.sort_unstable();
        let copy = document.clone();
        let mut policy = None;
        let used = allocation_counter::measure(|| policy = Some(PolicySet::candidate(org(), copy).unwrap()));
        let policy = policy.unwrap();
        println!("-- {bindings} bindings, {ROLES} roles, {USERS} users, {CLUSTERS} clusters");
        println!("{:48} {:?}   {}", "compile", compiled[1], if bindings == 10_000 { "≤ 100 ms" } else { "" });
        // What the document itself took is given back while compiling: it was a copy.
        let held = used.bytes_current + room(&document);
        println!("{:48} {} bytes", "memory per binding, of the compiled policy", held / bindings as i64);
        let questions = questions(&document, &policy, &facts);
        let ask = |question: &Question| {
            let verdict = policy.weigh(&question.who, &question.cluster, &question.action(), &facts);
            matches!(verdict, Verdict::Allow { .. })
        };
        row("decide", &measure(&questions, 50, ask), limit);
        row("decide, allowed alone", &measure(&questions[..2_000], 50, ask), "");
        let allowed = &questions[0];
        let count = allocation_counter::measure(|| _ = black_box(ask(allowed))).count_total;
        println!("{:48} {count}   0", "allocations of a decision that allows");
        if bindings == 10_000 {
            let some: Vec<_> = questions.into_iter().step_by(40).collect();
            let naive = |question: &Question| {
                let (group, resource) = question.kind;
                let namespace = Some(question.namespace.as_str());
                let target = Target::Resource { group, resource, subresource: None, namespace, name: Some("web-1") };
                naive::naive(&document, &question.who, &world, &question.cluster, question.verb, target)
            };
            row("the naive loop over all bindings", &measure(&some, 1, naive), "");
            #[cfg(feature = "cedar")]
            row("cedar-policy alone, a policy for each binding", &beside::measure(&document, &some), "");
            simulate(&policy);
        }
    }
    let when = json!({"hours": {"from": "00:00", "until": "23:59"}, "clusterLabels": {"stage": "prod"},
                      "request": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    let document = document(10_000, &when);
    let policy = PolicySet::candidate(org(), document.clone()).unwrap();
    println!("-- 10000 bindings, each with three conditions");
    let questions = questions(&document, &policy, &facts);
    let ask = |question: &Question| {
        let verdict = policy.weigh(&question.who, &question.cluster, &question.action(), &facts);
        matches!(verdict, Verdict::Allow { .. })
    };
    row("decide", &measure(&questions, 50, ask), "");
    #[cfg(feature = "cedar")]
    with_cedar(&facts);
}

/// Every binding with an expression of its own, so that none is read once for all.
#[cfg(feature = "cedar")]
fn with_cedar(facts: &Facts<'_>) {
    println!("-- 10000 bindings, each with its own condition in Cedar");
    let mut document = document(10_000, &json!({}));
    for (binding, number) in document.bindings.iter_mut().zip(0..) {
        let text = format!(
            "context has namespace && context.namespace != \"kube-system\" && \
             (context.verb == \"get\" || !context.groups.contains(\"interns-{number}\"))"
        );
        binding.when = ztka_authz::Conditions { cedar: Some(text), ..ztka_authz::Conditions::default() }.into();
    }
    let start = Instant::now();
    let policy = PolicySet::candidate("acme".parse().unwrap(), document.clone()).unwrap();
    println!("{:48} {:?}", "compile", start.elapsed());
    let questions = questions(&document, &policy, facts);
    let ask = |question: &Question| {
        let verdict = policy.weigh(&question.who, &question.cluster, &question.action(), facts);
        matches!(verdict, Verdict::Allow { .. })
    };
    row("decide", &measure(&questions, 20, ask), "");
    // Where no binding covers what is asked, no expression is evaluated.
    row("decide, allowed alone: one is evaluated at least", &measure(&questions[..2_000], 20, ask), "≤ 5 µs");
}

/// What a document takes, as far as the allocator counts.
fn room(document: &PolicyDocument) -> i64 {
    let mut copy = None;
    let used = allocation_counter::measure(|| copy = Some(document.clone())).bytes_current;
    drop(copy);
    used
}

fn simulate(policy: &PolicySet) {
    let mut random = Random(17);
    let events: Vec<Recorded> = (0..200_000)
        .map(|n| {
            let (group, resource) = KINDS[random.below(KINDS.len())];
            let number = random.below(USERS);
            Recorded {
                user: format!("user-{number}"),
                groups: (0..3).map(|n| format!("group-{}", (number * 7 + n * 31) % GROUPS)).collect(),
                cluster: format!("c{}", random.below(CLUSTERS)),
                verb: VERBS[random.below(VERBS.len())].into(),
                group: group.into(),
                resource: resource.into(),
                namespace: Some(format!("ns-{}", random.below(NAMESPACES))),
                at: jiff::Timestamp::UNIX_EPOCH,
                // Most are decided as before, as in life.
                allowed: n % 50 == 0,
                ..Recorded::default()
            }
        })
        .collect();
    let start = Instant::now();
    let simulation = policy.simulate(&events);
    let rate = events.len() as f64 / start.elapsed().as_secs_f64();
    black_box(simulation);
    println!("{:48} {rate:.0} events/s   ≥ 200000 per core", "simulate");
    let line = |event: &Recorded| {
        let user = json!({"username": event.user, "uid": "u1", "groups": event.groups});
        let object = json!({"resource": event.resource, "namespace": event.namespace, "apiGroup": event.group,
                            "apiVersion": "v1"});
        let annotations = json!({"ztka.dev/org": "acme", "ztka.dev/credential": "k1", "ztka.dev/cluster": event.cluster,
                                 "ztka.dev/decision": if event.allowed { "allow" } else { "deny" }});
        json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "stage": "ResponseComplete",
               "auditID": format!("{:x}", std::ptr::from_ref(event) as usize), "requestURI": "/api/v1/namespaces",
               "verb": event.verb, "user": user, "sourceIPs": ["192.0.2.7"], "objectRef": object,
               "requestReceivedTimestamp": event.at, "stageTimestamp": event.at, "annotations": annotations})
        .to_string()
    };
    let log: Vec<String> = events.iter().take(50_000).map(line).collect();
    let log = log.join("\n");
    let start = Instant::now();
    let read = recorded(log.as_bytes()).unwrap().len();
    println!("{:48} {:.0} events/s", "reading them from a log", read as f64 / start.elapsed().as_secs_f64());
}
