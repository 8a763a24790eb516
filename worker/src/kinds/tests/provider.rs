//! A provider on loopback that reads requests and answers with bytes, right or wrong.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// What to do with a request: write `head`, then `chunk` so many `times`, then end.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) head: Vec<u8>,
    pub(super) chunk: Vec<u8>,
    pub(super) times: usize,
    pub(super) pause: Duration,
    pub(super) end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    KeepAlive,
    Close,
    Reset,
    Hang,
    /// Before the request was read.
    CloseAtOnce,
}

impl Reply {
    pub(super) fn new(head: impl Into<Vec<u8>>, end: End) -> Self {
        Self {
            head: head.into(),
            chunk: Vec::new(),
            times: 0,
            pause: Duration::ZERO,
            end,
        }
    }

    pub(super) fn ok() -> Self {
        Self::new(OK, End::KeepAlive)
    }

    pub(super) fn with_body(status: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        Self::new(head, End::KeepAlive)
    }

    pub(super) fn repeat(mut self, chunk: impl Into<Vec<u8>>, times: usize) -> Self {
        (self.chunk, self.times) = (chunk.into(), times);
        self
    }

    pub(super) fn every(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self
            .headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is sent twice");
        value
    }
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    bytes_written: AtomicUsize,
}

pub(super) struct Provider {
    pub(super) address: SocketAddr,
    seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

impl Provider {
    pub(super) async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Seen::default());
        let accepting = tokio::spawn(accept(listener, reply, Arc::clone(&seen)));
        Self {
            address,
            seen,
            accepting,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook?key=1", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.seen
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    pub(super) fn bytes_written(&self) -> usize {
        self.seen.bytes_written.load(Ordering::Relaxed)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, reply: Reply, seen: Arc<Seen>) {
    while let Ok((stream, _)) = listener.accept().await {
        seen.connections.fetch_add(1, Ordering::Relaxed);
        let (reply, seen) = (reply.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            // The client may leave at any point; that is what some of the tests are about.
            let _ = serve(stream, &reply, &seen).await;
        });
    }
}

async fn serve(mut stream: TcpStream, reply: &Reply, seen: &Seen) -> std::io::Result<()> {
    if reply.end == End::CloseAtOnce {
        return Ok(());
    }
    while let Some(request) = read_request(&mut stream).await? {
        seen.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request);
        stream.write_all(&reply.head).await?;
        for _ in 0..reply.times {
            if !reply.pause.is_zero() {
                tokio::time::sleep(reply.pause).await;
            }
            stream.write_all(&reply.chunk).await?;
            seen.bytes_written
                .fetch_add(reply.chunk.len(), Ordering::Relaxed);
        }
        match reply.end {
            End::KeepAlive => {}
            End::Close | End::CloseAtOnce => break,
            End::Reset => {
                stream.set_zero_linger()?;
                break;
            }
            // Until the client leaves.
            End::Hang => drop(stream.read(&mut [0; 16]).await?),
        }
    }
    Ok(())
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return Ok(None),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.trim_end().split("\r\n").map(str::to_owned);
    let line = lines.next().unwrap_or_default();
    let headers: Vec<_> = lines
        .filter_map(|line| {
            line.split_once(": ")
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
        })
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.and_then(|(_, text)| text.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(Request {
        line,
        headers,
        body,
    }))
}
