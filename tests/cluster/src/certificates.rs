//! The cluster's own certificate authority and the identities it issues.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// A certificate and its key, as PEM and as the files that hold them.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM (PKCS#8).
    pub key: String,
    /// File with the certificate.
    pub certificate_path: PathBuf,
    /// File with the key.
    pub key_path: PathBuf,
}

/// A certificate authority that writes what it issues into one folder.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    path: PathBuf,
}

impl Authority {
    /// Makes a new authority with a P-256 key; `<name>.crt` in `folder` is its certificate.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(folder: &Path, name: &str) -> Result<Self> {
        let mut params = params(name)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let path = folder.join(format!("{name}.crt"));
        write(&path, &issuer.pem())?;
        Ok(Self { issuer, folder: folder.to_owned(), path })
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// File with the authority's certificate.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Issues a server certificate for DNS names and IP addresses.
    ///
    /// # Errors
    /// When a name is not one, or the files cannot be written.
    pub fn server(&self, name: &str, names: &[String]) -> Result<Identity> {
        let mut params = params(name)?;
        for san in CertificateParams::new(names)?.subject_alt_names {
            params.subject_alt_names.push(san);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(name, params)
    }

    /// Issues a client certificate that Kubernetes reads as `user` in `groups` (common name, organizations).
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Identity> {
        let mut params = params(user)?;
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(user, params)
    }

    fn issue(&self, name: &str, mut params: CertificateParams) -> Result<Identity> {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let file = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let (certificate_path, key_path) =
            (self.folder.join(format!("{file}.crt")), self.folder.join(format!("{file}.key")));
        write(&certificate_path, &certificate)?;
        write(&key_path, &key.serialize_pem())?;
        Ok(Identity { certificate, key: key.serialize_pem(), certificate_path, key_path })
    }
}

/// Makes the key pair with which ServiceAccount tokens are signed: `(private, public)` files.
pub(crate) fn service_account_keys(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let key = KeyPair::generate()?;
    let (private, public) = (folder.join("service-account.key"), folder.join("service-account.pub"));
    write(&private, &key.serialize_pem())?;
    write(&public, &key.public_key_pem())?;
    Ok((private, public))
}

fn params(common_name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
    Ok(params)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
