//! Events as they are written, and what must not be in them.

use super::*;

fn event() -> Event {
    let id = AuditId::parse("01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
    let now = "2025-01-02T03:04:05.6Z".parse().unwrap();
    Event::new(id, Stage::RequestReceived, now)
}

#[test]
fn has_the_shape_of_kubernetes_own() {
    let mut event = event();
    event.asked_at("/api/v1/namespaces/default/pods/web");
    event.verb = "get".into();
    event.asked_for(&RequestTarget::Resource {
        group: String::new(),
        version: "v1".into(),
        namespace: Some("default".into()),
        resource: "pods".into(),
        subresource: None,
        name: Some("web".into()),
    });
    event.response_status = Some(StatusCode::OK.into());
    event.source_ips.push([192, 0, 2, 1].into());
    event.annotations.set("cluster", "c1");
    let json = String::from_utf8(event.to_json()).unwrap();
    assert_eq!(
        json,
        concat!(
            r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","#,
            r#""auditID":"01890a5d-ac96-774b-bcce-b302099a8057","stage":"RequestReceived","#,
            r#""requestURI":"/api/v1/namespaces/default/pods/web","verb":"get","#,
            r#""user":{"username":"system:anonymous"},"sourceIPs":["192.0.2.1"],"#,
            r#""objectRef":{"resource":"pods","namespace":"default","name":"web","apiVersion":"v1"},"#,
            r#""responseStatus":{"metadata":{},"code":200},"#,
            r#""requestReceivedTimestamp":"2025-01-02T03:04:05.600000Z","stageTimestamp":"2025-01-02T03:04:05.600000Z","#,
            r#""annotations":{"ztka.dev/cluster":"c1"}}"#
        )
    );
    assert_eq!(Event::from_json(json.as_bytes()).unwrap(), event);
    assert_eq!(event.fact("cluster"), Some("c1"));
}

#[test]
fn is_one_line_of_printable_text_whatever_was_sent() {
    let mut event = event();
    event.user_agent = "a\nb\r\u{1b}[31m\u{9b}31m\u{7f}\u{2028}\u{202e}\u{feff}é\u{1f600}\"\\".into();
    let json = String::from_utf8(event.to_json()).unwrap();
    assert!(!json.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{202e}' | '\u{feff}')), "{json}");
    assert!(json.contains('é'));
    assert_eq!(Event::from_json(json.as_bytes()).unwrap().user_agent, event.user_agent);
}

#[test]
fn long_targets_are_cut_and_say_so() {
    let mut event = event();
    event.asked_at(&format!("/{}", "ä".repeat(20_000)));
    assert!(event.request_uri.len() <= MAX_URI);
    assert_eq!(event.fact("truncated"), Some("requestURI by 31810 bytes"));
    assert!(clean(&"x".repeat(5000), MAX_TEXT).len() <= MAX_TEXT);
}

#[test]
fn secrets_are_taken_out_of_targets_and_arguments() {
    let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
    for (asked, recorded) in [
        ("/x?access_token=s3cret&a=b", "/x?access_token=REDACTED&a=b"),
        ("/x?a=b;X-Amz-Signature=s3cret", "/x?a=b;X-Amz-Signature=REDACTED"),
        ("/x?%74oken=s3cret", "/x?%74oken=REDACTED"),
        ("/x?command=mysql&command=--password%3Ds3cret", "/x?command=mysql&command=--password=REDACTED"),
        ("https://user:s3cret@host/x", "https://host/x"),
        (&format!("/hook/{jwt}/x?a={jwt}"), "/hook/REDACTED/x?a=REDACTED"),
        ("/x?t=ztka1.abc.c2VjcmV0c2VjcmV0.pin", "/x?t=REDACTED"),
        (
            "/api/v1/pods?labelSelector=app%3Dweb&continue=eyJ2Ijox",
            "/api/v1/pods?labelSelector=app%3Dweb&continue=eyJ2Ijox",
        ),
    ] {
        let (uri, cut) = redact::target(asked, MAX_URI);
        assert_eq!(uri, recorded);
        assert_eq!(cut, None);
    }
    assert_eq!(argument("--api-key=s3cret", 100), "--api-key=REDACTED");
    assert_eq!(argument(&format!("Bearer {jwt}"), 100), "Bearer REDACTED");
    assert_eq!(argument("FOO=bar", 100), "FOO=bar");
}

#[test]
fn levels_are_ordered() {
    assert!(Level::None < Level::Metadata && Level::Metadata < Level::Request);
    assert!(Level::Request < Level::RequestResponse);
    assert!(Stage::RequestReceived < Stage::ResponseStarted && Stage::ResponseStarted < Stage::ResponseComplete);
    assert_eq!(serde_json::to_value(Level::RequestResponse).unwrap(), "RequestResponse");
    for stage in [Stage::RequestReceived, Stage::ResponseStarted, Stage::ResponseComplete] {
        assert_eq!(serde_json::to_value(stage).unwrap(), stage.as_str());
    }
}
