//! The `[egress]` table: how connections leave the network that a server is in.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;
use ztka_tunnel::{Egress, NoProxy, ProxyUrl};

/// The `[egress]` table. Without it the usual environment variables count, as curl reads them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EgressConfig {
    /// `http://host:port` of an HTTP proxy that all connections to the installation go through by CONNECT, or
    /// `https://host:port` if it is to be reached by TLS itself; `""` is none. Default: the environment variable
    /// `https_proxy`, else `HTTPS_PROXY`, `all_proxy`, `ALL_PROXY`, there with `user:password@` if need be.
    pub proxy: Option<String>,
    /// Hosts that are reached without it: `example.com` (and all below), `10.0.0.0/8`, separated by commas; `*` is all.
    /// Default: the environment variable `no_proxy`, else `NO_PROXY`.
    pub no_proxy: Option<String>,
    /// User of the proxy, for Basic credentials. Default: none.
    pub user: Option<String>,
    /// File with the user's password, read anew for each connection; a final line end does not count.
    pub password_file: Option<PathBuf>,
    /// PEM files of CAs that the proxy's own certificate may lead up to, besides the system's. Default: none.
    pub ca_files: Vec<PathBuf>,
}

/// `url` with the password that is in `file` now.
fn authorized(url: ProxyUrl, user: &str, file: &Path) -> anyhow::Result<ProxyUrl> {
    let password = fs::read_to_string(file)
        .with_context(|| format!("egress.password_file: cannot read {}; check owner and mode", file.display()))?;
    let password = password.trim_end_matches(['\r', '\n']);
    url.with_credentials(user, password).context("egress.user or egress.password_file is wrong")
}

impl EgressConfig {
    /// No proxy, whatever the environment says.
    #[must_use]
    pub fn direct() -> Self {
        Self { proxy: Some(String::new()), ..Self::default() }
    }

    /// The way out that the table and the environment describe.
    ///
    /// # Errors
    /// Names the key or the variable that is wrong.
    pub fn egress(&self) -> anyhow::Result<Egress> {
        self.resolve(|name| std::env::var(name).ok())
    }

    fn resolve(&self, variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Egress> {
        let found = |names: &[&'static str]| {
            let set = |name: &&'static str| Some((*name, variable(name).filter(|value| !value.is_empty())?));
            names.iter().find_map(set)
        };
        let said = match &self.proxy {
            Some(url) => Some(("egress.proxy", url.clone())).filter(|(_, url)| !url.is_empty()),
            None => found(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
        };
        let Some((key, url)) = said else {
            let alone = self.user.is_none() && self.password_file.is_none() && self.ca_files.is_empty();
            ensure!(
                alone || self.proxy.is_some(),
                "egress.proxy is not set: the other keys of [egress] say how to use it"
            );
            return Ok(Egress::direct());
        };
        let mut url: ProxyUrl = url.parse().with_context(|| format!("{key} is wrong"))?;
        if self.proxy.is_some() && url.has_credentials() {
            bail!("egress.proxy holds a password; set egress.user and egress.password_file instead");
        }
        let mut renew = None;
        match (&self.user, &self.password_file) {
            (None, None) => {}
            (Some(user), Some(file)) => {
                url = authorized(url, user, file)?;
                let (user, file) = (user.clone(), file.clone());
                renew = Some(move |url| {
                    let authorized = authorized(url, &user, &file);
                    authorized.inspect_err(|error| tracing::warn!("{error:#}; the last password is used")).ok()
                });
            }
            _ => bail!("egress.user and egress.password_file belong together; set both or none"),
        }
        let except = match &self.no_proxy {
            Some(list) => NoProxy::new(list),
            None => found(&["no_proxy", "NO_PROXY"]).map(|(_, list)| NoProxy::new(&list)).unwrap_or_default(),
        };
        let tls = url.is_tls().then(|| self.tls()).transpose()?;
        let egress = Egress::through(url, except, tls).with_context(|| format!("{key} cannot be used"))?;
        Ok(match renew {
            Some(renew) => egress.authorized_by(renew),
            None => egress,
        })
    }

    /// By which the proxy's own certificate is verified.
    fn tls(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for file in &self.ca_files {
            let name = file.display();
            let text = fs::read(file).with_context(|| format!("egress.ca_files: cannot read {name}"))?;
            let before = roots.len();
            for certificate in CertificateDer::pem_slice_iter(&text) {
                let certificate = certificate.with_context(|| format!("egress.ca_files: {name} is not PEM"))?;
                let added = roots.add(certificate);
                added.with_context(|| format!("egress.ca_files: {name} holds something that is no CA"))?;
            }
            ensure!(roots.len() > before, "egress.ca_files: {name} holds no certificate; it takes CAs as PEM");
        }
        ensure!(!roots.is_empty(), "egress.ca_files: the system has no CAs; name the CA of the egress proxy");
        let provider = Arc::new(crate::crypto());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(table: &str, variables: &[(&str, &str)]) -> anyhow::Result<Egress> {
        let config: EgressConfig = toml::from_str(table)?;
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        config.resolve(variable)
    }

    fn proxy(table: &str, variables: &[(&str, &str)]) -> Option<String> {
        resolve(table, variables).unwrap().proxy().map(ToString::to_string)
    }

    #[test]
    fn the_table_goes_before_the_environment_and_lower_case_before_upper() {
        assert_eq!(proxy("", &[]), None);
        let both = [("HTTPS_PROXY", "http://upper:1"), ("https_proxy", "lower:2"), ("ALL_PROXY", "http://all:3")];
        assert_eq!(proxy("", &both).unwrap(), "http://lower:2");
        assert_eq!(proxy("", &both[..1]).unwrap(), "http://upper:1");
        assert_eq!(proxy("", &[("https_proxy", ""), both[2]]).unwrap(), "http://all:3");
        assert_eq!(proxy("proxy = 'http://table:4'", &both).unwrap(), "http://table:4");
        assert_eq!(proxy("proxy = ''", &both), None);
        // As curl, and for its reason: what a CGI script's client may set.
        assert_eq!(proxy("", &[("HTTP_PROXY", "http://a:1"), ("http_proxy", "http://a:1")]), None);
    }

    #[test]
    fn exceptions_come_from_the_same_two_places() {
        let proxied = |table: &str, host: &str| {
            let variables = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "here"), ("no_proxy", "there")];
            resolve(table, &variables).unwrap().is_proxied(host)
        };
        assert!(proxied("", "here") && !proxied("", "there"));
        assert!(proxied("no_proxy = 'nowhere'", "there") && !proxied("no_proxy = '*'", "there"));
    }

    #[test]
    fn errors_name_the_key_and_never_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("word");
        fs::write(&file, "secret\n").unwrap();
        let file = file.display();
        let error = |table: &str, variables: &[(&str, &str)]| format!("{:#}", resolve(table, variables).unwrap_err());
        let set = |rest: &str| format!("proxy = 'http://p:1'\n{rest}");
        for (table, words) in [
            ("proxy = 'socks5://p:1'".to_owned(), "egress.proxy is wrong"),
            ("proxy = 'http://u:secret@p:1'".to_owned(), "egress.password_file instead"),
            ("user = 'u'".to_owned(), "egress.proxy is not set"),
            (set("user = 'u'"), "belong together"),
            (set("user = 'u'\npassword_file = '/nowhere'"), "cannot read /nowhere"),
            (set(&format!("user = 'u:v'\npassword_file = '{file}'")), "egress.user"),
            (format!("proxy = 'https://p:1'\nca_files = ['{file}']"), "holds no certificate"),
            ("proxy = 'https://p:1'\nca_files = ['/nowhere']".to_owned(), "egress.ca_files: cannot read /nowhere"),
        ] {
            let text = error(&table, &[]);
            assert!(text.contains(words) && !text.contains("secret"), "{table}: {text}");
        }
        let text = error("", &[("HTTPS_PROXY", "ftp://u:secret@p")]);
        assert!(text.contains("HTTPS_PROXY") && !text.contains("secret"), "{text}");
        let good = resolve(&set(&format!("user = 'u'\npassword_file = '{file}'")), &[]).unwrap();
        assert!(good.proxy().unwrap().has_credentials() && !format!("{good:?}").contains("secret"));
    }
}
