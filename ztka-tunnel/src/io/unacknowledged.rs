//! Has the kernel end a connection whose bytes arrive nowhere.

use std::{io, time::Duration};

use tokio::net::TcpStream;

/// Ends the connection with an error when bytes that were sent have not been acknowledged for `after`: `TCP_USER_TIMEOUT`
/// (RFC 5482), of which the default is some fifteen minutes. Where the system has no such option, nothing is done.
///
/// The keepalive of a tunnel notices the same, but not while it is full of what the peer sends; and through a proxy on the
/// way only the keepalive does.
///
/// # Errors
/// What the system says.
pub fn give_up_unacknowledged(socket: &TcpStream, after: Duration) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket2::SockRef::from(socket).set_tcp_user_timeout(Some(after))?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket, after);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        give_up_unacknowledged(&socket, Duration::from_secs(9)).unwrap();
        let told = socket2::SockRef::from(&socket).tcp_user_timeout().unwrap();
        assert_eq!(told, Some(Duration::from_secs(9)));
    }
}
