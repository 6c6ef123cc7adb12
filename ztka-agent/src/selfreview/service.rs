//! The service in front of the upstream that answers self-reviews and passes on everything else.

use std::{
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::{Layer, Service};
use ztka_authz::Engine;
use ztka_core::{Access, Body, ClusterId, Decision, GroupName, Permitted, Principal, Reply, Status, Verified, body};

use super::question::{AccessSpec, Kind, accepts_json, decode};
use crate::{Accounts, accounts::Client};

/// A self-review is small; the apiserver's own limit is 3 MiB.
const MAX_BODY: usize = 64 * 1024;
const NARROWED: &str = "conditions, denials or guardrails of the policy may deny some of what is listed";
const BOUNDED: &str = "the cluster's own roles bound what the policy gives";
const ASK: &str = "ask about it with kubectl auth can-i VERB RESOURCE";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Answers SelfSubjectAccessReviews, SelfSubjectRulesReviews and SelfSubjectReviews itself.
#[derive(Clone, Debug)]
pub struct SelfReviewLayer(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    engine: Engine,
    accounts: Arc<dyn Accounts>,
    client: Client,
}

impl SelfReviewLayer {
    /// Answers by `engine`, and by what the apiserver tells `client` of the account that `accounts` gives.
    pub fn new(engine: Engine, accounts: Arc<dyn Accounts>, client: Client) -> Self {
        Self(Arc::new(Parts { engine, accounts, client }))
    }
}

impl<S> Layer<S> for SelfReviewLayer {
    type Service = SelfReview<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SelfReview { inner, parts: self.0.clone() }
    }
}

/// Service produced by [`SelfReviewLayer`].
#[derive(Clone, Debug)]
pub struct SelfReview<S> {
    inner: S,
    parts: Arc<Parts>,
}

impl<S> Service<Access<Permitted, Body>> for SelfReview<S>
where
    S: Service<Access<Permitted, Body>, Response = Reply>,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Reply, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, access: Access<Permitted, Body>) -> Self::Future {
        let kind = match Kind::of(access.stage().attributes()) {
            Ok(Some(kind)) => kind,
            Ok(None) => return Either::Left(self.inner.call(access)),
            Err(status) => return Either::Right(Box::pin(async move { Ok(status.into()) })),
        };
        let parts = self.parts.clone();
        let (who, cluster, source) = (access.principal().clone(), access.cluster().clone(), access.source());
        let request = access.into_request();
        Either::Right(Box::pin(async move {
            let (head, body) = request.into_parts();
            Ok(parts.answer(kind, &who, &cluster, source, &head.headers, body).await.unwrap_or_else(Reply::from))
        }))
    }
}

impl Parts {
    async fn answer(
        &self,
        kind: Kind,
        who: &Verified<Principal>,
        cluster: &ClusterId,
        source: Option<IpAddr>,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Reply, Status> {
        accepts_json(headers)?;
        let mut object = decode(kind, headers, &read(body).await?)?;
        let status = match kind {
            Kind::Access => self.access(who, cluster, source, &object).await?,
            Kind::Rules => self.rules(who, cluster, &object)?,
            Kind::Myself => myself(who),
        };
        let spec = object.get_mut("spec").map(Value::take).filter(|_| kind == Kind::Access);
        let mut answer = json!({"kind": kind.name(), "apiVersion": kind.api_version(), "metadata": {}});
        if let Some(answer) = answer.as_object_mut() {
            // An empty spec is part of a rules review, none of a review of oneself.
            if kind != Kind::Myself {
                answer.insert("spec".into(), spec.unwrap_or_else(|| json!({})));
            }
            answer.insert("status".into(), status);
        }
        Ok(created(&answer))
    }

    /// Policy *and* apiserver.
    async fn access(
        &self,
        who: &Verified<Principal>,
        cluster: &ClusterId,
        source: Option<IpAddr>,
        object: &Value,
    ) -> Result<Value, Status> {
        let spec = AccessSpec::read(object)?;
        if let Decision::Deny(reason) = self.engine.review_from(who, cluster, &spec.action(), source) {
            return Ok(json!({"allowed": false, "reason": reason.to_string()}));
        }
        let acting = self.accounts.acting(who, spec.namespace()).await?;
        let spec = object.get("spec").cloned().unwrap_or_default();
        let question = json!({
            "kind": Kind::Access.name(), "apiVersion": Kind::Access.api_version(), "spec": spec,
        });
        let answer = self.client.post_as(acting, REVIEWS, &question).await.map_err(|error| {
            Status::new(StatusCode::BAD_GATEWAY, format!("the cluster's agent is connected, but {error}"))
        })?;
        let message = answer.json.get("message").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
        match answer.json.get("status") {
            Some(status) if answer.code.is_success() => Ok(status.clone()),
            _ if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&answer.code) => {
                self.accounts.refused(who, answer.code).await;
                let message = format!("the cluster did not let your account ask: {message}");
                Err(Status::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(1))
            }
            _ => Err(Status::new(answer.code, message)),
        }
    }

    fn rules(&self, who: &Principal, cluster: &ClusterId, object: &Value) -> Result<Value, Status> {
        let namespace = object.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default();
        if namespace.is_empty() {
            return Err(Status::new(StatusCode::BAD_REQUEST, "no namespace on request"));
        }
        let rendered = self.engine.render(who, cluster).map_err(|reason| Status::from(&reason))?;
        let rendered = rendered.unwrap_or_default();
        let everywhere = rendered.cluster.iter();
        let rules = everywhere.chain(rendered.namespaces.get(namespace).into_iter().flatten());
        let closed = self.engine.closed() == namespace;
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rule in rules {
            // Rules always serialise, and spell their fields as reviews do.
            let rule_json = serde_json::to_value(rule).unwrap_or_default();
            match rule.non_resource_urls.is_empty() {
                true if closed => {}
                true => resources.push(rule_json),
                false => paths.push(rule_json),
            }
        }
        let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
        let why = [(self.engine.narrows(who, cluster), NARROWED), (self.accounts.are_bounded(), BOUNDED)];
        let mut why: Vec<_> = why.into_iter().filter_map(|(is, why)| is.then_some(why)).collect();
        // kubectl prints it as a warning above the list.
        if !why.is_empty()
            && let Some(status) = status.as_object_mut()
        {
            why.push(ASK);
            status.insert("incomplete".into(), true.into());
            status.insert("evaluationError".into(), why.join("; ").into());
        }
        Ok(status)
    }
}

fn myself(who: &Principal) -> Value {
    let groups: Vec<&str> = who.groups().iter().map(GroupName::as_str).chain(["system:authenticated"]).collect();
    json!({"userInfo": {
        "username": who.name(),
        "uid": who.user(),
        "groups": groups,
        "extra": {"ztka.dev/org": [who.org()], "ztka.dev/credential": [who.credential()]},
    }})
}

fn created(object: &Value) -> Reply {
    let mut response = Response::new(body(object.to_string()));
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Reply::Response(response)
}

async fn read(mut body: Body) -> Result<Vec<u8>, Status> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Status::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
        if let Some(data) = frame.data_ref() {
            if read.len() + data.len() > MAX_BODY {
                let message = format!("a self-review is {MAX_BODY} bytes long at the most");
                return Err(Status::new(StatusCode::PAYLOAD_TOO_LARGE, message));
            }
            read.extend_from_slice(data);
        }
    }
    Ok(read)
}
