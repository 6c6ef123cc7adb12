//! The server itself: durable, alone, back after a crash, and gone at the end.

use ztka_test_postgres::Server;

#[test]
fn a_server_is_durable_survives_a_crash_and_leaves_nothing() {
    let Some(server) = Server::start_or_skip().unwrap() else { return };
    assert_eq!(server.sql("postgres", "SHOW fsync").unwrap(), "on");
    server.sql("postgres", "CREATE TABLE kept (n INT); INSERT INTO kept VALUES (7)").unwrap();
    server.crash().unwrap();
    assert_eq!(server.sql("postgres", "SELECT n FROM kept").unwrap(), "7");
    let (one, two) = (server.database().unwrap(), server.database().unwrap());
    assert_ne!(one, two);
    let error = server.sql("postgres", "SELECT nonsense").unwrap_err().to_string();
    assert!(error.contains("nonsense"), "{error}");
    let folder = server.folder().to_owned();
    drop(server);
    assert!(!folder.exists());
}
