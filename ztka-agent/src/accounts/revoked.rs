//! Accounts of disabled users and revoked credentials go as soon as a `revocations` document names them.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::timeout;
use ztka_core::{CredentialId, DocumentKind, SignedDocument, UserId, Verified};
use ztka_follow::Documents;
use ztka_pki::Revocations;

use super::ServiceAccounts;

/// When the cluster could not be asked.
const AGAIN: Duration = Duration::from_secs(10);

impl ServiceAccounts {
    /// Removes the accounts of users and credentials that `documents` revoke, now and whenever there are more, until dropped.
    pub async fn follow_revocations(self, documents: Documents) {
        let mut changes = documents.changes();
        let mut gone = Revoked::default();
        loop {
            changes.mark_unchanged();
            let revoked = revoked(&documents.all_but_sessions());
            let mut all_gone = true;
            // A user who is enabled again and disabled later is looked for again.
            if !revoked.is_within(&gone) {
                match self.disabled(&revoked.users, &revoked.credentials).await {
                    Ok(()) => gone = revoked,
                    Err(error) => {
                        tracing::warn!(error = &*error, "accounts of disabled users not removed yet");
                        all_gone = false;
                    }
                }
            } else {
                gone = revoked;
            }
            let changed = match all_gone {
                true => changes.changed().await,
                false => timeout(AGAIN, changes.changed()).await.unwrap_or(Ok(())),
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

/// Whose accounts are to go.
#[derive(Debug, Default)]
struct Revoked {
    users: BTreeSet<UserId>,
    credentials: BTreeSet<CredentialId>,
}

impl Revoked {
    fn is_within(&self, other: &Self) -> bool {
        self.users.is_subset(&other.users) && self.credentials.is_subset(&other.credentials)
    }
}

fn revoked(documents: &[Verified<SignedDocument>]) -> Revoked {
    let of_revocations =
        |document: &&Verified<SignedDocument>| document.header().series.kind == DocumentKind::Revocations;
    let bodies = documents.iter().filter(of_revocations).filter_map(|document| document.body::<Revocations>().ok());
    let mut all = Revoked::default();
    for body in bodies {
        all.users.extend(body.users);
        all.credentials.extend(body.credentials);
    }
    all
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;
    use ztka_core::{DocumentHeader, KeyId, Revision, SeriesKey};

    use super::*;

    #[test]
    fn reads_the_users_and_credentials_of_all_revocations() {
        let document = |kind, org: Option<&str>, users: &[&str]| {
            let org = org.map(|org| org.parse().unwrap());
            let series = SeriesKey { kind, org, subject: String::new() };
            let (issued, expires) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
            let header = DocumentHeader { series, revision: Revision::default(), issued, expires };
            let revocations = Revocations {
                users: users.iter().map(|user| user.parse().unwrap()).collect(),
                credentials: users.iter().map(|user| format!("k-{user}").parse().unwrap()).collect(),
                ..Revocations::default()
            };
            let sign = |_: &[u8]| Ok::<_, serde_json::Error>((KeyId(String::new()), Vec::new()));
            Verified::assertion(SignedDocument::sign(header, &json!(revocations), sign).unwrap())
        };
        let documents = [
            document(DocumentKind::Revocations, None, &["u1"]),
            document(DocumentKind::Revocations, Some("acme"), &["u1", "u2"]),
            document(DocumentKind::Policy, Some("acme"), &["u3"]),
        ];
        let Revoked { users, credentials } = revoked(&documents);
        assert_eq!(users.iter().map(ToString::to_string).collect::<Vec<_>>(), ["u1", "u2"]);
        assert_eq!(credentials.iter().map(ToString::to_string).collect::<Vec<_>>(), ["k-u1", "k-u2"]);
    }
}
