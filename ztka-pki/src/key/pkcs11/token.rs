//! One token: where it is, who may use it, and what happens when it goes away.

use std::{
    error, fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cryptoki::{
    context::Pkcs11,
    error::{Error, RvError},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::{
    Fault,
    module::{Company, Link, Module},
};
use crate::{
    file::{self, FileError},
    key::{KeyError, blocking::blocking},
};

/// Which token keys are kept in, and how it is used.
#[derive(Clone, Debug)]
pub struct Pkcs11Token {
    module: PathBuf,
    label: String,
    pin: PathBuf,
    sessions: usize,
    patience: Duration,
}

impl Pkcs11Token {
    /// The token labelled `label` of the library `module`, such as `libsofthsm2.so`, with the user's PIN in the private
    /// file `pin` (mode 0600, one line), which is read at every login.
    pub fn new(module: impl Into<PathBuf>, label: impl Into<String>, pin: impl Into<PathBuf>) -> Self {
        let (module, label, pin) = (module.into(), label.into(), pin.into());
        Self { module, label, pin, sessions: 4, patience: Duration::from_secs(10) }
    }

    /// How many sessions, and threads, use the token at once: 4, if this is not said. Zero counts as one.
    #[must_use]
    pub fn sessions(mut self, sessions: usize) -> Self {
        self.sessions = sessions.clamp(1, 1024);
        self
    }

    /// How long a caller waits for its turn and the token's answer: 10 seconds, if this is not said.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// The token with the module it is reached by.
pub(super) struct Token {
    settings: Pkcs11Token,
    module: Arc<Module>,
    turns: Arc<Semaphore>,
    /// A PIN that the token has refused. It is not tried again: a few wrong ones lock a token for good.
    refused: Mutex<Option<Zeroizing<Vec<u8>>>>,
}

/// What is tried in turn.
#[derive(Clone, Copy, Debug)]
enum Attempt {
    /// A session that is there, or a new one.
    AsItIs,
    /// A new session.
    NewSession,
    /// A new session over the module initialised anew, which finds tokens that were not there before.
    NewModule,
}

/// How a session sees the token.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Of the module's initialisation; handles of another are meaningless.
    pub(super) generation: u64,
    /// The module was just initialised. Before, a token that was away for a while may still look empty.
    pub(super) fresh: bool,
}

impl Token {
    pub(super) fn new(settings: Pkcs11Token) -> Result<Self, KeyError> {
        let turns = Arc::new(Semaphore::new(settings.sessions));
        let module = Module::of(&settings.module);
        Ok(Self { settings, module, turns, refused: Mutex::default() })
    }

    /// Runs `job` in a session that is logged in, up to three times: what it does has to bear repeating.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        company: Company,
        job: impl Fn(&Session, View) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, KeyError> {
        let token = self.clone();
        let work = async move {
            let turn =
                token.turns.clone().acquire_owned().await.map_err(|closed| KeyError::Unavailable(closed.into()))?;
            blocking(move || {
                // The turn ends with the call and not with the caller's patience, so that a token that hangs costs no
                // more threads than it has sessions.
                let _turn = turn;
                token.attempts(company, &job)
            })
            .await
        };
        let done = tokio::time::timeout(self.settings.patience, work).await;
        done.unwrap_or_else(|_| Err(self.unavailable("does not answer; look at the token and its connection", None)))
    }

    fn attempts<T>(&self, company: Company, job: &dyn Fn(&Session, View) -> Result<T, Fault>) -> Result<T, KeyError> {
        let mut fault = None;
        for attempt in [Attempt::AsItIs, Attempt::NewSession, Attempt::NewModule] {
            if let (Attempt::NewModule, Some(seen)) = (attempt, fault.as_ref().map(|(seen, _)| *seen)) {
                self.module.restart(seen).map_err(|error| self.explain(error.into()))?;
            }
            let (generation, done) =
                self.module.with(company, |context, link| self.attempt(context, link, attempt, job));
            match done {
                Ok(done) => return Ok(done),
                Err(error) if is_lost(&error) => fault = Some((generation, error)),
                Err(error) => return Err(self.explain(error)),
            }
        }
        let changed = Fault::Changed;
        Err(self.explain(fault.map_or(changed, |(_, fault)| fault)))
    }

    fn attempt<T>(
        &self,
        context: &Pkcs11,
        link: &Link,
        attempt: Attempt,
        job: &dyn Fn(&Session, View) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let label = self.settings.label.as_str();
        let idle = match attempt {
            Attempt::AsItIs => link.take(label),
            Attempt::NewSession | Attempt::NewModule => {
                link.forget(label);
                None
            }
        };
        let session = match idle {
            Some(session) => session,
            None => self.log_in(context)?,
        };
        let view = View { generation: link.generation, fresh: matches!(attempt, Attempt::NewModule) };
        let done = job(&session, view);
        if !done.as_ref().is_err_and(is_lost) {
            link.put(label, session);
        }
        done
    }

    /// A new session. All sessions of a token share one login (v2.40 §5.6, `C_Login`).
    fn log_in(&self, context: &Pkcs11) -> Result<Session, Fault> {
        let session = context.open_rw_session(self.slot(context)?)?;
        let pin = file::read_private(&self.settings.pin).map_err(KeyError::from)?;
        let missing =
            || FileError::content(&self.settings.pin, "is missing; put the token's user PIN there, mode 0600");
        let pin = pin.ok_or_else(|| KeyError::from(missing()))?;
        let line = pin.strip_suffix(b"\n").unwrap_or(&pin);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = str::from_utf8(line).ok().filter(|text| !text.is_empty());
        let unreadable = || FileError::content(&self.settings.pin, "is not one line of UTF-8 text; put the PIN there");
        let text = text.ok_or_else(|| KeyError::from(unreadable()))?;
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.as_ref().is_some_and(|refused| ***refused == *line) {
            return Err(self.pin_refused().into());
        }
        match session.login(UserType::User, Some(&AuthPin::from(text))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                *refused = None;
                Ok(session)
            }
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                *refused = Some(Zeroizing::new(line.to_vec()));
                Err(self.pin_refused().into())
            }
            Err(other) => Err(other.into()),
        }
    }

    fn slot(&self, context: &Pkcs11) -> Result<Slot, Fault> {
        let mut found = None;
        for slot in context.get_slots_with_initialized_token()? {
            // Another token of the module may go away meanwhile.
            let Ok(token) = context.get_token_info(slot) else { continue };
            if token.label() != self.settings.label {
                continue;
            }
            if found.replace(slot).is_some() {
                return Err(self.unavailable("is there twice; give each token a label of its own", None).into());
            }
        }
        found.ok_or_else(|| Error::Pkcs11(RvError::TokenNotPresent, cryptoki::context::Function::GetSlotList).into())
    }

    fn pin_refused(&self) -> KeyError {
        let pin = self.settings.pin.display();
        let what =
            format!("refuses the PIN in {pin}; put the right one there (it is not tried again until it changes)");
        self.unavailable(what, None)
    }

    fn unavailable(&self, what: impl Into<String>, source: Option<Error>) -> KeyError {
        let problem = Problem { token: self.settings.label.clone(), what: what.into(), source };
        KeyError::Unavailable(problem.into())
    }

    fn explain(&self, fault: Fault) -> KeyError {
        let error = match fault {
            Fault::Final(error) => return error,
            Fault::Missing(name) => return KeyError::Absent(name),
            Fault::Changed => return self.unavailable("gives signatures by another key; check what is in it", None),
            Fault::Module(error) => error,
        };
        let what = match &error {
            Error::LibraryLoading(_) | Error::MissingSymbol(_) | Error::NullFunctionPointer => {
                let module = self.settings.module.display();
                return self.unavailable(format!("cannot be reached: {module} is not a PKCS#11 module"), Some(error));
            }
            Error::Pkcs11(RvError::TokenNotPresent, _) => "is not there; insert or connect it, and check its label",
            Error::Pkcs11(RvError::PinLocked, _) => "is locked after wrong PINs; its security officer has to unlock it",
            _ => "cannot be used; look at the module's own log",
        };
        self.unavailable(what, Some(error))
    }
}

/// What a new session or a new initialisation may put right.
fn is_lost(fault: &Fault) -> bool {
    match fault {
        Fault::Changed | Fault::Missing(_) => true,
        Fault::Final(_) => false,
        Fault::Module(Error::Pkcs11(error, _)) => matches!(
            error,
            RvError::CryptokiNotInitialized
                | RvError::DeviceError
                | RvError::DeviceRemoved
                | RvError::FunctionFailed
                | RvError::GeneralError
                | RvError::KeyHandleInvalid
                | RvError::ObjectHandleInvalid
                | RvError::OperationActive
                | RvError::SessionClosed
                | RvError::SessionHandleInvalid
                | RvError::SlotIdInvalid
                | RvError::TokenNotPresent
                | RvError::TokenNotRecognized
                | RvError::UserNotLoggedIn
        ),
        Fault::Module(_) => false,
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Why a token is of no use now.
#[derive(Debug)]
struct Problem {
    token: String,
    what: String,
    source: Option<Error>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the token {:?} {}", self.token, self.what)
    }
}

impl error::Error for Problem {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
