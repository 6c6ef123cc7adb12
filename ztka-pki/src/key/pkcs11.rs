//! Keys in a token that is spoken to by PKCS#11 (OASIS PKCS #11 v2.40 and later): an HSM, or SoftHSM.
//!
//! The module is a C library whose calls wait for the token, so each is made on a thread that may wait, with a session
//! of its own: a session does one thing at a time (v2.40 §5.11, `CKR_OPERATION_ACTIVE`). At most
//! [`Pkcs11Token::sessions`] calls are under way, further ones queue without a thread, and nobody waits longer than
//! [`Pkcs11Token::patience`].
mod module;
mod object;
mod token;
mod wrapping;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use cryptoki::{
    error::{Error, RvError},
    object::ObjectHandle,
    session::Session,
};

use self::{
    module::Company,
    token::{Token, View},
};
use super::{KeyError, KeyKind, KeyName, KeyStore, PublicKey, Signer};

pub use self::{token::Pkcs11Token, wrapping::Pkcs11WrappingKey};

/// Keeps keys in one token, by label; they are made in it and never leave it (`CKA_SENSITIVE`, not
/// `CKA_EXTRACTABLE`). Keys that somebody else has made there are opened as well, if they are P-256, P-384, Ed25519 or
/// RSA of 2048 bits, and if exactly one private and one public key have the name as their label.
///
/// Makes keys of P-256, and of P-384 and Ed25519 where the token can. Labels are not unique in PKCS#11: of one process
/// no two keys of a name are made, but two processes that make one at the same moment leave two, and then neither is
/// opened until one is removed.
///
/// Sessions that were lost (token removed, initialised again, the module's server restarted) are opened again, first
/// over the module as it is, then over a module that is initialised anew; a caller hears of it only if that fails. Needs
/// tokio with its clock. That a key is absent is said only after a look through a module initialised anew, since one that
/// has lost its token may see it empty; other code of the process must not use the same module beside this.
#[derive(Clone, Debug)]
pub struct Pkcs11KeyStore {
    token: Arc<Token>,
    making: Arc<tokio::sync::Mutex<()>>,
}

impl Pkcs11KeyStore {
    /// Logs in to the token.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] if the module cannot be loaded, the token is not there, or refuses the PIN;
    /// [`KeyError::File`] if the PIN cannot be read.
    pub async fn open(settings: Pkcs11Token) -> Result<Self, KeyError> {
        let store = Self { token: Arc::new(Token::new(settings)?), making: Arc::default() };
        store.token.run(Company::Others, |_, _| Ok(())).await?;
        Ok(store)
    }

    fn signer(&self, name: &KeyName, found: Found) -> Arc<dyn Signer> {
        let Found { public, id, .. } = found;
        let key = Held { token: self.token.clone(), name: name.clone(), id, public, handle: Arc::default() };
        Arc::new(key)
    }
}

/// What can go wrong inside a session.
#[derive(Debug)]
enum Fault {
    /// The module's own.
    Module(Error),
    /// Not a matter of the session: nothing is gained by trying again.
    Final(KeyError),
    /// The session sees something else than before.
    Changed,
    /// There is no such key, as far as can be seen.
    Missing(KeyName),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Module(error)
    }
}

impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Self {
        Self::Final(error)
    }
}

/// A key pair in the token.
#[derive(Debug)]
struct Found {
    private: ObjectHandle,
    id: Vec<u8>,
    public: PublicKey,
}

#[async_trait]
impl KeyStore for Pkcs11KeyStore {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        let _one_at_a_time = self.making.lock().await;
        let (id, label) = (object::fresh_id()?, name.clone());
        let made = self.token.run(Company::Nobody, move |session, view| match object::find(session, &label)?.pop() {
            // Ours, if the session was lost after it had been made.
            Some(ours) if ours.id == id => Ok(ours),
            Some(_) => Err(KeyError::Exists(label.clone()).into()),
            None if view.fresh => object::generate(session, &label, &id, kind),
            None => Err(Fault::Missing(label.clone())),
        });
        Ok(self.signer(name, made.await?))
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        let label = name.clone();
        let found = self.token.run(Company::Others, move |session, _| {
            let mut found = object::find(session, &label)?;
            match (found.pop(), found.pop()) {
                (Some(only), None) => Ok(only),
                (None, _) => Err(Fault::Missing(label.clone())),
                _ => {
                    Err(KeyError::Unusable("the token has two keys of this label; remove the one that is not used")
                        .into())
                }
            }
        });
        Ok(self.signer(name, found.await?))
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        let _one_at_a_time = self.making.lock().await;
        let (label, begun) = (name.clone(), AtomicBool::new(false));
        let removed = self.token.run(Company::Nobody, move |session, _| {
            let any = object::destroy(session, &label, &begun)?;
            // A second attempt finds nothing where the first was cut off at the end.
            if any || begun.load(Ordering::Relaxed) { Ok(()) } else { Err(Fault::Missing(label.clone())) }
        });
        removed.await
    }
}

/// A private key in a token.
#[derive(Clone, Debug)]
struct Held {
    token: Arc<Token>,
    name: KeyName,
    id: Vec<u8>,
    public: PublicKey,
    /// Where it is, as of one initialisation of the module.
    handle: Arc<Mutex<Option<(u64, ObjectHandle)>>>,
}

impl Held {
    fn sign_in(&self, session: &Session, view: View, message: &[u8]) -> Result<Vec<u8>, Fault> {
        let known = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = match known {
            Some((of, handle)) if of == view.generation => handle,
            _ => self.find(session)?,
        };
        let signed = object::sign(session, &self.public, handle, message);
        // What a token says is checked: a handle may have become another key's, and a signature with a bit wrong in it
        // can give the key away.
        let done = match signed {
            Ok(signature) if self.public.is_signed(message, &signature) => Ok(signature),
            Ok(_) => Err(Fault::Changed),
            Err(Fault::Module(Error::Pkcs11(RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid, _))) => {
                Err(Fault::Changed)
            }
            Err(other) => Err(other),
        };
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = done.is_ok().then_some((view.generation, handle));
        done
    }

    fn find(&self, session: &Session) -> Result<ObjectHandle, Fault> {
        let found = object::find(session, &self.name)?.into_iter().find(|found| found.id == self.id);
        match found {
            Some(found) if found.public == self.public => Ok(found.private),
            _ => Err(Fault::Missing(self.name.clone())),
        }
    }
}

#[async_trait]
impl Signer for Held {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let (key, message) = (self.clone(), message.to_vec());
        self.token.run(Company::Others, move |session, view| key.sign_in(session, view, &message)).await
    }
}
