//! How far a user's connections may be ahead of who reads what they send: far for the first ones, less for each further
//! one. What a user's connections may hold together is granted before a byte has come, so that nothing exceeds it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ztka_core::UserId;

/// Of one connection of HTTP/2, at the most: 1 Gbit/s at 100 ms and more.
pub(crate) const MOST: u32 = 16 << 20;
/// And at the least: HTTP/2 begins with it, and takes nothing back (RFC 9113 §6.9.2).
pub(crate) const LEAST: u32 = 64 << 10;
/// A connection may take this part of what is left to its user.
const OF_USER: usize = 8;

/// What users were granted, by user. A handle: clones share the accounts.
#[derive(Clone, Debug)]
pub(crate) struct UserWindows {
    limit: usize,
    granted: Arc<Mutex<HashMap<UserId, usize>>>,
}

impl UserWindows {
    /// Each user has `limit` bytes, and [`LEAST`] for each connection beyond them.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, granted: Arc::default() }
    }

    /// The window of one more connection of `user`, until this is dropped. Who shows no certificate has the least.
    pub(crate) fn grant(&self, user: Option<&UserId>) -> Granted {
        let Some(user) = user else { return Granted { window: LEAST, account: None } };
        let mut accounts = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let granted = accounts.entry(user.clone()).or_default();
        let most = self.limit.saturating_sub(*granted) / OF_USER;
        let mut window = MOST;
        while window as usize > most && window > LEAST {
            window /= 4;
        }
        *granted += window as usize;
        Granted { window, account: Some((self.clone(), user.clone())) }
    }

    /// Bytes granted in all, and to the user who has most.
    pub(crate) fn granted(&self) -> (usize, usize) {
        let accounts = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        (accounts.values().sum(), accounts.values().copied().max().unwrap_or(0))
    }
}

/// A connection's part of its user's bytes.
#[derive(Debug)]
pub(crate) struct Granted {
    /// Bytes that its peer may send before somebody reads.
    pub(crate) window: u32,
    account: Option<(UserWindows, UserId)>,
}

impl Drop for Granted {
    fn drop(&mut self) {
        let Some((windows, user)) = &self.account else { return };
        let mut accounts = windows.granted.lock().unwrap_or_else(PoisonError::into_inner);
        match accounts.get_mut(user) {
            Some(granted) if *granted > self.window as usize => *granted -= self.window as usize,
            _ => drop(accounts.remove(user)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_connections_have_much_and_all_together_no_more_than_their_user() {
        let windows = UserWindows::new(128 << 20);
        let (alice, bob) = ("u1".parse().unwrap(), "u2".parse().unwrap());
        let mut all: Vec<_> = (0..500).map(|_| windows.grant(Some(&alice))).collect();
        assert_eq!(all[0].window, MOST);
        assert!(all.windows(2).all(|pair| pair[1].window <= pair[0].window));
        assert_eq!(all[499].window, LEAST);
        let (_, most) = windows.granted();
        assert!(most <= (128 << 20) + 500 * LEAST as usize, "{most}");
        assert_eq!(windows.grant(Some(&bob)).window, MOST, "nobody else's affair");
        assert_eq!(windows.grant(None).window, LEAST);
        // What is given back is there for the next one.
        all.truncate(1);
        assert_eq!(windows.grant(Some(&alice)).window, MOST / 4);
        drop(all);
        assert_eq!(windows.granted(), (0, 0));
        assert_eq!(windows.grant(Some(&alice)).window, MOST);
    }
}
