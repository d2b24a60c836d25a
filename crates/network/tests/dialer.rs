//! Connections into namespaces.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::io;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use network::guest::{GUEST_IP, HOST_IP};
use network::{Dialer, Host};
use tokio::io::AsyncReadExt;

use support::{Guest, PATIENCE, Place, SERVICE, on_a_host};

#[test]
fn a_guests_ports_are_reached_from_outside() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let slot = host.create_slot(0).await.unwrap();
        let guest = Guest::plug_into(&slot);
        let netns = Place::of(&slot).netns();
        let dialer = Dialer::new().unwrap();

        let address = SocketAddrV4::new(GUEST_IP, SERVICE);
        let mut stream = dialer.connect(&netns, address, PATIENCE).await.unwrap();
        assert!(stream.nodelay().unwrap());
        let mut seen = String::new();
        stream.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, HOST_IP.to_string());

        let begun = Instant::now();
        let many = (0..100).map(|_| dialer.connect(&netns, address, PATIENCE));
        for stream in futures_util::future::join_all(many).await {
            stream.unwrap();
        }
        println!("100 connections at once: {:?}", begun.elapsed());

        let closed = SocketAddrV4::new(GUEST_IP, 9);
        let error = dialer.connect(&netns, closed, PATIENCE).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        drop(guest);
        host.remove_all().await.unwrap();
    });
}

#[test]
fn two_sandboxes_with_the_same_address_are_told_apart() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let dialer = Dialer::new().unwrap();
        let mut guests = Vec::new();
        for index in 0..2_u16 {
            let slot = host.create_slot(index).await.unwrap();
            let guest = Guest::plug_into(&slot);
            guest.place.listen(1000 + index);
            guests.push((slot, guest));
        }
        for (mine, others) in [(0, 1), (1, 0)] {
            let netns = Place::of(&guests[mine].0).netns();
            let port = |number: usize| SocketAddrV4::new(GUEST_IP, 1000 + u16::try_from(number).unwrap());
            dialer.connect(&netns, port(mine), PATIENCE).await.unwrap();
            let error = dialer.connect(&netns, port(others), PATIENCE).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
        drop(guests);
        host.remove_all().await.unwrap();
    });
}

#[test]
fn nobody_there_is_a_timeout_and_no_namespace_an_error() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let slot = host.create_slot(0).await.unwrap();
        let dialer = Dialer::new().unwrap();
        let netns = Place::of(&slot).netns();
        let address = SocketAddrV4::new(GUEST_IP, SERVICE);
        let begun = Instant::now();
        let error = dialer.connect(&netns, address, Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(5));

        let no_namespace = std::sync::Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        let error = dialer.connect(&no_namespace, address, PATIENCE).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        // And the thread goes on.
        let error = dialer.connect(&netns, address, Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        host.remove_all().await.unwrap();
    });
}
