//! Free loopback ports.
//!
//! They are taken from below the range that the kernel uses for outgoing connections. A server
//! that is restarted on its port would otherwise find it taken now and then, by a client that
//! was given that very number as its own; a client that reconnects in a loop can even connect to
//! itself there.
//!
//! Nothing reserves a port between the look and the server's bind, so starts are tried again
//! with other ports when theirs were taken.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use rand::RngExt;

use crate::error::{Doing, Error};

/// How often a server is started before a taken port is an error.
const TRIES: usize = 3;
const CANDIDATES_MAX: usize = 1000;
const PREFERRED: Range<u16> = 20_000..32_768;

/// Calls `start` with free ports, and again with others if somebody took one of them meanwhile.
pub(crate) async fn with_free_ports<const N: usize, T>(
    start: impl AsyncFn([u16; N]) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut tried = 1;
    loop {
        let ports = free_ports()?;
        match start(ports).await {
            Err(_) if tried < TRIES && ports.iter().any(|port| bind(*port).is_none()) => tried += 1,
            done => return done,
        }
    }
}

/// All are bound until the last is found, so that they differ.
fn free_ports<const N: usize>() -> Result<[u16; N], Error> {
    let range = server_range();
    let candidates = (0..CANDIDATES_MAX).map(|_| rand::rng().random_range(range.clone()));
    let mut bound: Vec<TcpListener> = candidates.filter_map(bind).take(N).collect();
    let mut ports = [0; N];
    for (index, port) in ports.iter_mut().enumerate() {
        if index == bound.len() {
            let any = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            bound.push(any.doing(|| "bind a free loopback port".to_owned())?);
        }
        let address = bound[index].local_addr();
        *port = address
            .doing(|| "read a listener's port".to_owned())?
            .port();
    }
    Ok(ports)
}

fn bind(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}

/// The part of the preferred ports that the kernel does not give to clients.
fn server_range() -> Range<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first_of_clients = text
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok());
    let end = first_of_clients.unwrap_or(PREFERRED.end).min(PREFERRED.end);
    if end > PREFERRED.start {
        PREFERRED.start..end
    } else {
        PREFERRED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let [a, b, c] = free_ports().expect("the machine has free ports");
        assert!(a != b && b != c && a != c);
    }

    #[tokio::test]
    async fn a_start_that_fails_on_a_taken_port_is_tried_on_others() {
        let taken = std::cell::RefCell::new(Vec::new());
        let started = with_free_ports(async |[port]: [u16; 1]| {
            if taken.borrow().is_empty() {
                taken.borrow_mut().extend(bind(port));
                return Err(Error::Machine("the port is taken".to_owned()));
            }
            Ok(port)
        });
        assert!(started.await.is_ok());
    }
}
