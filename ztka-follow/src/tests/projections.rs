//! Agents go by the part of policy that is theirs, and proxies hand it on.

use ztka_core::Rejected;

use super::*;

const WHOLE: &str = "policy.acme..json";
const OWN: &str = "policy.acme.c1.json";

impl Stage {
    /// An agent of c1 after a start.
    fn agent(&self) -> Documents {
        let (trust, state) = (self.hierarchy.trust_bundle(), Some(self.directory()));
        let own = ("acme".parse().unwrap(), "c1".parse().unwrap());
        Documents::open_for(own, trust, state, self.provider.clone(), Arc::new(self.clock.clone())).unwrap()
    }

    /// The policy of these clusters; the projection to `subject`, or the whole.
    async fn policy(&self, subject: &str, version: u64, clusters: &[&str]) -> SignedDocument {
        let clusters: Vec<_> = clusters.iter().map(|id| json!({"id": id, "name": id})).collect();
        self.sign(self.header(DocumentKind::Policy, subject, version), &json!({ "clusters": clusters })).await
    }
}

/// Clusters and version of what is in force.
fn in_force(documents: &Documents) -> (Vec<String>, u64) {
    let policy = documents.engine().policy(&"acme".parse().unwrap()).unwrap();
    (policy.clusters().iter().map(|cluster| cluster.id.to_string()).collect(), policy.revision().version)
}

fn of(clusters: &[&str], version: u64) -> (Vec<String>, u64) {
    (clusters.iter().map(ToString::to_string).collect(), version)
}

#[tokio::test]
async fn an_agent_puts_nothing_in_force_but_its_own_clusters_projection() {
    let stage = Stage::set().await;
    let documents = stage.agent();
    assert_eq!(documents.accept(stage.policy("c2", 1, &["c2"]).await), Err(Rejected::Foreign), "before there is one");
    assert_eq!(documents.accept(stage.policy("c1", 2, &["c1"]).await), Ok(true));
    // Newer, and signed as it may be: in it there is no such cluster.
    assert_eq!(documents.accept(stage.policy("c2", 3, &["c2"]).await), Err(Rejected::Foreign));
    assert_eq!(in_force(&documents), of(&["c1"], 2));
    assert_eq!(
        documents.accept(stage.policy("", 3, &["c1", "c2"]).await),
        Ok(false),
        "the whole is of no use any more"
    );
    assert_eq!(in_force(&documents), of(&["c1"], 2));
    assert_eq!(documents.accept(stage.policy("c1", 1, &["c1"]).await), Err(Rejected::Rollback));
    let elsewhere = DocumentHeader {
        series: SeriesKey::policy("other".parse().unwrap()),
        ..stage.header(DocumentKind::Policy, "", 9)
    };
    assert_eq!(documents.accept(stage.sign(elsewhere, &json!({})).await), Err(Rejected::Foreign));
    // What is not signed is refused for that, whatever it is.
    for subject in ["", "c1", "c2"] {
        let forged = forged(&stage.policy(subject, 9, &["c1"]).await);
        assert_eq!(documents.accept(forged), Err(Rejected::Signature), "{subject}");
    }
    documents.settle();
    let kept: Vec<_> = fs::read_dir(stage.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(kept, [OWN]);
}

#[tokio::test]
async fn an_agent_goes_by_the_whole_that_it_has_until_its_projection_comes() {
    let stage = Stage::set().await;
    // As an earlier version has left it.
    let documents = stage.documents();
    documents.accept(stage.policy("", 5, &["c1", "c2"]).await).unwrap();
    documents.keep_feed(7);
    documents.settle();
    let documents = stage.agent();
    assert_eq!((documents.start(), in_force(&documents)), (7, of(&["c1", "c2"], 5)));
    // With controllers of before, it goes on with it.
    assert_eq!(documents.accept(stage.policy("", 6, &["c1", "c2"]).await), Ok(true));
    // What is older than what it goes by takes nothing back.
    assert_eq!(documents.accept(stage.policy("c1", 5, &["c1"]).await), Err(Rejected::Rollback));
    assert_eq!(in_force(&documents), of(&["c1", "c2"], 6));

    assert_eq!(documents.accept(stage.policy("c1", 6, &["c1"]).await), Ok(true), "of the same version");
    assert_eq!(in_force(&documents), of(&["c1"], 6));
    documents.settle();
    assert!(stage.kept(OWN).exists() && !stage.kept(WHOLE).exists());
    let again = stage.agent();
    assert_eq!((again.start(), in_force(&again)), (7, of(&["c1"], 6)));
}

#[tokio::test]
async fn what_is_kept_and_not_for_this_agent_is_removed_at_the_start() {
    let stage = Stage::set().await;
    let proxy = stage.documents();
    for (subject, clusters) in [("", &["c1", "c2"][..]), ("c1", &["c1"]), ("c2", &["c2"])] {
        proxy.accept(stage.policy(subject, 5, clusters).await).unwrap();
    }
    proxy.keep_feed(7);
    proxy.settle();
    // Also when the whole is not believed any more, as nobody signs it again for an agent.
    let old = fs::read(stage.kept(WHOLE)).unwrap();
    stage.clock.advance(SignedDuration::from_hours(20));
    proxy.accept(stage.policy("c1", 5, &["c1"]).await).unwrap();
    proxy.settle();
    fs::write(stage.kept(WHOLE), old).unwrap();
    stage.clock.advance(SignedDuration::from_hours(10));
    let agent = stage.agent();
    agent.settle();
    assert_eq!(in_force(&agent), of(&["c1"], 5));
    assert!(!stage.kept(WHOLE).exists() && !stage.kept("policy.acme.c2.json").exists());
    assert_eq!(stage.agent().start(), 7, "nothing is missing");
}

#[tokio::test]
async fn who_hands_projections_on_goes_by_the_whole() {
    let stage = Stage::set().await;
    let documents = stage.documents();
    let (org, engine) = ("acme".parse().unwrap(), documents.engine());
    let (one, two) = ("c1".parse().unwrap(), "c2".parse().unwrap());
    let late = || (engine.late(&org, &one).map(|at| at.version), engine.late(&org, &two).map(|at| at.version));
    for (subject, clusters) in [("c1", &["c1"][..]), ("c2", &["c2"]), ("", &["c1", "c2"])] {
        assert_eq!(documents.accept(stage.policy(subject, 1, clusters).await), Ok(true));
    }
    assert_eq!((in_force(&documents), late()), (of(&["c1", "c2"], 1), (None, None)));
    // One of them is not signed yet as the policy comes.
    documents.accept(stage.policy("c1", 2, &["c1"]).await).unwrap();
    assert_eq!(in_force(&documents), of(&["c1", "c2"], 1));
    documents.accept(stage.policy("", 2, &["c1", "c2"]).await).unwrap();
    assert_eq!((in_force(&documents), late()), (of(&["c1", "c2"], 2), (None, Some(1))));
    documents.settle();
    let again = stage.documents();
    assert_eq!(again.engine().late(&org, &two).map(|at| at.version), Some(1), "as before the restart");
    documents.accept(stage.policy("c2", 2, &["c2"]).await).unwrap();
    assert_eq!(late(), (None, None));
    assert_eq!(documents.all_but_sessions().len(), 3);

    // That of a cluster that is gone goes, from the disk as well.
    documents.accept(stage.policy("", 3, &["c1"]).await).unwrap();
    documents.settle();
    assert_eq!((late(), documents.all_but_sessions().len()), ((Some(2), None), 2));
    assert!(stage.kept(OWN).exists() && !stage.kept("policy.acme.c2.json").exists());
}

#[tokio::test]
async fn heads_name_the_policy_and_an_agent_is_as_new_as_its_part_of_it() {
    let stage = Stage::set().await;
    let documents = stage.agent();
    documents.set_max_staleness(SignedDuration::from_mins(1));
    documents.accept(stage.policy("c1", 1, &["c1"]).await).unwrap();
    let head = async |feed: u64, version: u64| {
        let newest = json!([
            {"kind": "policy", "org": "acme", "epoch": 0, "version": version},
            {"kind": "policy", "org": "acme", "subject": "c2", "epoch": 0, "version": version},
        ]);
        let head = stage.sign(stage.header(DocumentKind::Head, "", feed), &json!({ "newest": newest })).await;
        assert_eq!(documents.accept(head), Ok(true));
    };
    let refusal = || documents.engine().policy(&"acme".parse().unwrap()).err().map(|reason| reason.to_string());
    stage.clock.advance(SignedDuration::from_secs(61));
    assert!(refusal().is_some_and(|refusal| refusal.contains("nothing was heard")));
    head(1, 1).await;
    assert_eq!(refusal(), None, "others' projections are not missed");
    // The policy has a version more, and its part of it is kept back.
    stage.clock.advance(SignedDuration::from_secs(30));
    head(2, 2).await;
    stage.clock.advance(SignedDuration::from_secs(31));
    assert!(refusal().is_some_and(|refusal| refusal.contains("has not come")));
    documents.accept(stage.policy("c1", 2, &["c1"]).await).unwrap();
    assert_eq!(refusal(), None);
}
