//! A PKCS#11 module: one per library and process (v2.40 §5.4: `C_Initialize` is called once).

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    session::Session,
};

/// Modules stay loaded until the process ends: few survive being unloaded.
static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// A loaded library. Whoever calls into it holds the link for reading; it is initialised anew only while nobody does,
/// since `C_Finalize` beside other calls is undefined (v2.40 §5.4).
pub(super) struct Module {
    path: PathBuf,
    link: RwLock<Link>,
}

/// Who else may call into a module meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) enum Company {
    /// Other threads, as a module has to allow (v2.40 §5.4, `CKF_OS_LOCKING_OK`).
    Others,
    /// No other thread, if the module is SoftHSM: for making and removing objects. SoftHSM (2.6) does neither reliably while
    /// another session looks for objects: it fails with `CKR_GENERAL_ERROR`, or lists one twice. Of other modules a call that
    /// hangs costs a session and not the module.
    Nobody,
}

/// The module as initialised.
pub(super) struct Link {
    /// None where initialising failed.
    context: Option<Pkcs11>,
    /// Counts initialisations; handles of one are meaningless in the next.
    pub(super) generation: u64,
    /// Whoever makes something has to be alone.
    is_softhsm: bool,
    /// Sessions that nobody uses, by the label of their token.
    idle: Mutex<BTreeMap<String, Vec<Session>>>,
}

impl Module {
    /// The module of the library at `path`.
    pub(super) fn of(path: &Path) -> Arc<Self> {
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            let link = Link { context: None, generation: 0, is_softhsm: false, idle: Mutex::default() };
            Arc::new(Self { path: path.into(), link: RwLock::new(link) })
        };
        modules.entry(path.into()).or_insert_with(made).clone()
    }

    /// Calls into it as it is, and tells which initialisation that was.
    pub(super) fn with<T>(
        &self,
        company: Company,
        call: impl FnOnce(&Pkcs11, &Link) -> Result<T, super::Fault>,
    ) -> (u64, Result<T, super::Fault>) {
        let link = self.link.read().unwrap_or_else(PoisonError::into_inner);
        match company {
            Company::Nobody if link.is_softhsm => {
                drop(link);
                self.link.write().unwrap_or_else(PoisonError::into_inner).call(call)
            }
            _ => link.call(call),
        }
    }

    /// Initialises it, unless somebody has done so since `seen`.
    pub(super) fn restart(&self, seen: u64) -> Result<(), Error> {
        let mut link = self.link.write().unwrap_or_else(PoisonError::into_inner);
        if link.generation != seen {
            return Ok(());
        }
        link.idle.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(context) = link.context.take() {
            // One that is beyond answering is initialised all the same.
            let _ = context.finalize();
        }
        link.generation += 1;
        let context = Pkcs11::new(&self.path)?;
        match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // By somebody else in this process.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(error),
        }
        link.is_softhsm = context.get_library_info().is_ok_and(|info| info.manufacturer_id().contains("SoftHSM"));
        link.context = Some(context);
        Ok(())
    }
}

impl Link {
    fn call<T>(&self, call: impl FnOnce(&Pkcs11, &Self) -> Result<T, super::Fault>) -> (u64, Result<T, super::Fault>) {
        let done = match &self.context {
            Some(context) => call(context, self),
            None => Err(Error::Pkcs11(RvError::CryptokiNotInitialized, cryptoki::context::Function::Initialize).into()),
        };
        (self.generation, done)
    }

    /// A session with the token that nobody uses.
    pub(super) fn take(&self, token: &str) -> Option<Session> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(token)?.pop()
    }

    /// Keeps a session for the next one.
    pub(super) fn put(&self, token: &str, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.entry(token.into()).or_default().push(session);
    }

    /// Closes the sessions that nobody uses.
    pub(super) fn forget(&self, token: &str) {
        let forgotten = self.idle.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
        drop(forgotten);
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("path", &self.path).finish_non_exhaustive()
    }
}
