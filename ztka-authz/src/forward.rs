//! What is known of the ports of a port-forward when it is asked for.

use std::num::NonZeroU16;

use http::{HeaderMap, header::SEC_WEBSOCKET_PROTOCOL};
use ztka_core::{
    Decision, RequestAttributes, Upgrade,
    stream::forward::{TUNNELLED, port},
};

use crate::Port;

/// True if a port-forward by WebSocket with these headers may come to be one in channels, whose ports the request names.
pub(crate) fn may_speak_in_channels(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offers = offers.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    !offers.next().is_some_and(|first| {
        first.trim_ascii() == TUNNELLED.as_bytes() && offers.all(|other| other.trim_ascii() == TUNNELLED.as_bytes())
    })
}

/// Decides on a port-forward; on its ports as well if it names them, and nobody could say later which are opened.
pub(crate) fn decide(
    asked: &RequestAttributes,
    may_speak_in_channels: bool,
    decide: impl Fn(Port) -> Decision,
) -> Decision {
    if asked.upgrade() != Some(Upgrade::WebSocket) || !may_speak_in_channels {
        return decide(Port::Later);
    }
    let mut decisions = named(asked).into_iter().map(|port| decide(Port::Is(port.get())));
    let Some(first) = decisions.next() else { return decide(Port::Unknown) };
    match first {
        Decision::Allow(_) => decisions.find(|other| matches!(other, Decision::Deny(_))).unwrap_or(first),
        Decision::Deny(_) => first,
    }
}

/// The ports that the request itself names (`k8s.io/api/core/v1` `PodPortForwardOptions`).
///
/// What is no port is left out: an apiserver refuses the request for it.
pub(crate) fn named(asked: &RequestAttributes) -> Vec<NonZeroU16> {
    asked.query("ports").iter().flat_map(|list| list.split(',').filter_map(port)).collect()
}
