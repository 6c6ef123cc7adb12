//! Batches of audit records, as a controller is sent them.

use ztka_audit::{Batch, Chain};

/// Reads a batch; true if it is one with records.
pub(crate) fn audit_batch(data: &[u8]) -> bool {
    let batch = match Batch::decode(data) {
        Ok(batch) => batch,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    // What was read is all that there was, and is written as it stood; a header in JSON has other spellings.
    let again = batch.encode();
    assert_eq!(Batch::decode(&again).expect("ours"), batch);
    let records: usize = batch.records.iter().map(|record| record.payload.len()).sum();
    assert!(records <= data.len(), "{records} bytes of records");
    let mut chain = Chain::start();
    let findings = chain.follow(&batch);
    assert!(findings.len() <= batch.records.len(), "{findings:?}");
    assert!(!batch.is_signed(|message, signature| message.is_empty() && signature.is_empty()));
    !batch.records.is_empty()
}
