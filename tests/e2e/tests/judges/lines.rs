//! curl and nghttp, from their command lines.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use super::{Court, OF_A_HOP, Way};

/// What the programs are asked for, and with which options.
const CURL: &[(&str, &[&str])] = &[
    ("/judge/bytes?n=100", &[]),
    ("/judge/bytes?n=3000000", &[]),
    ("/judge/bytes?n=33554432&chunked=1", &[]),
    ("/judge/bytes?n=1000000", &["--head"]),
    ("/judge/status?code=204", &[]),
    ("/judge/status?code=304", &["--header", "If-None-Match: \"judge\""]),
    ("/judge/status?code=404", &[]),
    ("/judge/trailers", &[]),
    ("/judge/echo", &["--request", "DELETE"]),
    ("/judge/echo", &["--data-binary", "@UPLOAD"]),
    // Longer than what curl sends without being told to continue, by HTTP/1.1.
    ("/judge/echo", &["--upload-file", "UPLOAD"]),
    ("/judge/echo", &["--upload-file", "UPLOAD", "--header", "Transfer-Encoding: chunked"]),
    ("/judge/echo", &["--upload-file", "UPLOAD", "--header", "Expect: 100-continue"]),
    ("/judge/refuse", &["--upload-file", "SHORT", "--header", "Expect: 100-continue"]),
];
const UPLOAD: usize = 20_000_000;

fn curl(way: &Way, version: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--disable", "--silent", "--show-error", "--max-time", "120", "--noproxy", "*", version]);
    curl.arg("--connect-to").arg(format!("{}:443:{}", way.server_name, way.address)).arg("--cacert").arg(&way.ca);
    if let Some((certificate, key)) = &way.credential {
        curl.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    curl.kill_on_drop(true);
    curl
}

/// Status, headers that are not of a hop, and sum of the body.
async fn ask(way: &Way, version: &str, path: &str, options: &[&str], folder: &Path) -> Result<String> {
    let (heads, body, upload) = (folder.join("heads"), folder.join("body"), folder.join("upload"));
    let mut curl = curl(way, version);
    for option in options {
        let short = folder.join("short").display().to_string();
        curl.arg(option.replace("UPLOAD", &upload.display().to_string()).replace("SHORT", &short));
    }
    curl.arg("--dump-header").arg(&heads).arg("--output").arg(&body);
    let output = curl.arg(format!("https://{}{path}", way.server_name)).output().await.context("curl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&heads)?;
    // The last head is that of the answer; before it are a 100, and behind a body trailers.
    let at = text.rfind("HTTP/").context("no head")?;
    let mut lines = text.get(at..).unwrap_or_default().lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in lines.take_while(|line| !line.trim().is_empty()).filter_map(|line| line.split_once(':')) {
        let name = name.to_ascii_lowercase();
        if !OF_A_HOP.contains(&name.as_str()) && name != "content-length" {
            headers.entry(name).or_default().push(value.trim().to_owned());
        }
    }
    let body = if options.contains(&"--head") { Vec::new() } else { std::fs::read(&body).unwrap_or_default() };
    let _ = (std::fs::remove_file(heads), std::fs::remove_file(folder.join("body")));
    Ok(format!("{status} {headers:?}, {} bytes {:x?}", body.len(), Sha256::digest(&body)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_sees_the_same_directly_and_through() -> Result<()> {
    let court = Court::open().await?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("upload"), vec![b'u'; UPLOAD])?;
    std::fs::write(folder.path().join("short"), vec![b's'; 100_000])?;
    for (server, direct, through, _) in &court.servers {
        for version in ["--http1.1", "--http2"] {
            for (path, options) in CURL {
                let case = format!("{server}: curl {version} {path} {options:?}");
                // By HTTP/2 hyper, which our users' port is as well, resets behind its answer what it has not read (RFC 9113,
                // section 8.1). curl 7.88 fails then, as it happens to come; Go asks for the same, and does not.
                if (version, *path) == ("--http2", "/judge/refuse") {
                    continue;
                }
                let ours = ask(through, version, path, options, folder.path()).await.with_context(|| case.clone())?;
                let theirs = ask(direct, version, path, options, folder.path()).await;
                let theirs = theirs.with_context(|| format!("{case}, directly"))?;
                assert_eq!(theirs, ours, "{case}");
            }
        }
        // A hundred at once on one connection.
        let mut curl = curl(through, "--http2");
        curl.args(["--parallel", "--parallel-max", "100", "--output"]).arg(folder.path().join("part-#1"));
        curl.args(["--write-out", "%{num_connects} %{http_version}\n"]);
        let url = format!("https://{}/judge/bytes?chunked=1&n=[20000-20099]", through.server_name);
        let output = curl.arg(url).output().await?;
        ensure!(output.status.success(), "{server}: {}", String::from_utf8_lossy(&output.stderr));
        let connects = String::from_utf8(output.stdout)?;
        let opened = connects.lines().filter(|line| line.starts_with("1 2")).count();
        assert_eq!((connects.lines().count(), opened), (100, 1), "{server}: {connects}");
        for n in 20_000..20_100 {
            let part = folder.path().join(format!("part-{n}"));
            assert_eq!(std::fs::metadata(&part)?.len(), n, "{server}");
        }
    }
    Ok(())
}

async fn nghttp(way: &Way, options: &[&str], path: &str) -> Result<Vec<u8>> {
    let mut nghttp = Command::new("nghttp");
    // Without verification it does not say that it could not.
    nghttp.args(["--no-verify-peer", "--timeout", "60"]).args(options);
    nghttp.arg("--header").arg(format!(":authority: {}", way.server_name));
    if let Some((certificate, key)) = &way.credential {
        nghttp.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    let output = nghttp.arg(format!("https://{}{path}", way.address)).kill_on_drop(true).output().await?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nghttp_sees_the_same_directly_and_through() -> Result<()> {
    if Command::new("nghttp").arg("--version").output().await.is_err() {
        let why = "nghttp is missing; run apt-get install nghttp2-client";
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}");
        eprintln!("SKIPPED: {why}");
        return Ok(());
    }
    let court = Court::open().await?;
    let folder = tempfile::tempdir()?;
    let upload = folder.path().join("upload");
    std::fs::write(&upload, vec![b'u'; UPLOAD])?;
    let upload = upload.display().to_string();
    for (server, direct, through, _) in &court.servers {
        for (options, path) in [
            (&[][..], "/judge/bytes?n=3000000"),
            (&["--window-bits=16", "--connection-window-bits=16"], "/judge/bytes?n=3000000&chunked=1"),
            (&["--padding=200", "--no-dep"], "/judge/echo"),
            (&["--data", &upload], "/judge/echo"),
            (&["--data", &upload, "--expect-continue"], "/judge/echo"),
            (&["--data", &upload, "--continuation"], "/judge/echo"),
        ] {
            if *server == "hyper" && options.contains(&"--continuation") {
                continue; // it has header lists that this server does not take
            }
            let case = format!("{server}: nghttp {options:?} {path}");
            let theirs = nghttp(direct, options, path).await.with_context(|| format!("{case}, directly"))?;
            let ours = nghttp(through, options, path).await.with_context(|| case.clone())?;
            assert!(!theirs.is_empty(), "{case}");
            assert!(theirs == ours, "{case}: {} {}", String::from_utf8_lossy(&theirs), String::from_utf8_lossy(&ours));
        }
        // Trailers of requests end at the users' port.
        let trailed = ["--data", &upload, "--trailer", "x-behind: the body"];
        let said = nghttp(through, &trailed, "/judge/echo").await?;
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(r#""whole":true"#) && !said.contains("x-behind"), "{server}: {said}");
        // The same a hundred times at once, which arrive mixed.
        let all = nghttp(through, &["--multiply=100"], "/judge/bytes?n=20000&chunked=1").await?;
        assert_eq!(all.len(), 2_000_000, "{server}");
    }
    Ok(())
}
