//! What a guest reaches and what it does not.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};

use network::guest::{GUEST_IP, HOST_IP};
use network::{Host, Slot};

use support::{
    GATEWAY_IP, Guest, PATIENCE, PRIVATE_IPS, PUBLIC_IP, Place, SERVICE, SILENCE, UPLINK_IP, World,
    on_a_host, policy, run,
};

const NOBODY: [Ipv4Addr; 0] = [];

async fn slot_with_guest(host: &Host, index: u16) -> (Slot, Guest) {
    let slot = host.create_slot(index).await.unwrap();
    let guest = Guest::plug_into(&slot);
    (slot, guest)
}

/// The addresses of a slot's link: the host's, the namespace's.
fn pair(slot: &Slot) -> [Ipv4Addr; 2] {
    let line = Place::of(slot).ip("-o -4 address show dev eth0");
    let inside: Ipv4Addr =
        line.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap();
    [Ipv4Addr::from_bits(inside.to_bits() - 1), inside]
}

/// Everything a guest must never reach.
fn forbidden(slots: &[&Slot]) -> Vec<Ipv4Addr> {
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let mut all = vec![UPLINK_IP, GATEWAY_IP, metadata, Ipv4Addr::BROADCAST];
    all.extend(PRIVATE_IPS);
    all.extend(slots.iter().flat_map(|slot| pair(slot)));
    all
}

#[test]
fn closed_lets_nothing_out_and_open_only_the_internet() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let (slot, guest) = slot_with_guest(&host, 0).await;
        let (neighbour, other_guest) = slot_with_guest(&host, 1).await;
        neighbour.apply(&policy(true)).await.unwrap();

        let refused = guest.place.ask(PUBLIC_IP, SERVICE, PATIENCE).unwrap_err();
        assert_ne!(refused.kind(), ErrorKind::TimedOut, "a closed sandbox hears so at once: {refused}");
        let services = [&PRIVATE_IPS[..], &[UPLINK_IP, GATEWAY_IP]].concat();
        assert_eq!(
            world.host.reached(services.clone(), SERVICE),
            services,
            "there is something to be reached"
        );
        for open in [false, true] {
            slot.apply(&policy(open)).await.unwrap();
            let reached = guest.place.reached(forbidden(&[&slot, &neighbour]), SERVICE);
            assert_eq!(reached, NOBODY, "open: {open}");
        }

        // Translated twice: the world sees the host's address.
        assert_eq!(guest.place.ask(PUBLIC_IP, SERVICE, PATIENCE).unwrap(), UPLINK_IP.to_string());
        assert_eq!(other_guest.place.ask(PUBLIC_IP, SERVICE, PATIENCE).unwrap(), UPLINK_IP.to_string());
        slot.apply(&policy(false)).await.unwrap();
        assert!(guest.place.ask(PUBLIC_IP, SERVICE, PATIENCE).is_err());
        assert!(
            other_guest.place.ask(PUBLIC_IP, SERVICE, PATIENCE).is_ok(),
            "the neighbour's way stays open"
        );
        drop((guest, other_guest));
        host.remove_all().await.unwrap();
    });
}

#[test]
fn of_its_namespace_a_guest_reaches_the_supervisors_port_only() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let (slot, guest) = slot_with_guest(&host, 0).await;
        slot.apply(&policy(true)).await.unwrap();
        let namespace = Place::of(&slot);
        namespace.listen(80);
        namespace.listen(SERVICE);
        assert_eq!(guest.place.ask(HOST_IP, 80, PATIENCE).unwrap(), GUEST_IP.to_string());
        let refused = guest.place.ask(HOST_IP, SERVICE, PATIENCE).unwrap_err();
        assert_ne!(refused.kind(), ErrorKind::TimedOut, "{refused}");
        for address in pair(&slot) {
            for port in [80, SERVICE] {
                assert_eq!(guest.place.reached(vec![address], port), NOBODY, "port {port}");
            }
        }
        // What runs in the namespace, a machine monitor that was taken over say, has no way out of its own.
        assert!(namespace.ask(PUBLIC_IP, SERVICE, SILENCE).is_err());
        assert!(namespace.ask(pair(&slot)[0], SERVICE, SILENCE).is_err());
        drop(guest);
        host.remove_all().await.unwrap();
    });
}

#[test]
fn the_hosts_filter_holds_without_the_inner_one() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let (slot, neighbour) = (host.create_slot(0).await.unwrap(), host.create_slot(1).await.unwrap());
        slot.apply(&policy(true)).await.unwrap();
        let namespace = Place::of(&slot);
        namespace.run(|| run("nft", "flush ruleset"));
        Place::of(&neighbour).run(|| run("nft", "flush ruleset"));
        assert_eq!(namespace.ask(PUBLIC_IP, SERVICE, PATIENCE).unwrap(), UPLINK_IP.to_string());
        neighbour.apply(&policy(true)).await.unwrap();
        Place::of(&neighbour).listen(SERVICE);
        let mut addresses = forbidden(&[&neighbour]);
        addresses.push(pair(&slot)[0]);
        assert_eq!(namespace.reached(addresses, SERVICE), NOBODY);
        // Nothing comes in that was not asked for.
        let inside = pair(&slot)[1];
        world.internet.ip(&format!("route add {inside} via {UPLINK_IP}"));
        namespace.listen(SERVICE);
        assert_eq!(world.internet.reached(vec![inside], SERVICE), NOBODY);
        // It was the filter: without it, both are reached.
        let table = format!("coldframe-{}", world.tag);
        world.host.run(move || run("nft", &format!("delete table inet {table}")));
        assert_eq!(namespace.reached(vec![pair(&neighbour)[1]], SERVICE), [pair(&neighbour)[1]]);
        assert_eq!(world.internet.reached(vec![inside], SERVICE), [inside]);
        host.remove_all().await.unwrap();
    });
}

#[test]
fn the_inner_filter_holds_without_the_hosts() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let (slot, guest) = slot_with_guest(&host, 0).await;
        slot.apply(&policy(true)).await.unwrap();
        let table = format!("coldframe-{}", world.tag);
        world.host.run(move || run("nft", &format!("delete table inet {table}")));
        let inside = pair(&slot)[1];
        world.internet.ip(&format!("route add {inside} via {UPLINK_IP}"));
        assert_eq!(guest.place.ask(PUBLIC_IP, SERVICE, PATIENCE).unwrap(), inside.to_string());
        let addresses = PRIVATE_IPS.into_iter().chain(pair(&slot)).collect();
        assert_eq!(guest.place.reached(addresses, SERVICE), NOBODY);
        drop(guest);
        host.remove_all().await.unwrap();
    });
}

#[test]
fn a_foreign_source_address_goes_nowhere() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let (slot, guest) = slot_with_guest(&host, 0).await;
        slot.apply(&policy(true)).await.unwrap();
        let inside = pair(&slot)[1];
        let foreign = [Ipv4Addr::new(192, 0, 2, 99), inside, UPLINK_IP, HOST_IP];
        for address in foreign {
            guest.place.ip(&format!("address add {address}/32 dev eth0"));
        }
        assert_eq!(first_heard(&world, &guest, foreign, 5001), (GUEST_IP, UPLINK_IP));
        // It is the filter that drops them, not only the kernel's own check of where a source should come from.
        Place::of(&slot).run(no_reverse_path_check);
        world.host.run(no_reverse_path_check);
        assert_eq!(first_heard(&world, &guest, foreign, 5002), (GUEST_IP, UPLINK_IP));
        drop(guest);
        host.remove_all().await.unwrap();
    });
}

fn no_reverse_path_check() {
    for link in std::fs::read_dir("/proc/sys/net/ipv4/conf").unwrap() {
        std::fs::write(link.unwrap().path().join("rp_filter"), "0").unwrap();
    }
}

/// The guest sends from each of its addresses, the true one last. The first packet that arrives on the internet: the
/// address that the guest sent it from, and the one it seems to come from.
fn first_heard(world: &World, guest: &Guest, foreign: [Ipv4Addr; 4], port: u16) -> (Ipv4Addr, Ipv4Addr) {
    let receiver = world.internet.run(move || UdpSocket::bind((PUBLIC_IP, port)).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    guest.place.run(move || {
        for address in foreign.into_iter().chain([GUEST_IP]) {
            let socket = UdpSocket::bind((address, 0)).unwrap();
            socket.send_to(address.to_string().as_bytes(), (PUBLIC_IP, port)).unwrap();
        }
    });
    let mut text = [0; 16];
    let (length, from) = receiver.recv_from(&mut text).unwrap();
    let sent_from = std::str::from_utf8(&text[..length]).unwrap().parse().unwrap();
    let std::net::IpAddr::V4(seen) = from.ip() else { panic!("{from}") };
    (sent_from, seen)
}

#[test]
fn large_transfers_pass_an_uplink_with_smaller_packets() {
    on_a_host(|world| async move {
        // Frames over the limit vanish here without a word, as behind many a router.
        world.host.ip("link set up0 mtu 1400");
        let host = Host::prepare(world.tag, None).await.unwrap();
        let (slot, guest) = slot_with_guest(&host, 0).await;
        slot.apply(&policy(true)).await.unwrap();
        let size = 300_000;
        serve_bytes(&world, size);
        let watched = world.internet.clone();
        let received = guest.place.run(move || {
            let address = SocketAddrV4::new(PUBLIC_IP, 7777).into();
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&vec![1; size]).unwrap();
            // What the other side was told when the connection was made: 1400 less two headers.
            let mss = largest_segment(&watched);
            assert!(mss <= 1360, "segments of {mss} bytes");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received.len()
        });
        assert_eq!(received, size);
        drop(guest);
        host.remove_all().await.unwrap();
    });
}

/// How large the segments are that the server on the internet sends.
fn largest_segment(internet: &Place) -> u32 {
    let connections = internet.run(|| run("ss", "-tinH sport = :7777"));
    let (_, mss) = connections.split_once(" mss:").unwrap();
    mss.split_whitespace().next().unwrap().parse().unwrap()
}

/// Takes `size` bytes on the internet, then sends as many.
fn serve_bytes(world: &World, size: usize) {
    world.internet.run(move || {
        let listener = TcpListener::bind((PUBLIC_IP, 7777)).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; size];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        });
    });
}
