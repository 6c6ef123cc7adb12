//! The bench runs: a hundredth of it on both databases, in an ordinary build. Nothing is held against a bound.
#![expect(clippy::unwrap_used, reason = "these are tests")]
#![allow(clippy::print_stderr, reason = "the bench tells how far it is")]

mod kit;
#[path = "../benches/store/measure.rs"]
mod measure;

use kit::Place;
use ztka_store::Location;

kit::on_both!(every_line_is_filled);

async fn every_line_is_filled(place: &Place) {
    let clear = match place.location {
        Location::Sqlite(_) => Place::sqlite(),
        Location::Postgres(_) => Place::postgres(),
    };
    let clear = clear.unwrap();
    let databases = measure::Databases { encrypted: place.location.clone(), clear: clear.location.clone() };
    let folder = tempfile::tempdir().unwrap();
    assert!(measure::disk(folder.path(), 3).p99() > std::time::Duration::ZERO);
    let rows = measure::run(&databases, measure::Scale::of(1)).await;
    assert_eq!(rows.len(), 7);
    for row in rows {
        assert!(row.what.contains("SQL") && row.figure.contains(" M") || row.figure.contains(" ms"), "{}", row.what);
        assert!(row.bare.is_empty() || row.bare.contains(" ms"), "{}", row.bare);
        assert!(row.bound.is_empty() || row.bound.contains('≤'), "{}", row.bound);
    }
}
