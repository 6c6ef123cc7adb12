//! `/livez`, `/readyz` and `/metrics`, on a loopback listener of their own.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::task::AbortOnDropHandle;

/// Whether the process is ready to serve.
#[derive(Debug, Default)]
pub struct Health {
    ready: AtomicBool,
}

impl Health {
    /// Sets what `/readyz` answers.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
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
            "/readyz" if self.ready.load(Ordering::Relaxed) => (StatusCode::OK, "ok\n".into()),
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
