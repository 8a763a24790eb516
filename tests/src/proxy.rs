//! A TCP proxy that fails as networks and servers do, to stand before Postgres, RabbitMQ or a
//! provider.
//!
//! | call | models |
//! |---|---|
//! | [`Proxy::stall`] | a partition, a firewall that forgot the connection, a server that is stopped (`SIGSTOP`) or out of disk: nobody is told, bytes just do not come. One direction alone: the request arrives and the answer does not |
//! | [`Proxy::heal`] after it | the partition ends and TCP delivers late what it held back |
//! | [`Proxy::cut`] | the server's process is killed: peers get RST and new connections are refused |
//! | [`Proxy::heal`] after it | the server is up again at the same address |
//! | [`Proxy::latency`] | distance: each byte comes later, in order, at the same throughput |
//!
//! Unlike a partition, a stall lets new connections be opened; their bytes are held as well.
//! A stalled peer can write until the buffers are full, as it can into a real network.
//!
//! A further fault is a field of `Flow`, a method that sets it, and a line in `intake` (it acts on
//! what was read) or `outlet` (it acts on what is to be written).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::future::try_join;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Bytes read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Chunks on their way in one direction; what is above waits in the peer, as in a real network.
const CHUNKS_MAX: usize = 64;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What clients send.
    ToServer,
    /// What the server sends.
    ToClient,
    /// Either way.
    Both,
}

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    stalled: bool,
    latency: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    cut: bool,
    to_server: Flow,
    to_client: Flow,
}

impl Faults {
    fn change(&mut self, direction: Direction, change: impl Fn(&mut Flow)) {
        if direction != Direction::ToClient {
            change(&mut self.to_server);
        }
        if direction != Direction::ToServer {
            change(&mut self.to_client);
        }
    }
}

/// A running proxy; it stops, and its connections close, when it is dropped.
pub struct Proxy {
    addr: SocketAddr,
    faults: watch::Sender<Faults>,
    /// Whether the accepting task listens: what `cut` and `heal` wait for.
    listening: watch::Receiver<bool>,
    connections: TaskTracker,
    _stop: DropGuard,
}

impl Proxy {
    /// Listens on a free port of the loopback interface, and forwards to this server.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        let addr = listener.local_addr()?;
        let faults = watch::Sender::new(Faults::default());
        let (state, listening) = watch::channel(true);
        let (connections, stop) = (TaskTracker::new(), CancellationToken::new());
        let door = Door {
            upstream,
            faults: faults.subscribe(),
            listening: state,
            connections: connections.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(door.keep(listener, addr)),
        );
        Ok(Self {
            addr,
            faults,
            listening,
            connections,
            _stop: stop.drop_guard(),
        })
    }

    /// Where clients connect instead of to the server.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Holds bytes back, and keeps the connections open.
    pub fn stall(&self, direction: Direction) {
        self.faults
            .send_modify(|faults| faults.change(direction, |flow| flow.stalled = true));
    }

    /// Delivers what is read from now on this much later.
    pub fn latency(&self, direction: Direction, latency: Duration) {
        self.faults
            .send_modify(|faults| faults.change(direction, |flow| flow.latency = latency));
    }

    /// Resets all connections and refuses new ones; returns when both are so.
    pub async fn cut(&self) {
        self.faults.send_modify(|faults| faults.cut = true);
        self.wait_until_listening_is(false).await;
        self.connections.close();
        self.connections.wait().await;
        self.connections.reopen();
    }

    /// Ends stall and cut, and leaves the latency; returns when connections are accepted.
    pub async fn heal(&self) {
        self.faults.send_modify(|faults| {
            faults.cut = false;
            faults.change(Direction::Both, |flow| flow.stalled = false);
        });
        self.wait_until_listening_is(true).await;
    }

    async fn wait_until_listening_is(&self, wanted: bool) {
        let mut listening = self.listening.clone();
        let found = listening.wait_for(|is| *is == wanted).await;
        found.expect("the accepting task lives as long as the proxy");
    }
}

/// The task that accepts.
struct Door {
    upstream: SocketAddr,
    faults: watch::Receiver<Faults>,
    listening: watch::Sender<bool>,
    connections: TaskTracker,
    stop: CancellationToken,
}

impl Door {
    async fn keep(mut self, mut listener: TcpListener, addr: SocketAddr) {
        loop {
            self.accept_until_cut(&listener).await;
            drop(listener);
            // Bound and not listening: the port stays ours, and who connects is refused.
            let reserved = bind(addr).expect("the port was ours a moment ago");
            self.listening.send_replace(false);
            let _ = self.faults.wait_for(|faults| !faults.cut).await;
            listener = reserved.listen(BACKLOG).expect("a bound socket can listen");
            self.listening.send_replace(true);
        }
    }

    async fn accept_until_cut(&mut self, listener: &TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = until_cut(&mut self.faults) => return,
            };
            // A failure is of one connection, which its client sees as well.
            let Ok((client, _)) = accepted else { continue };
            let carrying = carry(client, self.upstream, self.faults.clone());
            self.connections
                .spawn(self.stop.clone().run_until_cancelled_owned(carrying));
        }
    }
}

/// A socket at this address; a port that had connections until now may be bound again.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

async fn until_cut(faults: &mut watch::Receiver<Faults>) {
    if faults.wait_for(|faults| faults.cut).await.is_err() {
        // The proxy is gone and this task about to be cancelled.
        std::future::pending::<()>().await;
    }
}

/// One connection, until both sides have closed it; an end in any other way is a reset.
async fn carry(mut client: TcpStream, upstream: SocketAddr, faults: watch::Receiver<Faults>) {
    let mut cut = faults.clone();
    let connected = tokio::select! {
        connected = TcpStream::connect(upstream) => connected.ok(),
        () = until_cut(&mut cut) => None,
    };
    let Some(mut server) = connected else {
        return reset(client);
    };
    let closed = {
        let (from_client, into_client) = client.split();
        let (from_server, into_server) = server.split();
        let both = try_join(
            pump(from_client, into_server, faults.clone(), |faults| {
                faults.to_server
            }),
            pump(from_server, into_client, faults, |faults| faults.to_client),
        );
        tokio::select! {
            ended = both => ended.is_ok(),
            () = until_cut(&mut cut) => false,
        }
    };
    if !closed {
        reset(client);
        reset(server);
    }
}

/// Closes with RST.
fn reset(stream: TcpStream) {
    // Fails only on a socket that the peer has reset.
    let _ = stream.set_zero_linger();
}

/// Carries one direction. Reading and writing are apart, so that latency delays and does not slow.
async fn pump(
    from: ReadHalf<'_>,
    into: WriteHalf<'_>,
    faults: watch::Receiver<Faults>,
    flow: fn(&Faults) -> Flow,
) -> io::Result<()> {
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    let reading = intake(from, sender, faults.clone(), flow);
    try_join(reading, outlet(into, chunks, faults, flow)).await?;
    Ok(())
}

/// Bytes, and when they are to arrive.
struct Chunk {
    bytes: Bytes,
    due: Instant,
}

async fn intake(
    mut from: ReadHalf<'_>,
    chunks: mpsc::Sender<Chunk>,
    faults: watch::Receiver<Faults>,
    flow: fn(&Faults) -> Flow,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        let ended = from.read_buf(&mut (&mut buffer).limit(CHUNK_BYTES)).await? == 0;
        let due = Instant::now() + flow(&faults.borrow()).latency;
        // The end travels as an empty chunk: it is late, and held, like everything else.
        let chunk = Chunk {
            bytes: buffer.split().freeze(),
            due,
        };
        if chunks.send(chunk).await.is_err() || ended {
            return Ok(());
        }
    }
}

async fn outlet(
    mut into: WriteHalf<'_>,
    mut chunks: mpsc::Receiver<Chunk>,
    mut faults: watch::Receiver<Faults>,
    flow: fn(&Faults) -> Flow,
) -> io::Result<()> {
    while let Some(Chunk { bytes, due }) = chunks.recv().await {
        tokio::time::sleep_until(due).await;
        // Fails only when the proxy is gone, and this with it.
        let _ = faults.wait_for(|faults| !flow(faults).stalled).await;
        if bytes.is_empty() {
            return into.shutdown().await;
        }
        into.write_all(&bytes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::task::JoinHandle;

    use super::*;

    /// How long to look for bytes that must not come; too short a look can only miss a fault.
    const QUIET: Duration = Duration::from_millis(50);

    /// A server that sends back what it gets, on every connection.
    async fn echo() -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut into) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut into).await;
                });
            }
        });
        (addr, serving)
    }

    async fn ask(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        answer(stream, text.len()).await
    }

    async fn answer(stream: &mut TcpStream, bytes: usize) -> io::Result<String> {
        let mut answer = vec![0; bytes];
        stream.read_exact(&mut answer).await?;
        Ok(String::from_utf8(answer).unwrap())
    }

    #[tokio::test]
    async fn bytes_and_the_end_of_a_stream_pass_through() {
        let (server, _serving) = echo().await;
        let proxy = Proxy::start(server).unwrap();
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        let long = "x".repeat(3 * CHUNK_BYTES);
        assert_eq!(ask(&mut stream, &long).await.unwrap(), long);
        assert_eq!(proxy.connections(), 1);
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_stall_holds_what_heal_delivers() {
        for direction in [Direction::ToServer, Direction::ToClient, Direction::Both] {
            let (server, _serving) = echo().await;
            let proxy = Proxy::start(server).unwrap();
            let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
            assert_eq!(ask(&mut stream, "one").await.unwrap(), "one");
            proxy.stall(direction);
            let stalled = tokio::time::timeout(QUIET, ask(&mut stream, "two")).await;
            assert!(stalled.is_err(), "{direction:?}: {stalled:?}");
            assert_eq!(proxy.connections(), 1);
            proxy.heal().await;
            assert_eq!(answer(&mut stream, 3).await.unwrap(), "two");
        }
    }

    #[tokio::test]
    async fn a_cut_resets_and_refuses_until_healed() {
        let (server, _serving) = echo().await;
        let proxy = Proxy::start(server).unwrap();
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(ask(&mut stream, "one").await.unwrap(), "one");
        proxy.cut().await;
        assert_eq!(proxy.connections(), 0);
        let error = answer(&mut stream, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let error = TcpStream::connect(proxy.addr()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        proxy.heal().await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(ask(&mut stream, "two").await.unwrap(), "two");
    }

    #[tokio::test]
    async fn latency_delays_and_keeps_the_order() {
        let (server, _serving) = echo().await;
        let proxy = Proxy::start(server).unwrap();
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        proxy.latency(Direction::Both, Duration::from_millis(20));
        let asked = Instant::now();
        assert_eq!(ask(&mut stream, "one").await.unwrap(), "one");
        assert!(asked.elapsed() >= Duration::from_millis(40));
        stream.write_all(b"slow").await.unwrap();
        proxy.latency(Direction::Both, Duration::ZERO);
        stream.write_all(b"fast").await.unwrap();
        assert_eq!(answer(&mut stream, 8).await.unwrap(), "slowfast");
    }

    #[tokio::test]
    async fn a_server_that_is_down_resets_its_clients() {
        let (server, serving) = echo().await;
        serving.abort();
        let _ = serving.await;
        let proxy = Proxy::start(server).unwrap();
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(answer(&mut stream, 1).await.is_err());
    }
}
