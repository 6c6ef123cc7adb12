//! Lists come a page at a time, with a link to the next.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use axum::body::Body;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kit::{Kit, certificate_of};
use serde_json::Value;
use tower::ServiceExt as _;
use ztka_api::{DEFAULT_PAGE, LARGEST_PAGE};
use ztka_identity::{AdminRole, Caller};

/// The answer, and the target of its link to the next page.
async fn page(kit: &Kit, by: &Caller, path: &str) -> (StatusCode, Value, Option<String>) {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    request.extensions_mut().insert(certificate_of(by));
    let (head, body) = kit.controller.api().oneshot(request).await.unwrap().into_parts();
    let body = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    let link = head.headers.get(header::LINK).map(|link| link.to_str().unwrap().to_owned());
    let target = |link: String| link.strip_prefix('<').unwrap().split_once(">; rel=\"next\"").unwrap().0.to_owned();
    (head.status, body, link.map(target))
}

async fn walk(kit: &Kit, by: &Caller, path: &str, limit: usize) -> Vec<Value> {
    let (mut all, mut next) = (Vec::new(), format!("{path}?limit={limit}"));
    loop {
        let (status, body, link) = page(kit, by, &next).await;
        assert_eq!(status, StatusCode::OK, "{next}: {body}");
        let items = body.as_array().unwrap().clone();
        assert!(link.is_none() || items.len() >= limit, "{next}");
        all.extend(items);
        match link {
            Some(link) => next = link,
            None => return all,
        }
    }
}

#[tokio::test]
async fn every_list_is_the_same_in_pages_as_at_once() {
    let kit = Kit::new().await;
    let root = kit.system_admin().await;
    let acme = kit.org("acme").await.id;
    let boss = kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await;
    let org = format!("/api/v1/orgs/{acme}");
    for number in 0..5 {
        kit.org(&format!("org-{number}")).await;
        kit.user(&acme, &format!("user-{number}"), None).await;
        kit.controller.directory().issue_credential(&boss.user.id, jiff::SignedDuration::from_hours(1)).await.unwrap();
        let name = format!(r#""name": "n{number}""#);
        for (list, body) in [
            ("clusters", format!("{{{name}}}")),
            ("groups", format!("{{{name}}}")),
            (
                "roles",
                format!(r#"{{{name}, "rules": [{{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}}]}}"#),
            ),
            (
                "bindings",
                format!(
                    r#"{{{name}, "role": "view", "subjects": [{{"user": "x"}}], "clusters": {{"all": true}}, "scope": "cluster"}}"#
                ),
            ),
        ] {
            let (status, made) = kit.call(Some(certificate_of(&boss)), "POST", &format!("{org}/{list}"), &body).await;
            assert_eq!(status, StatusCode::CREATED, "{list}: {made}");
        }
        let (status, _) = kit.call(Some(certificate_of(&root)), "POST", "/api/v1/proxies", "{}").await;
        assert_eq!(status, StatusCode::CREATED);
    }
    let own = |list: &str| (&boss, format!("{org}/{list}"), 5);
    let lists = [
        (&root, "/api/v1/orgs".to_owned(), 6),
        (&root, "/api/v1/proxies".to_owned(), 5),
        (&boss, format!("{org}/users/{}/credentials", boss.user.id), 6),
        own("clusters"),
        own("groups"),
        own("roles"),
        own("bindings"),
        own("users"),
    ];
    for (by, list, least) in &lists {
        let (status, at_once, link) = page(&kit, by, list).await;
        assert_eq!((status, link), (StatusCode::OK, None), "{list}: {at_once}");
        assert!(at_once.as_array().unwrap().len() >= *least, "{list}: {at_once}");
        for limit in [1, 2, 5] {
            assert_eq!(Value::from(walk(&kit, by, list, limit).await), at_once, "{list}, {limit} at a time");
        }
    }

    // What is asked for in another way is refused, and says what to do.
    let (_, _, next) = page(&kit, &boss, &format!("{org}/users?limit=2")).await;
    let token = next.unwrap().split_once("continue=").unwrap().1.to_owned();
    for (bad, says) in [
        ("limit=0".to_owned(), "between 1 and 1000"),
        ("limit=1001".to_owned(), "between 1 and 1000"),
        ("limit=x".to_owned(), "the query is not what is expected"),
        ("page=2".to_owned(), "the query is not what is expected"),
        ("continue=zz".to_owned(), "none of ours"),
        ("continue=".to_owned(), "none of ours"),
        (format!("continue={token}"), "of another list"),
    ] {
        let (status, problem, _) = page(&kit, &boss, &format!("{org}/clusters?{bad}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
        assert!(problem.to_string().contains(says) && !problem["action"].as_str().unwrap().is_empty(), "{problem}");
    }
    // Nor is a token of one organisation good for another's list, which it says nothing about.
    let (status, problem, _) =
        page(&kit, &root, &format!("/api/v1/orgs/{}/users?continue={token}", root.user.org)).await;
    assert_eq!((status, problem.to_string().contains("of another list")), (StatusCode::BAD_REQUEST, true));
}

#[tokio::test]
async fn an_answer_has_five_hundred_items_at_most_unless_more_are_asked_for() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let boss = kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await;
    let list = format!("/api/v1/orgs/{acme}/groups");
    let most = LARGEST_PAGE as usize;
    for number in 0..=most {
        kit.store_group(&acme, &format!("g{number}")).await;
    }
    let (_, first, next) = page(&kit, &boss, &list).await;
    assert_eq!((first.as_array().unwrap().len(), next.is_some()), (DEFAULT_PAGE as usize, true));
    let (_, first, next) = page(&kit, &boss, &format!("{list}?limit={most}")).await;
    assert_eq!((first.as_array().unwrap().len(), next.is_some()), (most, true));
    assert_eq!(walk(&kit, &boss, &list, most).await.len(), most + 1);
}
