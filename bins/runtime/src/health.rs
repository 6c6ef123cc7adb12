//! `/livez`, `/readyz` and `/metrics`, on a loopback listener of their own.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// Whether the process is ready to serve.
#[derive(Debug, Default)]
pub struct Health {
    ready: AtomicBool,
    /// What keeps the process from serving as it should, though it is up.
    failing: Mutex<Option<String>>,
    /// When the controller said last that all is known.
    heard: Mutex<Option<Instant>>,
}

/// A controller that is there says something every ten seconds.
const SILENCE: Duration = Duration::from_secs(30);

impl Health {
    /// Sets what `/readyz` answers.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Sets what `/readyz` answers with 503 although the process is up; `None` when it is over.
    pub fn set_failing(&self, why: Option<String>) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// The controller has just said that all is known; `/readyz` shows how long ago that was if it goes silent. What was
    /// heard is served all the same.
    pub fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// What `/readyz` says of a process that is ready.
    fn age(&self) -> String {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match heard.map(|heard| heard.elapsed()).filter(|age| *age > SILENCE) {
            Some(age) => format!("ok, by what the controller said {} s ago\n", age.as_secs()),
            None => "ok\n".into(),
        }
    }

    /// Serves on `address`, if there is one, until the handle is dropped.
    pub(crate) async fn serve_if(
        self: &Arc<Self>,
        address: Option<SocketAddr>,
    ) -> anyhow::Result<Option<AbortOnDropHandle<()>>> {
        let Some(address) = address else { return Ok(None) };
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("runtime.health: cannot listen on {address}; is the port in use?"))?;
        let metrics = PrometheusBuilder::new().install_recorder().context("metrics cannot be started")?;
        let health = self.clone();
        let task: JoinHandle<()> = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (health, metrics) = (health.clone(), metrics.clone());
                let answer = service_fn(move |request: Request<Incoming>| {
                    let response = health.answer(request.uri().path(), &metrics);
                    async { Ok::<_, Infallible>(response) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), answer));
            }
        });
        Ok(Some(AbortOnDropHandle::new(task)))
    }

    fn answer(&self, path: &str, metrics: &PrometheusHandle) -> Response<Full<Bytes>> {
        let (status, text) = match path {
            "/livez" => (StatusCode::OK, "ok\n".into()),
            "/readyz" if self.ready.load(Ordering::Relaxed) => {
                match &*self.failing.lock().unwrap_or_else(PoisonError::into_inner) {
                    None => (StatusCode::OK, self.age()),
                    Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
                }
            }
            "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n".into()),
            "/metrics" => (StatusCode::OK, metrics.render()),
            _ => (StatusCode::NOT_FOUND, "try /livez, /readyz or /metrics\n".into()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn readyz(health: &Health) -> (StatusCode, String) {
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let response = health.answer("/readyz", &metrics);
        let (head, body) = response.into_parts();
        let Ok(body) = body.collect().await;
        (head.status, String::from_utf8(body.to_bytes().into()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn readyz_says_why_not_and_how_old_what_is_served_is() {
        let health = Health::default();
        assert_eq!(readyz(&health).await.0, StatusCode::SERVICE_UNAVAILABLE);
        health.set_ready(true);
        health.heard();
        assert_eq!(readyz(&health).await, (StatusCode::OK, "ok\n".into()));
        tokio::time::advance(Duration::from_secs(75)).await;
        assert_eq!(readyz(&health).await, (StatusCode::OK, "ok, by what the controller said 75 s ago\n".into()));
        health.heard();
        health.set_failing(Some("the database's disk is full".into()));
        assert_eq!(readyz(&health).await, (StatusCode::SERVICE_UNAVAILABLE, "the database's disk is full\n".into()));
        health.set_failing(None);
        assert_eq!(readyz(&health).await, (StatusCode::OK, "ok\n".into()));
    }
}
