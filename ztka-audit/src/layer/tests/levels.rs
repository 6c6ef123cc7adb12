//! How much of which request is on record: by policy and by what a binding asks for, with bodies that go by unchanged.

use http::header;
use ztka_core::{AuditLevel, Decision, Grant, Permitted, Recording, Revision};

use super::*;
use crate::{Level, Policy, Scope};

fn policy(rules: &str) -> Policy {
    Policy::from_yaml(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}")).unwrap()
}

fn everything() -> Levels {
    Levels::new().policy(Scope::All, policy("- level: RequestResponse"))
}

fn request(method: &str, target: &str, sent: &'static str) -> Access<Authenticated, ztka_core::Body> {
    let head = http::Request::builder().method(method).uri(target).header("user-agent", "kubectl");
    let head = head.header(header::CONTENT_TYPE, "application/json").body(()).unwrap().into_parts().0;
    let body = if sent.is_empty() { ztka_core::empty() } else { ztka_core::body(sent) };
    Authenticated::assertion(identity().from_source(Some([192, 0, 2, 7].into())), &head, body)
}

/// Sends a request past the layer; the far side reads it and answers with `answer`. What the far side and the client saw, and
/// the events.
async fn ask(
    levels: Levels,
    asked: Access<Authenticated, ztka_core::Body>,
    decision: Option<Decision>,
    answer: &'static str,
) -> (Bytes, Bytes, Vec<Event>) {
    let bench = bench();
    let seen = Arc::new(Mutex::new(Bytes::new()));
    let far = seen.clone();
    let inner = service_fn(move |access: Access<Recorded, Tapped<ztka_core::Body>>| {
        let (far, decision) = (far.clone(), decision.clone());
        async move {
            let decision = decision.unwrap_or_else(|| Decision::Allow(grant(None)));
            let access = match Permitted::assertion(access, |_, _, _| decision) {
                Ok(access) => access,
                Err(status) => return Ok::<_, Infallible>(status.into()),
            };
            *far.lock().unwrap() = access.into_request().into_body().collect().await.unwrap().to_bytes();
            let response = http::Response::builder().header(header::CONTENT_TYPE, "application/json");
            Ok(Reply::Response(response.body(ztka_core::body(answer)).unwrap()))
        }
    });
    let stack = AuditLayer::new(bench.recorder.clone()).with_levels(levels).layer(inner);
    let Reply::Response(response) = stack.oneshot(asked).await.unwrap() else { panic!("upgraded") };
    let got = response.into_body().collect().await.unwrap().to_bytes();
    let seen = seen.lock().unwrap().clone();
    (seen, got, bench.journal.events())
}

fn grant(audit: Option<AuditLevel>) -> Grant {
    Grant { binding: "b".into(), role: "r".into(), policy: Revision::default(), recording: Recording::Off, audit }
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn bodies_are_recorded_as_the_level_says_and_pass_unchanged() {
    let (sent, answer) =
        (r#"{"kind":"Pod","metadata":{"name":"a"}}"#, r#"{"kind":"Pod","status":{"phase":"Pending"}}"#);
    for level in [Level::None, Level::Metadata, Level::Request, Level::RequestResponse] {
        let levels = Levels::new().policy(Scope::All, policy(&format!("- level: {level:?}")));
        let (seen, got, events) = ask(levels, request("POST", PODS, sent), None, answer).await;
        assert_eq!((&seen[..], &got[..]), (sent.as_bytes(), answer.as_bytes()), "{level:?}");
        let [received, complete] = &events[..] else { panic!("{events:?}") };
        // What changes something is never left out.
        assert_eq!(complete.level, level.max(Level::Metadata));
        assert_eq!(received.request_object, None, "it has not come yet");
        let object = |level_of| (level >= level_of).then_some(());
        assert_eq!(complete.request_object.is_some(), object(Level::Request).is_some());
        assert_eq!(complete.response_object.is_some(), object(Level::RequestResponse).is_some());
        if level == Level::RequestResponse {
            assert_eq!(complete.request_object.as_ref().unwrap()["metadata"]["name"], "a");
            assert_eq!(complete.response_object.as_ref().unwrap()["status"]["phase"], "Pending");
            assert_eq!(complete.annotations.fact("redacted"), None);
            // What is written is read again as the same.
            assert_eq!(Event::from_json(&complete.to_json()).unwrap(), *complete);
        }
    }
}

#[tokio::test]
async fn a_binding_may_ask_for_more_and_not_for_less() {
    let sent = r#"{"kind":"Pod"}"#;
    for (said, asked, level) in [
        ("Metadata", Some(AuditLevel::Request), Level::Request),
        ("None", Some(AuditLevel::RequestResponse), Level::RequestResponse),
        ("RequestResponse", Some(AuditLevel::Metadata), Level::RequestResponse),
        ("Request", None, Level::Request),
    ] {
        let levels = Levels::new().policy(Scope::All, policy(&format!("- level: {said}")));
        let decision = Some(Decision::Allow(grant(asked)));
        let (_, _, events) = ask(levels, request("POST", PODS, sent), decision, "{}").await;
        let event = events.last().unwrap();
        assert_eq!((event.level, event.request_object.is_some()), (level, true), "{said} {asked:?}");
        assert_eq!(event.response_object.is_some(), level == Level::RequestResponse);
    }
}

#[tokio::test]
async fn at_level_none_a_read_leaves_the_least_and_everything_else_all_of_metadata() {
    let none = || Levels::new().policy(Scope::All, policy("- level: None"));
    let (_, _, events) = ask(none(), request("GET", &format!("{PODS}/web"), ""), None, "{}").await;
    assert_eq!(
        events.iter().map(|event| event.stage).collect::<Vec<_>>(),
        [Stage::RequestReceived, Stage::ResponseComplete]
    );
    for event in &events {
        assert_eq!((event.level, event.request_uri.as_str(), event.user_agent.as_str()), (Level::None, "", ""));
        assert!(event.object_ref.is_none() && event.source_ips.is_empty() && event.user.groups.is_empty());
        assert_eq!(
            (event.fact("org"), event.fact("cluster"), event.fact("credential")),
            (Some("acme"), Some("c1"), Some("k1"))
        );
        assert!(event.fact("request").is_some());
        let text = String::from_utf8(event.to_json()).unwrap();
        assert!(!text.contains("web") && !text.contains("192.0.2.7"), "{text}");
    }
    assert_eq!(events[1].fact("end"), Some("complete"));
    for (method, target) in [
        ("DELETE", "/api/v1/namespaces/default/pods/web"),
        ("GET", "/api/v1/namespaces/default/secrets/db"),
        ("GET", "/api/v1/namespaces/default/pods/web/proxy/"),
    ] {
        let (_, _, events) = ask(none(), request(method, target, ""), None, "{}").await;
        assert!(events.iter().all(|event| event.level == Level::Metadata && event.request_uri == target), "{events:?}");
    }
    let denied = Some(Decision::Deny(Reason::Denied("no".into())));
    let (_, _, events) = ask(none(), request("GET", PODS, ""), denied, "{}").await;
    let event = events.last().unwrap();
    assert_eq!((event.level, event.request_uri.as_str()), (Level::Metadata, PODS));
}

#[tokio::test]
async fn the_policy_of_the_cluster_counts_before_that_of_the_organisation() {
    let of = |level: &str| policy(&format!("- level: {level}"));
    let (acme, c1): (ztka_core::OrgId, ztka_core::ClusterId) = ("acme".parse().unwrap(), "c1".parse().unwrap());
    let all = Levels::new().policy(Scope::All, of("Metadata"));
    let org = all.clone().policy(Scope::Org(acme.clone()), of("Request"));
    let cluster = org.clone().policy(Scope::Cluster(acme, c1), of("RequestResponse"));
    let other = all.clone().policy(Scope::Org("other".parse().unwrap()), of("Request"));
    for (levels, level) in
        [(all, Level::Metadata), (org, Level::Request), (cluster, Level::RequestResponse), (other, Level::Metadata)]
    {
        let (_, _, events) = ask(levels, request("POST", PODS, "{}"), None, "{}").await;
        assert_eq!(events.last().unwrap().level, level);
    }
}

#[tokio::test]
async fn what_is_long_is_cut_and_secrets_are_taken_out() {
    let sent = r#"{"apiVersion":"v1","data":{"password":"czNjcmV0"},"kind":"Secret","metadata":{"name":"db"}}"#;
    let (seen, got, events) =
        ask(everything(), request("POST", "/api/v1/namespaces/default/secrets", sent), None, sent).await;
    assert_eq!((&seen[..], &got[..]), (sent.as_bytes(), sent.as_bytes()));
    let event = events.last().unwrap();
    assert_eq!(event.fact("redacted"), Some("secrets"));
    assert!(!String::from_utf8(event.to_json()).unwrap().contains("czNjcmV0"));
    assert_eq!(event.request_object.as_ref().unwrap()["metadata"]["name"], "db");

    let sent = r#"{"kind":"Pod","metadata":{"name":"a"},"spec":{"a":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}}"#;
    let (seen, _, events) = ask(everything().body_bytes(50), request("POST", PODS, sent), None, "{}").await;
    assert_eq!(seen, sent);
    let event = events.last().unwrap();
    assert_eq!(event.request_object.as_ref().unwrap()["metadata"]["name"], "a");
    let cut = event.fact("truncated").unwrap();
    assert!(cut.starts_with("requestObject by ") && cut.ends_with(" bytes"), "{cut}");
}

#[tokio::test]
async fn watches_logs_and_paths_have_no_bodies_on_record() {
    for target in [
        "/api/v1/pods?watch=true",
        "/api/v1/namespaces/default/pods/web/log",
        "/version",
        "/api/v1/namespaces/default/services/web/proxy/",
    ] {
        let (_, got, events) = ask(everything(), request("GET", target, ""), None, r#"{"a":1}"#).await;
        assert_eq!(got, r#"{"a":1}"#);
        assert!(events.iter().all(|event| event.response_object.is_none()), "{target}");
    }
}

#[tokio::test]
async fn stages_that_are_left_out_are_those_of_reads() {
    let quiet = || {
        Levels::new().policy(Scope::All, policy("- level: Metadata\n  omitStages: [ResponseStarted, RequestReceived]"))
    };
    let (_, _, events) = ask(quiet(), request("GET", "/api/v1/pods?watch=true", ""), None, "{}").await;
    assert_eq!(
        events.iter().map(|event| event.stage).collect::<Vec<_>>(),
        [Stage::RequestReceived, Stage::ResponseComplete]
    );
    let (_, _, events) = ask(quiet(), request("GET", "/api/v1/secrets?watch=true", ""), None, "{}").await;
    assert_eq!(events.len(), 3);
}
