//! Two hosts in network namespaces, and datagrams from one to the other.
#![cfg(test)]

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::UdpSocket;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tap_switch::{Switch, Weather};

/// Longer than anything takes that arrives at all.
const PATIENCE: Duration = Duration::from_secs(3);

/// Two hosts that go away with the value.
struct Hosts {
    names: [String; 2],
    sender: UdpSocket,
    receiver: UdpSocket,
    // Last: when the namespaces are gone the devices are too.
    switch: Switch,
}

fn ip(arguments: &str) -> Output {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    command.output().expect("ip runs")
}

fn done(arguments: &str) {
    let output = ip(arguments);
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// A socket that lives in a namespace, made by a thread that goes there and ends.
fn socket_in(namespace: &str, address: &str) -> UdpSocket {
    let namespace = File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
    let address = address.to_owned();
    let made = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("the thread may go there");
        UdpSocket::bind(address).expect("the address is there")
    });
    let socket = made.join().expect("the thread ends");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// Says that tests are skipped and why; where `MUSTER_NETNS` is `required` they fail.
fn skip(why: &str) {
    let required = std::env::var("MUSTER_NETNS").is_ok_and(|wish| wish == "required");
    assert!(!required, "the tests of the switch cannot run: {why}");
    // Past the capture of the test runner; nobody may be reading.
    writeln!(std::io::stderr(), "tap-switch: skipped: {why}").unwrap_or_default();
}

/// None, with a line that says so, where namespaces or TAP devices are not permitted.
fn hosts(weather: Weather, seed: u64) -> Option<Hosts> {
    let process = std::process::id();
    let names = [1, 2].map(|host| format!("tapsw{process}s{seed}h{host}"));
    let devices = [1, 2].map(|host| format!("tp{process}s{seed}h{host}"));
    let may = Command::new("ip")
        .args(["netns", "add", &names[0]])
        .output();
    if !may.is_ok_and(|output| output.status.success()) {
        skip("network namespaces are not permitted here (be root, install iproute2)");
        return None;
    }
    done(&format!("netns add {}", names[1]));
    let switch = match Switch::start(&devices, weather, seed) {
        Ok(switch) => switch,
        Err(why) => {
            remove(&names);
            skip(&format!("no TAP devices, which take /dev/net/tun: {why:?}"));
            return None;
        }
    };
    for (host, (name, device)) in names.iter().zip(&devices).enumerate() {
        done(&format!("link set {device} netns {name} name eth0"));
        let address = host + 1;
        done(&format!("-n {name} addr add 10.78.0.{address}/24 dev eth0"));
        done(&format!("-n {name} link set eth0 up"));
    }
    let sender = socket_in(&names[0], "10.78.0.1:0");
    sender.connect("10.78.0.2:7").expect("an address");
    Some(Hosts {
        receiver: socket_in(&names[1], "10.78.0.2:7"),
        sender,
        names,
        switch,
    })
}

impl Drop for Hosts {
    fn drop(&mut self) {
        remove(&self.names);
    }
}

fn remove(names: &[String]) {
    for name in names {
        drop(ip(&format!("netns del {name}")));
    }
}

impl Hosts {
    /// Sends numbered datagrams; the numbers of those that arrived, in order, and the shortest way.
    fn send(&self, count: u32) -> (Vec<u32>, Duration) {
        let mut sent = Vec::new();
        for number in 0..count {
            sent.push(Instant::now());
            self.sender.send(&number.to_le_bytes()).expect("it is sent");
        }
        let (mut came, mut shortest) = (Vec::new(), Duration::MAX);
        let mut buffer = [0; 4];
        // The last may be among the lost: then the end of the patience ends it.
        while came.len() < usize::try_from(count).expect("a small number") {
            match self.receiver.recv(&mut buffer) {
                Ok(_) => {
                    let number = u32::from_le_bytes(buffer);
                    came.push(number);
                    let began = sent[usize::try_from(number).expect("a small number")];
                    shortest = shortest.min(began.elapsed());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        (came, shortest)
    }
}

#[test]
fn frames_take_the_time_that_was_asked_for_and_calm_weather_comes_back() {
    let slow = Weather {
        delay: Duration::from_millis(300),
        ..Weather::calm()
    };
    let Some(hosts) = hosts(slow, 1) else { return };
    // The first wait for the neighbour's address, which takes a way there and back.
    let _neighbours = hosts.send(1);
    let (came, shortest) = hosts.send(20);
    assert_eq!(came, (0..20).collect::<Vec<_>>());
    assert!(shortest >= slow.delay, "{shortest:?}");
    hosts.switch.set_weather(Weather::calm());
    let (came, shortest) = hosts.send(20);
    assert_eq!(came.len(), 20);
    assert!(shortest < slow.delay, "{shortest:?}");
    assert_eq!(hosts.switch.counts().lost, 0);
}

#[test]
fn half_the_frames_are_lost_one_way_and_some_arrive_twice_or_early() {
    let Some(hosts) = hosts(Weather::calm(), 2) else {
        return;
    };
    assert_eq!(hosts.send(1).0, [0], "neighbours know each other");
    let storm = Weather {
        delay: Duration::from_millis(30),
        loss_ppm: 500_000,
        duplicate_ppm: 200_000,
        reorder_ppm: 100_000,
        ..Weather::calm()
    };
    hosts.switch.set_way(0, 1, storm);
    let (came, _) = hosts.send(400);
    let counts = hosts.switch.counts();
    let mut distinct = came.clone();
    distinct.sort_unstable();
    assert_ne!(distinct, came, "some overtook others: {counts:?}");
    distinct.dedup();
    assert!((140..=260).contains(&distinct.len()), "{counts:?}");
    assert!(distinct.len() < came.len(), "some came twice: {counts:?}");
    assert!(
        counts.lost > 140 && counts.doubled > 10 && counts.reordered > 5,
        "{counts:?}"
    );
    hosts
        .switch
        .set_way(0, 1, Weather::far(Duration::ZERO, 100));
    assert_eq!(hosts.send(5).0, [0; 0], "a one-way cut");
}
