//! The measuring program runs: a moment of every measure, direct and through the bare hops, in an ordinary build.

use std::{fs, process::Command};

#[test]
fn the_measures_of_the_tunnel_run() {
    let of_tunnel = ["Upload of 2 MiB", "Downloads, together 2 MiB, 8 at once", "Uploads, together 2 MiB"];
    for (asked, rows) in
        [("tunnel", of_tunnel.as_slice()), ("watches", &["150 quiet watches", "with 150 watches open"])]
    {
        let mut path = Command::new(env!("CARGO_BIN_EXE_path"));
        path.args(["--asked", asked, "--rounds", "1", "--seconds", "0.1", "--download-mib", "2"]);
        let output = path.args(["--shared-watches", "150"]).output().unwrap();
        let (told, table) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{told}");
        assert!(!table.to_lowercase().contains("error"), "{told}\n{table}");
        for row in rows {
            // The bare hops cannot do that.
            let without = asked == "watches" && table.contains("HAProxy was not measured");
            assert!(without || table.contains(row), "{row} is missing:\n{table}");
        }
    }
}

#[test]
fn a_short_run_fills_the_table_without_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("performance.md");
    fs::write(&page, "before\n<!-- figures: path -->\nold\n<!-- end -->\nafter\n").unwrap();
    let mut path = Command::new(env!("CARGO_BIN_EXE_path"));
    path.args(["--rounds", "1", "--seconds", "0.1", "--download-mib", "2", "--watches", "3", "--no-haproxy"]);
    let output = path.arg("--write").arg(&page).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");

    let written = fs::read_to_string(&page).unwrap();
    assert!(written.starts_with("before\n") && written.ends_with("after\n"), "{written}");
    assert!(!written.contains("old") && !written.to_lowercase().contains("error"), "{written}");
    for cell in ["bare hops", "GET of 2 KB, 128 connections", "List of 1 MB", "Download of 2 MiB", "Exec session"] {
        assert!(written.contains(cell), "{cell} is missing:\n{written}");
    }
    for line in written.lines().filter(|line| line.contains(": p50") || line.contains(": throughput")) {
        let cells: Vec<_> = line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        // The bare hops carry no upgrades.
        let measured = if line.contains("Exec") { 1 } else { 2 };
        assert!(cells.iter().skip(1).take(measured).all(|cell| *cell != "–"), "{line}");
    }
    assert!(told.contains("round 1/1, Get1, bare hops"), "{told}");
}
