//! A secret key of a token that wraps other keys, by AES-256-GCM (PKCS #11 v2.40 Current Mechanisms §2.12.2).

use std::sync::Arc;

use cryptoki::{
    error::{Error, RvError},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::{Fault, Pkcs11KeyStore, module::Company, object, token::Token};
use crate::key::{KeyError, KeyName, hex};

/// Form of what is wrapped: this byte, a nonce, ciphertext and tag.
const FORM: u8 = 3;
const NONCE: usize = 12;
const TAG_BITS: u64 = 128;

/// A 256-bit AES key in a token, which wraps keys there and never leaves it (`CKA_SENSITIVE`, not `CKA_EXTRACTABLE`).
#[derive(Clone, Debug)]
pub struct Pkcs11WrappingKey {
    token: Arc<Token>,
    name: KeyName,
    id: Vec<u8>,
}

impl Pkcs11KeyStore {
    /// The wrapping key kept under `name`; made there, if there is none and `make` says so.
    ///
    /// # Errors
    /// [`KeyError::Absent`] if there is none; [`KeyError::Unusable`] if there are two of that name;
    /// [`KeyError::Unavailable`] when the token cannot be used.
    pub async fn wrapping_key(&self, name: &KeyName, make: bool) -> Result<Pkcs11WrappingKey, KeyError> {
        let _one_at_a_time = self.making.lock().await;
        let (fresh, label) = (object::fresh_id()?, name.clone());
        // One that may be made.
        let company = if make { Company::Nobody } else { Company::Others };
        let found = self.token.run(company, move |session, view| {
            let mut found = find(session, &label)?;
            match (found.pop(), found.pop()) {
                (Some((_, id)), None) => Ok(id),
                (Some(_), Some(_)) => {
                    let twice = "the token has two wrapping keys of this label; remove the one that is not used";
                    Err(KeyError::Unusable(twice).into())
                }
                (None, _) if make && view.fresh => {
                    generate(session, &label, &fresh)?;
                    Ok(fresh.clone())
                }
                (None, _) => Err(Fault::Missing(label.clone())),
            }
        });
        Ok(Pkcs11WrappingKey { token: self.token.clone(), name: name.clone(), id: found.await? })
    }
}

fn template(name: &KeyName) -> [Attribute; 3] {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Label(name.as_str().into()),
    ]
}

/// The secret keys of this name, with their ids.
fn find(session: &Session, name: &KeyName) -> Result<Vec<(ObjectHandle, Vec<u8>)>, Fault> {
    let mut found = Vec::new();
    for handle in session.find_objects(&template(name))? {
        let attributes = session.get_attributes(handle, &[AttributeType::Id])?;
        let id = attributes.into_iter().find_map(|attribute| match attribute {
            Attribute::Id(id) => Some(id),
            _ => None,
        });
        found.push((handle, id.unwrap_or_default()));
    }
    Ok(found)
}

fn generate(session: &Session, name: &KeyName, id: &[u8]) -> Result<(), Fault> {
    let mut attributes = template(name).to_vec();
    attributes.extend([
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::ValueLen(32.into()),
        Attribute::Id(id.to_vec()),
    ]);
    session.generate_key(&Mechanism::AesKeyGen, &attributes)?;
    Ok(())
}

impl Pkcs11WrappingKey {
    /// Says which key this is, and nothing of what it is: its `CKA_ID`, in hexadecimal.
    pub fn id(&self) -> String {
        hex(&self.id)
    }

    fn handle(&self, session: &Session) -> Result<ObjectHandle, Fault> {
        let found = find(session, &self.name)?.into_iter().find(|(_, id)| *id == self.id);
        found.map(|(handle, _)| handle).ok_or_else(|| Fault::Missing(self.name.clone()))
    }

    /// Wraps `clear`; `context` is authenticated with it. A future that is dropped has done nothing.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] when the token cannot be used.
    pub async fn wrap(&self, context: &[u8], clear: &[u8]) -> Result<Vec<u8>, KeyError> {
        let (key, context, clear) = (self.clone(), context.to_vec(), Zeroizing::new(clear.to_vec()));
        let wrap = move |session: &Session, _| {
            let mut nonce = [0; NONCE];
            let filled = SystemRandom::new().fill(&mut nonce);
            filled.map_err(|_| KeyError::Unusable("the system gives no randomness"))?;
            let handle = key.handle(session)?;
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, &context, TAG_BITS.into())?);
            let sealed = session.encrypt(&mechanism, handle, &clear)?;
            drop(mechanism);
            // As it is now: some tokens take one of their own.
            Ok([&[FORM][..], &nonce, &sealed].concat())
        };
        self.token.run(Company::Others, wrap).await
    }

    /// Opens what [`Self::wrap`] made with the same context.
    ///
    /// # Errors
    /// [`KeyError::Passphrase`] if it was wrapped by another key or for another context; [`KeyError::Unavailable`] when
    /// the token cannot be used.
    pub async fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let rest = wrapped.strip_prefix(&[FORM]).and_then(|rest| rest.split_first_chunk::<NONCE>());
        let (nonce, sealed) = rest.ok_or(KeyError::Passphrase)?;
        let (key, context, nonce, sealed) = (self.clone(), context.to_vec(), *nonce, sealed.to_vec());
        let unwrap = move |session: &Session, _| {
            let (handle, mut nonce) = (key.handle(session)?, nonce);
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, &context, TAG_BITS.into())?);
            match session.decrypt(&mechanism, handle, &sealed) {
                Ok(clear) => Ok(Zeroizing::new(clear)),
                Err(Error::Pkcs11(
                    RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange | RvError::GeneralError,
                    _,
                )) => Err(KeyError::Passphrase.into()),
                Err(other) => Err(other.into()),
            }
        };
        self.token.run(Company::Others, unwrap).await
    }
}
