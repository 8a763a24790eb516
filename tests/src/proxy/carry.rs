//! One connection: two directions, each read and written by itself.
//!
//! Reading ([`intake`]) says when bytes are due, writing ([`Outlet`]) what becomes of them then. The
//! two are apart so that latency delays and does not slow.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::future::try_join;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::plan::{Flow, Jitter, Plan};

/// Bytes read at once.
pub(super) const CHUNK_BYTES: usize = 16 * 1024;

/// Chunks on their way in one direction; what is above waits in the peer, as in a real network.
const CHUNKS_MAX: usize = 64;

/// Writes per second through a narrow wire: often enough for bytes to flow and not to gush.
const WRITES_PER_SECOND: u64 = 50;

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) client: TcpStream,
    /// The how many-th of its proxy.
    pub(super) number: u64,
    /// How often everything open had been reset when it was accepted.
    pub(super) resets: u64,
    /// Where bytes that are thrown away are counted.
    pub(super) swallowed: Arc<AtomicU64>,
}

/// Carries a connection until both sides have closed it; an end in any other way is a reset.
pub(super) async fn carry(accepted: Accepted, upstream: SocketAddr, plan: watch::Receiver<Plan>) {
    let Accepted {
        mut client,
        number,
        resets,
        swallowed,
    } = accepted;
    let mut torn = plan.clone();
    let connected = tokio::select! {
        connected = TcpStream::connect(upstream) => connected.ok(),
        () = until_torn(&mut torn, resets) => None,
    };
    let Some(mut server) = connected else {
        return reset(client);
    };
    // Otherwise the kernel would put slices together again.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let closed = {
        let (from_client, into_client) = client.split();
        let (from_server, into_server) = server.split();
        let side = |flow| Side {
            plan: plan.clone(),
            flow,
            number,
            swallowed: swallowed.clone(),
        };
        let both = try_join(
            pump(from_client, into_server, side(|plan| plan.to_server)),
            pump(from_server, into_client, side(|plan| plan.to_client)),
        );
        tokio::select! {
            ended = both => ended.is_ok(),
            () = until_torn(&mut torn, resets) => false,
        }
    };
    if !closed {
        reset(client);
        reset(server);
    }
}

/// Waits until a connection that was accepted after so many `resets` has to end.
async fn until_torn(plan: &mut watch::Receiver<Plan>, resets: u64) {
    let torn = plan.wait_for(|plan| plan.cut || plan.resets != resets);
    if torn.await.is_err() {
        // The proxy is gone and this task about to be cancelled.
        std::future::pending::<()>().await;
    }
}

/// Closes with RST.
fn reset(stream: TcpStream) {
    // Fails only on a socket that the peer has reset.
    let _ = stream.set_zero_linger();
}

/// One direction of one connection.
#[derive(Clone)]
struct Side {
    plan: watch::Receiver<Plan>,
    flow: fn(&Plan) -> Flow,
    number: u64,
    swallowed: Arc<AtomicU64>,
}

impl Side {
    fn flow(&self) -> Flow {
        (self.flow)(&self.plan.borrow())
    }

    /// The flow as soon as it is so. Fails only when the proxy is gone, and this with it.
    async fn wait_for(&mut self, is_so: impl Fn(&Flow) -> bool) -> Flow {
        let flow = self.flow;
        let _ = self.plan.wait_for(|plan| is_so(&flow(plan))).await;
        self.flow()
    }
}

async fn pump(from: ReadHalf<'_>, into: WriteHalf<'_>, side: Side) -> io::Result<()> {
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    let outlet = Outlet {
        into,
        side: side.clone(),
        left: None,
        free_at: Instant::now(),
    };
    try_join(intake(from, sender, side), outlet.write_all(chunks)).await?;
    Ok(())
}

/// Bytes, and when they are to arrive.
struct Chunk {
    bytes: Bytes,
    due: Instant,
}

async fn intake(mut from: ReadHalf<'_>, chunks: mpsc::Sender<Chunk>, side: Side) -> io::Result<()> {
    let (mut buffer, mut dice) = (BytesMut::new(), Dice::new(side.number));
    loop {
        buffer.reserve(CHUNK_BYTES);
        let ended = from.read_buf(&mut (&mut buffer).limit(CHUNK_BYTES)).await? == 0;
        let flow = side.flow();
        // The end travels as an empty chunk: it is late, and held, like everything else. Chunks
        // are written in order, so that none overtakes one that waits for longer.
        let chunk = Chunk {
            bytes: buffer.split().freeze(),
            due: Instant::now() + flow.latency + dice.throw(flow.jitter),
        };
        if chunks.send(chunk).await.is_err() || ended {
            return Ok(());
        }
    }
}

/// The random part of one direction's latency.
pub(super) struct Dice {
    number: u64,
    seeded: Option<(u64, SmallRng)>,
}

impl Dice {
    /// For the connection of this number.
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            seeded: None,
        }
    }

    /// The next wait; a new seed begins a new row of them.
    pub(super) fn throw(&mut self, jitter: Option<Jitter>) -> Duration {
        let Some(Jitter { up_to, seed }) = jitter else {
            return Duration::ZERO;
        };
        if self.seeded.as_ref().is_none_or(|(old, _)| *old != seed) {
            let of_connection = seed.wrapping_add(self.number);
            self.seeded = Some((seed, SmallRng::seed_from_u64(of_connection)));
        }
        let (_, rng) = self.seeded.as_mut().expect("it was seeded above");
        up_to.mul_f64(rng.random())
    }
}

/// The writing half.
struct Outlet<'a> {
    into: WriteHalf<'a>,
    side: Side,
    /// What may be carried before the reset, and the number of the limit.
    left: Option<(u64, u64)>,
    /// When the wire has room for the next byte.
    free_at: Instant,
}

impl Outlet<'_> {
    async fn write_all(mut self, mut chunks: mpsc::Receiver<Chunk>) -> io::Result<()> {
        while let Some(Chunk { bytes, due }) = chunks.recv().await {
            sleep_until(due).await;
            if bytes.is_empty() {
                // A blackhole is silent: the end of a stream would be a sign of life.
                let passes = |flow: &Flow| !flow.stalled && !flow.blackhole;
                self.side.wait_for(passes).await;
                return self.into.shutdown().await;
            }
            self.write(bytes).await?;
        }
        Ok(())
    }

    async fn write(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            let flow = self.side.wait_for(|flow| !flow.stalled).await;
            if flow.blackhole {
                let lost = bytes.len() as u64;
                self.side.swallowed.fetch_add(lost, Ordering::Relaxed);
                return Ok(());
            }
            let left = self.left(&flow);
            let piece = bytes.split_to(piece_bytes(&flow, bytes.len(), left));
            self.into.write_all(&piece).await?;
            if self.spend(left, piece.len()) {
                return Err(ErrorKind::ConnectionReset.into());
            }
            if let Some(bandwidth) = flow.bandwidth {
                self.rest(bandwidth, piece.len()).await;
            }
            if let Some(slicing) = flow.slicing.filter(|_| !bytes.is_empty()) {
                tokio::time::sleep(slicing.pause).await;
            }
        }
        Ok(())
    }

    /// What may be carried before the reset, if one was asked for.
    fn left(&mut self, flow: &Flow) -> Option<u64> {
        self.left = flow.reset_after.map(|limit| match self.left {
            Some((left, number)) if number == limit.number => (left, number),
            _ => (limit.bytes, limit.number),
        });
        self.left.map(|(left, _)| left)
    }

    /// Takes what was written off the limit that was in force. True: the limit is reached.
    fn spend(&mut self, left: Option<u64>, written: usize) -> bool {
        let Some(left) = left.map(|left| left.saturating_sub(written as u64)) else {
            return false;
        };
        self.left = self.left.map(|(_, number)| (left, number));
        left == 0
    }

    /// Waits until the wire has carried what was written, or is another one.
    async fn rest(&mut self, bandwidth: NonZeroU64, written: usize) {
        let taken = Duration::from_secs_f64(written as f64 / bandwidth.get() as f64);
        self.free_at = self.free_at.max(Instant::now()) + taken;
        let changed = self.side.wait_for(|flow| flow.bandwidth != Some(bandwidth));
        if timeout_at(self.free_at, changed).await.is_ok() {
            self.free_at = Instant::now();
        }
    }
}

/// How much of `length` bytes to write at once. With nothing left before a reset, the limit is
/// reached by writing nothing.
fn piece_bytes(flow: &Flow, length: usize, left: Option<u64>) -> usize {
    let narrow = flow
        .bandwidth
        .map(|bandwidth| (bandwidth.get() / WRITES_PER_SECOND).max(1));
    let limits = [
        narrow,
        left,
        flow.slicing.map(|slicing| slicing.bytes.get() as u64),
    ];
    let limits = limits.into_iter().flatten();
    limits.fold(length, |least, limit| {
        least.min(usize::try_from(limit).unwrap_or(usize::MAX))
    })
}
