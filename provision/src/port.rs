//! Free loopback ports.
//!
//! They are taken from below the range that the kernel uses for outgoing connections. A server
//! that is restarted on its port would otherwise find it taken now and then, by a client that
//! was given that very number as its own; a client that reconnects in a loop can even connect to
//! itself there.
//!
//! Whoever takes ports here reserves them for as long as its servers may want to be restarted on
//! them, so that other processes which ask here do not take them while nobody listens: by the name
//! of a socket that is in no directory (unix(7), "abstract"). Names are as local to a network as
//! ports are, and free as soon as the process is gone, however it ends.
//!
//! Nothing keeps strangers from a port between the look and the server's bind, so starts are tried
//! again with other ports when theirs were taken.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use rand::RngExt;

use crate::error::{Doing, Error};

/// How often a server is started before a taken port is an error.
const TRIES: usize = 3;
const CANDIDATES_MAX: usize = 1000;
const PREFERRED: Range<u16> = 20_000..32_768;

/// Ports that nobody else is given here until this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved(#[expect(dead_code, reason = "held, and freed")] Vec<UnixListener>);

/// Calls `start` with free ports, and again with others if somebody took one of them meanwhile.
pub(crate) async fn with_free_ports<const N: usize, T>(
    start: impl AsyncFn([u16; N]) -> Result<T, Error>,
) -> Result<(T, Reserved), Error> {
    let mut tried = 1;
    loop {
        let (ports, reserved) = free_ports()?;
        match start(ports).await {
            Ok(started) => return Ok((started, reserved)),
            Err(_) if tried < TRIES && ports.iter().any(|port| bind(*port).is_none()) => tried += 1,
            Err(error) => return Err(error),
        }
    }
}

/// All are bound until the last is found, so that they differ.
fn free_ports<const N: usize>() -> Result<([u16; N], Reserved), Error> {
    let range = server_range();
    let candidates = (0..CANDIDATES_MAX).map(|_| rand::rng().random_range(range.clone()));
    let (mut bound, reserved): (Vec<_>, Vec<_>) = candidates
        .filter_map(|port| reserve(port).and_then(|reserved| Some((bind(port)?, reserved))))
        .take(N)
        .unzip();
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
    Ok((ports, Reserved(reserved)))
}

fn reserve(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("postroad-port-{port}")).ok()?;
    UnixListener::bind_addr(&name).ok()
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
        let ([a, b, c], _reserved) = free_ports().expect("the machine has free ports");
        assert!(a != b && b != c && a != c);
    }

    #[test]
    fn a_port_is_given_to_nobody_else_until_it_is_let_go() {
        let ([port], reserved) = free_ports().expect("the machine has free ports");
        assert!(bind(port).is_some(), "nobody listens on it");
        assert!(reserve(port).is_none());
        drop(reserved);
        assert!(reserve(port).is_some());
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
