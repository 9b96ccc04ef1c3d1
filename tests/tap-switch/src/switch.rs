//! The switch: one thread that carries frames between TAP devices.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::flight::{Flight, Hosts};
use crate::{Error, Weather};

/// Largest frame: TAP devices without offload give no more than their MTU and the header.
const FRAME_BYTES: usize = 2_048;
/// Frames taken from one port before the others have their turn.
const TURN_FRAMES: usize = 64;
/// Longest wait for frames: how long a cut or calmer weather may go unnoticed does not depend on it.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Delivered to a port, duplicates included.
    pub delivered: u64,
    /// Lost to the weather.
    pub lost: u64,
    /// Sent twice.
    pub doubled: u64,
    /// Sent ahead of others.
    pub reordered: u64,
    /// Given up because too many were on their way, or because the host's queue was full or its device down.
    pub refused: u64,
}

/// A running switch. Dropped, its devices disappear, and with them the hosts' links.
#[derive(Debug)]
pub struct Switch {
    shared: Arc<Shared>,
    /// Closed to end the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// From each port to each port.
    weather: Vec<Vec<Weather>>,
    counts: Counts,
}

impl Shared {
    // Each change is one assignment, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switch {
    /// Makes a TAP device of each name in the namespace of the caller, and begins to carry frames between them. The
    /// devices can then be moved to the namespaces of hosts: the switch keeps hold of them.
    ///
    /// # Errors
    /// There is no `/dev/net/tun`, no right to use it, or a device of that name.
    pub fn start(names: &[String], weather: Weather, seed: u64) -> Result<Self, Error> {
        let devices: Vec<_> = names
            .iter()
            .map(|name| device(name))
            .collect::<Result<_, _>>()?;
        let (wake, stop) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| Error::Pipe(error.into()))?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                weather: vec![vec![weather; names.len()]; names.len()],
                counts: Counts::default(),
            }),
        });
        let carrier = Carrier {
            devices,
            wake,
            shared: Arc::clone(&shared),
            hosts: Hosts::default(),
            flight: Flight::default(),
            chance: StdRng::seed_from_u64(seed),
        };
        Ok(Self {
            shared,
            stop: Some(stop),
            thread: Some(std::thread::spawn(|| carrier.run())),
        })
    }

    /// Changes the weather everywhere, for frames from now on.
    pub fn set_weather(&self, weather: Weather) {
        for row in &mut self.shared.lock().weather {
            row.fill(weather);
        }
    }

    /// Changes the weather from one port to another, one way.
    ///
    /// # Panics
    /// There is no such port.
    pub fn set_way(&self, from: usize, to: usize, weather: Weather) {
        self.shared.lock().weather[from][to] = weather;
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            // A switch that died in the middle of a test would look like a fault of what was tested.
            #[expect(clippy::panic, reason = "the test must fail")]
            {
                panic!("the switch has panicked");
            }
        }
    }
}

fn device(name: &str) -> Result<SyncDevice, Error> {
    let failed = |source| Error::Device {
        name: name.to_owned(),
        source,
    };
    let device = DeviceBuilder::new()
        .name(name)
        .layer(Layer::L2)
        .enable(false)
        .build_sync()
        .map_err(failed)?;
    device.set_nonblocking(true).map_err(failed)?;
    Ok(device)
}

/// What the thread works with.
struct Carrier {
    devices: Vec<SyncDevice>,
    wake: OwnedFd,
    shared: Arc<Shared>,
    hosts: Hosts,
    flight: Flight,
    chance: StdRng,
}

impl Carrier {
    fn run(mut self) {
        let mut buffer = [0; FRAME_BYTES];
        loop {
            self.deliver();
            let Some(ready) = self.wait() else { return };
            for port in ready {
                for _ in 0..TURN_FRAMES {
                    match self.devices[port].recv(&mut buffer) {
                        Ok(length) => self.carry(port, &buffer[..length]),
                        Err(_) => break, // Nothing more, or the device is down.
                    }
                }
            }
        }
    }

    /// Ports with something to read; none if the switch is to end.
    fn wait(&self) -> Option<Vec<usize>> {
        let next = self.flight.until_next(Instant::now());
        let patience = next.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        let patience = Timespec::try_from(patience).expect("a fraction of a second fits");
        let mut watched: Vec<_> = self
            .devices
            .iter()
            .map(|device| PollFd::new(device, PollFlags::IN))
            .collect();
        watched.push(PollFd::new(&self.wake, PollFlags::IN));
        match poll(&mut watched, Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        let ready = |watched: &PollFd<'_>| !watched.revents().is_empty();
        if watched.last().is_some_and(ready) {
            return None;
        }
        let watched = watched[..self.devices.len()].iter().enumerate();
        let ready = watched.filter(|(_, watched)| watched.revents().contains(PollFlags::IN));
        Some(ready.map(|(port, _)| port).collect())
    }

    /// A frame came in.
    fn carry(&mut self, port: usize, frame: &[u8]) {
        let Some(ports) = self.hosts.route(frame, port, self.devices.len()) else {
            return;
        };
        let now = Instant::now();
        let mut state = self.shared.lock();
        for to in ports {
            let draw = state.weather[port][to].draw(&mut self.chance);
            match draw.copies {
                0 => state.counts.lost += 1,
                2 => state.counts.doubled += 1,
                _ => {}
            }
            state.counts.reordered += u64::from(draw.reordered && draw.copies > 0);
            for delay in &draw.delays[..draw.copies] {
                if !self.flight.send(now + *delay, to, frame.to_vec()) {
                    state.counts.refused += 1;
                }
            }
        }
    }

    /// Hands over what has arrived.
    fn deliver(&mut self) {
        let (mut delivered, mut refused) = (0, 0);
        while let Some((port, frame)) = self.flight.arrived(Instant::now()) {
            let sent: io::Result<usize> = self.devices[port].send(&frame);
            match sent {
                Ok(_) => delivered += 1,
                Err(_) => refused += 1, // Down or full: a cable would not say either.
            }
        }
        let mut state = self.shared.lock();
        state.counts.delivered += delivered;
        state.counts.refused += refused;
    }
}
