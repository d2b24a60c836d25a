//! Making, finding and removing slots.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use network::guest::{HOST_IP, HOST_MAC, TAP};
use network::{Host, NetworkError, Slot, Subnet};

use support::{Place, on_a_host, policy, run};

#[test]
fn a_slot_comes_and_goes_and_leaves_nothing() {
    on_a_host(|world| async move {
        let before = world.census();
        let host = Host::prepare(world.tag, None).await.unwrap();
        let prepared = world.census();
        assert!(prepared.contains(&format!("coldframe-{}", world.tag)), "{prepared}");
        assert_eq!(
            world.host.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()),
            "1\n"
        );

        let slot = host.with_tap_owner(1234).create_slot(7).await.unwrap();
        assert_eq!(slot.index(), 7);
        assert_eq!(slot.name(), format!("cf{}-7", world.tag));
        let inside = run("ip", &format!("netns exec {} ip -d address", slot.name()));
        assert!(inside.contains(&format!("{HOST_IP}/30")) && inside.contains("user 1234"), "{inside}");
        assert!(inside.contains(&HOST_MAC.map(|byte| format!("{byte:02x}")).join(":")), "{inside}");
        assert!(inside.contains("vnet_hdr on persist on") && !inside.contains("inet6"), "{inside}");
        assert_eq!(Place::of(&slot).ip("route show default"), "", "closed at first");

        let host = Host::prepare(world.tag, None).await.unwrap();
        assert!(matches!(host.create_slot(7).await, Err(NetworkError::SlotExists { index: 7, .. })));
        assert_eq!(host.list().await.unwrap(), BTreeSet::from([7]), "and is not harmed by the attempt");
        host.destroy_slot(7).await.unwrap();
        assert_eq!(world.census(), prepared);
        host.destroy_slot(7).await.unwrap();
        host.remove_all().await.unwrap();
        assert_eq!(world.census(), before);
        host.remove_all().await.unwrap();
    });
}

#[test]
fn the_tap_is_opened_from_inside_by_one_at_a_time() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let slot = host.create_slot(0).await.unwrap();
        assert_eq!(network::open_tap().unwrap_err().kind(), std::io::ErrorKind::NotFound, "outside");
        assert!(!support::ip("-br link").contains(TAP), "and none was made");
        Place::of(&slot).run(|| {
            let tap = network::open_tap().unwrap();
            assert_eq!(sys::tap::flags(&tap).unwrap() & 0x5003, 0x5002);
            assert_eq!(network::open_tap().unwrap_err().kind(), std::io::ErrorKind::ResourceBusy);
            drop(tap);
            network::open_tap().unwrap();
        });
        host.remove_all().await.unwrap();
    });
}

#[test]
fn twenty_at_once() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let before = world.census();

        let mut alone = Vec::new();
        for index in 100..105 {
            let begun = Instant::now();
            host.create_slot(index).await.unwrap();
            alone.push(begun.elapsed());
            host.destroy_slot(index).await.unwrap();
        }
        println!("create_slot, one after the other: {alone:?}");

        let begun = Instant::now();
        let slots = futures_util::future::join_all((0..20).map(|index| host.create_slot(index))).await;
        let slots: Vec<Slot> = slots.into_iter().map(Result::unwrap).collect();
        println!("create_slot, 20 at once: {:?} in all", begun.elapsed());
        assert_eq!(host.list().await.unwrap(), (0..20).collect());

        let begun = Instant::now();
        slots[3].apply(&policy(true)).await.unwrap();
        println!("apply: {:?}", begun.elapsed());

        let begun = Instant::now();
        let removals = (0..20).map(|index| host.destroy_slot(index));
        for removed in futures_util::future::join_all(removals).await {
            removed.unwrap();
        }
        println!("destroy_slot, 20 at once: {:?} in all", begun.elapsed());
        assert_eq!(world.census(), before);
        host.remove_all().await.unwrap();
    });
}

#[test]
fn a_slot_that_nobody_waits_for_is_removed() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let before = world.census();
        // Polled once, so that the work has begun, and dropped.
        let begun = tokio::time::timeout(Duration::ZERO, host.create_slot(1)).await;
        assert!(begun.is_err());
        let deadline = Instant::now() + support::PATIENCE;
        while let Err(error) = host.create_slot(1).await {
            assert!(matches!(error, NetworkError::SlotExists { .. }), "{error}");
            assert!(Instant::now() < deadline, "the abandoned slot stays");
        }
        host.destroy_slot(1).await.unwrap();
        assert_eq!(world.census(), before);
        host.remove_all().await.unwrap();
    });
}

#[test]
fn what_a_crashed_predecessor_left_is_reclaimed() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let subnet = host.subnet();
        let before = world.census();
        for index in 0..5 {
            host.create_slot(index).await.unwrap();
        }
        drop(host);
        // Halves: a namespace without link, a link without namespace, and a name with nothing mounted on it.
        let name = |index: u16| format!("cf{}-{index}", world.tag);
        support::ip(&format!("link delete {}", name(1)));
        let held = Place::of(&Slot::adopt(world.tag, 2).unwrap());
        run("umount", &format!("-l /run/netns/{}", name(2)));
        std::fs::remove_file(format!("/run/netns/{}", name(2))).unwrap();
        std::fs::write(format!("/run/netns/{}", name(9)), "").unwrap();
        assert!(matches!(Slot::adopt(world.tag, 9), Err(NetworkError::NoSlot { .. })));

        let host = Host::prepare(world.tag, None).await.unwrap();
        assert_eq!(host.subnet(), subnet, "the range in use is kept");
        assert_eq!(host.list().await.unwrap(), BTreeSet::from([0, 1, 2, 3, 4, 9]));
        let removed = host.reclaim(&HashSet::from([3])).await.unwrap();
        assert_eq!(removed, [0, 1, 2, 4, 9]);
        assert_eq!(host.list().await.unwrap(), BTreeSet::from([3]));
        assert!(matches!(Slot::adopt(world.tag, 0), Err(NetworkError::NoSlot { .. })));

        let adopted = Slot::adopt(world.tag, 3).unwrap();
        adopted.apply(&policy(true)).await.unwrap();
        adopted.apply(&policy(true)).await.unwrap();
        assert!(Place::of(&adopted).ip("route show default").contains("default via 10."));
        adopted.apply(&policy(false)).await.unwrap();
        adopted.apply(&policy(false)).await.unwrap();
        assert_eq!(Place::of(&adopted).ip("route show default"), "");

        drop(held);
        host.destroy_slot(3).await.unwrap();
        assert_eq!(world.census(), before);
        host.remove_all().await.unwrap();
    });
}

#[test]
fn ranges_in_use_are_left_alone() {
    on_a_host(|world| async move {
        let range = Subnet::of(&world.tag);
        let inside = format!("{}/24", range.base());
        support::ip(&format!("route add {inside} dev up0"));
        let error = Host::prepare(world.tag, range).await.unwrap_err();
        let NetworkError::Conflict { subnet, route, via } = &error else { panic!("{error}") };
        assert_eq!((*subnet, route.to_string(), via.as_str()), (range, inside, " by up0"));

        // Left to itself, each instance finds a range that is free, also of the other's.
        let first = Host::prepare(world.tag, None).await.unwrap();
        let other = network::InstanceTag::new(world.tag.value() ^ 0x1000);
        let second = Host::prepare(other, None).await.unwrap();
        assert!(!first.subnet().overlaps(&second.subnet()) && !first.subnet().overlaps(&range));

        // A range with room for two.
        let small: Subnet = "10.222.0.8/30".parse().unwrap();
        let tiny = Host::prepare(world.tag, small).await.unwrap();
        tiny.create_slot(1).await.unwrap();
        assert!(matches!(tiny.create_slot(2).await, Err(NetworkError::NoAddress { index: 2, .. })));
        let routes = support::ip("route show");
        assert!(routes.contains("unreachable 10.222.0.8/30"), "{routes}");
        assert!(
            !routes.contains(&format!("unreachable {}", first.subnet())),
            "the old claim is given up: {routes}"
        );

        second.remove_all().await.unwrap();
        assert_eq!(tiny.list().await.unwrap(), BTreeSet::from([1]), "not the other instance's");
        tiny.remove_all().await.unwrap();
        assert!(!support::ip("route show").contains("unreachable"));
    });
}

#[test]
fn a_slot_that_cannot_be_finished_leaves_nothing() {
    on_a_host(|world| async move {
        let host = Host::prepare(world.tag, None).await.unwrap();
        let before = world.census();
        // Its link's name is taken: what is left of a slot whose namespace is gone.
        support::ip(&format!("link add cf{}-4 type veth peer name other", world.tag));
        let error = host.create_slot(4).await.unwrap_err();
        assert!(error.to_string().contains("create link"), "{error}");
        assert_eq!(world.census(), before, "the leftover is gone too, so that the next attempt succeeds");
        host.create_slot(4).await.unwrap();
        host.remove_all().await.unwrap();
    });
}
