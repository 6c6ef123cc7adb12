//! `ztka kubeconfig refresh`: the certificates in a kubeconfig are renewed where they stand.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use zeroize::Zeroizing;
use ztka_api::CredentialFile;
use ztka_core::{SpiffeId, Subject};
use ztka_pki::{Credential, SoftwareKey};

use crate::{
    commands::issue,
    files,
    kubeconfig::{ClusterEntry, Contents, UserEntry},
    output::Output,
    session::Session,
};

#[derive(Args, Debug)]
pub(crate) struct Refresh {
    /// The kubeconfig; by default what kubectl reads: $KUBECONFIG if it names one file, else ~/.kube/config
    #[arg(long, short, value_name = "FILE", visible_alias = "kubeconfig")]
    file: Option<PathBuf>,
    /// Renew the user of this context alone
    #[arg(long)]
    context: Option<String>,
}

/// A user of the file with a certificate of ours, and the cluster by which its controller is found.
#[derive(Debug)]
struct Renewable {
    name: String,
    credential: CredentialFile,
    /// As they stand in the file.
    chain: String,
    key: Zeroizing<String>,
    authorities: Vec<String>,
}

impl Refresh {
    pub(super) async fn run(self, output: Output) -> anyhow::Result<()> {
        let path = match &self.file {
            Some(file) => file.clone(),
            None => default_path()?,
        };
        // A link goes on being one.
        let (given, path) =
            (&path, fs::canonicalize(&path).with_context(|| format!("cannot read {}", path.display()))?);
        let _locks = Locks::take(given, &path)?;
        let text =
            Zeroizing::new(fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?);
        let contents = Contents::read(&text).with_context(|| format!("cannot read {}", path.display()))?;
        let (renewables, mut failed) = renewables(&contents, self.context.as_deref())?;
        let mut text = text;
        let mut renewed = Vec::new();
        for renewable in renewables {
            let issued = async { issue::renew(&Session::new(&renewable.credential, None, output)?.api).await };
            match issued.await {
                Ok(issue::Issued { answer, key }) => {
                    text = renewable.replaced(&text, &answer.chain, key.expose(), &answer.access.ca_bundle);
                    // After each: what the controller has renewed is not lost by what comes behind.
                    files::write_private(&path, text.as_bytes())?;
                    renewed.push(answer.credential);
                }
                Err(error) => failed.push(error.context(format!("the user {:?} is not renewed", renewable.name))),
            }
        }
        if !renewed.is_empty() {
            output.list(&renewed, ["CREDENTIAL", "VALID UNTIL"], |credential| {
                [credential.id.to_string(), credential.not_after.to_string()]
            })?;
        }
        match (failed.pop(), failed.is_empty()) {
            (None, _) => Ok(()),
            (Some(error), true) => Err(error),
            (Some(last), false) => {
                failed.push(last);
                let all: Vec<_> = failed.iter().map(|error| format!("{error:#}")).collect();
                bail!("{}", all.join("\n"))
            }
        }
    }
}

/// Those that can be renewed, each once, and why others cannot: they do not keep these from it.
fn renewables(contents: &Contents, context: Option<&str>) -> anyhow::Result<(Vec<Renewable>, Vec<anyhow::Error>)> {
    let only = match context {
        None => None,
        Some(wanted) => {
            let found = contents.contexts.iter().find(|context| context.name == wanted);
            Some(found.with_context(|| format!("the kubeconfig has no context {wanted:?}"))?.user.clone())
        }
    };
    let users = contents.users.iter().filter(|user| only.as_ref().is_none_or(|only| *only == user.name));
    let (mut found, mut failed) = (Vec::<Renewable>::new(), Vec::new());
    for user in users {
        match renewable(contents, user) {
            // The same under another name is replaced with it.
            Ok(Some(renewable)) => match found.iter_mut().find(|known| known.chain == renewable.chain) {
                Some(known) => known.authorities.extend(renewable.authorities),
                None => found.push(renewable),
            },
            Ok(None) => {}
            Err(error) => failed.push(error),
        }
    }
    ensure!(
        !(found.is_empty() && failed.is_empty()),
        "no certificate of ZTKA is in there; get a kubeconfig by: ztka kubeconfig --file FILE"
    );
    Ok((found, failed))
}

/// None for users that are not ours.
fn renewable(contents: &Contents, user: &UserEntry) -> anyhow::Result<Option<Renewable>> {
    let (Some(chain), Some(key)) = (&user.certificate, &user.key) else { return Ok(None) };
    let (Some(chain_pem), Some(key_pem)) = (decode(chain), decode(key)) else { return Ok(None) };
    let provider = rustls::crypto::ring::default_provider();
    let Ok(software) = SoftwareKey::from_pem(key_pem.as_bytes(), &provider) else { return Ok(None) };
    let Ok(credential) = Credential::from_pem(chain_pem.as_bytes(), &software) else { return Ok(None) };
    if !matches!(credential.id(), Some(SpiffeId { subject: Subject::User { .. }, .. })) {
        return Ok(None);
    }
    let name = &user.name;
    let now = jiff::Timestamp::now();
    if credential.not_after() <= now {
        bail!(
            "the certificate of {name:?} expired at {}; only a valid one can be renewed: get a new kubeconfig by \
             ztka kubeconfig, or from your administrator",
            credential.not_after()
        );
    }
    let contexts = contents.contexts.iter().filter(|context| context.user == *name);
    let clusters: Vec<&ClusterEntry> = contexts
        .filter_map(|context| contents.clusters.iter().find(|cluster| cluster.name == context.cluster))
        .collect();
    let endpoint = clusters.iter().find_map(|cluster| endpoint(cluster));
    let Some((address, server_name, ca_bundle)) = endpoint else {
        bail!("no context of the user {name:?} leads to a cluster of ZTKA, so that its controller cannot be found");
    };
    let authorities =
        clusters.iter().filter(|cluster| endpoint_of(cluster)).filter_map(|found| found.authority.clone());
    let authorities = authorities.collect();
    let credential =
        CredentialFile { address, server_name, ca_bundle, chain: chain_pem.to_string(), key: key_pem.into() };
    let (chain, key) = (chain.clone(), Zeroizing::new(key.to_string()));
    Ok(Some(Renewable { name: name.clone(), credential, chain, key, authorities }))
}

fn endpoint_of(cluster: &ClusterEntry) -> bool {
    endpoint(cluster).is_some()
}

/// Where the controller of a cluster of ours is: behind the same address, as `api.<domain>`.
fn endpoint(cluster: &ClusterEntry) -> Option<(String, String, String)> {
    let name = cluster.tls_server_name.as_deref()?;
    let domain = name.strip_prefix("kube.").or_else(|| name.split_once(".kube.").map(|(_, domain)| domain))?;
    let server = cluster.server.as_deref()?.strip_prefix("https://")?;
    let host = server.split_once('/').map_or(server, |(host, _)| host);
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { host.into() } else { format!("{host}:443") };
    let authority = decode(cluster.authority.as_deref()?)?;
    Some((address, format!("api.{domain}"), authority.to_string()))
}

fn decode(text: &str) -> Option<Zeroizing<String>> {
    let bytes = Zeroizing::new(BASE64_STANDARD.decode(text).ok()?);
    std::str::from_utf8(&bytes).ok().map(|text| Zeroizing::new(text.to_owned()))
}

impl Renewable {
    /// The text with other values in the places of the old ones, and every other byte as it was.
    fn replaced(&self, text: &str, chain: &str, key: &str, authority: &str) -> Zeroizing<String> {
        let encoded = |text: &str| Zeroizing::new(BASE64_STANDARD.encode(text));
        // Room for the whole, so that no key is left behind where the text has grown out of.
        let mut next =
            Zeroizing::new(String::with_capacity(2 * text.len() + 4 * (chain.len() + key.len() + authority.len())));
        let (chain, key, authority) = (encoded(chain), encoded(key), encoded(authority));
        let mut rest = text;
        let mut values: Vec<(&str, &str)> = vec![(&self.chain, &chain), (&self.key, &key)];
        values.extend(self.authorities.iter().map(|old| (old.as_str(), authority.as_str())));
        while let Some((at, (old, new))) =
            values.iter().filter_map(|pair| Some((find_value(rest, pair.0)?, *pair))).min_by_key(|(at, _)| *at)
        {
            let (before, after) = rest.split_at(at);
            next.push_str(before);
            next.push_str(new);
            rest = after.get(old.len()..).unwrap_or_default();
        }
        next.push_str(rest);
        next
    }
}

/// Where `value` stands as a whole, and not as the beginning or end of another one.
fn find_value(text: &str, value: &str) -> Option<usize> {
    let is_part = |char: char| char.is_ascii_alphanumeric() || "+/=".contains(char);
    text.match_indices(value).map(|(at, _)| at).find(|at| {
        let before = text.get(..*at).and_then(|before| before.chars().next_back());
        let after = text.get(at + value.len()..).and_then(|after| after.chars().next());
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

fn default_path() -> anyhow::Result<PathBuf> {
    match std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        Some(list) => {
            let files: Vec<PathBuf> =
                std::env::split_paths(&list).filter(|file| !file.as_os_str().is_empty()).collect();
            match files.as_slice() {
                [file] => Ok(file.clone()),
                _ => bail!("KUBECONFIG names several files; say which one by --file"),
            }
        }
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set; name the kubeconfig by --file")?;
            Ok(Path::new(&home).join(".kube").join("config"))
        }
    }
}

/// kubectl takes the lock beside the name that it was given, before it changes a kubeconfig. Where that is a link, others
/// may have been given the file itself.
#[derive(Debug)]
struct Locks {
    _given: Lock,
    _file: Option<Lock>,
}

impl Locks {
    fn take(given: &Path, file: &Path) -> anyhow::Result<Self> {
        let folder = given.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let same = fs::canonicalize(folder).ok().as_deref() == file.parent() && given.file_name() == file.file_name();
        let _given = Lock::take(given)?;
        let _file = if same { None } else { Some(Lock::take(file)?) };
        Ok(Self { _given, _file })
    }
}

/// The lock of `k8s.io/client-go/tools/clientcmd`: a file beside the kubeconfig.
#[derive(Debug)]
struct Lock(PathBuf);

impl Lock {
    fn take(file: &Path) -> anyhow::Result<Self> {
        let mut lock = file.as_os_str().to_owned();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        let made = fs::OpenOptions::new().write(true).create_new(true).open(&lock);
        made.with_context(|| {
            format!(
                "{0} cannot be made: another program changes the kubeconfig, or was killed; then remove {0}",
                lock.display()
            )
        })?;
        Ok(Self(lock))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests;
