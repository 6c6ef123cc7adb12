//! Happy eyeballs: several addresses of one host are tried in an overlapping way (RFC 8305).

use std::{collections::VecDeque, fmt, io, net::SocketAddr, pin::pin, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

/// Connection Attempt Delay, RFC 8305 §5.
pub(super) const DELAY: Duration = Duration::from_millis(250);

/// No address of a host could be connected to: what was tried, and how each try ended.
#[derive(Debug)]
pub struct Unreachable(Vec<(SocketAddr, io::Error)>);

impl Unreachable {
    /// Each address and why it was not connected to, in the order in which they failed; empty if there was none.
    pub fn attempts(&self) -> &[(SocketAddr, io::Error)] {
        &self.0
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the name has no addresses");
        }
        for (index, (address, error)) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { "; " };
            write!(f, "{between}{address}: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unreachable {}

impl From<Unreachable> for io::Error {
    fn from(error: Unreachable) -> Self {
        let kind = error.0.last().map_or(io::ErrorKind::NotFound, |(_, error)| error.kind());
        Self::new(kind, error)
    }
}

/// The first connection that `dial` makes to one of `addresses`, which come in the order of RFC 6724. The next address is
/// tried when the last one has not answered for `delay`, or failed; those under way go on meanwhile, and are dropped when
/// one succeeds. Cancel safe.
///
/// Families take turns, beginning with that of the first address (§4). A resolver that answers for both families at once
/// leaves nothing to wait for between them (§3).
pub(super) async fn race<T, F, R>(addresses: Vec<SocketAddr>, delay: Duration, dial: F) -> Result<T, Unreachable>
where
    F: Fn(SocketAddr) -> R,
    R: Future<Output = io::Result<T>>,
{
    let mut waiting = VecDeque::from(interleaved(addresses));
    let (mut under_way, mut failed) = (FuturesUnordered::new(), Vec::new());
    let mut next = pin!(sleep_until(Instant::now()));
    loop {
        tokio::select! {
            biased;
            Some((address, done)) = under_way.next(), if !under_way.is_empty() => match done {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    failed.push((address, error));
                    next.as_mut().reset(Instant::now());
                }
            },
            () = next.as_mut(), if !waiting.is_empty() => {
                if let Some(address) = waiting.pop_front() {
                    let attempt = dial(address);
                    under_way.push(async move { (address, attempt.await) });
                }
                next.as_mut().reset(Instant::now() + delay);
            }
            else => return Err(Unreachable(failed)),
        }
    }
}

fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else { return addresses };
    let (ours, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let (mut ours, mut others) = (ours.into_iter(), others.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = (ours.next(), others.next());
        if pair == (None, None) {
            return all;
        }
        all.extend(pair.0.into_iter().chain(pair.1));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| format!("{address}:443").replace("::1:", "[::1]:").parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let given = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "192.0.2.1:1", "192.0.2.2:1"];
        let given = given.map(|address| address.parse().unwrap());
        let [a, b, c, x, y] = given;
        assert_eq!(interleaved(given.to_vec()), [a, x, b, y, c]);
        assert_eq!(interleaved(vec![x, a, b]), [x, a, b]);
        assert_eq!(interleaved(vec![]), []);
    }

    /// When each address was tried, in ms.
    type Tries = Arc<Mutex<Vec<(SocketAddr, u64)>>>;

    /// Dials addresses that answer after so many ms, or fail.
    async fn run(list: &[(&str, u64, bool)]) -> (Result<SocketAddr, Unreachable>, Vec<u64>, u64) {
        let begin = Instant::now();
        let tries = Tries::default();
        let known: Vec<_> = addresses(&list.iter().map(|(address, ..)| *address).collect::<Vec<_>>());
        let raced = race(known.clone(), DELAY, |address| {
            tries.lock().unwrap().push((address, u64::try_from(begin.elapsed().as_millis()).unwrap()));
            let (_, after, good) = list[known.iter().position(|known| *known == address).unwrap()];
            async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                if good { Ok(address) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
            }
        });
        let raced = raced.await;
        let at = tries.lock().unwrap().iter().map(|(_, at)| *at).collect();
        (raced, at, u64::try_from(begin.elapsed().as_millis()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_holds_nobody_up() {
        // IPv6 is a hole: IPv4 begins 250 ms later and wins.
        let (won, at, took) = run(&[("::1", 60_000, false), ("192.0.2.1", 20, true)]).await;
        assert_eq!((won.unwrap(), at, took), (addresses(&["192.0.2.1"])[0], vec![0, 250], 270));
        // A slow one goes on while another is tried, and may still win.
        let (won, at, took) = run(&[("::1", 300, true), ("192.0.2.1", 500, true)]).await;
        assert_eq!((won.unwrap(), at, took), (addresses(&["::1"])[0], vec![0, 250], 300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_lets_the_next_one_begin_at_once() {
        let (won, at, _) = run(&[("::1", 10, false), ("192.0.2.1", 10, false), ("192.0.2.2", 10, true)]).await;
        assert_eq!((won.unwrap(), at), (addresses(&["192.0.2.2"])[0], vec![0, 10, 20]));
    }

    #[tokio::test(start_paused = true)]
    async fn every_failure_is_told() {
        let (lost, ..) = run(&[("::1", 10, false), ("192.0.2.1", 10, false)]).await;
        let error = lost.unwrap_err();
        assert_eq!(error.attempts().len(), 2);
        let text = error.to_string();
        assert!(text.contains("[::1]:443: connection refused; 192.0.2.1:443: "), "{text}");
        assert!(run(&[]).await.0.unwrap_err().to_string().contains("no addresses"));
    }
}
