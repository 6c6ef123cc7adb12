//! What `/metrics` shows of a controller. No name of a user, an organisation or a cluster is in it.

use std::{sync::Arc, time::Duration};

use metrics::{counter, gauge};
use ztka_controller::{Controller, Figures, Records, StoreFailing, store::Overdue};
use ztka_runtime::Health;

const EVERY: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(500);
/// The number of clusters is a question to the store.
const LOOKS_PER_COUNT: u32 = 8;

/// Takes the figures now and then, until dropped.
pub(crate) async fn keep(controller: Controller) {
    loop {
        match controller.clusters_known().await {
            Ok(known) => gauge!("ztka_controller_clusters").set(float(known)),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "clusters cannot be counted now"),
        }
        match controller.overdue().await {
            Ok(Overdue { agents, proxies }) => {
                gauge!("ztka_controller_members_overdue", "kind" => "agent").set(exact(agents));
                gauge!("ztka_controller_members_overdue", "kind" => "proxy").set(exact(proxies));
                if agents + proxies > 0 {
                    tracing::warn!(
                        agents,
                        proxies,
                        "members are not renewed, though they ought to be: ztka cluster list"
                    );
                }
            }
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "members cannot be counted now"),
        }
        match controller.findings_of_a_day().await {
            Ok(findings) => {
                gauge!("ztka_controller_findings_day").set(exact(findings));
                if findings > 0 {
                    tracing::warn!(
                        findings,
                        "journals do not fit together, found in the last day: ztka audit findings"
                    );
                }
            }
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "findings cannot be counted now"),
        }
        for _ in 0..LOOKS_PER_COUNT {
            export(&controller.figures());
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// Since when the store fails: for who has to mend it, and for balancers to prefer a controller that can reach it.
pub(crate) async fn watch_store(controller: Controller, health: Arc<Health>) {
    loop {
        let failing = controller.store_failing();
        let age = failing.map(|failing| failing.age(jiff::Timestamp::now()).as_secs().unsigned_abs());
        gauge!("ztka_controller_store_failing_seconds").set(exact(age.unwrap_or_default()));
        health.set_failing(failing.zip(age).map(|(StoreFailing { since, kind }, age)| {
            let action = kind.action();
            format!("{kind}, for {age} s now, since {since}; {action}; proxies and agents go on with what they hold")
        }));
        tokio::time::sleep(LOOK).await;
    }
}

fn export(figures: &Figures) {
    gauge!("ztka_controller_clusters_connected").set(float(figures.clusters_connected));
    gauge!("ztka_controller_feed_subscribers", "kind" => "agent").set(float(figures.following_agents));
    gauge!("ztka_controller_feed_subscribers", "kind" => "proxy").set(float(figures.following_proxies));
    for (route, status, count) in &figures.requests {
        let status = status.as_u16().to_string();
        let labels = [("method", route.method.to_owned()), ("route", route.path.to_owned()), ("status", status)];
        counter!("ztka_controller_api_requests_total", &labels).absolute(*count);
    }
    for (outcome, count) in &figures.enrolments {
        counter!("ztka_controller_enrolments_total", "outcome" => *outcome).absolute(*count);
    }
    let records = |name: &'static str, Records { stored, known }| {
        counter!(name, "outcome" => "stored").absolute(stored);
        counter!(name, "outcome" => "known").absolute(known);
    };
    records("ztka_controller_events_total", figures.events);
    records("ztka_controller_receipts_total", figures.receipts);
    for (name, (left, overdue)) in &figures.certificates {
        gauge!("ztka_certificate_expires_seconds", "certificate" => *name).set(exact(left.max(&0).unsigned_abs()));
        gauge!("ztka_certificate_renewal_overdue", "certificate" => *name).set(exact(u64::from(*overdue)));
    }
    counter!("ztka_controller_store_errors_total").absolute(figures.store_errors);
}

/// Exact for anything below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of members, and seconds")]
fn exact(count: u64) -> f64 {
    count as f64
}

/// Exact for anything that a process can hold.
#[expect(clippy::cast_precision_loss, reason = "counts of things in one process")]
fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use ztka_controller::ROUTES;

    use super::*;

    #[test]
    fn every_figure_is_shown() {
        let mut figures = Figures::default();
        (figures.clusters_connected, figures.following_agents, figures.following_proxies) = (2, 3, 1);
        figures.requests = vec![(*ROUTES.first().unwrap(), http::StatusCode::FORBIDDEN, 4)];
        figures.enrolments = [("refused", 5)].into();
        (figures.events, figures.receipts) = (Records { stored: 6, known: 7 }, Records { stored: 8, known: 9 });
        figures.store_errors = 10;
        figures.certificates = [("servers", (11, true))].into();
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || export(&figures));
        let shown = recorder.handle().render();
        for line in [
            "ztka_controller_clusters_connected 2",
            "ztka_controller_feed_subscribers{kind=\"agent\"} 3",
            "ztka_controller_feed_subscribers{kind=\"proxy\"} 1",
            "ztka_controller_api_requests_total{method=\"GET\",route=\"/whoami\",status=\"403\"} 4",
            "ztka_controller_enrolments_total{outcome=\"refused\"} 5",
            "ztka_controller_events_total{outcome=\"stored\"} 6",
            "ztka_controller_events_total{outcome=\"known\"} 7",
            "ztka_controller_receipts_total{outcome=\"stored\"} 8",
            "ztka_controller_receipts_total{outcome=\"known\"} 9",
            "ztka_controller_store_errors_total 10",
            "ztka_certificate_expires_seconds{certificate=\"servers\"} 11",
            "ztka_certificate_renewal_overdue{certificate=\"servers\"} 1",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
        }
    }
}
