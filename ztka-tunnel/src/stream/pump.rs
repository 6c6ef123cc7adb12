//! Sends a body into a stream, no faster than the peer takes it.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame};
use ztka_core::{BoxError, Farewell};

/// Chunks smaller than this are put together, if they are there at the same moment, up to `ROOM`.
const SMALL: usize = 2 << 10;
const ROOM: usize = 16 << 10;

/// What ended before the body did.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// The peer reset the stream, or the connection is gone.
    Peer,
    /// The body itself failed; the stream has been reset.
    Body(BoxError),
}

/// Sends `body`, trailers as `trailers` lets them pass, and the end of the stream. A body that ends by a [`Farewell`] has
/// ended well.
///
/// A chunk is asked for only while there is room in the windows. The peer's reset ends the wait for a quiet body
/// too, for a watch may have nothing to say for hours. When the future is dropped, so is the stream's sending half.
pub(crate) async fn pump<B>(
    body: B,
    mut stream: SendStream<Bytes>,
    trailers: fn(HeaderMap) -> HeaderMap,
) -> Result<(), Unfinished>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    let mut following = None;
    loop {
        stream.reserve_capacity(1);
        let frame = poll_fn(|cx| {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Unfinished::Peer));
            }
            while stream.capacity() == 0 {
                match stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(Err(Unfinished::Peer)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match following.take() {
                Some(frame) => Poll::Ready(Ok(frame)),
                None => body.as_mut().poll_frame(cx).map(Ok),
            }
        })
        .await?;
        let gone = |_| Unfinished::Peer;
        match frame {
            None => return stream.send_data(Bytes::new(), true).map_err(gone),
            Some(Err(error)) => {
                let error = error.into();
                if Farewell::is(&*error) {
                    return stream.send_data(Bytes::new(), true).map_err(gone);
                }
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Err(Unfinished::Body(error));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let data = poll_fn(|cx| Poll::Ready(gather(body.as_mut(), data.clone(), &mut following, cx))).await;
                    let end = following.is_none() && body.is_end_stream();
                    if end || !data.is_empty() {
                        stream.send_data(data, end).map_err(gone)?;
                    }
                    if end {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let received = frame.into_trailers().map(trailers).unwrap_or_default();
                    if received.is_empty() {
                        return stream.send_data(Bytes::new(), true).map_err(gone);
                    }
                    return stream.send_trailers(received).map_err(gone);
                }
            },
        }
    }
}

/// Puts to `first` what is there already. What a slow reader leaves waiting costs the peer memory per frame, so a flood
/// of short lines must not be a frame each. What does not fit is left in `following`.
fn gather<B: Body<Data = Bytes>>(
    mut body: Pin<&mut B>,
    first: Bytes,
    following: &mut Option<Option<Result<Frame<Bytes>, B::Error>>>,
    cx: &mut Context<'_>,
) -> Bytes {
    let mut gathered: Option<BytesMut> = None;
    while first.len() < SMALL && !body.is_end_stream() {
        let frame = match body.as_mut().poll_frame(cx) {
            Poll::Pending => break,
            Poll::Ready(Some(Ok(frame))) => frame.into_data(),
            Poll::Ready(other) => {
                *following = Some(other);
                break;
            }
        };
        match frame {
            Ok(data) if data.len() < SMALL => {
                let gathered = gathered.get_or_insert_with(|| BytesMut::from(&*first));
                gathered.extend_from_slice(&data);
                if gathered.len() + SMALL > ROOM {
                    break;
                }
            }
            Ok(data) => {
                *following = Some(Some(Ok(Frame::data(data))));
                break;
            }
            Err(frame) => {
                *following = Some(Some(Ok(frame)));
                break;
            }
        }
    }
    gathered.map_or(first, BytesMut::freeze)
}
