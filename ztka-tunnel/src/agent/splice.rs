//! An upgraded stream joined with the apiserver's connection.

use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use ztka_core::Io;

use crate::Channel;

/// Per direction.
const BUFFER: usize = 16 << 10;

/// Carries bytes both ways until both directions have ended; the end of one is passed on as a half-close.
/// When either side breaks, both are dropped, which resets the stream.
pub(super) async fn splice(channel: Channel, io: Io) {
    let (mut channel, mut io) = (channel.compat(), io.compat());
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut channel, &mut io, BUFFER, BUFFER).await;
    if let Err(error) = copied {
        tracing::debug!(%error, "an upgraded stream broke");
    }
}
