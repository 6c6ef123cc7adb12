//! Encryption at rest: what is secret or personal is sealed before it is stored.
//!
//! ```text
//! master key (file, environment, token)  wraps  data keys of each organisation (`data_keys`)  seal  columns
//! ```
//!
//! A store that was unlocked ([`Store::unlock`]) seals every such column under the newest data key of its organisation and
//! reads what is in clear still, from before; what is there already is sealed by and by (`seal`). `docs/data-model.md` has
//! the table of columns, with the reason for each, and what bounds the use of a key.
mod envelope;
mod keyring;
mod master;
mod rotate;
mod seal;
#[cfg(feature = "pkcs11")]
mod token;

use crate::{
    Failed, Store,
    sql::{Row, sql},
};

#[cfg(feature = "pkcs11")]
pub use self::token::TokenKey;
pub(crate) use self::{
    envelope::{Place, key_of},
    keyring::{Keyring, Sealer, context as wrapped_context, legacy_context},
};
pub use self::{
    keyring::{Masters, UnlockError},
    master::{KeyEncryption, MasterKey, MasterKeyError, NotOpened},
};

/// Whose key seals what is of no organisation.
pub(crate) const INSTALLATION: &str = "";

impl Store {
    /// What seals for an organisation. Comes before a transaction begins: it may have to write a new key.
    pub(crate) async fn sealer(&self, org: &str) -> Result<Sealer, Failed> {
        match &self.keyring {
            Some(keyring) => keyring.sealer(self, org).await,
            None if self.locked => Err(Failed::Locked),
            None => Ok(Sealer::default()),
        }
    }

    /// Opens what was sealed for this place.
    pub(crate) async fn unseal(&self, place: Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, Failed> {
        self.keyring.as_ref().ok_or(Failed::Locked)?.unseal(self, place, sealed).await
    }

    /// Has the newest data key of an organisation at hand, if there is one. Comes before a transaction begins.
    pub(crate) async fn at_hand(&self, org: &str) -> Result<(), Failed> {
        match &self.keyring {
            Some(keyring) => keyring.at_hand(self, org).await,
            None => Ok(()),
        }
    }

    /// [`Store::unseal`] if that needs nobody: the key is at hand.
    pub(crate) fn unseal_now(&self, place: Place<'_>, sealed: &[u8]) -> Result<Option<Vec<u8>>, Failed> {
        self.keyring.as_ref().ok_or(Failed::Locked)?.unseal_now(place, sealed)
    }

    /// The text of the column `clear`, or what is sealed of it.
    pub(crate) async fn text_at(
        &self,
        place: Place<'_>,
        row: &Row,
        clear: &'static str,
        sealed: &'static str,
    ) -> Result<String, Failed> {
        match row.some_bytes(sealed)? {
            None => Ok(row.str(clear)?.to_owned()),
            Some(sealed) => {
                let opened = self.unseal(place, sealed).await?;
                String::from_utf8(opened).map_err(|_| Failed::Corrupt(place.column))
            }
        }
    }

    /// What a searched column may hold for `value`: the value itself, and its blind indexes of the organisation and of the
    /// installation, or of everybody if no organisation is asked for.
    pub(crate) async fn searched(
        &self,
        org: Option<&str>,
        column: &'static str,
        value: &str,
    ) -> Result<Vec<String>, Failed> {
        let mut all = vec![value.to_owned()];
        if self.keyring.is_none() {
            return if self.locked { Err(Failed::Locked) } else { Ok(all) };
        }
        let mut orgs = vec![INSTALLATION.to_owned()];
        match org {
            Some(org) => orgs.push(org.to_owned()),
            None => {
                let known = sql("SELECT org FROM data_keys WHERE kind = 'index' AND org <> ''");
                for row in self.readers().fetch_all(known).await? {
                    orgs.push(row.str("org")?.to_owned());
                }
            }
        }
        for org in orgs {
            all.extend(self.sealer(&org).await?.blind(column, value));
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }
}
