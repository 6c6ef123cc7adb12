//! The cluster's credential in a Kubernetes Secret, which all agents of the cluster share.
//!
//! Every write is of the object that was read, with its `resourceVersion`: of two agents that write at once, the
//! apiserver refuses one, which then looks at what the other has written. So the Secret always holds one whole credential.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::StatusCode;
use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use serde_json::{Value, json};
use tokio::time::sleep;
use zeroize::Zeroizing;
use ztka_authz::AGENT_NAMESPACE;
use ztka_core::SpiffeId;
use ztka_pki::{Credential, CredentialStore, CredentialStoreError, SoftwareKey, StoredCredential, TokenId};

use crate::accounts::{Client, client::CallError};

/// The Secret of the agent's namespace that the credential is in; the agent's role names it.
pub const CREDENTIAL_SECRET: &str = "ztka-agent-credential";

/// Key and chain, the trust that goes with them, the token that they were had by, and a key that is to be certified.
const CREDENTIAL: &str = "credential.pem";
const TRUST: &str = "trust.json";
const TOKEN: &str = "token-id";
const PENDING: &str = "pending-";
const PENDING_END: &str = ".key";

/// So often a read or a write is tried before it has failed.
const TRIES: u32 = 6;
/// Before the second try; doubled before each further one.
const WAIT: Duration = Duration::from_millis(100);

/// Why the Secret cannot be used.
#[derive(Debug, thiserror::Error)]
enum SecretError {
    #[error("the Secret {name} cannot be {what}; apply the agent's manifest again, and see the apiserver's answer")]
    Call {
        name: String,
        what: &'static str,
        #[source]
        source: CallError,
    },
    #[error("the Secret {0} was changed by somebody else each time it was to be written; look who writes it")]
    Contended(String),
    #[error("the Secret {name} holds no credential in {key}: {why}; delete it and enrol again with a new token")]
    Content { name: String, key: &'static str, why: String },
}

impl From<SecretError> for CredentialStoreError {
    fn from(error: SecretError) -> Self {
        Self::new(error)
    }
}

/// A [`CredentialStore`] in the Secret [`CREDENTIAL_SECRET`] of the agent's namespace. Clones share nothing but the way
/// to the apiserver.
///
/// A renewal never replaces a credential of another name, nor one that ends later: another agent has been there meanwhile.
/// Reads and writes that fail are tried again for some seconds.
#[derive(Clone)]
pub struct SecretStore {
    client: Client,
    namespace: String,
    name: String,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretStore")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What the Secret holds, decoded.
type Data = BTreeMap<String, Zeroizing<Vec<u8>>>;

impl SecretStore {
    /// Uses the Secret by `client`.
    pub fn new(client: Client, provider: Arc<CryptoProvider>) -> Self {
        Self { client, namespace: AGENT_NAMESPACE.into(), name: CREDENTIAL_SECRET.into(), provider }
    }

    fn collection(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.namespace)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(CallError) -> SecretError {
        move |source| SecretError::Call { name: format!("{}/{}", self.namespace, self.name), what, source }
    }

    fn content(&self, key: &'static str, why: impl fmt::Display) -> SecretError {
        SecretError::Content { name: format!("{}/{}", self.namespace, self.name), key, why: why.to_string() }
    }

    /// The object; `None` if there is none.
    async fn object(&self) -> Result<Option<Value>, SecretError> {
        let path = format!("{}/{}", self.collection(), self.name);
        let mut tried = 1;
        loop {
            let read = async { self.client.get(&path).await?.accepted("reading the agent's credential") };
            match read.await {
                Ok(object) => return Ok(Some(object)),
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) if tried < TRIES && may_pass(&error) => self.wait(&mut tried, &error).await,
                Err(error) => return Err(self.failed("read")(error)),
            }
        }
    }

    async fn wait(&self, tried: &mut u32, error: &CallError) {
        tracing::debug!(error = error as &dyn std::error::Error, secret = self.name, "trying again");
        sleep(WAIT * 2_u32.saturating_pow(tried.saturating_sub(1))).await;
        *tried += 1;
    }

    fn data(&self, object: &Value) -> Result<Data, SecretError> {
        let Some(entries) = object.get("data").and_then(Value::as_object) else { return Ok(Data::new()) };
        let mut data = Data::new();
        for (key, value) in entries {
            let bytes = value.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
            let bytes = bytes.ok_or_else(|| self.content("data", "it is not base64"))?;
            data.insert(key.clone(), Zeroizing::new(bytes));
        }
        Ok(data)
    }

    /// Writes what `edit` makes of what is there; nothing if it makes nothing of it. The outcome of `edit` that was
    /// written, or that wanted nothing.
    async fn change<T>(
        &self,
        edit: impl Fn(&mut Data) -> Result<(bool, T), SecretError> + Send + Sync,
    ) -> Result<T, SecretError> {
        let mut tried = 1;
        loop {
            let object = self.object().await?;
            let mut data = object.as_ref().map(|object| self.data(object)).transpose()?.unwrap_or_default();
            let (changed, outcome) = edit(&mut data)?;
            if !changed {
                return Ok(outcome);
            }
            let encoded: serde_json::Map<_, _> =
                data.iter().map(|(key, value)| (key.clone(), BASE64_STANDARD.encode(value).into())).collect();
            let written = match object {
                Some(mut object) => {
                    if let Some(fields) = object.as_object_mut() {
                        fields.insert("data".into(), encoded.into());
                    }
                    self.client.put(&format!("{}/{}", self.collection(), self.name), &object).await
                }
                None => self.client.post(&self.collection(), &self.new_object(encoded)).await,
            };
            match written.and_then(|answer| answer.accepted("writing the agent's credential")) {
                Ok(_) => return Ok(outcome),
                Err(error) if tried < TRIES && (is_conflict(&error) || may_pass(&error)) => {
                    self.wait(&mut tried, &error).await;
                }
                Err(error) if is_conflict(&error) => {
                    return Err(SecretError::Contended(format!("{}/{}", self.namespace, self.name)));
                }
                Err(error) => return Err(self.failed("written")(error)),
            }
        }
    }

    fn new_object(&self, data: serde_json::Map<String, Value>) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "ztka.dev/agent-credential",
            "metadata": {
                "name": self.name, "namespace": self.namespace,
                "labels": {"app.kubernetes.io/managed-by": "ztka-agent"},
            },
            "data": data,
        })
    }

    /// What is kept: the credential as stored, with its name and its end.
    fn kept(&self, data: &Data) -> Result<Option<Kept>, SecretError> {
        let Some(pem) = data.get(CREDENTIAL) else { return Ok(None) };
        let broken = |error: &dyn fmt::Display| self.content(CREDENTIAL, error);
        let key = SoftwareKey::from_pem(pem, &self.provider).map_err(|error| broken(&error))?;
        let credential = Credential::from_pem(pem, &key).map_err(|error| broken(&error))?;
        let trust = data.get(TRUST).ok_or_else(|| self.content(TRUST, "it is missing"))?;
        let trust = serde_json::from_slice(trust).map_err(|_| self.content(TRUST, "it is no trust bundle in JSON"))?;
        let token = data.get(TOKEN).and_then(|id| str::from_utf8(id).ok()?.parse().ok());
        let (id, not_after) = (credential.id(), credential.not_after());
        let stored = StoredCredential { token, ..StoredCredential::of(&credential, &key, trust) };
        Ok(Some(Kept { stored, id, not_after }))
    }
}

struct Kept {
    stored: StoredCredential,
    id: Option<SpiffeId>,
    not_after: Timestamp,
}

/// Somebody else was faster.
fn is_conflict(error: &CallError) -> bool {
    matches!(error, CallError::Refused { code: StatusCode::CONFLICT, .. })
}

/// True if the same call may succeed a little later.
fn may_pass(error: &CallError) -> bool {
    match error {
        CallError::Unanswered(_) | CallError::Late => true,
        CallError::Refused { code, .. } => code.is_server_error() || *code == StatusCode::TOO_MANY_REQUESTS,
        _ => false,
    }
}

fn pending(token: &TokenId) -> String {
    format!("{PENDING}{token}{PENDING_END}")
}

fn pending_in(data: &Data, token: &TokenId) -> Option<Zeroizing<String>> {
    let key = data.get(&pending(token))?;
    Some(Zeroizing::new(str::from_utf8(key).ok()?.to_owned()))
}

#[async_trait]
impl CredentialStore for SecretStore {
    async fn load(&self) -> Result<Option<StoredCredential>, CredentialStoreError> {
        let Some(object) = self.object().await? else { return Ok(None) };
        Ok(self.kept(&self.data(&object)?)?.map(|kept| kept.stored))
    }

    async fn save(&self, credential: &StoredCredential) -> Result<(), CredentialStoreError> {
        let new = credential.credential(&self.provider)?;
        let trust = serde_json::to_vec(&credential.trust).map_err(CredentialStoreError::new)?;
        self.change(|data| {
            // What cannot be read is no reason not to write what can.
            if let Ok(Some(kept)) = self.kept(data) {
                let newer = kept.id == new.id() && kept.not_after > new.not_after();
                let anothers = credential.token.is_none() && kept.id != new.id();
                if newer || anothers {
                    tracing::info!(secret = self.name, "another agent has written a newer credential, which stays");
                    return Ok((false, ()));
                }
            }
            let both = Zeroizing::new(format!("{}{}", *credential.key, credential.chain));
            data.insert(CREDENTIAL.into(), Zeroizing::new(both.as_bytes().to_vec()));
            data.insert(TRUST.into(), Zeroizing::new(trust.clone()));
            if let Some(token) = &credential.token {
                data.retain(|key, _| !(key.starts_with(PENDING) && key.ends_with(PENDING_END)));
                data.insert(TOKEN.into(), Zeroizing::new(token.as_str().as_bytes().to_vec()));
            }
            Ok((true, ()))
        })
        .await?;
        Ok(())
    }

    async fn pending_key(&self, token: &TokenId) -> Result<Option<Zeroizing<String>>, CredentialStoreError> {
        let Some(object) = self.object().await? else { return Ok(None) };
        Ok(pending_in(&self.data(&object)?, token))
    }

    async fn keep_pending_key(
        &self,
        token: &TokenId,
        key: Zeroizing<String>,
    ) -> Result<Zeroizing<String>, CredentialStoreError> {
        let kept = self.change(|data| {
            if let Some(kept) = pending_in(data, token) {
                return Ok((false, kept));
            }
            // Another agent is done with the token: nobody needs a key for it any more.
            if data.get(TOKEN).is_some_and(|done| done.as_slice() == token.as_str().as_bytes()) {
                return Ok((false, key.clone()));
            }
            data.insert(pending(token), Zeroizing::new(key.as_bytes().to_vec()));
            Ok((true, key.clone()))
        });
        Ok(kept.await?)
    }
}
