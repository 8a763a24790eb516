//! Each fault against a server that sends back what it gets.

use std::io::ErrorKind;
use std::num::NonZeroUsize;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::carry::{CHUNK_BYTES, Dice};
use super::*;
use crate::harness::eventually::eventually;

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

#[test]
fn one_seed_draws_the_same_waits_and_another_connection_others() {
    let up_to = Duration::from_millis(30);
    let draw = |number, seed| {
        let mut dice = Dice::new(number);
        let jitter = Some(Jitter { up_to, seed });
        (0..100).map(|_| dice.throw(jitter)).collect::<Vec<_>>()
    };
    assert_eq!(draw(1, 7), draw(1, 7));
    assert_ne!(draw(1, 7), draw(2, 7));
    assert_ne!(draw(1, 7), draw(1, 8));
    assert!(draw(1, 7).iter().all(|wait| *wait <= up_to));
    assert_eq!(Dice::new(1).throw(None), Duration::ZERO);
}

#[tokio::test]
async fn jitter_keeps_the_order() {
    let (server, _serving) = echo().await;
    let proxy = Proxy::start(server).unwrap();
    proxy.jitter(Direction::Both, Duration::from_millis(5), 7);
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let words: Vec<_> = (100..150).map(|n| n.to_string()).collect();
    for word in &words {
        stream.write_all(word.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(answer(&mut stream, 150).await.unwrap(), words.concat());
}

#[tokio::test]
async fn a_narrow_wire_takes_its_time_until_it_is_widened() {
    let (server, _serving) = echo().await;
    let proxy = Proxy::start(server).unwrap();
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    proxy.bandwidth(Direction::ToServer, NonZeroU64::new(10_000));
    let (asked, text) = (Instant::now(), "x".repeat(2200));
    assert_eq!(ask(&mut stream, &text).await.unwrap(), text);
    // All but the last write of a fiftieth of a second was waited for.
    assert!(asked.elapsed() >= Duration::from_millis(200));

    proxy.bandwidth(Direction::ToServer, NonZeroU64::new(1));
    stream.write_all(text.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream, 1).await.unwrap(), "x");
    proxy.bandwidth(Direction::ToServer, None);
    assert_eq!(answer(&mut stream, 2199).await.unwrap(), text[1..]);
}

#[tokio::test]
async fn slices_arrive_one_after_another() {
    let (server, _serving) = echo().await;
    let proxy = Proxy::start(server).unwrap();
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let slicing = Slicing {
        bytes: NonZeroUsize::new(3).unwrap(),
        pause: Duration::from_millis(2),
    };
    proxy.slicing(Direction::ToClient, Some(slicing));
    let asked = Instant::now();
    assert_eq!(ask(&mut stream, "0123456789").await.unwrap(), "0123456789");
    assert!(asked.elapsed() >= 3 * slicing.pause);
    proxy.slicing(Direction::ToClient, None);
    assert_eq!(ask(&mut stream, "whole").await.unwrap(), "whole");
}

#[tokio::test]
async fn reset_all_ends_what_is_open_and_takes_what_comes() {
    let (server, _serving) = echo().await;
    let proxy = Proxy::start(server).unwrap();
    let mut open = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ask(&mut open, "one").await.unwrap(), "one");
    proxy.stall(Direction::Both);
    proxy.reset_all();
    let error = answer(&mut open, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    proxy.heal().await;
    let mut next = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ask(&mut next, "two").await.unwrap(), "two");
}

#[tokio::test]
async fn a_limit_resets_each_connection_after_so_many_more_bytes() {
    let (server, _serving) = echo().await;
    let proxy = Proxy::start(server).unwrap();
    let mut old = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ask(&mut old, "before").await.unwrap(), "before");
    proxy.reset_after(Direction::ToClient, 5);
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    for stream in [&mut old, &mut new] {
        assert_eq!(ask(stream, "abc").await.unwrap(), "abc");
        stream.write_all(b"def").await.unwrap();
        assert_eq!(answer(stream, 2).await.unwrap(), "de");
        let error = answer(stream, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    proxy.heal().await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(ask(&mut stream, "unlimited").await.unwrap(), "unlimited");
    proxy.reset_after(Direction::ToServer, 0);
    assert!(ask(&mut stream, "x").await.is_err());
}

#[tokio::test]
async fn a_blackhole_swallows_bytes_and_the_end_until_healed() {
    let (server, _serving) = echo().await;
    let proxy = Proxy::start(server).unwrap();
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    proxy.blackhole(Direction::ToServer);
    stream.write_all(b"lost").await.unwrap();
    let all_lost = async || match proxy.swallowed() {
        4 => Ok(()),
        n => anyhow::bail!("{n} bytes are lost"),
    };
    eventually("the bytes are lost", all_lost).await.unwrap();
    proxy.heal().await;
    assert_eq!(ask(&mut stream, "kept").await.unwrap(), "kept");

    proxy.blackhole(Direction::ToServer);
    stream.shutdown().await.unwrap();
    let silent = tokio::time::timeout(QUIET, stream.read(&mut [0])).await;
    assert!(silent.is_err(), "{silent:?}");
    assert_eq!(proxy.connections(), 1);
    proxy.heal().await;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_plan_says_what_is_active_and_heal_leaves_the_distance() {
    let (server, _serving) = echo().await;
    let proxy = Proxy::start(server).unwrap();
    proxy.latency(Direction::Both, Duration::from_millis(20));
    proxy.jitter(Direction::ToClient, Duration::from_millis(5), 7);
    let healthy = proxy.plan();
    proxy.stall(Direction::ToServer);
    proxy.blackhole(Direction::ToClient);
    proxy.bandwidth(Direction::Both, NonZeroU64::new(1000));
    proxy.reset_after(Direction::ToServer, 9);
    let plan = serde_json::to_value(proxy.plan()).unwrap();
    assert_eq!(
        plan["to_server"],
        serde_json::json!({
            "stalled": true, "blackhole": false, "latency_ms": 20.0, "jitter": null,
            "bandwidth": 1000, "slicing": null, "reset_after": {"bytes": 9},
        })
    );
    let jitter = serde_json::json!({"up_to_ms": 5.0, "seed": 7});
    assert_eq!(plan["to_client"]["jitter"], jitter);
    proxy.heal().await;
    let healed = proxy.plan();
    assert_eq!(healed.to_server, healthy.to_server);
    assert_eq!(healed.to_client, healthy.to_client);
}
