//! Frames on their way, and where hosts are.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

/// Frames on their way at once: half a second of 1 Gbit/s; beyond, a switch drops too.
const MAX_FLYING: usize = 65_536;
/// Hosts remembered.
const MAX_HOSTS: usize = 1_024;
/// Bytes of an Ethernet header: to, from and type.
const HEADER_BYTES: usize = 14;

/// Six bytes that name a network card.
type Mac = [u8; 6];

/// When it arrives, its number, where, and the frame.
type Flying = (Instant, u64, usize, Vec<u8>);

/// The frames that have not arrived yet, by the time of their arrival.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    frames: BinaryHeap<Reverse<Flying>>,
    sent: u64,
}

impl Flight {
    /// Sends a frame to a port; false if too many are on their way.
    pub(crate) fn send(&mut self, at: Instant, port: usize, frame: Vec<u8>) -> bool {
        if self.frames.len() >= MAX_FLYING {
            return false;
        }
        self.sent += 1;
        self.frames.push(Reverse((at, self.sent, port, frame)));
        true
    }

    /// The next frame that has arrived by now.
    pub(crate) fn arrived(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        let Reverse((at, ..)) = self.frames.peek()?;
        if *at > now {
            return None;
        }
        let Reverse((_, _, port, frame)) = self.frames.pop()?;
        Some((port, frame))
    }

    /// Time until the next arrival.
    pub(crate) fn until_next(&self, now: Instant) -> Option<Duration> {
        let Reverse((at, ..)) = self.frames.peek()?;
        Some(at.saturating_duration_since(now))
    }
}

/// Which port each card was last heard at.
#[derive(Debug, Default)]
pub(crate) struct Hosts(HashMap<Mac, usize>);

impl Hosts {
    /// Learns from a frame that came in at `port`; the ports that it goes to. None: it is no frame.
    pub(crate) fn route(&mut self, frame: &[u8], port: usize, ports: usize) -> Option<Vec<usize>> {
        if frame.len() < HEADER_BYTES {
            return None;
        }
        let (to, from) = (mac(&frame[..6]), mac(&frame[6..12]));
        if self.0.len() < MAX_HOSTS || self.0.contains_key(&from) {
            self.0.insert(from, port);
        }
        match self.0.get(&to) {
            Some(known) if *known == port => Some(Vec::new()),
            Some(known) => Some(vec![*known]),
            // Nobody known, or everybody.
            None => Some((0..ports).filter(|other| *other != port).collect()),
        }
    }
}

fn mac(bytes: &[u8]) -> Mac {
    bytes.try_into().expect("these are six bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: u8, from: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[..6].fill(to);
        frame[6..12].fill(from);
        frame
    }

    #[test]
    fn a_frame_goes_where_its_host_was_heard_and_else_everywhere() {
        let mut hosts = Hosts::default();
        assert_eq!(hosts.route(&frame(2, 1), 0, 3), Some(vec![1, 2]));
        assert_eq!(hosts.route(&frame(1, 2), 1, 3), Some(vec![0]));
        assert_eq!(hosts.route(&frame(2, 1), 0, 3), Some(vec![1]));
        assert_eq!(hosts.route(&frame(0xff, 1), 0, 3), Some(vec![1, 2]));
        assert_eq!(hosts.route(&frame(1, 2), 2, 3), Some(vec![0]), "it moved");
        assert_eq!(hosts.route(&frame(2, 1), 0, 3), Some(vec![2]));
        assert_eq!(hosts.route(&[0; 5], 0, 3), None);
    }

    #[test]
    fn frames_arrive_by_time_and_in_order_when_times_are_equal() {
        let mut flight = Flight::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for (name, millis) in [(1, 20), (2, 10), (3, 20), (4, 0)] {
            assert!(flight.send(at(millis), 0, vec![name]));
        }
        assert_eq!(flight.arrived(at(5)), Some((0, vec![4])));
        assert_eq!(flight.arrived(at(5)), None);
        assert_eq!(flight.until_next(at(5)), Some(Duration::from_millis(5)));
        let mut rest = Vec::new();
        while let Some((_, frame)) = flight.arrived(at(20)) {
            rest.push(frame[0]);
        }
        assert_eq!(rest, [2, 1, 3]);
        assert_eq!(flight.until_next(at(20)), None);
    }

    #[test]
    fn no_more_fly_than_there_is_room_for() {
        let mut flight = Flight::default();
        let now = Instant::now();
        assert!((0..MAX_FLYING).all(|_| flight.send(now, 0, Vec::new())));
        assert!(!flight.send(now, 0, Vec::new()));
    }
}
