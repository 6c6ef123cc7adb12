//! Chains of a hierarchy of our own making, with every defect of a leaf crossed with every one of what is above it.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, RevokedCertParams, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use ztka_pki::{PeerError, ValidCsr};

/// What a chain is shown for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Use {
    /// A user's, below the users' intermediate.
    Client,
    /// A server's, below the servers' intermediate, which has a name constraint.
    Server,
}

/// What is odd about the leaf.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Leaf {
    Good,
    P384,
    Ed25519,
    Rsa,
    Expired,
    NotYetValid,
    OtherUse,
    NoUse,
    AnyUse,
    Authority,
    UnknownCritical,
    ForeignName,
    TwoNames,
    OtherKeySigned,
    AlteredSignature,
    AlteredContent,
}

impl Leaf {
    pub(crate) const ALL: [Self; 16] = [
        Self::Good,
        Self::P384,
        Self::Ed25519,
        Self::Rsa,
        Self::Expired,
        Self::NotYetValid,
        Self::OtherUse,
        Self::NoUse,
        Self::AnyUse,
        Self::Authority,
        Self::UnknownCritical,
        Self::ForeignName,
        Self::TwoNames,
        Self::OtherKeySigned,
        Self::AlteredSignature,
        Self::AlteredContent,
    ];

    /// What we make of it under a good intermediate.
    pub(crate) fn verdict(self, shown: Use) -> Result<(), PeerError> {
        match self {
            Self::Good | Self::P384 | Self::Ed25519 | Self::Rsa => Ok(()),
            Self::Expired => Err(PeerError::Expired),
            Self::NotYetValid => Err(PeerError::NotYetValid),
            Self::OtherUse | Self::NoUse | Self::AnyUse | Self::Authority => Err(PeerError::Use),
            Self::UnknownCritical => Err(PeerError::Invalid),
            Self::TwoNames if shown == Use::Server => Ok(()),
            Self::ForeignName | Self::TwoNames => Err(PeerError::Name),
            Self::OtherKeySigned | Self::AlteredSignature | Self::AlteredContent => Err(PeerError::Untrusted),
        }
    }
}

/// What is odd above the leaf.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Above {
    Good,
    P384,
    Ed25519,
    NoUse,
    WithUnrelated,
    Twice,
    Constrained,
    Expired,
    NotYetValid,
    OtherUse,
    NoAuthority,
    NoCertSign,
    TooDeep,
    UnknownCritical,
    AlteredSignature,
    Impostor,
    Missing,
    OtherAnchor,
    AnchorExpired,
}

impl Above {
    pub(crate) const ALL: [Self; 19] = [
        Self::Good,
        Self::P384,
        Self::Ed25519,
        Self::NoUse,
        Self::WithUnrelated,
        Self::Twice,
        Self::Constrained,
        Self::Expired,
        Self::NotYetValid,
        Self::OtherUse,
        Self::NoAuthority,
        Self::NoCertSign,
        Self::TooDeep,
        Self::UnknownCritical,
        Self::AlteredSignature,
        Self::Impostor,
        Self::Missing,
        Self::OtherAnchor,
        Self::AnchorExpired,
    ];

    /// What we make of it above a good leaf.
    pub(crate) fn verdict(self, shown: Use) -> Result<(), PeerError> {
        match self {
            Self::Good | Self::P384 | Self::Ed25519 | Self::NoUse | Self::WithUnrelated | Self::Twice => Ok(()),
            // It constrains DNS names, which a client has none of.
            Self::Constrained if shown == Use::Client => Ok(()),
            Self::Constrained => Err(PeerError::Name),
            Self::Expired | Self::AnchorExpired => Err(PeerError::Expired),
            Self::NotYetValid => Err(PeerError::NotYetValid),
            Self::OtherUse | Self::NoAuthority | Self::NoCertSign => Err(PeerError::Use),
            Self::TooDeep => Err(PeerError::PathLength),
            Self::UnknownCritical => Err(PeerError::Invalid),
            Self::AlteredSignature | Self::Impostor | Self::Missing | Self::OtherAnchor => Err(PeerError::Untrusted),
        }
    }
}

/// A chain, and what to hold it against.
pub(crate) struct Case {
    pub(crate) shown: Use,
    pub(crate) leaf: Leaf,
    pub(crate) above: Above,
    pub(crate) at: Timestamp,
    pub(crate) anchor: CertificateDer<'static>,
    /// The leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The server that is asked for.
    pub(crate) server: Option<&'static str>,
    /// Lists of the authority that has signed a good leaf, in DER: without the leaf, and with it.
    pub(crate) crls: [Vec<u8>; 2],
}

pub(crate) fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

/// When good leaves begin and end.
pub(crate) fn leaf_life() -> (Timestamp, Timestamp) {
    (now() - SignedDuration::from_hours(1), now() + SignedDuration::from_hours(24))
}

fn dated(params: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    let at = |at: Timestamp| OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap();
    (params.not_before, params.not_after) = (at(from), at(until));
}

const YEAR: SignedDuration = SignedDuration::from_hours(365 * 24);
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn usage(shown: Use) -> ExtendedKeyUsagePurpose {
    match shown {
        Use::Client => ExtendedKeyUsagePurpose::ClientAuth,
        Use::Server => ExtendedKeyUsagePurpose::ServerAuth,
    }
}

fn other(shown: Use) -> ExtendedKeyUsagePurpose {
    match shown {
        Use::Client => ExtendedKeyUsagePurpose::ServerAuth,
        Use::Server => ExtendedKeyUsagePurpose::ClientAuth,
    }
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params
}

fn authority(common_name: &str, shown: Use, length: u8) -> CertificateParams {
    let mut params = named(common_name);
    dated(&mut params, now() - YEAR, now() + YEAR);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![usage(shown)];
    params
}

fn permit(name: &str) -> Option<NameConstraints> {
    let permitted_subtrees = vec![GeneralSubtree::DnsName(name.into())];
    Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() })
}

fn unknown_critical() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    extension.set_criticality(true);
    extension
}

fn altered(certificate: &CertificateDer<'_>, at: usize) -> CertificateDer<'static> {
    let mut der = certificate.to_vec();
    der[at] ^= 1;
    der.into()
}

/// The keys of one hierarchy, made once: it is the certificates that differ.
pub(crate) struct Keys {
    root: KeyPair,
    impostor: KeyPair,
    anchor: KeyPair,
    p256: KeyPair,
    p384: KeyPair,
    ed25519: KeyPair,
    below: KeyPair,
    leaf: KeyPair,
    rsa: SubjectPublicKeyInfo,
}

impl Keys {
    pub(crate) fn new(rsa_csr: &[u8]) -> Self {
        let key = |algorithm| KeyPair::generate_for(algorithm).unwrap();
        let rsa = ValidCsr::from_pem(rsa_csr).unwrap();
        Self {
            root: key(&PKCS_ECDSA_P256_SHA256),
            impostor: key(&PKCS_ECDSA_P256_SHA256),
            anchor: key(&PKCS_ECDSA_P256_SHA256),
            p256: key(&PKCS_ECDSA_P256_SHA256),
            p384: key(&PKCS_ECDSA_P384_SHA384),
            ed25519: key(&PKCS_ED25519),
            below: key(&PKCS_ECDSA_P256_SHA256),
            leaf: key(&PKCS_ECDSA_P256_SHA256),
            rsa: SubjectPublicKeyInfo::from_der(rsa.key().der()).unwrap(),
        }
    }

    pub(crate) fn case(&self, shown: Use, leaf: Leaf, above: Above) -> Case {
        let root = authority("root", shown, 2);
        let root = Issuer::from_params(&root, &self.root);
        let mut anchor = authority("purpose", shown, 1);
        if shown == Use::Server {
            anchor.name_constraints = permit("example.com");
        }
        if above == Above::AnchorExpired {
            dated(&mut anchor, now() - YEAR, now() - DAY);
        }
        let anchor_der: CertificateDer<'static> = anchor.signed_by(&self.anchor, &root).unwrap().into();

        let signs = if above == Above::Impostor { &self.impostor } else { &self.anchor };
        let key = match above {
            Above::P384 => &self.p384,
            Above::Ed25519 => &self.ed25519,
            _ => &self.p256,
        };
        let good = self.between(shown);
        let between = self.spoilt(shown, above);
        let mut between_der: CertificateDer<'static> =
            between.signed_by(key, &Issuer::from_params(&anchor, signs)).unwrap().into();
        if above == Above::AlteredSignature {
            between_der = altered(&between_der, between_der.len() - 1);
        }
        // Whatever became of the intermediate, its key signs as that of a good one.
        let deeper = authority("deeper", shown, 0);
        let mut chain = Vec::new();
        let issuer = match above {
            Above::TooDeep => {
                chain.push(deeper.signed_by(&self.below, &Issuer::from_params(&good, key)).unwrap().into());
                Issuer::from_params(&deeper, &self.below)
            }
            _ => Issuer::from_params(&good, key),
        };
        match above {
            Above::Missing => {}
            Above::Twice => chain.extend([between_der.clone(), between_der]),
            Above::WithUnrelated => {
                let unrelated = authority("unrelated", shown, 0).self_signed(&self.below).unwrap().into();
                chain.extend([unrelated, between_der]);
            }
            _ => chain.push(between_der),
        }
        let server = self.leaf(shown, leaf, &issuer, &mut chain);
        let serial = serial_of(chain.first().unwrap());
        let crls = [vec![7], serial].map(|serial| crl(&issuer, &serial));
        let anchor = match above {
            Above::OtherAnchor => authority("other purpose", shown, 1).signed_by(&self.below, &root).unwrap().into(),
            _ => anchor_der,
        };
        Case { shown, leaf, above, at: now(), anchor, chain, server, crls }
    }

    fn between(&self, shown: Use) -> CertificateParams {
        let mut params = authority("acme", shown, 0);
        if shown == Use::Client {
            params.subject_alt_names = vec![uri("spiffe://example.com/org/acme")];
        }
        params
    }

    fn spoilt(&self, shown: Use, above: Above) -> CertificateParams {
        let mut params = self.between(shown);
        match above {
            Above::NoUse => params.extended_key_usages.clear(),
            Above::OtherUse => params.extended_key_usages = vec![other(shown)],
            Above::Expired => dated(&mut params, now() - YEAR, now() - DAY),
            Above::NotYetValid => dated(&mut params, now() + DAY, now() + YEAR),
            Above::NoAuthority => {
                params.is_ca = IsCa::ExplicitNoCa;
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            }
            Above::NoCertSign => params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            Above::UnknownCritical => params.custom_extensions = vec![unknown_critical()],
            Above::Constrained => params.name_constraints = permit("kube.example.com"),
            _ => {}
        }
        params
    }

    /// Puts the leaf in front, and tells the server that it is to be.
    fn leaf(
        &self,
        shown: Use,
        leaf: Leaf,
        issuer: &Issuer<'_, &KeyPair>,
        chain: &mut Vec<CertificateDer<'static>>,
    ) -> Option<&'static str> {
        let mut params = named("leaf");
        let (from, until) = leaf_life();
        dated(&mut params, from, until);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage(shown)];
        let (own, foreign, server) = match shown {
            Use::Client => (
                uri("spiffe://example.com/org/acme/user/u1/credential/k1"),
                uri("spiffe://example.com/org/evil/user/u1/credential/k1"),
                None,
            ),
            Use::Server => (dns("api.example.com"), dns("api.example.net"), Some("api.example.com")),
        };
        params.subject_alt_names = vec![own.clone()];
        let mut server = server;
        match leaf {
            Leaf::Expired => dated(&mut params, now() - DAY, now() - SignedDuration::from_hours(1)),
            Leaf::NotYetValid => dated(&mut params, now() + SignedDuration::from_hours(1), now() + DAY),
            Leaf::OtherUse => params.extended_key_usages = vec![other(shown)],
            Leaf::NoUse => params.extended_key_usages.clear(),
            Leaf::AnyUse => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any],
            Leaf::Authority => {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.key_usages.push(KeyUsagePurpose::KeyCertSign);
            }
            Leaf::UnknownCritical => params.custom_extensions = vec![unknown_critical()],
            Leaf::ForeignName => {
                params.subject_alt_names = vec![foreign];
                server = server.map(|_| "api.example.net");
            }
            Leaf::TwoNames => {
                let second = match shown {
                    Use::Client => uri("spiffe://example.com/org/acme/user/u2/credential/k2"),
                    Use::Server => dns("web.example.com"),
                };
                params.subject_alt_names = vec![own, second];
            }
            _ => {}
        }
        let stranger = authority("acme", shown, 0);
        let stranger = Issuer::from_params(&stranger, &self.impostor);
        let issuer = if leaf == Leaf::OtherKeySigned { &stranger } else { issuer };
        let key: &dyn PublicKeyDataOf = match leaf {
            Leaf::P384 => &self.p384,
            Leaf::Ed25519 => &self.ed25519,
            Leaf::Rsa => &self.rsa,
            _ => &self.leaf,
        };
        let der = key.certify(&params, issuer);
        let der = match leaf {
            Leaf::AlteredSignature => altered(&der, der.len() - 1),
            Leaf::AlteredContent => {
                // The common name is in it twice if the issuer is called the same; it is not.
                let at = der.windows(4).position(|window| window == b"leaf").unwrap();
                altered(&der, at)
            }
            _ => der,
        };
        chain.insert(0, der);
        server
    }
}

/// The serial number of a certificate; anything for one that cannot be read.
fn serial_of(certificate: &CertificateDer<'_>) -> Vec<u8> {
    webpki::EndEntityCert::try_from(certificate).map_or_else(|_| vec![1], |read| read.serial().to_vec())
}

/// A list with one entry.
fn crl(issuer: &Issuer<'_, &KeyPair>, serial: &[u8]) -> Vec<u8> {
    let at = |at: Timestamp| OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap();
    let entry = RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: at(now() - SignedDuration::from_hours(1)),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: at(now() - DAY),
        next_update: at(now() + DAY),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![entry],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().der().to_vec()
}

/// `signed_by` is generic over the key.
trait PublicKeyDataOf {
    fn certify(&self, params: &CertificateParams, issuer: &Issuer<'_, &KeyPair>) -> CertificateDer<'static>;
}

impl<K: PublicKeyData> PublicKeyDataOf for K {
    fn certify(&self, params: &CertificateParams, issuer: &Issuer<'_, &KeyPair>) -> CertificateDer<'static> {
        params.signed_by(self, issuer).unwrap().into()
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}
