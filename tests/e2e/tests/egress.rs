//! Out of a guarded network: everything that an agent dials goes through a real Squid, the only one who can look up the
//! installation's names.

use anyhow::{Result, ensure};
use ztka_e2e::{Both, Fleet, Installation, Squid, Upstream, free_port};
use ztka_test_cluster::{Cluster, Options, wait_for};

/// Nobody but Squid knows it (RFC 6761: it never resolves).
const HOST: &str = "front.ztka.invalid";

fn is_missing() -> bool {
    let Some(why) = Squid::missing() else { return false };
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}");
    eprintln!("SKIPPED: {why}");
    true
}

/// An `[egress]` table with the credentials of the one user.
fn table(squid: &Squid, proxy: &str, password: &str) -> Result<String> {
    let file = squid.path("password");
    std::fs::write(&file, password)?;
    let (file, ca) = (file.display().to_string(), squid.path("ca.pem").display().to_string());
    let user = Squid::USER.0;
    Ok(format!("[egress]\nproxy = '{proxy}'\nuser = '{user}'\npassword_file = '{file}'\nca_files = ['{ca}']\n"))
}

/// The lines of the log of Squid's tunnels that were made.
fn tunnels(squid: &Squid) -> usize {
    let user = format!(" {} ", Squid::USER.0);
    squid.asked().lines().filter(|line| line.contains("TCP_TUNNEL/200 ") && line.contains(&user)).count()
}

/// An agent's name, its configuration, its environment, and what it is to say.
type Case<'a> = (&'a str, String, Vec<(String, String)>, &'a str);

#[tokio::test]
async fn an_agent_lives_behind_a_proxy_with_credentials_and_tls() -> Result<()> {
    if is_missing() {
        return Ok(());
    }
    // The ports that Squid may connect to have to be known before: an installation that picks them, and then the agents'.
    let fleet = Fleet::start().await?;
    let port = fleet.front();
    let mut squid = Squid::start(HOST, &[port]).await?;
    let cluster = Cluster::level1(Options::default()).await?;
    let agents = Installation {
        agent_host: Some(HOST.into()),
        agent_config: table(&squid, &format!("https://localhost:{}", squid.tls_port), Squid::USER.1)?,
        ..Installation::default()
    };
    let mut both = Both::in_fleet(cluster, fleet.with_agents(agents)).await?;
    both.same("get namespaces -o name").await?;
    let line = format!("CONNECT {HOST}:{port} {} ", Squid::USER.0);

    // Squid dies with every tunnel, comes back, and so does the agent: with a new look-up and a new CONNECT.
    squid.process.kill();
    ensure!(squid.asked().is_empty() || squid.asked().contains(&line), "{}", squid.asked());
    let key = ("acme".to_owned(), "dev".to_owned());
    wait_for("the agent's word for it", || async {
        let said = both.fleet.agents[&key].process.tail();
        ensure!(said.contains("is not reached; check its URL, and that it runs"), "{said}");
        Ok(())
    })
    .await?;
    squid.restart().await?;
    wait_for("the cluster again", || async { both.through.ok(["get", "--raw", "/version"]).await }).await?;

    // When the agent ends, its tunnels are in Squid's log.
    if let Some(mut agent) = both.fleet.agents.remove(&key) {
        agent.process.terminate()?;
    }
    wait_for("the log of the tunnels", || async {
        ensure!(tunnels(&squid) >= 2 && squid.asked().contains(&line), "{}", squid.said());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_proxy_refuses_is_said_with_what_to_do() -> Result<()> {
    if is_missing() {
        return Ok(());
    }
    let mut fleet = Fleet::start().await?;
    fleet.org("acme").await?;
    // One that may connect to the front, and one that may connect elsewhere only.
    let good = Squid::start(HOST, &[fleet.front()]).await?;
    let elsewhere = Squid::start(HOST, &[free_port()?]).await?;
    let plain = |squid: &Squid| format!("http://localhost:{}", squid.port);
    let word = Squid::USER.1;
    let with =
        |squid: &Squid| format!("http://{}:{}@localhost:{}", Squid::USER.0, word.replace(' ', "%20"), squid.port);
    let environment = |list: &[(&str, &str)]| {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let gone = format!("http://localhost:{}", free_port()?);
    let tls = format!("https://localhost:{}", good.tls_port);
    let cases: [Case<'_>; 9] = [
        ("wrong", table(&good, &plain(&good), "no")?, vec![], "does not accept the credentials"),
        ("none", String::new(), environment(&[("HTTPS_PROXY", &plain(&good))]), "give it a user and a password"),
        (
            "port",
            String::new(),
            environment(&[("HTTPS_PROXY", &with(&elsewhere))]),
            "403 Forbidden; have its rules allow",
        ),
        ("gone", format!("[egress]\nproxy = '{gone}'\n"), vec![], "is not reached; check its URL"),
        ("ca", format!("[egress]\nproxy = '{tls}'\n"), vec![], "add its CA to the egress CA files"),
        ("scheme", format!("[egress]\nproxy = 'http://localhost:{}'\n", good.tls_port), vec![], "scheme and port"),
        // Directly there is no such name.
        ("direct", String::new(), vec![], "cannot look up front.ztka.invalid; check the name and DNS"),
        (
            "except",
            String::new(),
            environment(&[("https_proxy", &with(&good)), ("no_proxy", "x,.ztka.invalid")]),
            "cannot look up front.ztka.invalid; check the name and DNS",
        ),
        ("right", String::new(), environment(&[("https_proxy", &with(&good)), ("NO_PROXY", "ztka.test")]), "enrolled"),
    ];
    for (name, agent_config, agent_environment, said) in cases {
        let agents =
            Installation { agent_host: Some(HOST.into()), agent_config, agent_environment, ..Installation::default() };
        fleet = fleet.with_agents(agents);
        fleet.ztka(&["--org", "acme", "cluster", "create", name]).await?;
        let token = fleet.ztka(&["--org", "acme", "cluster", "token", name]).await?;
        let nowhere = fleet.path("apiserver");
        std::fs::write(&nowhere, std::fs::read(good.path("ca.pem"))?)?;
        // Enrolment is what comes first; no apiserver is asked before.
        let upstream = Upstream { url: "https://127.0.0.1:1", ca: &nowhere, token: &nowhere };
        fleet.start_agent("acme", name, upstream, &token)?;
        let key = ("acme".to_owned(), name.to_owned());
        wait_for("what the agent says", || async {
            let log = fleet.agents[&key].process.tail();
            ensure!(log.contains(said), "{name}: {said:?} is not in\n{log}\n{}", good.said());
            ensure!(!log.contains(word) && !log.contains("open%20"), "{name}: the password is in the log\n{log}");
            Ok(())
        })
        .await?;
        fleet.agents.remove(&key);
    }
    Ok(())
}

#[tokio::test]
async fn a_proxy_reaches_its_controller_the_same_way() -> Result<()> {
    if is_missing() {
        return Ok(());
    }
    let internal = free_port()?;
    let mut squid = Squid::start(HOST, &[internal]).await?;
    let proxy_config = table(&squid, &format!("http://localhost:{}", squid.port), Squid::USER.1)?;
    let wanted = Installation { proxy_config, controller_port: Some(internal), ..Installation::default() };
    let mut fleet = Fleet::start_with(wanted).await?;
    fleet.org("acme").await?;
    fleet.proxies[0].process.terminate()?;
    wait_for("the log of the tunnels", || async {
        ensure!(tunnels(&squid) >= 2, "{}", squid.said());
        Ok(())
    })
    .await?;
    squid.process.kill();
    Ok(())
}
