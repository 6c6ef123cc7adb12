//! `ztka pki`

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use zeroize::Zeroizing;
use ztka_api::{Authority, NewRoot, PkiStep, StepTaken, TakeStep, Waiting};
use ztka_controller_server::{self as controller, RootKey};
use ztka_pki::{AuthorityName, Lifetimes, Names, Passphrase, Purpose, Root, SoftwareKey, file};

use crate::{output::Output, session::Session};

#[derive(Debug, Subcommand)]
pub(crate) enum Pki {
    /// Show the certificate authorities, their rotations, and who has yet to take them
    Status,
    /// Make the certificate authorities before the first start, on the controller's machine, when the root's key is not to
    /// be kept there; otherwise the first start makes them
    Init(Init),
    /// Replace a certificate authority while everybody stays connected
    Rotate(Rotate),
}

/// On the machine and for the account that the controller runs under.
#[derive(Args, Debug)]
pub(crate) struct Init {
    /// The controller's data_dir
    #[arg(long, env = "ZTKA_DATA", value_name = "DIR", default_value = "ztka-data")]
    data: PathBuf,
    /// The controller's domain
    #[arg(long, default_value = "ztka.localhost")]
    domain: String,
    /// The controller's database, if it is not in its data_dir
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Write the root's key there, encrypted (PKCS#8), and keep only the intermediates' keys; take the file away afterwards
    #[arg(long, value_name = "FILE", requires = "root_passphrase", conflicts_with_all = ["requests", "root"])]
    root_key: Option<PathBuf>,
    /// File with the passphrase of the root's key
    #[arg(long, value_name = "FILE")]
    root_passphrase: Option<PathBuf>,
    /// Write requests for the intermediates there, for a root of your own to sign
    #[arg(long, value_name = "DIR", conflicts_with = "root")]
    requests: Option<PathBuf>,
    /// Certificate (PEM) of the root that has signed the requests
    #[arg(long, value_name = "FILE", requires = "certificates")]
    root: Option<PathBuf>,
    /// Where the signed certificates are: servers.pem, agents.pem, …, each with those between it and the root
    #[arg(long, value_name = "DIR", requires = "root")]
    certificates: Option<PathBuf>,
    /// The controller's keys.token: the PKCS#11 library, to make the keys in a token
    #[arg(long, value_name = "FILE", requires_all = ["token_label", "token_pin_file"])]
    token_module: Option<PathBuf>,
    /// The token's label
    #[arg(long, value_name = "LABEL", requires = "token_module")]
    token_label: Option<String>,
    /// Private file (0600) with the token's PIN
    #[arg(long, value_name = "FILE", requires = "token_module")]
    token_pin_file: Option<PathBuf>,
}

/// The certificates of the six purposes, as somebody has signed them.
fn chains<K: Ord>(directory: &Path, key: impl Fn(Purpose) -> K) -> anyhow::Result<BTreeMap<K, String>> {
    let chain = |purpose: Purpose| Ok((key(purpose), text(&directory.join(format!("{purpose}.pem")))?));
    Purpose::ALL.into_iter().map(chain).collect()
}

fn text(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

impl Init {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let root = match (&self.root_key, &self.root_passphrase, &self.requests, &self.root, &self.certificates) {
            (Some(key), Some(secret), ..) => RootKey::File(key.clone(), passphrase(secret)?),
            (.., Some(directory), _, _) => RootKey::Requested(directory.clone()),
            (.., Some(root), Some(directory)) => {
                RootKey::Elsewhere { root: text(root)?, chains: chains(directory, |purpose| purpose)? }
            }
            _ => RootKey::Here,
        };
        let token = match (self.token_module, self.token_label, self.token_pin_file) {
            (Some(module), Some(label), Some(pin_file)) => {
                Some(controller::Token { module, label, pin_file, sessions: None })
            }
            _ => None,
        };
        let config = controller::Config {
            listen_crls: None,
            keys: controller::Keys { token },
            encryption: controller::Encryption::default(),
            tree_heads: controller::TreeHeads::default(),
            domain: self.domain,
            data_dir: self.data,
            database: self.database,
            front: "unused:443".into(),
            tunnels: Vec::new(),
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            listen_passed: None,
            certificates: controller::Certificates::default(),
            recordings: controller::Recordings::default(),
            limits: ztka_controller::serve::Limits::default(),
            runtime: ztka_runtime::Common::default(),
        };
        match controller::init(&config, root).await? {
            controller::Initialised::Done => println!("The certificate authorities are made; start the controller."),
            controller::Initialised::Requested(requests) => {
                for request in requests {
                    println!("{}", request.display());
                }
                println!("Have these signed, then: ztka pki init --root FILE --certificates DIR");
            }
        }
        Ok(())
    }
}

/// Without a step, all of them are taken, each as soon as nobody has to be waited for any more.
#[derive(Args, Debug)]
pub(crate) struct Rotate {
    /// root, servers, agents, users, proxies, controllers, signing, or an organisation's own: agents.ID, users.ID
    authority: AuthorityName,
    /// One step alone
    #[arg(value_enum)]
    step: Option<Step>,
    /// It is in wrong hands: believe it no longer, at once, and list who is left outside
    #[arg(long, conflicts_with = "step")]
    emergency: bool,
    /// Do not wait for those who are missing
    #[arg(long)]
    anyway: bool,
    /// The root's key, which is kept offline: signs the new certificate here, and is not sent anywhere
    #[arg(long, value_name = "FILE", requires = "root_passphrase")]
    root_key: Option<PathBuf>,
    /// File with the passphrase of the root's key
    #[arg(long, value_name = "FILE")]
    root_passphrase: Option<PathBuf>,
    /// Write the key of a new root there, encrypted under the same passphrase, as its certificate is signed by --root-key
    #[arg(long, value_name = "FILE", requires = "root_key")]
    new_root_key: Option<PathBuf>,
    /// Write the request for the new certificate there, for whoever keeps the root
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root_key", "certificate"])]
    csr: Option<PathBuf>,
    /// The certificate that the root has signed, with those between it and the root (PEM)
    #[arg(long, value_name = "FILE", conflicts_with = "root_key")]
    certificate: Option<PathBuf>,
    /// Write the six requests there that a new root of your own has to sign
    #[arg(long, value_name = "DIR", conflicts_with_all = ["root_key", "csr", "certificate", "new_root"])]
    requests: Option<PathBuf>,
    /// Certificate (PEM) of a new root of your own, which has signed the requests
    #[arg(long, value_name = "FILE", requires = "certificates", conflicts_with_all = ["new_root_key", "csr", "certificate"])]
    new_root: Option<PathBuf>,
    /// Where the certificates are that the new root has signed: servers.pem, agents.pem, …
    #[arg(long, value_name = "DIR", requires = "new_root")]
    certificates: Option<PathBuf>,
    /// The new root certified by the old one (PEM), unless that is done here with --root-key, or by the controller
    #[arg(long, value_name = "FILE", requires = "new_root", conflicts_with = "root_key")]
    cross: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Step {
    /// Make a successor, and have it believed
    Publish,
    /// Let the successor sign
    Activate,
    /// Believe the old one no longer
    Retire,
    /// Go back, before retire
    Rollback,
    /// Take no step until it is resumed
    Pause,
    /// Take steps again
    Resume,
}

impl Pki {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Status => status(session).await,
            Self::Init(_) => Ok(()),
            Self::Rotate(rotate) => rotate.run(session).await,
        }
    }
}

async fn status(session: &Session) -> anyhow::Result<()> {
    let pki = session.api.pki().await?;
    if session.output == Output::Json {
        return session.output.one(&pki, String::new);
    }
    println!("{} of {} agents and proxies go by the newest trust document.\n", pki.current, pki.members);
    show(session, &pki.authorities)
}

fn show(session: &Session, authorities: &[Authority]) -> anyhow::Result<()> {
    session.output.list(authorities, ["AUTHORITY", "KEY", "UNTIL", "ROTATION", "WAITING FOR"], |authority| {
        let (rotation, waiting) = match &authority.rotation {
            None => ("-".into(), "-".into()),
            Some(rotation) => {
                let mut text = rotation.phase.clone();
                let more = [
                    (rotation.reversed, ", rolled back"),
                    (rotation.automatic, ", automatic"),
                    (rotation.paused, ", paused"),
                ];
                more.into_iter().filter(|(on, _)| *on).for_each(|(_, word)| text.push_str(word));
                (text, rotation.waiting.len().to_string())
            }
        };
        let key = authority.key.get(..16).unwrap_or(&authority.key);
        let key = if authority.key_here { key.to_owned() } else { format!("{key} (offline)") };
        [authority.name.clone(), key, authority.not_after.to_string(), rotation, waiting]
    })?;
    let waiting: Vec<_> = authorities
        .iter()
        .flat_map(|authority| {
            authority.rotation.iter().flat_map(|rotation| &rotation.waiting).map(move |one| (authority, one))
        })
        .collect();
    if waiting.is_empty() {
        return Ok(());
    }
    println!();
    session.output.list(&waiting, ["AUTHORITY", "WHO", "FOR WHAT", "LAST SEEN", "UNTIL"], |(authority, waiting)| {
        let [who, awaited, seen, until] = columns(waiting);
        [authority.name.clone(), who, awaited, seen, until]
    })
}

const HEADS: [&str; 4] = ["WHO", "WHAT", "LAST SEEN", "UNTIL"];

fn columns(waiting: &Waiting) -> [String; 4] {
    let time = |at: Option<Timestamp>| at.map_or("-".into(), |at| at.to_string());
    [waiting.who.clone(), waiting.awaited.clone(), time(waiting.last_seen), time(waiting.until)]
}

impl Rotate {
    async fn run(self, session: &Session) -> anyhow::Result<()> {
        let name = self.authority.to_string();
        let own = [&self.root_key, &self.csr, &self.certificate, &self.requests, &self.new_root];
        let signed_elsewhere = own.into_iter().any(Option::is_some);
        let of_root = self.requests.is_some() || self.new_root.is_some();
        ensure!(!of_root || self.authority == AuthorityName::Root, "--requests and --new-root are for the root alone");
        let publishes = matches!(self.step, None | Some(Step::Publish)) && !self.emergency;
        ensure!(
            publishes || !signed_elsewhere,
            "what is signed elsewhere (--root-key, --csr, --new-root, …) is for publish"
        );
        let mut how = TakeStep { automatic: self.step.is_none(), anyway: self.anyway, ..TakeStep::default() };
        if let Some(path) = &self.csr {
            let request = self.request(session, &name).await?;
            fs::write(path, request).with_context(|| format!("{} cannot be written", path.display()))?;
            println!("{} written: have it signed, then: ztka pki rotate {name} --certificate FILE", path.display());
            return Ok(());
        }
        if let Some(directory) = &self.requests {
            fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
            for (purpose, request) in self.requests(session, &name).await? {
                let path = directory.join(format!("{purpose}.csr"));
                fs::write(&path, request).with_context(|| format!("{} cannot be written", path.display()))?;
                println!("{}", path.display());
            }
            println!("Have these signed, then: ztka pki rotate root --new-root FILE --certificates DIR");
            return Ok(());
        }
        if let (Some(root), Some(directory)) = (&self.new_root, &self.certificates) {
            how.root = Some(self.foreign(session, root, directory).await?);
        }
        if let Some(path) = &self.certificate {
            let pem = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
            how.certificate = Some(pem);
        }
        if let (Some(key), Some(passphrase), None) = (&self.root_key, &self.root_passphrase, &self.new_root) {
            let root = (key.as_path(), passphrase.as_path());
            match (&self.authority, &self.new_root_key) {
                (AuthorityName::Root, Some(new)) => how.root = Some(self.succeed(session, root, new).await?),
                (AuthorityName::Root, None) => {
                    bail!(
                        "--new-root-key says where the key of the new root is to be written; for one of your own: --new-root"
                    )
                }
                (_, Some(_)) => bail!("--new-root-key is for the root alone"),
                (_, None) => how.certificate = Some(self.sign(session, &name, root).await?),
            }
        }
        let step = match self.step {
            None if self.emergency => PkiStep::CutOff,
            None | Some(Step::Publish) => PkiStep::Publish,
            Some(Step::Activate) => PkiStep::Activate,
            Some(Step::Retire) => PkiStep::Retire,
            Some(Step::Rollback) => PkiStep::Rollback,
            Some(Step::Pause) => PkiStep::Pause,
            Some(Step::Resume) => PkiStep::Resume,
        };
        let taken = session.api.rotate(&name, step, &how).await?;
        self.tell(session, step, &taken)
    }

    fn tell(&self, session: &Session, step: PkiStep, taken: &StepTaken) -> anyhow::Result<()> {
        if session.output == Output::Json {
            return session.output.one(taken, String::new);
        }
        show(session, std::slice::from_ref(&taken.authority))?;
        if step == PkiStep::CutOff {
            match taken.broken.len() {
                0 => println!("\nNobody is left outside."),
                broken => {
                    println!("\n{broken} left outside, to enrol again or be given a new kubeconfig:");
                    session.output.list(&taken.broken, HEADS, columns)?;
                }
            }
        } else if !taken.broken.is_empty() {
            println!("\nOf no use any more, to be made anew:");
            session.output.list(&taken.broken, HEADS, columns)?;
        }
        Ok(())
    }

    async fn requests(&self, session: &Session, name: &str) -> anyhow::Result<BTreeMap<String, String>> {
        Ok(session.api.rotate(name, PkiStep::Request, &TakeStep::default()).await?.requests)
    }

    async fn request(&self, session: &Session, name: &str) -> anyhow::Result<String> {
        let request = self.requests(session, name).await?.remove(name);
        request.context("the controller has not answered with a request; do versions fit?")
    }

    /// Signs the request with the root's key, which stays on this machine.
    async fn sign(&self, session: &Session, name: &str, key: (&Path, &Path)) -> anyhow::Result<String> {
        let AuthorityName::Purpose(purpose) = self.authority else {
            bail!("--root-key signs the authorities of purposes, and of the root itself");
        };
        let (root, names) = open_root(session, key).await?;
        let request = self.request(session, name).await?;
        Ok(root.certify(purpose, &request, &names, &Lifetimes::default(), Timestamp::now()).await?)
    }

    /// A new root of somebody else's, certified by the old one: in a file, here, or by the controller.
    async fn foreign(&self, session: &Session, root: &Path, certificates: &Path) -> anyhow::Result<NewRoot> {
        let root = text(root)?;
        let cross = match (&self.cross, &self.root_key, &self.root_passphrase) {
            (Some(cross), ..) => text(cross)?,
            (None, Some(key), Some(passphrase)) => {
                let (old, _) = open_root(session, (key, passphrase)).await?;
                old.cross_certify(&root, Timestamp::now()).await?
            }
            _ => String::new(),
        };
        Ok(NewRoot { root, cross, certificates: chains(certificates, |purpose| purpose.to_string())? })
    }

    /// Makes a new root, certified by the old one; both keys stay on this machine.
    async fn succeed(&self, session: &Session, old: (&Path, &Path), new: &Path) -> anyhow::Result<NewRoot> {
        let (old_root, names) = open_root(session, old).await?;
        let key = SoftwareKey::generate(&rustls::crypto::ring::default_provider())?;
        let pem = key.to_encrypted_pem(&passphrase(old.1)?)?;
        file::write_private_new(new, pem.as_bytes())
            .with_context(|| format!("{} cannot be written; it must not be there yet", new.display()))?;
        let (now, lifetimes) = (Timestamp::now(), Lifetimes::default());
        let root = Root::create(Arc::new(key), &lifetimes, now).await?;
        let cross = old_root.cross_certify(&root.pem(), now).await?;
        let mut certificates = BTreeMap::new();
        for (word, request) in self.requests(session, "root").await? {
            let purpose: Purpose = word.parse()?;
            certificates.insert(word, root.certify(purpose, &request, &names, &lifetimes, now).await?);
        }
        Ok(NewRoot { root: root.pem(), cross, certificates })
    }
}

/// The root that signs, and what the installation is called.
async fn open_root(session: &Session, (key, passphrase): (&Path, &Path)) -> anyhow::Result<(Root, Names)> {
    let pki = session.api.pki().await?;
    let signer = open_root_key(key, passphrase)?;
    // The one that signs comes first.
    let end = "-----END CERTIFICATE-----\n";
    let (first, _) = pki.root.split_once(end).context("the controller has no root certificate")?;
    let root = Root::open(&format!("{first}{end}"), Arc::new(signer))
        .context("the key in --root-key is not that of the root that signs")?;
    Ok((root, Names { trust_domain: pki.trust_domain, domain: pki.domain }))
}

fn read(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    file::read_private(path)?.with_context(|| format!("there is no file {}", path.display()))
}

fn passphrase(path: &Path) -> anyhow::Result<Passphrase> {
    Ok(Passphrase::new(read(path)?)?)
}

fn open_root_key(key: &Path, secret: &Path) -> anyhow::Result<SoftwareKey> {
    let provider = rustls::crypto::ring::default_provider();
    Ok(SoftwareKey::from_encrypted_pem(&read(key)?, &passphrase(secret)?, &provider)?)
}
