//! A key service of one's own behind the crate's traits: `cargo run -p ztka-pki --example custom_signer`.
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use ztka_core::{BoxError, SystemClock};
use ztka_pki::{
    Hierarchy, KeyError, KeyKind, KeyName, KeyStore, Lifetimes, MemoryKeyStore, Names, PublicKey, Signer, SoftwareKey,
    ValidCsr, conformance,
};

/// What the service is asked: which key signs what, and where the signature goes.
type Question = (Arc<dyn Signer>, Vec<u8>, oneshot::Sender<Result<Vec<u8>, KeyError>>);

/// The service has the keys. Here it is a task beside us; elsewhere a machine that one speaks to over the network.
#[derive(Debug)]
struct Service(MemoryKeyStore, mpsc::Sender<Question>);

#[derive(Debug)]
struct Remote(Arc<dyn Signer>, mpsc::Sender<Question>);

#[async_trait]
impl Signer for Remote {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let (answer, signature) = oneshot::channel();
        let asked = self.1.send((self.0.clone(), message.to_vec(), answer)).await;
        asked.map_err(|_| KeyError::Unavailable("the key service has gone".into()))?;
        signature.await.map_err(|error| KeyError::Unavailable(error.into()))?
    }
}

#[async_trait]
impl KeyStore for Service {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        Ok(Arc::new(Remote(self.0.create(name, kind).await?, self.1.clone())))
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        Ok(Arc::new(Remote(self.0.open(name).await?, self.1.clone())))
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        self.0.destroy(name).await
    }
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (ask, mut asked) = mpsc::channel::<Question>(16);
    tokio::spawn(async move {
        while let Some((key, message, answer)) = asked.recv().await {
            let _ = answer.send(key.sign(&message).await); // nobody may be waiting any more
        }
    });
    let keys = Arc::new(Service(MemoryKeyStore::new(provider.clone()), ask));
    conformance::key_store(&*keys).await?; // what every key store has to do; feature `conformance`
    let hierarchy =
        Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, Arc::new(SystemClock)).await?;
    let csr = ValidCsr::from_der(&SoftwareKey::generate(&provider)?.csr()?)?;
    let issued = hierarchy.issue_proxy(&csr, &"p1".parse()?).await?;
    println!("issued {} until {}", issued.serial(), issued.not_after());
    Ok(())
}
