//! Who is behind a certificate: exactly those whom the one who issued it may name.
//!
//! The certificates are made here, of what an input says that they say, with keys of authorities that are trusted. So
//! every signature is good, and what is left is the reading. Expected is what the input says, not what the certificate
//! says: nothing that is under test is used to find it out.

use std::sync::OnceLock;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};
use rustls_pki_types::CertificateDer;
use ztka_core::{ClusterId, ControllerId, CredentialId, InstanceId, OrgId, ProxyId, UserId};
use ztka_pki::{Anchor, CaPin, PeerVerifier, Purpose, TrustBundle};

use super::{now, provider, world};

const PURPOSES: [Purpose; 4] = [Purpose::Agents, Purpose::Users, Purpose::Proxies, Purpose::Controllers];

/// The first byte says what the rest is: a certificate in DER; changes to a good one; or what one is to say. True if
/// somebody is behind it.
pub(crate) fn peer_certificate(data: &[u8]) -> bool {
    match data.split_first() {
        Some((b'd', der)) => unsigned(der),
        Some((b'x', changes)) => changed(changes),
        Some((b's', said)) => said_and_signed(said),
        _ => false,
    }
}

/// Nobody of ours has signed these bytes.
fn unsigned(der: &[u8]) -> bool {
    let leaf = CertificateDer::from_slice(der);
    let chain = [leaf.clone(), leaf.clone()];
    for purpose in Purpose::ALL {
        assert!(world().at.trust.verify(purpose, &chain[..1]).is_err());
        assert!(world().at.trust.verify(purpose, &chain).is_err());
    }
    if let Some(pin) = CaPin::of(&leaf) {
        assert_eq!(pin.to_string().parse(), Ok(pin));
    }
    false
}

/// Offsets and what is flipped there, three bytes each, in a certificate of ours.
fn changed(changes: &[u8]) -> bool {
    let world = world();
    let good: Vec<CertificateDer<'static>> =
        rustls_pki_types::pem::PemObject::pem_slice_iter(world.chain.as_bytes()).map(Result::unwrap).collect();
    let mut bent = good[0].to_vec();
    for change in changes.chunks_exact(3) {
        let at = (usize::from(change[0]) << 8 | usize::from(change[1])) % bent.len();
        bent[at] ^= change[2];
    }
    let same = bent == good[0].as_ref();
    let mut chain = good;
    chain[0] = bent.into();
    let peer = world.at.trust.verify(Purpose::Proxies, &chain);
    assert_eq!(peer.is_ok(), same, "{peer:?}");
    same
}

/// An authority for each purpose, organisations below two of them, and a stranger.
struct Authorities {
    bundle: TrustBundle,
    purposes: Vec<Issuer<'static, KeyPair>>,
    anchors: Vec<CertificateDer<'static>>,
    stranger: Issuer<'static, KeyPair>,
    leaf: KeyPair,
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params, KeyPair::generate().unwrap())
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.not_before = rcgen::date_time_ymd(2029, 1, 1);
    params.not_after = rcgen::date_time_ymd(2031, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

fn authorities() -> &'static Authorities {
    static MADE: OnceLock<Authorities> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut made = Vec::new();
        for purpose in PURPOSES {
            let (params, key) = authority(purpose.as_str());
            let certificate: CertificateDer<'static> = params.self_signed(&key).unwrap().into();
            made.push((purpose, certificate, Issuer::new(params, key)));
        }
        let anchor = |purpose: Purpose, certificate: &CertificateDer<'static>| {
            let form = if purpose.is_per_org() { "org" } else { purpose.as_str().trim_end_matches('s') };
            let form = if purpose == Purpose::Proxies { "proxy" } else { form };
            let spiffe_prefix = Some(format!("spiffe://example.com/{form}/"));
            Anchor { certificate: certificate.clone().into(), spiffe_prefix }
        };
        let bundle = TrustBundle {
            trust_domain: "example.com".into(),
            anchors: made.iter().map(|(purpose, der, _)| (*purpose, vec![anchor(*purpose, der)])).collect(),
            ..TrustBundle::default()
        };
        let anchors = made.iter().map(|(_, der, _)| der.clone()).collect();
        let purposes = made.into_iter().map(|(_, _, issuer)| issuer).collect();
        let (params, key) = authority("agents");
        Authorities {
            bundle,
            purposes,
            anchors,
            stranger: Issuer::new(params, key),
            leaf: KeyPair::generate().unwrap(),
        }
    })
}

/// Four bytes of choices, then the names: one a line, `u` (URI) `d` (DNS) `i` (address) `e` (mail) or `x` (an extension
/// nobody knows) first, and behind an empty line those of the organisation's authority.
fn said_and_signed(said: &[u8]) -> bool {
    let Some(([purpose, shape, time, use_], names)) = said.split_first_chunk::<4>() else { return false };
    let Ok(names) = std::str::from_utf8(names) else { return false };
    let all = authorities();
    let place = usize::from(*purpose) % PURPOSES.len();
    let purpose = PURPOSES[place];
    let (leaf_names, org_names) = names.split_once("\n\n").unwrap_or((names, ""));

    let mut leaf = params("leaf");
    let Some(leaf_named) = name(&mut leaf, leaf_names) else { return false };
    let in_time = match time % 4 {
        1 => {
            leaf.not_after = rcgen::date_time_ymd(2029, 6, 1);
            false
        }
        2 => {
            leaf.not_before = rcgen::date_time_ymd(2030, 6, 1);
            false
        }
        _ => true,
    };
    let usages = [
        (use_ & 1 != 0, ExtendedKeyUsagePurpose::ClientAuth),
        (use_ & 2 != 0, ExtendedKeyUsagePurpose::ServerAuth),
        (use_ & 4 != 0, ExtendedKeyUsagePurpose::Any),
        (use_ & 8 != 0, ExtendedKeyUsagePurpose::CodeSigning),
    ];
    leaf.extended_key_usages = usages.into_iter().filter_map(|(on, usage)| on.then_some(usage)).collect();
    let is_authority = use_ & 16 != 0;
    if is_authority {
        leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }

    let (direct, by_stranger, with_anchor) = (shape & 1 != 0, shape & 2 != 0, shape & 4 != 0);
    let issuer = if by_stranger { &all.stranger } else { &all.purposes[place] };
    let (mut chain, bound) = if direct {
        (vec![CertificateDer::from(leaf.signed_by(&all.leaf, issuer).unwrap())], None)
    } else {
        let (mut params, key) = authority("org");
        let Some(bound) = name(&mut params, org_names) else { return false };
        let above = CertificateDer::from(params.signed_by(&key, issuer).unwrap());
        let org = Issuer::new(params, key);
        (vec![leaf.signed_by(&all.leaf, &org).unwrap().into(), above], Some(bound))
    };
    let critical = leaf_named.critical || bound.as_ref().is_some_and(|bound| bound.critical);
    if with_anchor {
        chain.push(all.anchors[place].clone());
    }

    let subject = match leaf_named.uris.as_slice() {
        [uri] if !leaf_named.other => Subject::of(uri),
        _ => None,
    };
    let named = match (&subject, bound) {
        (Some(Subject { purpose: of, org: Some(org) }), Some(bound)) => {
            // Who is of an organisation has no DNS name, and its authority is that organisation's alone.
            *of == purpose && leaf_named.dns == 0 && bound.uris == [format!("spiffe://example.com/org/{org}")]
        }
        (Some(Subject { purpose: of, org: None }), None) => *of == purpose,
        _ => false,
    };
    let expected = named && in_time && !by_stranger && use_ & 1 != 0 && !is_authority && !critical;
    for asked in Purpose::ALL {
        let verifier = PeerVerifier::new(&all.bundle, asked, provider()).unwrap();
        let peer = verifier.verify(&chain, now());
        assert_eq!(peer.is_ok(), expected && asked == purpose, "{asked} {peer:?} {leaf_named:?} {said:?}");
        if let Ok(peer) = peer {
            assert_eq!(peer.id.to_string(), leaf_named.uris[0]);
        }
    }
    expected
}

/// The names that a certificate was given.
#[derive(Debug, Default)]
struct Names {
    uris: Vec<String>,
    dns: usize,
    other: bool,
    /// An extension that has to be understood and is not.
    critical: bool,
}

fn name(params: &mut CertificateParams, lines: &str) -> Option<Names> {
    let mut names = Names::default();
    for line in lines.lines().take(8) {
        let (kind, text) = line.split_at_checked(1)?;
        match kind {
            "u" => {
                params.subject_alt_names.push(SanType::URI(text.try_into().ok()?));
                names.uris.push(text.to_owned());
            }
            "d" => {
                params.subject_alt_names.push(SanType::DnsName(text.try_into().ok()?));
                names.dns += 1;
            }
            "e" => {
                params.subject_alt_names.push(SanType::Rfc822Name(text.try_into().ok()?));
                names.other = true;
            }
            "i" => {
                params.subject_alt_names.push(SanType::IpAddress(text.parse().ok()?));
                names.other = true;
            }
            "x" => {
                let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], text.into());
                if params.custom_extensions.is_empty() {
                    unknown.set_criticality(text.ends_with('!'));
                    names.critical = text.ends_with('!');
                    params.custom_extensions.push(unknown);
                }
            }
            _ => return None,
        }
    }
    Some(names)
}

/// What a URI name of ours says, by its parts.
struct Subject {
    purpose: Purpose,
    org: Option<String>,
}

impl Subject {
    fn of(uri: &str) -> Option<Self> {
        let path = uri.strip_prefix("spiffe://example.com/")?;
        let parts: Vec<&str> = path.split('/').collect();
        let org = |text: &str| text.parse::<OrgId>().ok().map(|org| Some(org.to_string()));
        let (purpose, org) = match parts.as_slice() {
            ["org", of, "cluster", cluster, "agent", instance] => {
                cluster.parse::<ClusterId>().ok()?;
                instance.parse::<InstanceId>().ok()?;
                (Purpose::Agents, org(of)?)
            }
            ["org", of, "user", user, "credential", credential] => {
                user.parse::<UserId>().ok()?;
                credential.parse::<CredentialId>().ok()?;
                (Purpose::Users, org(of)?)
            }
            ["proxy", proxy] => {
                proxy.parse::<ProxyId>().ok()?;
                (Purpose::Proxies, None)
            }
            ["controller", controller] => {
                controller.parse::<ControllerId>().ok()?;
                (Purpose::Controllers, None)
            }
            _ => return None,
        };
        Some(Self { purpose, org })
    }
}
