//! Every statement in the source is prepared on both databases.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::{
    fs,
    path::{Path, PathBuf},
};

use kit::Place;
use sqlx::{Connection as _, Executor as _, SqlSafeStr as _};
use ztka_store::Location;

kit::on_both!(every_statement_can_be_prepared);

/// The string literals of a Rust source that begin as a statement does.
fn statements(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some((_, literal)) = rest.split_once('"') {
        let mut text = String::new();
        let mut chars = literal.char_indices();
        let mut end = literal.len();
        while let Some((place, char)) = chars.next() {
            match char {
                '"' => {
                    end = place + 1;
                    break;
                }
                // The end of a line and the blanks of the next are not part of the text.
                '\\' if chars.clone().next().is_some_and(|(_, next)| next == '\n') => {
                    while chars.clone().next().is_some_and(|(_, next)| next.is_whitespace()) {
                        chars.next();
                    }
                }
                '\\' => text.extend(chars.next().map(|(_, char)| char)),
                char => text.push(char),
            }
        }
        rest = literal.get(end..).unwrap_or_default();
        if ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH "].iter().any(|word| text.starts_with(word)) {
            found.push(text);
        }
    }
    found
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        // A backup's are made for whatever tables there are, and ask each database for what only it has.
        if entry.ends_with("backup") {
            continue;
        }
        if entry.is_dir() {
            sources(&entry, found);
        } else {
            found.push(entry);
        }
    }
}

fn all() -> Vec<String> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    // Both ask the server for what only it has; tests may say what they like.
    let own = ["migrate.rs", "postgres.rs", "tests.rs"];
    let shared = files.into_iter().filter(|path| !own.iter().any(|name| path.ends_with(name)));
    shared.flat_map(|path| statements(&fs::read_to_string(path).unwrap())).collect()
}

async fn every_statement_can_be_prepared(place: &Place) {
    place.open().await.close().await;
    let statements = all();
    assert!(statements.len() > 80, "{} statements: the source is read wrongly", statements.len());
    let mut refused = Vec::new();
    match &place.location {
        Location::Sqlite(path) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
            let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
            for text in statements {
                let prepared = connection.prepare(sqlx::AssertSqlSafe(text.clone()).into_sql_str()).await;
                refused.extend(prepared.err().map(|error| format!("{text}: {error}")));
            }
        }
        Location::Postgres(url) => {
            let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
            for text in statements {
                let prepared = connection.prepare(sqlx::AssertSqlSafe(text.clone()).into_sql_str()).await;
                refused.extend(prepared.err().map(|error| format!("{text}: {error}")));
            }
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn literals_are_read_as_rust_does() {
    let source = "a(\"SELECT 1 \\\n    FROM t\"); b(\"no\"); c(\"UPDATE \\\"t\\\"\")";
    assert_eq!(statements(source), ["SELECT 1 FROM t", "UPDATE \"t\""]);
}
