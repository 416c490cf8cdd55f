//! A proxy that records.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A listener on 127.0.0.1 that passes on every byte to a server and back, and keeps a copy. It ends when dropped;
/// its connections end with their peers.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Recorded>>>,
    _accepting: JoinSet<()>,
}

/// What went over one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// From the client to the server.
    pub sent: Vec<u8>,
    /// From the server to the client.
    pub received: Vec<u8>,
}

impl Tap {
    /// Opens a port in front of that server.
    ///
    /// # Errors
    ///
    /// If the system has no port to give.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn before(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let connections = Arc::<Mutex<Vec<Recorded>>>::default();
        let mut accepting = JoinSet::new();
        accepting.spawn({
            let connections = Arc::clone(&connections);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let Ok(server) = TcpStream::connect(server).await else {
                        continue;
                    };
                    pass_on(client, server, &connections);
                }
            }
        });
        Ok(Self {
            address,
            connections,
            _accepting: accepting,
        })
    }

    /// Where the client is to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All connections until now, in the order in which they were made. A byte is recorded before it is passed on.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        self.connections.lock().unwrap().clone()
    }

    /// How many bytes were sent over the latest connection until now.
    #[must_use]
    pub fn sent_len(&self) -> usize {
        self.connections
            .lock()
            .unwrap()
            .last()
            .map_or(0, |connection| connection.sent.len())
    }
}

fn pass_on(client: TcpStream, server: TcpStream, connections: &Arc<Mutex<Vec<Recorded>>>) {
    // Only a matter of speed.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let at = {
        let mut connections = connections.lock().unwrap();
        connections.push(Recorded::default());
        connections.len() - 1
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let sent = Arc::clone(connections);
    tokio::spawn(copy(from_client, to_server, move |bytes| {
        sent.lock().unwrap()[at].sent.extend_from_slice(bytes);
    }));
    let received = Arc::clone(connections);
    tokio::spawn(copy(from_server, to_client, move |bytes| {
        received.lock().unwrap()[at]
            .received
            .extend_from_slice(bytes);
    }));
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    record: impl Fn(&[u8]),
) {
    let mut buffer = vec![0; 64 * 1024];
    // An end or an error of one side is the end of the other.
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        record(&buffer[..len]);
        if to.write_all(&buffer[..len]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
