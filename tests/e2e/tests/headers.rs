//! Status and headers of an answer are the same direct and through, by HTTP/1.1 and by HTTP/2, apart from what cannot be.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use http::{HeaderMap, Method, StatusCode, Version};
use serde_json::{Value, json};
use ztka_e2e::{Answer, Both, Client, Connection};
use ztka_test_cluster::Options;

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A request.
struct Ask<'a> {
    method: Method,
    path: String,
    headers: &'a [(&'static str, &'a str)],
    body: String,
}

fn get<'a>(path: impl Into<String>) -> Ask<'a> {
    Ask { method: Method::GET, path: path.into(), headers: &[], body: String::new() }
}

impl<'a> Ask<'a> {
    fn with(self, headers: &'a [(&'static str, &'a str)]) -> Self {
        Self { headers, ..self }
    }

    fn sends(self, method: Method, body: Value) -> Self {
        Self { method, body: body.to_string(), ..self }
    }
}

/// One connection each way.
struct Ways {
    direct: Connection,
    through: Connection,
    version: Version,
}

impl Ways {
    /// Asks both ways and requires the same answer; returns the one that came through.
    async fn same(&mut self, ask: Ask<'_>) -> Result<Answer> {
        let line = format!("{:?} {} {} {:?}", self.version, ask.method, ask.path, ask.headers);
        let direct = self.direct.send_with(ask.method.clone(), &ask.path, ask.headers, ask.body.clone()).await;
        let direct = direct.with_context(|| line.clone())?;
        let through = self.through.send_with(ask.method, &ask.path, ask.headers, ask.body).await;
        let through = through.with_context(|| line.clone())?;
        ensure!(direct.status == through.status, "{line}: {} direct, {} through", direct.status, through.status);
        let (mut ours, mut theirs) = (comparable(&through.headers), comparable(&direct.headers));
        // Go's server announces the length of short bodies unasked, by HTTP/2 of longer ones than by HTTP/1.1, which is
        // what agents speak to it. Where both announce it, it is the same.
        if ours.contains_key("content-length") != theirs.contains_key("content-length") {
            ours.remove("content-length");
            theirs.remove("content-length");
        }
        ensure!(theirs == ours, "{line}:\n direct  {theirs:#?}\n through {ours:#?}");
        Ok(through)
    }
}

/// Headers by name, each with all of its lines in order.
fn comparable(headers: &HeaderMap) -> BTreeMap<&str, Vec<String>> {
    // Of a hop.
    let of_a_hop = ["connection", "keep-alive", "transfer-encoding"];
    // There on both sides, with the moment, the request or the account (which is another than the administrator's) in it.
    let differ = ["date", "expires", "audit-id", "x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"];
    let names = headers.keys().map(http::HeaderName::as_str).filter(|name| !of_a_hop.contains(name));
    let lines = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        match differ.contains(&name) {
            true => values.map(|_| "there".to_owned()).collect(),
            false => values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect(),
        }
    };
    names.map(|name| (name, lines(name))).collect()
}

fn text<'a>(answer: &'a Answer, name: &str) -> Result<&'a str> {
    let value = answer.headers.get(name).with_context(|| format!("no {name} in {:?}", answer.headers))?;
    Ok(value.to_str()?)
}

/// A pod that may not be evicted yet: its budget has not been looked at, as there are no controllers.
async fn unevictable(both: &Both) -> Result<()> {
    let labels = json!({ "app": "kept" });
    let all = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } },
        { "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "kept", "labels": labels },
          "spec": { "containers": [{ "name": "main", "image": "none" }] } },
        { "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "kept" },
          "spec": { "minAvailable": 1, "selector": { "matchLabels": labels } } },
    ]});
    both.direct.apply(all.to_string()).await?;
    let status = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    both.direct.ok(["patch", "pod", "kept", "--subresource=status", "--patch", status]).await?;
    Ok(())
}

#[tokio::test]
async fn status_and_headers_are_the_same_direct_and_through() -> Result<()> {
    let both = Both::start(Options::default().without_controllers()).await?;
    unevictable(&both).await?;
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "large" },
                      "data": { "large": "text that is worth compressing; ".repeat(10_000) } });
    let file = both.fleet.path("large.json");
    std::fs::write(&file, map.to_string())?;
    both.direct.ok(["create", "-f", file.to_str().context("a path")?]).await?;

    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut ways = Ways {
            direct: Client::of(&both.direct).await?.connect(version).await?,
            through: Client::of(&both.through).await?.connect(version).await?,
            version,
        };
        compare(&mut ways).await.with_context(|| both.fleet.tails())?;
    }
    Ok(())
}

async fn compare(ways: &mut Ways) -> Result<()> {
    // Priority and fairness; the id of the request.
    let answer = ways.same(get(format!("{CONFIGMAPS}/large"))).await?;
    for name in ["audit-id", "x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid", "cache-control"] {
        text(&answer, name)?;
    }
    // An id that the client chose is not the record's.
    let chosen = "11111111-2222-3333-4444-555555555555";
    let answer = ways.through.send_with(Method::GET, "/version", &[("audit-id", chosen)], "").await?;
    ensure!(text(&answer, "audit-id")? != chosen, "a client chooses the Audit-ID");

    // Bodies stay compressed as they came.
    let gzip = [("accept-encoding", "gzip")];
    let answer = ways.same(get(format!("{CONFIGMAPS}/large")).with(&gzip)).await?;
    ensure!(text(&answer, "content-encoding")? == "gzip" && answer.body.starts_with(&[0x1f, 0x8b]), "not compressed");
    ensure!(text(&answer, "vary")?.contains("Accept-Encoding"), "{:?}", answer.headers);

    // Errors.
    let named = |name: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "kept" } });
    let asks = [
        (404, get(format!("{CONFIGMAPS}/missing"))),
        (409, get(CONFIGMAPS).sends(Method::POST, named("large"))),
        (422, get(CONFIGMAPS).sends(Method::POST, named("Not_A_Name"))),
        (415, get(format!("{CONFIGMAPS}/large")).with(&[("content-type", "text/csv")]).sends(Method::PATCH, json!({}))),
        (406, get(CONFIGMAPS).with(&[("accept", "text/csv")])),
        (400, get(format!("{CONFIGMAPS}?limit=1&continue=none"))),
        (429, get("/api/v1/namespaces/default/pods/kept/eviction").sends(Method::POST, eviction)),
    ];
    for (code, ask) in asks {
        let answer = ways.same(ask).await?;
        ensure!(answer.status.as_u16() == code, "{code}: {} {:?}", answer.status, answer.body);
        if code == 429 {
            ensure!(text(&answer, "retry-after")? == "10", "{:?}", answer.headers);
        }
        let status: Value = serde_json::from_slice(&answer.body)?;
        ensure!(status["kind"] == "Status" && status["code"] == code, "{status}");
    }

    // Warnings, several of them.
    let unknown = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "w" }, "one": 1, "two": 2 });
    let strict = format!("{CONFIGMAPS}?dryRun=All&fieldValidation=Warn");
    let answer = ways.same(get(strict).sends(Method::POST, unknown)).await?;
    ensure!(answer.status == StatusCode::CREATED, "{answer:?}");
    ensure!(answer.headers.get_all("warning").iter().count() == 2, "{:?}", answer.headers);
    let answer = ways.same(get("/api/v1/componentstatuses")).await?;
    ensure!(text(&answer, "warning")?.contains("deprecated"), "{:?}", answer.headers);

    // What clients keep: ETag and 304; OpenAPI v3 by hash, for ever; 301 from an old hash.
    let answer = ways.same(get("/openapi/v2").with(&gzip)).await?;
    let tag = text(&answer, "etag")?.to_owned();
    let answer = ways.same(get("/openapi/v2").with(&[("if-none-match", tag.as_str())])).await?;
    ensure!(answer.status == StatusCode::NOT_MODIFIED && answer.body.is_empty(), "{answer:?}");
    let index: Value = serde_json::from_slice(&ways.same(get("/openapi/v3")).await?.body)?;
    let url = index.pointer("/paths/api~1v1/serverRelativeURL").and_then(Value::as_str).context("no /api/v1")?;
    let answer = ways.same(get(url)).await?;
    ensure!(text(&answer, "cache-control")?.contains("immutable"), "{:?}", answer.headers);
    text(&answer, "expires")?;
    let old = ways.same(get("/openapi/v3/api/v1?hash=OLD")).await?;
    ensure!(old.status == StatusCode::MOVED_PERMANENTLY && text(&old, "location")? == url, "{:?}", old.headers);
    Ok(())
}
