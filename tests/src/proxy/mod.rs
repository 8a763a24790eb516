//! A TCP proxy that fails as networks and servers do, to stand before Postgres, RabbitMQ or a
//! provider.
//!
//! | call | models |
//! |---|---|
//! | [`Proxy::stall`] | a partition, a firewall that forgot the connection, a server that is stopped (`SIGSTOP`) or out of disk: nobody is told, bytes just do not come. One direction alone: the request arrives and the answer does not |
//! | [`Proxy::heal`] after it | the partition ends and TCP delivers late what it held back |
//! | [`Proxy::cut`] | the server's process is killed: peers get RST and new connections are refused |
//! | [`Proxy::heal`] after it | the server is up again at the same address |
//! | [`Proxy::reset_all`] | a load balancer or a firewall that restarts, an operator who closes all connections: peers get RST and may connect again at once |
//! | [`Proxy::reset_after`] | a crash in the middle of a frame, a proxy with a limit: peers have seen this much and no more |
//! | [`Proxy::blackhole`] | a middlebox that acknowledges and dies, a server that took the bytes and lost them: the peer believes they were delivered |
//! | [`Proxy::heal`] after it | the stream goes on with a hole in it |
//! | [`Proxy::latency`] | distance: each byte comes later, in order, at the same throughput |
//! | [`Proxy::jitter`] | a busy network: some bytes come later than others, still in order |
//! | [`Proxy::bandwidth`] | a narrow wire: what is more waits in its sender, as its buffers fill |
//! | [`Proxy::slicing`] | small segments: frames and lines arrive in pieces, and are cut anywhere |
//!
//! Every direction has its own. All can be changed while connections live, and are in force from
//! the next byte that is written; latency and jitter from the next byte that is read.
//!
//! Unlike a partition, a stall lets new connections be opened; their bytes are held as well.
//! A stalled peer can write until the buffers are full, as it can into a real network.
//!
//! A further fault is a field of [`Flow`], a method that sets it, and a line in `carry`: in
//! `intake` (it acts on what was read) or `Outlet` (it acts on what is to be written).

mod carry;
mod plan;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::carry::{Accepted, carry};
pub use self::plan::{Direction, Flow, Jitter, Limit, Plan, Slicing};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A running proxy; it stops, and its connections close, when it is dropped.
pub struct Proxy {
    addr: SocketAddr,
    plan: watch::Sender<Plan>,
    /// Whether the accepting task listens: what `cut` and `heal` wait for.
    listening: watch::Receiver<bool>,
    connections: TaskTracker,
    swallowed: Arc<AtomicU64>,
    _stop: DropGuard,
}

impl Proxy {
    /// Listens on a free port of the loopback interface, and forwards to this server.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        let addr = listener.local_addr()?;
        let plan = watch::Sender::new(Plan::default());
        let (state, listening) = watch::channel(true);
        let (connections, stop) = (TaskTracker::new(), CancellationToken::new());
        let swallowed = Arc::new(AtomicU64::new(0));
        let door = Door {
            upstream,
            plan: plan.subscribe(),
            listening: state,
            connections: connections.clone(),
            swallowed: swallowed.clone(),
            stop: stop.clone(),
            accepted: 0,
        };
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(door.keep(listener, addr)),
        );
        Ok(Self {
            addr,
            plan,
            listening,
            connections,
            swallowed,
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

    /// Bytes that blackholes have thrown away so far.
    pub fn swallowed(&self) -> u64 {
        self.swallowed.load(Ordering::Relaxed)
    }

    /// What is active now.
    pub fn plan(&self) -> Plan {
        *self.plan.borrow()
    }

    /// Holds bytes back, and keeps the connections open.
    pub fn stall(&self, direction: Direction) {
        self.change(direction, |flow| flow.stalled = true);
    }

    /// Reads bytes and throws them away, and keeps the connections open, also where their end is
    /// among what was read. What is on its way at this moment is lost as well.
    pub fn blackhole(&self, direction: Direction) {
        self.change(direction, |flow| flow.blackhole = true);
    }

    /// Delivers what is read from now on this much later.
    pub fn latency(&self, direction: Direction, latency: Duration) {
        self.change(direction, |flow| flow.latency = latency);
    }

    /// Delivers what is read from now on up to this much later than the latency says: a wait of
    /// its own for each read, equally likely up to `up_to`. Zero ends it.
    pub fn jitter(&self, direction: Direction, up_to: Duration, seed: u64) {
        let jitter = (!up_to.is_zero()).then_some(Jitter { up_to, seed });
        self.change(direction, |flow| flow.jitter = jitter);
    }

    /// Lets each connection carry so many bytes per second and no more. None ends it.
    pub fn bandwidth(&self, direction: Direction, bytes_per_second: Option<NonZeroU64>) {
        self.change(direction, |flow| flow.bandwidth = bytes_per_second);
    }

    /// Writes a few bytes at a time. None ends it.
    pub fn slicing(&self, direction: Direction, slicing: Option<Slicing>) {
        self.change(direction, |flow| flow.slicing = slicing);
    }

    /// Resets each connection that has carried this many more bytes, and goes on doing so with
    /// those that are opened later. The last byte may be lost to the reset where its receiver is
    /// slow to read. With 0 the next byte is the one that does not arrive.
    pub fn reset_after(&self, direction: Direction, bytes: u64) {
        self.plan.send_modify(|plan| {
            plan.limits += 1;
            let number = plan.limits;
            plan.change(direction, |flow| {
                flow.reset_after = Some(Limit { bytes, number });
            });
        });
    }

    /// Resets all connections that were accepted until now, and goes on accepting.
    pub fn reset_all(&self) {
        self.plan.send_modify(|plan| plan.resets += 1);
    }

    /// Resets all connections and refuses new ones; returns when both are so.
    pub async fn cut(&self) {
        self.plan.send_modify(|plan| plan.cut = true);
        self.wait_until_listening_is(false).await;
        self.connections.close();
        self.connections.wait().await;
        self.connections.reopen();
    }

    /// Ends everything but latency and jitter, which a wire in order has as well; returns when
    /// connections are accepted.
    pub async fn heal(&self) {
        self.plan.send_modify(Plan::heal);
        self.wait_until_listening_is(true).await;
    }

    fn change(&self, direction: Direction, change: impl Fn(&mut Flow)) {
        self.plan.send_modify(|plan| plan.change(direction, change));
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
    plan: watch::Receiver<Plan>,
    listening: watch::Sender<bool>,
    connections: TaskTracker,
    swallowed: Arc<AtomicU64>,
    stop: CancellationToken,
    accepted: u64,
}

impl Door {
    async fn keep(mut self, mut listener: TcpListener, addr: SocketAddr) {
        loop {
            self.accept_until_cut(&listener).await;
            // Bound and not listening: the port stays ours, and who connects is refused.
            let reserved = bind(addr).expect("the port is ours");
            drop(listener);
            self.listening.send_replace(false);
            let _ = self.plan.wait_for(|plan| !plan.cut).await;
            listener = reserved.listen(BACKLOG).expect("a bound socket can listen");
            self.listening.send_replace(true);
        }
    }

    async fn accept_until_cut(&mut self, listener: &TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // An error means that the proxy is gone, and this task about to be cancelled.
                Ok(_) = self.plan.wait_for(|plan| plan.cut) => return,
            };
            // A failure is of one connection, which its client sees as well.
            let Ok((client, _)) = accepted else { continue };
            let accepted = Accepted {
                client,
                number: self.accepted,
                resets: self.plan.borrow().resets,
                swallowed: self.swallowed.clone(),
            };
            self.accepted += 1;
            let carrying = carry(accepted, self.upstream, self.plan.clone());
            self.connections
                .spawn(self.stop.clone().run_until_cancelled_owned(carrying));
        }
    }
}

/// A socket at this address; a port that had connections until now may be bound again, and one that
/// is ours already.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}
