//! What is trusted, beside the credential that is shared: for members that start later.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use ztka_pki::{CredentialStore, CredentialStoreError, StoredCredential, TrustBundle, TrustSource};

/// After a write that failed.
const AGAIN: Duration = Duration::from_secs(30);

/// Writes what is trusted into `store` each time that it changes, without end.
///
/// A renewal writes it as well, but comes every other day, and authorities may be replaced in between. What is trusted at
/// the start is not written: another member may know more.
pub(crate) async fn share_trust(store: Arc<dyn CredentialStore>, trust: TrustSource) {
    let (mut changes, mut written) = (trust.changes(), trust.bundle());
    loop {
        changes.changed().await;
        // Revocations are changes too, and no concern here.
        while *trust.bundle() != *written {
            let bundle = trust.bundle();
            if let Err(error) = write(&*store, &bundle).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    again = ?AGAIN,
                    "what is trusted is not written beside the shared credential"
                );
            } else {
                written = bundle;
                continue;
            }
            sleep(AGAIN).await;
        }
    }
}

async fn write(store: &dyn CredentialStore, trust: &TrustBundle) -> Result<(), CredentialStoreError> {
    match store.load().await? {
        Some(stored) if stored.trust != *trust => {
            store.save(&StoredCredential { trust: trust.clone(), token: None, ..stored }).await
        }
        _ => Ok(()),
    }
}
