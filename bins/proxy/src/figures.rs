//! What `/metrics` shows of a proxy, beside what `ztka-tunnel` tells itself. No name of a user or a cluster is in it.

use std::time::Duration;

use metrics::{counter, gauge};
use ztka_audit::{Recorder, Spool};
use ztka_authz::Open;
use ztka_pki::{CredentialSource, RenewalStatus};
use ztka_proxy::{Connections, Directory};

const EVERY: Duration = Duration::from_secs(2);

/// Takes the figures now and then, until dropped.
pub(crate) async fn keep(
    open: Open<Directory>,
    (connections, windows): (Connections, impl Fn() -> (usize, usize)),
    spool: Spool,
    recorder: Recorder,
) {
    loop {
        gauge!("ztka_proxy_connections").set(float(connections.count()));
        let (all, most) = windows();
        gauge!("ztka_proxy_window_bytes").set(float(all));
        gauge!("ztka_proxy_user_window_bytes_max").set(float(most));
        gauge!("ztka_proxy_streams").set(float(open.streams()));
        counter!("ztka_proxy_refusals_total").absolute(recorder.refusals());
        let status = spool.status();
        gauge!("ztka_audit_spool_bytes").set(float(usize::try_from(status.bytes).unwrap_or(usize::MAX)));
        gauge!("ztka_audit_records_open").set(float(status.open));
        gauge!("ztka_audit_spool_failing").set(float(usize::from(status.failing)));
        counter!("ztka_audit_records_total").absolute(status.records);
        counter!("ztka_audit_records_lost_total").absolute(status.lost);
        tokio::time::sleep(EVERY).await;
    }
}

/// How the proxy's own certificates stand, by name, until dropped.
pub(crate) async fn keep_certificates(certificates: [(&'static str, CredentialSource); 2]) {
    loop {
        for (name, source) in &certificates {
            let now = jiff::Timestamp::now();
            let status = RenewalStatus::of(&source.current(), now);
            let left = status.not_after.duration_since(now).as_secs_f64().max(0.0);
            gauge!("ztka_certificate_expires_seconds", "certificate" => *name).set(left);
            gauge!("ztka_certificate_renewal_overdue", "certificate" => *name).set(float(usize::from(status.overdue)));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Exact for anything that a process can hold.
#[expect(clippy::cast_precision_loss, reason = "counts of things in one process")]
fn float(count: usize) -> f64 {
    count as f64
}
