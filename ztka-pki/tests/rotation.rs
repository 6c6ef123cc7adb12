//! Rotation of every authority: step by step, with everybody connected; killed at every write; in an emergency.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod support;
#[path = "support/world.rs"]
mod world;

use support::{id, key};
use world::{World, believes, days};
use ztka_core::{Clock as _, Subject};
use ztka_pki::{
    AuthorityName, Awaited, CaPin, Credential, CrlContents, KeyError, Phase, Purpose, RotationError, Straggler,
};

fn agent(org: &str, instance: &str) -> Subject {
    Subject::Agent { org: id(org), cluster: id("c1"), instance: id(instance) }
}

fn proxy(name: &str) -> Subject {
    Subject::Proxy(id(name))
}

fn all() -> Vec<AuthorityName> {
    let names =
        ["root", "servers", "agents", "users", "proxies", "controllers", "signing", "agents.acme", "users.acme"];
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// Everybody who should be connected is.
async fn everybody_is_connected(world: &World, when: &str) {
    for (agent, named) in [(agent("acme", "i1"), "acme"), (agent("evil", "i2"), "evil")] {
        for p in ["p1", "p2"] {
            assert!(world.tunnel(&agent, &proxy(p)).await, "{when}: the agent of {named} to {p}");
        }
    }
    let kubeconfigs = world.folk.0.lock().unwrap().kubeconfigs.clone();
    let now = world.clock.now();
    for (number, kubeconfig) in kubeconfigs.iter().enumerate().filter(|(_, one)| one.credential.not_after() > now) {
        for p in ["p1", "p2"] {
            assert!(world.kubectl(kubeconfig, &proxy(p)), "{when}: kubeconfig {number} at {p}");
        }
    }
    let newest = world.server().await;
    let people = world.folk.0.lock().unwrap();
    for member in people.members.iter().filter(|member| member.purpose == Purpose::Agents) {
        let trust = member.trust.bundle();
        let anchors = &trust.anchors[&Purpose::Servers];
        let known =
            anchors.iter().any(|anchor| CaPin::of(&anchor.certificate.certificate()) == CaPin::of(&newest.chain()[1]));
        assert!(known, "{when}: {:?} at the controller", member.subject);
    }
}

fn waits_for(done: Result<(), RotationError>, awaited: Awaited) -> Vec<Straggler> {
    match done {
        Err(RotationError::Waiting(waiting)) => {
            assert!(waiting.iter().any(|straggler| straggler.awaited == awaited), "{waiting:?}");
            waiting
        }
        other => panic!("{other:?} does not wait for {awaited:?}"),
    }
}

#[test]
fn authorities_have_names() {
    for name in all() {
        assert_eq!(name.to_string().parse::<AuthorityName>().unwrap(), name);
    }
    for bad in ["", "Root", "root.acme", "servers.acme", "agents.", "agents.A", "agents.a.b", "nobody"] {
        assert!(bad.parse::<AuthorityName>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn each_authority_is_replaced_while_everybody_stays_connected() {
    for name in all() {
        let world = World::new().await;
        let (rotator, hierarchy) = (&world.process.rotator, &world.process.hierarchy);
        let before = hierarchy.state();
        let old_key = before.rotations.is_empty().then(|| match &name {
            AuthorityName::Root => before.root.key.clone(),
            AuthorityName::Purpose(purpose) => before.purposes[purpose].key.clone(),
            AuthorityName::Org(..) => name.to_string(),
        });
        let stale: Vec<_> = {
            let people = world.folk.0.lock().unwrap();
            let stale = people.members.iter().map(|member| (member.purpose, member.credential.current()));
            stale.collect()
        };
        let stale_server = world.server().await;

        rotator.publish(&name, false).await.unwrap();
        everybody_is_connected(&world, &format!("{name} is published, and nobody has heard")).await;
        waits_for(rotator.activate(&name, false).await, Awaited::Trust);
        world.hear().await;
        world.renew().await;
        everybody_is_connected(&world, &format!("{name} is published")).await;
        rotator.publish(&name, false).await.unwrap(); // once more, to no effect
        world.kubeconfig(days(30)).await;

        rotator.activate(&name, false).await.unwrap();
        rotator.activate(&name, false).await.unwrap();
        everybody_is_connected(&world, &format!("{name} is activated, and nobody has heard")).await;
        // What the old one has issued is still believed: it can be revoked, and listed by the old one.
        let crl = CrlContents {
            number: 1,
            this_update: world.clock.now(),
            next_update: world.clock.now() + days(1),
            revoked: Vec::new(),
        };
        for outgoing in hierarchy.trust_bundle().retiring {
            assert!(hierarchy.issuers().iter().any(|issuer| issuer.key == outgoing), "{name}");
            assert!(hierarchy.sign_crl(&outgoing, &crl).await.unwrap().is_some(), "{name}");
        }
        waits_for(rotator.retire(&name, false).await, Awaited::Trust);
        world.hear().await;
        if !matches!(name, AuthorityName::Purpose(Purpose::Controllers | Purpose::Signing)) {
            // Those who have a certificate by it, or know nothing else.
            let awaited = match &name {
                AuthorityName::Root | AuthorityName::Purpose(Purpose::Servers) => Awaited::ServerChain,
                AuthorityName::Purpose(Purpose::Users) | AuthorityName::Org(Purpose::Users, _) => Awaited::Credential,
                _ => Awaited::Certificate,
            };
            waits_for(rotator.retire(&name, false).await, awaited);
        }
        world.renew().await;
        world.kubeconfig(days(90)).await;
        everybody_is_connected(&world, &format!("{name} is activated")).await;
        let users = matches!(&name, AuthorityName::Purpose(Purpose::Users) | AuthorityName::Org(Purpose::Users, _));
        if users || name == AuthorityName::Root {
            let awaited = if users { Awaited::Credential } else { Awaited::Root };
            waits_for(rotator.retire(&name, false).await, awaited);
            // Kubeconfigs run out; the others go on renewing every other day.
            for _ in 0..20 {
                world.advance(days(2));
                world.hear().await;
                world.renew().await;
                everybody_is_connected(&world, &format!("{name} waits for kubeconfigs")).await;
            }
        }
        rotator.retire(&name, false).await.unwrap();
        everybody_is_connected(&world, &format!("{name} is retired, and nobody has heard")).await;
        world.hear().await;
        everybody_is_connected(&world, &format!("{name} is retired")).await;

        let after = world.states.stored();
        assert!(after.rotations.is_empty() && after.discarded.is_empty(), "{after:?}");
        let gone = world.keys.open(&old_key.unwrap().parse().unwrap()).await;
        assert!(matches!(gone, Err(KeyError::Absent(_))), "{name}: its key is destroyed");
        let bundle = hierarchy.trust_bundle();
        assert!(bundle.retiring.is_empty() && bundle.revoked.is_empty() && bundle.roots.len() == 1);
        assert!(bundle.anchors.values().all(|anchors| anchors.len() == 1) && bundle.signing_keys.len() == 1);
        // What was issued by it is refused: of its purpose, or its organisation, alone.
        for (purpose, credential) in stale {
            let org = matches!(credential.id().unwrap().subject, Subject::Agent { org, .. } if org.as_str() == "acme");
            let hit = name == AuthorityName::Purpose(purpose)
                || (name == AuthorityName::Org(Purpose::Agents, id("acme")) && org);
            let late = credential.not_after() < world.clock.now();
            assert_eq!(world.verify(purpose, credential.chain()), !hit && !late, "{name}: {credential:?}");
        }
        let root = hierarchy.root();
        let servers_hit = matches!(name, AuthorityName::Root);
        let late = stale_server.not_after() < world.clock.now();
        assert_eq!(believes(&[root], stale_server.chain(), world.clock.now()), !servers_hit && !late, "{name}");
    }
}

/// openssl's opinion of what servers show while the root is rotated: by the old root, the new one, and no other.
#[tokio::test]
async fn openssl_believes_servers_by_either_root() {
    let world = World::new().await;
    let old = world.process.hierarchy.root_pem();
    world.process.rotator.publish(&AuthorityName::Root, false).await.unwrap();
    world.process.rotator.activate(&AuthorityName::Root, true).await.unwrap();
    let both = world.process.hierarchy.root_pem();
    let new = both.strip_suffix(&old).unwrap();
    let stranger = World::new().await.process.hierarchy.root_pem();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let key = key();
    let chain = world.process.hierarchy.issue_server(key.public(), &["*.kube.example.com"]).await.unwrap().pem();
    let end = chain.find("-----END CERTIFICATE-----\n").unwrap() + 26;
    let (leaf, above) = (write("leaf", &chain[..end]), write("above", &chain[end..]));
    for (root, believed) in [(old.as_str(), true), (new, true), (both.as_str(), true), (stranger.as_str(), false)] {
        let root = write("root", root);
        let at = world.clock.now().as_second().to_string();
        let purpose = ["-purpose", "sslserver", "-verify_hostname", "c1.kube.example.com", "-x509_strict"];
        let verify = std::process::Command::new("openssl")
            .args(["verify", "-attime", &at, "-CAfile", &root, "-no-CApath", "-no-CAstore", "-untrusted", &above])
            .args(purpose)
            .arg(&leaf)
            .output()
            .unwrap();
        assert_eq!(verify.status.success(), believed, "{}", String::from_utf8_lossy(&verify.stderr));
    }
}

#[tokio::test]
async fn a_rotation_goes_back_before_it_is_retired() {
    for name in all() {
        let world = World::new().await;
        let rotator = &world.process.rotator;
        let before = world.states.stored();
        rotator.publish(&name, false).await.unwrap();
        let new_key: ztka_pki::KeyName = world.states.stored().rotations[&name].standby.key.parse().unwrap();
        world.hear().await;
        rotator.roll_back(&name).await.unwrap();
        let after = world.states.stored();
        assert_eq!(
            (&after.root, &after.purposes, &after.rotations),
            (&before.root, &before.purposes, &before.rotations)
        );
        assert!(matches!(world.keys.open(&new_key).await, Err(KeyError::Absent(_))), "{name}");
        world.hear().await;
        everybody_is_connected(&world, "rolled back").await;
        assert!(matches!(rotator.roll_back(&name).await, Err(RotationError::NotRotating(_))));

        rotator.publish(&name, false).await.unwrap();
        world.hear().await;
        rotator.activate(&name, false).await.unwrap();
        world.hear().await;
        world.renew().await; // now they have certificates by the new one
        rotator.roll_back(&name).await.unwrap();
        everybody_is_connected(&world, &format!("{name} was rolled back, and nobody has heard")).await;
        world.hear().await;
        world.renew().await;
        everybody_is_connected(&world, &format!("{name} was rolled back")).await;
        // Nobody has a certificate by the new one any more, but for kubeconfigs, of which none was made.
        rotator.retire(&name, false).await.unwrap();
        world.hear().await;
        everybody_is_connected(&world, &format!("{name} was rolled back and retired")).await;
        let after = world.states.stored();
        assert_eq!(
            (&after.root, &after.purposes, &after.rotations),
            (&before.root, &before.purposes, &before.rotations)
        );
    }
}

#[tokio::test]
async fn steps_are_taken_in_their_order_and_not_while_paused() {
    let world = World::new().await;
    let rotator = &world.process.rotator;
    let agents: AuthorityName = "agents".parse().unwrap();
    let (root, servers) = ("root".parse().unwrap(), "servers".parse().unwrap());
    assert!(matches!(rotator.activate(&agents, true).await, Err(RotationError::NotRotating(_))));
    assert!(matches!(rotator.retire(&agents, true).await, Err(RotationError::NotRotating(_))));
    assert!(matches!(rotator.pause(&agents).await, Err(RotationError::NotRotating(_))));
    rotator.publish(&agents, true).await.unwrap();
    assert!(matches!(rotator.retire(&agents, true).await, Err(RotationError::Phase { phase: Phase::Published, .. })));
    assert!(matches!(rotator.publish(&root, false).await, Err(RotationError::InTheWay { .. })));
    rotator.pause(&agents).await.unwrap();
    world.hear().await;
    assert!(matches!(rotator.activate(&agents, true).await, Err(RotationError::Paused(_))));
    assert!(matches!(rotator.roll_back(&agents).await, Err(RotationError::Paused(_))));
    assert!(rotator.advance().await.unwrap().is_empty());
    rotator.resume(&agents).await.unwrap();
    world.hear().await;
    // By itself from here on, each step as soon as all are ready for it.
    assert_eq!(rotator.advance().await.unwrap(), [(agents.clone(), "activate")]);
    assert!(rotator.advance().await.unwrap().is_empty());
    world.hear().await;
    world.renew().await;
    assert_eq!(rotator.advance().await.unwrap(), [(agents.clone(), "retire")]);
    assert!(world.states.stored().rotations.is_empty());

    rotator.publish(&root, false).await.unwrap();
    assert!(matches!(rotator.publish(&servers, false).await, Err(RotationError::InTheWay { .. })));
    rotator.activate(&root, true).await.unwrap();
    // A root waits long; meanwhile the others are rotated under the new one, and then it cannot be undone.
    for step in 0..2 {
        match step {
            0 => rotator.publish(&servers, false).await.unwrap(),
            _ => rotator.activate(&servers, true).await.unwrap(),
        }
        world.hear().await;
        world.renew().await;
        everybody_is_connected(&world, "servers within root").await;
    }
    rotator.retire(&servers, false).await.unwrap();
    assert!(matches!(rotator.roll_back(&root).await, Err(RotationError::Replaced(Purpose::Servers))));
    // Nobody but who is missing is listed, and a sleeper is waited for until its certificate is over.
    world.folk.0.lock().unwrap().members[0].asleep = true;
    let signing = "signing".parse().unwrap();
    rotator.publish(&signing, false).await.unwrap();
    world.hear().await;
    let waiting = waits_for(rotator.activate(&signing, false).await, Awaited::Trust);
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].who, agent("acme", "i1").to_string());
    world.advance(days(4));
    world.folk.0.lock().unwrap().members.truncate(1);
    rotator.activate(&signing, false).await.unwrap();
}

/// Takes a rotation to its end, wherever it is.
async fn finish(world: &World, name: &AuthorityName, emergency: bool) -> Result<(), RotationError> {
    let rotator = &world.process.rotator;
    if emergency {
        rotator.cut_off(name).await?;
    } else {
        if !world.states.stored().rotations.contains_key(name) {
            rotator.publish(name, false).await?;
        }
        world.hear().await;
        if world.states.stored().rotations[name].phase == Phase::Published {
            rotator.activate(name, false).await?;
        }
        world.hear().await;
        world.renew().await;
        rotator.retire(name, true).await?;
    }
    world.hear().await;
    rotator.settle().await.map(drop)
}

#[tokio::test]
async fn a_process_that_is_killed_at_any_write_leaves_what_the_next_can_finish() {
    for name in all() {
        for emergency in [false, true] {
            for after in [false, true] {
                let mut kills = 0;
                loop {
                    let mut world = World::new().await;
                    let before = world.states.stored();
                    world.killer.arm(kills, after);
                    let done = finish(&world, &name, emergency).await;
                    if world.killer.disarm() {
                        done.unwrap();
                        break;
                    }
                    let when = format!("{name}, emergency {emergency}, killed at write {kills}, after it {after}");
                    assert!(done.is_err(), "{when}");
                    world.restart().await;
                    world.hear().await;
                    let stored = world.states.stored();
                    let begun = stored.rotations.contains_key(&name);
                    let finished = !begun && stored.generation > before.generation + 1;
                    if !finished {
                        everybody_is_connected(&world, &when).await;
                    }
                    match finished {
                        // All but the destruction of the key was done.
                        true => drop(world.process.rotator.settle().await.unwrap()),
                        false => finish(&world, &name, emergency).await.unwrap(),
                    }
                    world.hear().await;
                    world.process.rotator.settle().await.unwrap();
                    let stored = world.states.stored();
                    assert!(stored.rotations.is_empty() && stored.discarded.is_empty(), "{when}: {stored:?}");
                    assert!(stored.announcer.is_none(), "{when}");
                    let signs = |state: &ztka_pki::HierarchyState| match &name {
                        AuthorityName::Root => state.root.key.clone(),
                        AuthorityName::Purpose(purpose) => state.purposes[purpose].key.clone(),
                        AuthorityName::Org(..) => String::new(),
                    };
                    if !matches!(name, AuthorityName::Org(..)) {
                        assert_ne!(signs(&stored), signs(&before), "{when}");
                        let old = world.keys.open(&signs(&before).parse().unwrap()).await;
                        assert!(matches!(old, Err(KeyError::Absent(_))), "{when}: the old key is gone");
                    } else {
                        let old = world.keys.open(&name.to_string().parse().unwrap()).await;
                        assert!(matches!(old, Err(KeyError::Absent(_))), "{when}: the old key is gone");
                    }
                    // And it issues what is believed.
                    for subject in [agent("acme", "i1"), agent("evil", "i2"), proxy("p1"), proxy("p2")] {
                        world.join(subject).await;
                    }
                    world.folk.0.lock().unwrap().kubeconfigs.clear();
                    world.kubeconfig(days(1)).await;
                    everybody_is_connected(&world, &when).await;
                    kills += 1;
                    assert!(kills < 40);
                }
                assert!(kills >= 4, "{name}: {kills} writes");
            }
        }
    }
}

#[tokio::test]
async fn what_one_process_rotates_the_others_issue_by() {
    let world = World::new().await;
    let other = world.another().await;
    let mut changes = other.hierarchy.changes();
    let credential = Credential::new(
        {
            let key = key();
            let issued = other.hierarchy.issue_server(key.public(), &["kube.example.com"]).await.unwrap();
            issued.chain().to_vec()
        },
        &key(),
    );
    assert!(credential.is_err(), "another key's");
    let own = world.server().await;
    for name in all() {
        let rotator = &world.process.rotator;
        rotator.publish(&name, false).await.unwrap();
        world.hear().await;
        // The other has not looked yet: whoever is second finds it done.
        let by_other = other.rotator.activate(&name, false).await;
        by_other.unwrap();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        rotator.refresh().await.unwrap();
        assert!(!rotator.refresh().await.unwrap());
        assert_eq!(world.process.hierarchy.trust_bundle(), other.hierarchy.trust_bundle());
        world.hear().await;
        world.renew().await;
        other.rotator.retire(&name, true).await.unwrap();
        assert!(rotator.refresh().await.unwrap());
        world.hear().await;
        world.renew().await;
        // A kubeconfig of before is lost, as was said.
        world.folk.0.lock().unwrap().kubeconfigs.clear();
        world.kubeconfig(days(1)).await;
        everybody_is_connected(&world, &format!("{name}, rotated by two")).await;
    }
    assert!(world.process.hierarchy.has_moved_on(Purpose::Servers, &own));
    assert!(!world.process.hierarchy.has_moved_on(Purpose::Servers, &world.server().await));
    // Two at once: one of them is told.
    let agents: AuthorityName = "agents".parse().unwrap();
    let (one, two) = tokio::join!(world.process.rotator.publish(&agents, false), other.rotator.publish(&agents, false));
    assert!(one.is_ok() || two.is_ok());
    assert_eq!(world.states.stored().rotations.len(), 1);
}

#[tokio::test]
async fn an_organisation_is_cut_off_alone_and_at_once() {
    let world = World::new().await;
    world.kubeconfig(days(30)).await;
    let (acme, evil) = (agent("acme", "i1"), agent("evil", "i2"));
    let (before, connected) = {
        let people = world.folk.0.lock().unwrap();
        let credential = people.members[0].credential.current();
        let proxy = &people.members[2];
        (credential.clone(), proxy.trust.verify(Purpose::Agents, credential.chain()).unwrap())
    };
    let trust = world.folk.0.lock().unwrap().members[2].trust.clone();
    let lost = world.process.rotator.cut_off(&"agents.acme".parse().unwrap()).await.unwrap();
    assert!(lost.iter().any(|straggler| straggler.who == acme.to_string()), "{lost:?}");
    world.hear().await;
    // New connections and those that are up; only this organisation's agents, and not its users.
    assert!(!world.tunnel(&acme, &proxy("p1")).await);
    assert!(trust.is_revoked(&connected));
    assert!(world.tunnel(&evil, &proxy("p1")).await);
    let kubeconfig = world.folk.0.lock().unwrap().kubeconfigs[0].clone();
    assert!(world.kubectl(&kubeconfig, &proxy("p1")));
    assert!(!world.verify(Purpose::Agents, before.chain()));
    // It comes back with a new token, under the same name.
    world.join(acme.clone()).await;
    assert!(world.tunnel(&acme, &proxy("p1")).await);

    let lost = world.process.rotator.cut_off(&"users.acme".parse().unwrap()).await.unwrap();
    assert_eq!(lost.len(), 2, "the kubeconfigs that break: {lost:?}");
    world.hear().await;
    assert!(!world.kubectl(&kubeconfig, &proxy("p1")));
    assert!(world.tunnel(&acme, &proxy("p1")).await && world.tunnel(&evil, &proxy("p1")).await);
    let refreshed = world.kubeconfig(days(30)).await;
    assert!(world.kubectl(&refreshed, &proxy("p1")));
    // It is forgotten once its certificate would be over.
    assert_eq!(world.states.stored().withdrawn.len(), 2);
    world.clock.advance(days(5 * 365 + 1));
    world.process.rotator.settle().await.unwrap();
    assert_eq!(world.states.stored().withdrawn.len(), 2, "its key may have been certified for longer");
    world.clock.advance(days(5 * 365));
    world.process.rotator.settle().await.unwrap();
    assert!(world.states.stored().withdrawn.is_empty());
}

#[tokio::test]
async fn in_an_emergency_the_old_one_is_believed_no_longer_from_then_on() {
    for name in all() {
        let world = World::new().await;
        let old = world.states.stored();
        let members: Vec<_> = {
            let people = world.folk.0.lock().unwrap();
            people
                .members
                .iter()
                .map(|member| (member.subject.clone(), member.purpose, member.credential.current()))
                .collect()
        };
        let lost = world.process.rotator.cut_off(&name).await.unwrap();
        let who = |subject: &Subject| lost.iter().any(|straggler| straggler.who == subject.to_string());
        world.hear().await;
        world.renew().await;
        for (subject, purpose, credential) in members {
            let still = world.verify(purpose, credential.chain());
            assert_eq!(still, !who(&subject), "{name}: exactly those listed are left outside: {subject}");
        }
        let kubeconfig = world.folk.0.lock().unwrap().kubeconfigs[0].clone();
        let listed = lost.iter().any(|straggler| matches!(straggler.awaited, Awaited::Credential | Awaited::Root));
        if !matches!(name, AuthorityName::Purpose(Purpose::Proxies)) {
            assert_eq!(world.kubectl(&kubeconfig, &proxy("p1")), !listed, "{name}");
        }
        // Everybody who was left outside joins again, and all is as before.
        for subject in
            [agent("acme", "i1"), agent("evil", "i2"), proxy("p1"), proxy("p2")].iter().filter(|one| who(one))
        {
            world.join(subject.clone()).await;
        }
        if listed {
            world.folk.0.lock().unwrap().kubeconfigs.clear();
            world.kubeconfig(days(30)).await;
        }
        world.hear().await;
        everybody_is_connected(&world, &format!("{name} was cut off")).await;
        assert!(world.states.stored().rotations.is_empty(), "{name}");
        // Nobody has the old signing key any more, once all have heard.
        world.process.rotator.settle().await.unwrap();
        let state = world.states.stored();
        assert!(state.announcer.is_none() && state.discarded.is_empty());
        world.hear().await;
        assert!(
            world.folk.0.lock().unwrap().members.iter().all(|member| member.confirmed == state.generation),
            "{name}"
        );
        assert!(state.generation > old.generation);
    }
}

/// What is stored of an organisation's authority and of its rotation is one thing, wherever a controller is killed.
#[tokio::test]
async fn an_emergency_that_was_cut_short_can_be_rolled_back() {
    for purpose in ["agents", "users"] {
        let name: AuthorityName = format!("{purpose}.acme").parse().unwrap();
        let mut left = 0;
        loop {
            let mut world = World::new().await;
            world.process.rotator.publish(&name, false).await.unwrap();
            world.killer.arm(left, false);
            let done = world.process.rotator.cut_off(&name).await;
            if world.killer.disarm() {
                done.unwrap();
                break;
            }
            world.restart().await;
            // Whoever looks after it thinks better of it, if it is not too late.
            match world.process.rotator.roll_back(&name).await {
                Ok(_) | Err(RotationError::NotRotating(_)) => {}
                Err(error) => panic!("{name}, killed at write {left}: {error}"),
            }
            world.process.rotator.settle().await.unwrap();
            world.restart().await;
            world.issue(&agent("acme", "i9"), &key()).await;
            world.kubeconfig(days(1)).await;
            left += 1;
        }
        assert!(left > 1, "{name}: {left} writes");
    }
}

#[tokio::test]
async fn what_could_not_be_opened_again_is_not_stored() {
    let world = World::new().await;
    let name: AuthorityName = "agents".parse().unwrap();
    world.process.rotator.publish(&name, false).await.unwrap();
    // Somebody has tidied up the token.
    let before = world.states.stored();
    world.keys.destroy(&before.rotations[&name].standby.key.parse().unwrap()).await.unwrap();
    assert!(world.process.rotator.activate(&name, true).await.is_err());
    assert_eq!(world.states.stored(), before, "a controller that starts now can open it");
    world.process.rotator.roll_back(&name).await.unwrap();
    world.process.rotator.publish(&name, false).await.unwrap();
    world.process.rotator.activate(&name, true).await.unwrap();
}
