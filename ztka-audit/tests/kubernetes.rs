//! Kubernetes' own code reads our events, strictly, and answers what an audit policy says as ours does.
//!
//! Needs Go, and its module proxy the first time; without Go it is skipped and says so, and fails with `CI=true`.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod readings;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use http::{Method, Uri};
use jiff::Timestamp;
use readings::body::through;
use serde_json::json;
use ztka_audit::{Event, Levels, Policy, Scope, Spool, SpoolOptions, Stage};
use ztka_core::{Attributes, AuditId, Principal, RequestAttributes, RequestTarget, Session, SystemClock};

/// Kubernetes' own code; `None` where there is no Go.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        if Command::new("go").arg("version").output().is_err() {
            let missing = "Go is not installed; install it to have Kubernetes read events and policies as well";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            // Past the capture of the test harness; `cargo xtask test` counts these lines.
            let _ = writeln!(std::io::stderr().lock(), "\nSKIPPED Kubernetes' reading of events: {missing}");
            return None;
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("audit-kubernetes");
        let built = Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(sources).status();
        assert!(built.expect("Go is installed").success(), "go build failed; see above");
        Some(program)
    };
    PROGRAM.get_or_init(build).as_deref()
}

/// One answer for each line.
fn ask(program: &Path, args: &[&str], lines: Vec<String>) -> Vec<String> {
    let mut judge = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut questions = judge.stdin.take().unwrap();
    let asking = std::thread::spawn(move || {
        for line in &lines {
            writeln!(questions, "{line}").unwrap();
        }
        lines.len()
    });
    let answers = String::from_utf8(judge.wait_with_output().unwrap().stdout).unwrap();
    let answers: Vec<_> = answers.lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), asking.join().unwrap());
    answers
}

fn policy(rules: &str) -> Policy {
    Policy::from_yaml(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}")).unwrap()
}

#[test]
fn kubernetes_reads_every_event_strictly() {
    let Some(program) = program() else { return };
    let mut events = Vec::new();
    let bodies: [&[u8]; 5] = [
        b"",
        br#"{"kind":"Pod","spec":{"x":1.5,"y":"\u202e\n"}}"#,
        br#"[{"op":"add","path":"/a","value":1}]"#,
        b"k8s\0\x01",
        br#"{"kind":"Secret","data":{"a":"b"}}"#,
    ];
    let targets = [
        "/api/v1/namespaces/default/pods?fieldManager=%1b%5b31m",
        "/api/v1/namespaces/default/secrets",
        "/version",
        "/apis/apps/v1/namespaces/a/deployments/b/scale",
        "/api/v1/namespaces/default/pods/a/exec?command=sh&command=%E2%80%AE",
    ];
    for level in ["None", "Metadata", "RequestResponse"] {
        let levels = Levels::new().policy(Scope::All, policy(&format!("- level: {level}"))).body_bytes(40);
        for (target, body) in targets.iter().flat_map(|target| bodies.map(|body| (target, body))) {
            let target = Uri::try_from(*target).unwrap();
            for method in [Method::GET, Method::POST] {
                if let Ok(asked) = RequestAttributes::parse(&method, &target, None)
                    && !(method == Method::GET && asked.is_stream())
                {
                    events.extend(through(&levels, &method, &target, body, body));
                }
            }
        }
    }
    let mut panicked = events[0].clone();
    panicked.stage = Stage::Panic;
    events.push(panicked);
    events.push(Event::new(AuditId::generate(), Stage::ResponseComplete, Timestamp::now()));
    // A loss of power.
    let keep = tempfile::tempdir().unwrap();
    drop(Spool::open(SpoolOptions::new(keep.path()), &SystemClock).unwrap());
    std::fs::write(keep.path().join("mark.json"), "{").unwrap();
    let (spool, recovery) = Spool::open(SpoolOptions::new(keep.path()), &SystemClock).unwrap();
    assert!(recovery.gap.is_some());
    drop(spool);
    let gaps =
        ztka_audit::read(keep.path()).map(|record| Event::from_json(record.unwrap().payload.as_bytes()).unwrap());
    events.extend(gaps);

    let lines = events.iter().map(|event| String::from_utf8(event.to_json()).unwrap()).collect();
    for (event, answer) in events.iter().zip(ask(program, &["events"], lines)) {
        assert_eq!(answer, format!("ok {} {:?}", event.stage.as_str(), event.level), "{event:?}");
    }
    assert!(events.len() > 100, "{} events", events.len());
    // A judge that takes anything is none.
    let odd = vec![r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditId":"x"}"#.to_owned()];
    assert!(ask(program, &["events"], odd)[0].starts_with("error"));
}

/// Numbers that look random and are the same each time (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// None, or up to two.
    fn some(&mut self, of: &[&str]) -> Vec<String> {
        (0..self.below(5).saturating_sub(2)).map(|_| self.one(of).to_owned()).collect()
    }

    fn rule(&mut self) -> serde_json::Value {
        let mut rule = json!({
            "level": self.one(&["None", "Metadata", "Request", "RequestResponse"]),
            "users": self.some(&["tim", "ed"]),
            "userGroups": self.some(&["humans", "robots"]),
            "verbs": self.some(&["get", "list", "create", "watch"]),
            "omitStages": self.some(&["ResponseStarted", "RequestReceived"]),
        });
        match self.below(3) {
            0 => rule["nonResourceURLs"] = json!(self.some(&["*", "/healthz", "/healthz*", "/version/", "/api*"])),
            1 => {
                rule["namespaces"] = json!(self.some(&["default", "kube-system", ""]));
                let resources = (0..self.below(3)).map(|_| {
                    let of = ["pods", "pods/log", "pods/*", "*/log", "*/scale", "*", "secrets", "deployments"];
                    let resources = self.some(&of);
                    let names = if resources.is_empty() { Vec::new() } else { self.some(&["a", "b"]) };
                    json!({"group": self.one(&["", "apps"]), "resources": resources, "resourceNames": names})
                });
                rule["resources"] = json!(resources.collect::<Vec<_>>());
            }
            _ => {}
        }
        if self.below(3) == 0 {
            rule["omitManagedFields"] = json!(self.below(2) == 0);
        }
        rule
    }

    fn target(&mut self) -> String {
        let names = ["", "/a", "/b", "/a/log", "/b/scale"];
        match self.below(4) {
            0 => self.one(&["/healthz", "/healthz/etcd", "/version", "/version/", "/api", "/"]).to_owned(),
            1 => format!("/api/v1/nodes{}", self.one(&names)),
            2 => {
                format!("/apis/apps/v1/namespaces/{}/deployments{}", self.one(&["default", "other"]), self.one(&names))
            }
            _ => format!(
                "/api/v1/namespaces/{}/{}{}",
                self.one(&["default", "kube-system"]),
                self.one(&["pods", "secrets"]),
                self.one(&names)
            ),
        }
    }
}

#[test]
fn kubernetes_says_the_same_of_every_policy() {
    let Some(program) = program() else { return };
    let (mut chance, keep) = (Chance(0x5eed), tempfile::tempdir().unwrap());
    let mut told = std::collections::BTreeMap::<String, usize>::new();
    for number in 0..60 {
        let rules: Vec<_> = (0..=chance.below(5)).map(|_| chance.rule()).collect();
        let text = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules,
            "omitManagedFields": chance.below(2) == 0})
        .to_string();
        let file = keep.path().join(format!("{number}.yaml"));
        std::fs::write(&file, &text).unwrap();
        let policy = Policy::from_yaml(&text).unwrap();
        let (mut questions, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            let (user, group) = (chance.one(&["tim", "ed", "eve"]), chance.one(&["humans", "robots", "others"]));
            let session = Session {
                user: "u1".parse().unwrap(),
                credential: "k1".parse().unwrap(),
                name: user.parse().unwrap(),
                groups: vec![group.parse().unwrap()],
                attributes: Attributes::new(),
                active_until: Timestamp::MAX,
            };
            let who = Principal::new("acme".parse().unwrap(), session);
            let method = if chance.below(3) == 0 { Method::POST } else { Method::GET };
            let target = Uri::try_from(chance.target()).unwrap();
            let Ok(asked) = RequestAttributes::parse(&method, &target, None) else { continue };
            let mut question = json!({"User": user, "Groups": [group], "Verb": asked.verb().as_str()});
            match asked.target() {
                RequestTarget::Resource { group, namespace, resource, subresource, name, .. } => {
                    question["IsResource"] = true.into();
                    question["Group"] = group.as_str().into();
                    question["Resource"] = resource.as_str().into();
                    let parts = [("Namespace", namespace), ("Subresource", subresource), ("Name", name)];
                    for (field, part) in parts {
                        question[field] = part.as_deref().unwrap_or_default().into();
                    }
                }
                RequestTarget::NonResource { path } => question["Path"] = path.as_str().into(),
            }
            questions.push(question.to_string());
            ours.push(policy.says(&who, &asked));
        }
        let answers = ask(program, &["policy", file.to_str().unwrap()], questions.clone());
        for ((question, ours), theirs) in questions.iter().zip(ours).zip(answers) {
            assert_eq!(ours, theirs.split(' ').next().unwrap(), "{question}\n{text}");
            *told.entry(theirs).or_default() += 1;
        }
    }
    assert!(told.len() > 8, "{told:?}");
}
