//! What users who have more than one proxy have in front of them: connections go to the proxies in turn, past one that
//! refuses them.

use std::{io, net::Ipv4Addr};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// Passes connections on until it is dropped.
#[derive(Debug)]
pub(super) struct Balancer {
    pub(super) port: u16,
    task: AbortHandle,
}

impl Balancer {
    /// Listens on loopback in front of `ports`.
    pub(super) async fn start(ports: Vec<u16>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { port, task: tokio::spawn(pass_on(listener, ports)).abort_handle() })
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(listener: TcpListener, mut ports: Vec<u16>) {
    // Aborted with this task.
    let mut open = JoinSet::new();
    while let Ok((user, _)) = listener.accept().await {
        while open.try_join_next().is_some() {}
        open.spawn(one(user, ports.clone()));
        ports.rotate_left(1);
    }
}

async fn one(mut user: TcpStream, ports: Vec<u16>) -> io::Result<()> {
    for port in ports {
        if let Ok(mut proxy) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            user.set_nodelay(true)?;
            proxy.set_nodelay(true)?;
            copy_bidirectional(&mut user, &mut proxy).await?;
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A server that says its name to whoever comes.
    async fn server(name: &'static str) -> (u16, AbortHandle) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async move {
            while let Ok((mut user, _)) = listener.accept().await {
                user.write_all(name.as_bytes()).await.unwrap();
            }
        };
        (port, tokio::spawn(serve).abort_handle())
    }

    async fn heard(port: u16) -> String {
        let mut text = String::new();
        let mut user = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        user.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn servers_take_turns_and_one_that_is_away_is_passed_over() {
        let ((one, _one), (two, _two)) = (server("one").await, server("two").await);
        let away = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
        let both = Balancer::start(vec![one, two]).await.unwrap();
        assert_eq!([heard(both.port).await, heard(both.port).await, heard(both.port).await], ["one", "two", "one"]);
        let half = Balancer::start(vec![away, two]).await.unwrap();
        assert_eq!([heard(half.port).await, heard(half.port).await], ["two", "two"]);
    }
}
