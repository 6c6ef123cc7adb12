use std::time::Duration;

use super::*;
use crate::load::{self, Load, Work};

/// The upstream on a thread of its own, until the test process ends.
fn started() -> (Upstream, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { folder: folder.path().to_owned(), listen: "127.0.0.1:0".parse().unwrap() };
    std::thread::spawn(move || run(&options).unwrap());
    let file = folder.path().join(FILE);
    while !file.exists() {
        std::thread::yield_now();
    }
    (Upstream::read(&file).unwrap(), folder)
}

#[test]
fn sizes_are_what_they_are_said_to_be() {
    let (upstream, _folder) = started();
    let (paths, size) = (&upstream.paths, |path: &str| load::once(&upstream.target, path).unwrap());
    assert_eq!(size(&paths.get), 2048);
    let list = size(paths.list.as_ref().unwrap());
    assert!((1_000_000..1_200_000).contains(&list), "{list}");
    assert_eq!(size(&format!("{}?limitBytes=1000001", paths.download.as_ref().unwrap())), 1_000_001);
    assert_eq!(size("/healthz"), 2);
    let error = load::once(&upstream.target, "/api/v1/namespaces/default/pods/absent").unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("404") && error.contains("no such object"), "{error}");
}

#[test]
fn watches_stay_open_and_exec_echoes() {
    let (upstream, _folder) = started();
    let quiet = load::open(&upstream.target, upstream.paths.watch.as_ref().unwrap(), 20, load::Over::Own).unwrap();
    assert_eq!((quiet.open(), quiet.errors), (20, 0), "{:?}", quiet.first_error);
    let work = Work::Exec(upstream.paths.exec.clone().unwrap(), 3);
    let load =
        Load { work, warm_up: "/healthz".into(), connections: 2, threads: 2, time: Duration::from_secs(20), most: 5 };
    let outcome = load::prepare(&upstream.target, &load).unwrap().go();
    assert_eq!((outcome.latencies.len(), outcome.errors), (5, 0), "{:?}", outcome.first_error);
    assert_eq!(outcome.bytes, 5 * 3 * 1024);
}

#[test]
fn a_plain_get_of_exec_is_told_what_is_served() {
    let (upstream, _folder) = started();
    let error = load::once(&upstream.target, upstream.paths.exec.as_ref().unwrap()).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("400") && error.contains("v5.channel.k8s.io"), "{error}");
}
