//! What is secret or personal is nowhere in the database, whoever has planted it and when, and can be read all the same.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};
use kit::{Place, masters};
use ztka_audit::{
    About, Batch, Event, EventQuery, EventStore as _, Hash, Kind, ObjectRef, Position, Receipt, ReceiptStore as _,
    Record, RecordingChain, Stage,
};
use ztka_authz::{Binding, Denial, Role};
use ztka_controller::store::{
    Cluster, Content, DocumentStore as _, FeedScope, JobStore as _, PolicyChange, PolicyEdit, PolicyStore as _,
    Published, RecordingStore as _, ResourceKind, ResourceStore as _, Step, TakenChunk,
};
use ztka_core::{AuditId, DocumentKind, OrgId, SeriesKey, UserId};
use ztka_identity::{IdentityStore as _, Org, StoreError, User};
use ztka_pki::{KeyKind, KeyStore as _};
use ztka_store::{Location, MasterKey, Masters, SealedKeyStore, Store, UnlockError};
use ztka_test_postgres::Server;

kit::on_both!(
    planted_secrets_are_not_in_the_database,
    what_was_in_clear_is_sealed_by_and_by,
    data_keys_are_replaced_while_others_write,
    the_master_key_is_replaced,
    without_its_master_key_nothing_is_read_or_written,
);

/// Each is planted somewhere of its own.
const NAME: &str = "planted-user@example.com";
const RULE: &str = "planted-in-a-rule";
const BOUND: &str = "planted-in-a-binding";
const EVENT: &str = "planted-in-an-event";
const NAMESPACE: &str = "planted-namespace";
const RECEIPT: &str = "planted-in-a-receipt";
const WIRE: &str = "planted-in-a-document";
const DENIED: &str = "planted-in-a-denial";
const WAS: &str = "planted-in-the-history-of-policy";
const ATTRIBUTE: &str = "planted-in-an-attribute";
const POD: &str = "planted-pod-of-a-recording";
const TYPED: &str = "planted-in-a-recording";
const ALL: [&str; 12] = [NAME, RULE, BOUND, EVENT, NAMESPACE, RECEIPT, WIRE, DENIED, WAS, ATTRIBUTE, POD, TYPED];

fn now() -> Timestamp {
    Timestamp::now()
}

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

fn record(payload: String) -> Batch {
    let (sequence, previous, position) = (0, Hash::default(), Position::default());
    let record = Record { position, sequence, previous, kind: Kind::Note, id: AuditId::generate(), payload };
    Batch { journal: AuditId::generate(), records: vec![record], signature: None }
}

fn event() -> Event {
    let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, now());
    event.annotations.set("org", "acme");
    event.annotations.set("cluster", "c1");
    event.user.username = NAME.into();
    event.request_uri = format!("/api/v1/namespaces/x/secrets/{EVENT}");
    event.object_ref = Some(ObjectRef { namespace: NAMESPACE.into(), ..ObjectRef::default() });
    event
}

async fn make_org(store: &Store) {
    let org = Org { id: acme(), name: "acme".parse().unwrap(), created: now(), longest_credential: None };
    store.create_org(&org).await.unwrap();
    let (id, name) = ("c1".parse().unwrap(), "c1".parse().unwrap());
    let cluster = Cluster { id, org: acme(), name, labels: Default::default(), created: now() };
    store.create_cluster(&cluster).await.unwrap();
}

/// Writes every secret.
async fn plant(store: &Store) {
    let user = User {
        id: "u1".parse().unwrap(),
        org: acme(),
        name: NAME.parse().unwrap(),
        admin: None,
        attributes: [("team".to_owned(), ATTRIBUTE.to_owned())].into(),
        disabled: None,
        created: now(),
    };
    store.create_user(&user).await.unwrap();
    let rules = serde_json::json!({ "name": "reader", "rules": [
        { "apiGroups": [""], "resources": ["secrets"], "resourceNames": [RULE], "verbs": ["get"] }
    ] });
    let role: Role = serde_json::from_value(rules).unwrap();
    store.create_role(&acme(), &"reader".parse().unwrap(), &role).await.unwrap();
    let binding = serde_json::json!({
        "name": "all", "subjects": [{ "user": BOUND }], "role": "reader", "clusters": { "all": true }, "scope": "cluster"
    });
    let binding: Binding = serde_json::from_value(binding).unwrap();
    let (name, of) = ("all".parse().unwrap(), "reader".parse().unwrap());
    store.create_binding(&acme(), &name, &binding, Some(&of)).await.unwrap();
    store.ingest("proxy-1", &record(String::from_utf8(event().to_json()).unwrap())).await.unwrap();
    let receipt = Receipt { path: format!("/{RECEIPT}"), ..Receipt::of(&event()) };
    let (payload, cluster) = (serde_json::to_string(&receipt).unwrap(), "c1".parse().unwrap());
    store.ingest_receipts("agent-1", &cluster, &record(payload)).await.unwrap();
    let series = SeriesKey { kind: DocumentKind::Policy, org: Some(acme()), subject: String::new() };
    let mut basis = store.snapshot(&series, now()).await.unwrap().unwrap().revision.version;
    let denial = |reason: &str| {
        let denial = Denial { name: "freeze".into(), reason: reason.into(), ..Denial::default() };
        Some(serde_json::to_string(&denial).unwrap())
    };
    for (before, after) in [(None, denial(WAS)), (denial(WAS), denial(DENIED))] {
        let edits = vec![PolicyEdit { kind: ResourceKind::Denial, name: "freeze".into(), before, after }];
        let (author, act, at) = ("u1".parse().unwrap(), "apply".into(), now());
        basis = store.change_policy(&acme(), &PolicyChange { basis, edits, author, act, at }).await.unwrap();
    }
    let revision = store.snapshot(&series, now()).await.unwrap().unwrap().revision;
    // Whole, and projected to the cluster.
    let projection = SeriesKey::projection(acme(), &"c1".parse().unwrap());
    let document = |series| Published { series, revision, issued: now(), wire: WIRE.as_bytes().to_vec().into() };
    assert_eq!(store.publish_all(&[document(projection), document(series)]).await.unwrap(), 2);
    record_session(store).await;
}

/// A recording of two chunks.
async fn record_session(store: &Store) {
    let about = About {
        org: acme(),
        cluster: "c1".parse().unwrap(),
        user: "u1".parse().unwrap(),
        user_name: "alice".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        namespace: "default".into(),
        pod: POD.into(),
        container: String::new(),
        kind: "exec".into(),
        command: Vec::new(),
        tty: true,
        required: true,
        started: now(),
    };
    let (id, mut chain) = (AuditId::generate(), RecordingChain::start());
    for chunk in [
        chain.cut(id, now(), Some(about), None, b""),
        chain.cut(id, now(), None, None, format!("[0.1, \"o\", \"{TYPED}\"]\n").as_bytes()),
    ] {
        let next = chunk.number + 1;
        assert_eq!(store.take_chunk("proxy-1", &chunk, u64::MAX).await.unwrap(), TakenChunk::Next(next));
    }
}

/// Reads every secret.
async fn is_all_there(store: &Store) {
    let user: UserId = "u1".parse().unwrap();
    let found = store.user(&user).await.unwrap().unwrap();
    let team = found.attributes.get("team").map(String::as_str);
    assert_eq!((found.name.as_str(), team), (NAME, Some(ATTRIBUTE)));
    assert_eq!(store.user_named(&acme(), &NAME.parse().unwrap()).await.unwrap().unwrap().id, user);
    assert_eq!(store.users(&acme()).await.unwrap().first().unwrap().name.as_str(), NAME);
    let again = User {
        id: "u2".parse().unwrap(),
        org: acme(),
        name: NAME.parse().unwrap(),
        admin: None,
        attributes: Default::default(),
        disabled: None,
        created: now(),
    };
    assert!(matches!(store.create_user(&again).await, Err(StoreError::Exists { .. })), "unique, sealed or not");
    let said = |value: &dyn std::fmt::Debug| format!("{value:?}");
    assert!(said(&store.roles(&acme()).await.unwrap()).contains(RULE));
    assert!(said(&store.bindings(&acme()).await.unwrap()).contains(BOUND));
    let series = SeriesKey { kind: DocumentKind::Policy, org: Some(acme()), subject: String::new() };
    let snapshot = store.snapshot(&series, now()).await.unwrap().unwrap();
    assert!(matches!(&snapshot.content, Content::Policy(policy) if said(policy).contains(BOUND)));
    assert!(matches!(&snapshot.content, Content::Policy(policy) if said(policy).contains(DENIED)));
    let newest = snapshot.revision.version;
    let before = store.policy_history(&acme(), None, 2).await.unwrap().pop().unwrap().version;
    let history = store.policy_back(&acme(), newest, before).await.unwrap();
    assert!(said(&history).contains(WAS));
    let any = EventQuery::default;
    for query in [
        any(),
        EventQuery { user: Some(NAME.parse().unwrap()), ..any() },
        EventQuery { org: Some(acme()), user: Some(NAME.parse().unwrap()), ..any() },
        EventQuery { org: Some(acme()), namespace: Some(NAMESPACE.into()), ..any() },
    ] {
        let found = store.query(&query).await.unwrap();
        assert_eq!(found.len(), 1, "{query:?}");
        assert!(found.first().unwrap().event.request_uri.ends_with(EVENT));
    }
    let recordings = store.recordings(&acme(), None, 10).await.unwrap();
    let [recording] = recordings.as_slice() else { unreachable!("{recordings:?}") };
    assert_eq!(recording.about.pod, POD);
    let chunks = store.recording_chunks(&acme(), recording.id, 0, 10).await.unwrap();
    assert_eq!(chunks.len(), 2);
    assert!(String::from_utf8_lossy(&chunks.last().unwrap().lines).contains(TYPED));
    let receipts = store.receipts(&"c1".parse().unwrap(), Timestamp::MIN, Timestamp::MAX).await.unwrap();
    assert_eq!(receipts.first().unwrap().path, format!("/{RECEIPT}"));
    for (scope, documents) in
        [(FeedScope::Proxies, 2), (FeedScope::Installation, 1), (FeedScope::Cluster(acme(), "c1".parse().unwrap()), 1)]
    {
        let feed = store.feed(&scope, 0, 10).await.unwrap();
        assert_eq!(feed.iter().filter(|entry| entry.wire.as_ref() == WIRE.as_bytes()).count(), documents, "{scope:?}");
    }
}

/// Everything that is on the disk, or would be in a dump.
fn raw(place: &Place) -> Vec<u8> {
    match &place.location {
        Location::Sqlite(path) => {
            let beside = |more: &str| Path::new(&format!("{}{more}", path.display())).to_owned();
            let files = ["", "-wal", "-shm"].map(|more| std::fs::read(beside(more)).unwrap_or_default());
            files.concat()
        }
        Location::Postgres(url) => Server::shared().unwrap().dump(url).unwrap(),
    }
}

fn found(raw: &[u8]) -> Vec<&'static str> {
    // A dump has bytes in hexadecimal.
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let holds = |text: &str| raw.windows(text.len()).any(|part| part == text.as_bytes());
    ALL.into_iter().filter(|planted| holds(planted) || holds(&hex(planted))).collect()
}

/// Does what jobs there are; tells how many steps that were.
async fn work_off(store: &Store, at: Timestamp) -> usize {
    let lease = SignedDuration::from_secs(30);
    let mut steps = 0;
    while let Some(mut job) = store.take_job("test", at, lease).await.unwrap() {
        while store.step(&mut job, at, lease).await.unwrap() == Step::More {
            steps += 1;
        }
    }
    steps
}

async fn planted_secrets_are_not_in_the_database(place: &Place) {
    let store = place.unlocked().await;
    make_org(&store).await;
    plant(&store).await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let keys = SealedKeyStore::new(store.clone(), provider);
    keys.create(&"users.acme".parse().unwrap(), KeyKind::default()).await.unwrap();
    is_all_there(&store).await;
    let raw = raw(place);
    assert_eq!(found(&raw), [""; 0]);
    let holds = |text: &[u8]| raw.windows(text.len()).any(|part| part == text);
    assert!(!holds(b"PRIVATE KEY") && holds(b"reader"), "it is the database that was read");
}

async fn what_was_in_clear_is_sealed_by_and_by(place: &Place) {
    let clear = place.open().await;
    make_org(&clear).await;
    plant(&clear).await;
    assert_eq!(found(&raw(place)), ALL, "this is what it looks for");
    is_all_there(&clear).await;
    clear.close().await;

    let store = place.unlocked().await;
    is_all_there(&store).await;
    store.add_job(ztka_controller::store::JobKind::Seal, "acme", now()).await.unwrap();
    assert!(work_off(&store, now()).await > 0);
    is_all_there(&store).await;
    store.close().await;
    assert_eq!(found(&raw(place)), [""; 0]);
    is_all_there(&place.unlocked().await).await;
}

async fn data_keys_are_replaced_while_others_write(place: &Place) {
    let (store, other) = (place.unlocked().await, place.unlocked().await);
    make_org(&store).await;
    plant(&store).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, stop) = (other.clone(), stop.clone());
        tokio::spawn(async move {
            let mut count = 0;
            while !stop.load(Ordering::SeqCst) {
                store.ingest("proxy-1", &record(String::from_utf8(event().to_json()).unwrap())).await.unwrap();
                let role = Role { name: format!("r{count}"), rules: Vec::new(), ..Role::default() };
                store.create_role(&acme(), &role.name.parse().unwrap(), &role).await.unwrap();
                count += 1;
            }
            count
        })
    };
    for _ in 0..3 {
        store.rotate_data_key(Some(&acme()), now()).await.unwrap();
        work_off(&store, now()).await;
    }
    stop.store(true, Ordering::SeqCst);
    let written = writer.await.unwrap();
    assert_eq!(store.query(&EventQuery { limit: 100_000, ..EventQuery::default() }).await.unwrap().len(), written + 1);
    assert_eq!(store.roles(&acme()).await.unwrap().len(), written + 1);
    assert_eq!(kept(place).await, 4, "none goes as long as somebody may write under it");

    // Later, what is under earlier ones has been gone through once more, and they go.
    let later = now().checked_add(SignedDuration::from_hours(2)).unwrap();
    work_off(&store, later).await;
    work_off(&store, later).await;
    assert_eq!(kept(place).await, 1);
    let fresh = place.unlocked().await;
    assert_eq!(fresh.roles(&acme()).await.unwrap().len(), written + 1);
    assert_eq!(fresh.query(&EventQuery { limit: 100_000, ..EventQuery::default() }).await.unwrap().len(), written + 1);
    assert!(matches!(
        store.rotate_data_key(Some(&"none".parse().unwrap()), later).await,
        Err(StoreError::NotFound { .. })
    ));
}

/// Data keys of the organisation.
async fn kept(place: &Place) -> i64 {
    use sqlx::Connection as _;
    let text = "SELECT count(*) FROM data_keys WHERE org = 'acme' AND kind = 'data'";
    match &place.location {
        Location::Sqlite(path) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::query_scalar(text).fetch_one(&mut connection).await.unwrap()
        }
        Location::Postgres(url) => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            sqlx::query_scalar(text).fetch_one(&mut connection).await.unwrap()
        }
    }
}

async fn the_master_key_is_replaced(place: &Place) {
    let key = |byte| MasterKey::new(&[byte; 32]).unwrap();
    let store = place.unlocked().await;
    make_org(&store).await;
    plant(&store).await;
    // The others know of the new one first, and go on with the old one.
    let before = place.open().await.unlock(Masters::of(key(1)).and(key(2))).await.unwrap();
    let after = place.open().await.unlock(Masters::of(key(2)).and(key(1))).await.unwrap();
    assert!(matches!(place.open().await.unlock(masters(2)).await, Err(UnlockError::OtherMaster { .. })));
    work_off(&after, now()).await;
    for store in [&before, &after] {
        is_all_there(store).await;
    }
    let alone = place.open().await.unlock(masters(2)).await.unwrap();
    is_all_there(&alone).await;
    let refused = place.open().await.unlock(masters(1)).await.unwrap_err().to_string();
    assert!(refused.contains("restore it from its backup"), "{refused}");
}

async fn without_its_master_key_nothing_is_read_or_written(place: &Place) {
    let store = place.open().await;
    assert!(!store.needs_master_key().await.unwrap());
    store.unlock(masters(1)).await.unwrap();
    let locked = place.open().await;
    assert!(locked.needs_master_key().await.unwrap());
    make_org(&locked).await;
    let refused = |done: Result<(), StoreError>| {
        let Err(StoreError::Unavailable(source)) = done else { unreachable!("{done:?}") };
        assert!(source.to_string().contains("without its master key"), "{source}");
    };
    let role = Role { name: "r".into(), rules: Vec::new(), ..Role::default() };
    refused(locked.create_role(&acme(), &"r".parse().unwrap(), &role).await);
    plant(&place.unlocked().await).await;
    refused(locked.roles(&acme()).await.map(drop));
    refused(locked.users(&acme()).await.map(drop));
    assert!(locked.query(&EventQuery::default()).await.is_err());
}
