//! The ports that a port-forward opens, as its record lists them.

use http::HeaderMap;
use ztka_core::{
    Upgrade,
    stream::forward::{self, Requests, Unreadable},
};

/// Reads the client's side of one port-forward. Holds the ports and at most one frame's head or header block.
#[derive(Debug)]
pub(crate) struct Ports {
    requests: Requests,
    opened: forward::Ports,
}

impl Ports {
    /// For a port-forward over `upgrade` that was answered with `answer`; `None` where the request names them.
    pub(crate) fn of(upgrade: Upgrade, answer: &HeaderMap) -> Option<Self> {
        Some(Self { requests: Requests::of(upgrade, answer)?, opened: forward::Ports::default() })
    }

    /// Reads on. True if ports were opened that had not been before.
    ///
    /// # Errors
    /// [`Unreadable`]: the stream has to end.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<bool, Unreadable> {
        let Self { requests, opened } = self;
        let (before, mut noted) = (opened.len(), Ok(()));
        requests.read(bytes, |open| {
            if let Err(too_many) = opened.note(open.port) {
                noted = Err(too_many);
            }
        })?;
        noted?;
        Ok(opened.len() > before)
    }

    /// The ports in the order in which they were first opened, as the annotation lists them.
    pub(crate) fn list(&self) -> String {
        self.opened.list()
    }
}

#[cfg(test)]
pub(crate) mod tests;
