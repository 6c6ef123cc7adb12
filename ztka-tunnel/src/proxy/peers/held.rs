//! What a proxy tells another: the clusters of which it has tunnels, as they come and go.

use bytes::{BufMut as _, BytesMut};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::broadcast::{self, error::RecvError};
use ztka_core::{Body, BoxError, ClusterId};

use super::super::registry::Registry;

/// A list begins: what was told before does not count any more, once it is complete.
pub(super) const ALL: u8 = b'*';
/// There is a tunnel of this cluster.
pub(super) const HELD: u8 = b'+';
/// There is none any more.
pub(super) const GONE: u8 = b'-';
/// The list is complete.
pub(super) const END: u8 = b'.';

/// What was sent of it so far is not remembered: each line holds whatever was said before.
struct Telling {
    registry: Registry,
    news: broadcast::Receiver<ClusterId>,
    list: bool,
}

/// The answer to [`CLUSTERS_PATH`](crate::CLUSTERS_PATH); it has no end.
pub(super) fn body(registry: Registry) -> Body {
    // Whatever changes while the list is made is told behind it.
    let telling = Telling { news: registry.news().subscribe(), registry, list: true };
    let pieces = stream::unfold(telling, |mut telling| async move {
        let piece = telling.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(piece.freeze())), telling))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn line(piece: &mut BytesMut, kind: u8, cluster: &str) {
    piece.put_u8(kind);
    piece.put_slice(cluster.as_bytes());
    piece.put_u8(b'\n');
}

impl Telling {
    async fn next(&mut self) -> Option<BytesMut> {
        let mut piece = BytesMut::new();
        if !self.list {
            match self.news.recv().await {
                Ok(cluster) => self.tell(&mut piece, &cluster),
                Err(RecvError::Lagged(_)) => self.list = true,
                Err(RecvError::Closed) => return None,
            }
            while let Ok(cluster) = self.news.try_recv() {
                self.tell(&mut piece, &cluster);
            }
        }
        if std::mem::take(&mut self.list) {
            line(&mut piece, ALL, "");
            self.registry.held().iter().for_each(|cluster| line(&mut piece, HELD, cluster.as_str()));
            line(&mut piece, END, "");
        }
        Some(piece)
    }

    fn tell(&self, piece: &mut BytesMut, cluster: &ClusterId) {
        let kind = if self.registry.holds(cluster) { HELD } else { GONE };
        line(piece, kind, cluster.as_str());
    }
}
