//! An upgraded stream joined with the apiserver's connection.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::{compat::FuturesAsyncReadCompatExt as _, sync::CancellationToken};
use ztka_core::{Io, Upgrade};

use crate::{Channel, LastWords};

/// Per direction.
const BUFFER: usize = 16 << 10;
/// Who was told that this server stops has so long to end as well.
const GOODBYE: Duration = Duration::from_secs(2);

/// Carries bytes both ways until both directions have ended; the end of one is passed on as a half-close.
/// When either side breaks, both are dropped, which resets the stream; where this server stops, the user is told so in the
/// stream's own protocol before.
pub(super) async fn splice(channel: Channel, io: Io, upgrade: Upgrade) {
    let said = CancellationToken::new();
    let (mut channel, io) = (channel.compat(), io.compat());
    let mut io = LastWords::of_farewells(io, Some(upgrade), said.clone());
    let over = async {
        said.cancelled().await;
        sleep(GOODBYE).await;
    };
    tokio::select! {
        copied = tokio::io::copy_bidirectional_with_sizes(&mut channel, &mut io, BUFFER, BUFFER) => {
            if let Err(error) = copied {
                tracing::debug!(%error, "an upgraded stream broke");
            }
        }
        () = over => {}
    }
}
