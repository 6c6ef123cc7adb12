//! Key pairs as objects of a token: how they are made, found, read and used (PKCS #11 v2.40 §4, Curves §2.3).

use std::sync::atomic::{AtomicBool, Ordering};

use cryptoki::{
    error::{Error, RvError},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256, Sha384};
use x509_cert::der::{
    self, Decode as _, Encode as _,
    asn1::{Any, BitString, Null, ObjectIdentifier, OctetStringRef, UintRef},
    oid::db::{
        rfc5912::{ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1},
        rfc8410::ID_ED_25519,
    },
};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::{Fault, Found};
use crate::key::{KeyError, KeyKind, KeyName, PublicKey};

/// What ties the two halves of a new pair together (`CKA_ID`).
pub(super) fn fresh_id() -> Result<Vec<u8>, KeyError> {
    let mut id = vec![0; 16];
    let filled = SystemRandom::new().fill(&mut id);
    filled.map_err(|_| KeyError::Unusable("the system gives no randomness"))?;
    Ok(id)
}

fn label(name: &KeyName) -> Attribute {
    Attribute::Label(name.as_str().into())
}

/// The key pairs of this name.
pub(super) fn find(session: &Session, name: &KeyName) -> Result<Vec<Found>, Fault> {
    let mut pairs = Vec::new();
    for private in session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY), label(name)])? {
        let id =
            session.get_attributes(private, &[AttributeType::Id])?.into_iter().find_map(|attribute| match attribute {
                Attribute::Id(id) => Some(id),
                _ => None,
            });
        let id = id.unwrap_or_default();
        let template = [Attribute::Class(ObjectClass::PUBLIC_KEY), label(name), Attribute::Id(id.clone())];
        let halves = session.find_objects(&template)?;
        let half = halves.first().ok_or(KeyError::Unusable("the token has a private key without its public half"))?;
        pairs.push(Found { private, public: public(session, *half)?, id });
    }
    Ok(pairs)
}

/// Makes a pair that stays in the token.
pub(super) fn generate(session: &Session, name: &KeyName, id: &[u8], kind: KeyKind) -> Result<Found, Fault> {
    let (mechanism, curve) = match kind {
        KeyKind::P256 => (Mechanism::EccKeyPairGen, SECP_256_R_1),
        KeyKind::P384 => (Mechanism::EccKeyPairGen, SECP_384_R_1),
        KeyKind::Ed25519 => (Mechanism::EccEdwardsKeyPairGen, ID_ED_25519),
    };
    let public_template = [
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(curve.to_der().map_err(unencoded)?),
        Attribute::Id(id.to_vec()),
        label(name),
    ];
    let private_template = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Id(id.to_vec()),
        label(name),
    ];
    let made = session.generate_key_pair(&mechanism, &public_template, &private_template);
    let (half, private) = made.map_err(|error| match error {
        Error::Pkcs11(
            RvError::MechanismInvalid
            | RvError::MechanismParamInvalid
            | RvError::CurveNotSupported
            | RvError::DomainParamsInvalid
            | RvError::FunctionNotSupported,
            _,
        ) => Fault::Final(KeyError::Kind(kind)),
        other => other.into(),
    })?;
    Ok(Found { private, id: id.to_vec(), public: public(session, half)? })
}

/// Removes every object of this name; false if there was no private key among them. `begun` is set once it is certain
/// that there was one.
pub(super) fn destroy(session: &Session, name: &KeyName, begun: &AtomicBool) -> Result<bool, Fault> {
    let private = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY), label(name)])?;
    let public = session.find_objects(&[Attribute::Class(ObjectClass::PUBLIC_KEY), label(name)])?;
    begun.fetch_or(!private.is_empty(), Ordering::Relaxed);
    for object in private.iter().chain(&public) {
        session.destroy_object(*object)?;
    }
    Ok(!private.is_empty())
}

/// Signs in the form that [`Signer`](crate::Signer) gives. ECDSA over a hash of ours: not every token hashes.
pub(super) fn sign(session: &Session, key: &PublicKey, handle: ObjectHandle, message: &[u8]) -> Result<Vec<u8>, Fault> {
    match key.kind() {
        Some(KeyKind::P256) => ecdsa(&session.sign(&Mechanism::Ecdsa, handle, &Sha256::digest(message))?),
        Some(KeyKind::P384) => ecdsa(&session.sign(&Mechanism::Ecdsa, handle, &Sha384::digest(message))?),
        Some(KeyKind::Ed25519) => {
            let scheme = EddsaParams::new(EddsaSignatureScheme::Ed25519);
            Ok(session.sign(&Mechanism::Eddsa(scheme), handle, message)?)
        }
        None => Ok(session.sign(&Mechanism::Sha256RsaPkcs, handle, message)?),
    }
}

/// From two numbers of equal length side by side (Curves §2.3.1) to `ECDSA-Sig-Value` (RFC 3279 §2.2.3).
fn ecdsa(raw: &[u8]) -> Result<Vec<u8>, Fault> {
    let (r, s) = raw.split_at(raw.len() / 2);
    let encoded = || sequence(&[UintRef::new(r)?.to_der()?, UintRef::new(s)?.to_der()?]);
    encoded().map_err(unencoded)
}

fn sequence(parts: &[Vec<u8>]) -> der::Result<Vec<u8>> {
    Any::new(der::Tag::Sequence, parts.concat())?.to_der()
}

fn unencoded(_: der::Error) -> Fault {
    KeyError::Unusable("the token gives values that are not in the form of PKCS #11").into()
}

/// The public half as a SubjectPublicKeyInfo.
fn public(session: &Session, object: ObjectHandle) -> Result<PublicKey, Fault> {
    let wanted = [AttributeType::KeyType];
    let kind = session.get_attributes(object, &wanted)?.into_iter().find_map(|attribute| match attribute {
        Attribute::KeyType(kind) => Some(kind),
        _ => None,
    });
    let wanted: &[AttributeType] = match kind {
        Some(KeyType::RSA) => &[AttributeType::Modulus, AttributeType::PublicExponent],
        _ => &[AttributeType::EcParams, AttributeType::EcPoint],
    };
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for attribute in session.get_attributes(object, wanted)? {
        match attribute {
            Attribute::Modulus(value) | Attribute::EcParams(value) => one = value,
            Attribute::PublicExponent(value) | Attribute::EcPoint(value) => two = value,
            _ => {}
        }
    }
    let info = match kind {
        Some(KeyType::RSA) => rsa(&one, &two),
        Some(KeyType::EC) => ec(&one, &two),
        _ => spki(ID_ED_25519, None, point(&two)),
    };
    Ok(PublicKey::from_spki(&info.map_err(unencoded)?).map_err(KeyError::from)?)
}

fn spki(oid: ObjectIdentifier, parameters: Option<Any>, bits: &[u8]) -> der::Result<Vec<u8>> {
    let algorithm = AlgorithmIdentifierOwned { oid, parameters };
    SubjectPublicKeyInfoOwned { algorithm, subject_public_key: BitString::from_bytes(bits)? }.to_der()
}

fn ec(curve: &[u8], point_of: &[u8]) -> der::Result<Vec<u8>> {
    spki(ID_EC_PUBLIC_KEY, Some(Any::from_der(curve)?), point(point_of))
}

/// The specification has the point in an OCTET STRING; some tokens leave that out.
fn point(value: &[u8]) -> &[u8] {
    <&OctetStringRef>::from_der(value).map_or(value, |inside| inside.as_bytes())
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> der::Result<Vec<u8>> {
    let key = sequence(&[UintRef::new(modulus)?.to_der()?, UintRef::new(exponent)?.to_der()?])?;
    spki(RSA_ENCRYPTION, Some(Null.into()), &key)
}
