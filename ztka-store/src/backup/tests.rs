//! Backups of programs that are newer than this one.

use super::*;

/// What a program of another version would write.
async fn written(form: u32, schema: i64, key: &BackupKey) -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), key).await.unwrap();
    let head = Head { form, schema, epoch: 1, created: 0, program: "9.9.9".into() };
    writer.json(1, &head).await.unwrap();
    writer.finish(0).await.unwrap()
}

#[tokio::test]
async fn a_backup_of_a_newer_program_is_refused_with_words_and_changes_nothing() {
    let key = BackupKey::Bytes(zeroize::Zeroizing::new([7; 32]));
    let directory = tempfile::tempdir().unwrap();
    let [file, path] = ["backup", "ztka.db"].map(|name| directory.path().join(name));
    for (form, schema) in [(FORM, SCHEMA_VERSION + 1), (FORM + 1, SCHEMA_VERSION)] {
        let bytes = written(form, schema, &key).await;
        std::fs::write(&file, &bytes).unwrap();
        let plan = Plan { force: true, now: Timestamp::UNIX_EPOCH };
        let refused = restore(&path.as_path().into(), &key, &file, plan).await.unwrap_err().to_string();
        assert!(refused.contains("made by a newer version (9.9.9, schema"), "{refused}");
        assert!(refused.contains("restore it with that"), "{refused}");
        assert!(!path.exists(), "not even a file is made");
        let refused = check(&*bytes, &key).await.unwrap_err();
        assert!(matches!(refused, BackupError::Newer { .. }), "{refused:?}");
    }
}
