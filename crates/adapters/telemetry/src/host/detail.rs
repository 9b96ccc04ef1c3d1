//! All that the kernel tells of the machine beside what placement needs.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use sysinfo::{Networks, System};

use super::sensors::Sensors;
use crate::{DiskDetail, HostDetail, InterfaceDetail, Pressure};

/// New disks and interfaces are looked for once in so many looks.
const DEVICES_EVERY: u32 = 10;
/// Rates over less than this are chance: those of the look before stay.
const SHORTEST: Duration = Duration::from_millis(200);
/// Bytes of a sector in `/proc/diskstats`, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;
/// What lies in memory or in a file is no disk.
const NO_DISKS: [&str; 3] = ["loop", "ram", "zram"];

/// Counters of one disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DiskCounters {
    read_bytes: u64,
    written_bytes: u64,
    busy_ms: u64,
}

/// Reads the figures and keeps the counters of the look before.
#[derive(Debug)]
pub(super) struct Details {
    /// None where the kernel lists none.
    networks: Option<Networks>,
    sensors: Sensors,
    /// Names of whole disks, without their partitions and what lies on other disks.
    disk_names: Vec<String>,
    /// Names of interfaces with a device; empty in a container, which has none.
    network_devices: Vec<String>,
    disks: BTreeMap<String, DiskCounters>,
    rates: (Vec<DiskDetail>, Vec<InterfaceDetail>),
    looked_at: Instant,
    looks: u32,
}

impl Details {
    pub(super) fn new() -> Self {
        Self {
            networks: Networks::new().ok(),
            sensors: Sensors::start(),
            disk_names: Vec::new(),
            network_devices: Vec::new(),
            disks: BTreeMap::new(),
            rates: Default::default(),
            looked_at: Instant::now(),
            looks: 0,
        }
    }

    /// Takes a look. What the kernel does not tell stays empty.
    pub(super) fn look(&mut self, system: &System, (total, used): (u64, u64)) -> HostDetail {
        self.count();
        let load =
            System::load_average().map_or([0.0; 3], |load| [load.one, load.five, load.fifteen]);
        HostDetail {
            cpus_busy_milli: system
                .cpus()
                .iter()
                .map(|cpu| thousandths(f64::from(cpu.usage()) * 10.0))
                .collect(),
            load_milli: load.map(|load| u64::from(thousandths(load * 1_000.0))),
            memory_bytes: total,
            memory_used_bytes: used,
            swap_bytes: system.total_swap(),
            swap_used_bytes: system.used_swap(),
            pressure: pressure(),
            disks: self.rates.0.clone(),
            interfaces: self.rates.1.clone(),
            temperatures: self.sensors.latest(),
        }
    }

    /// Counts what was carried since the look before.
    fn count(&mut self) {
        let now = Instant::now();
        let elapsed = now - self.looked_at;
        let is_first = self.looks == 0;
        if !is_first && elapsed < SHORTEST {
            return;
        }
        let elapsed_ms = u64::try_from(elapsed.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        self.looked_at = now;
        if self.looks.is_multiple_of(DEVICES_EVERY) {
            self.disk_names = disk_names();
            self.network_devices = network_devices();
        }
        self.looks = self.looks.wrapping_add(1);
        self.rates = (
            self.disks(elapsed_ms, is_first),
            self.interfaces(elapsed_ms, is_first),
        );
    }

    fn disks(&mut self, elapsed_ms: u64, is_first: bool) -> Vec<DiskDetail> {
        let text = fs::read_to_string("/proc/diskstats").unwrap_or_default(); // not everywhere
        let mut counters = disk_counters(&text);
        counters.retain(|name, _counters| self.disk_names.contains(name));
        let before = std::mem::replace(&mut self.disks, counters);
        let before = if is_first { BTreeMap::new() } else { before };
        disk_rates(&before, &self.disks, elapsed_ms)
    }

    fn interfaces(&mut self, elapsed_ms: u64, is_first: bool) -> Vec<InterfaceDetail> {
        let Some(networks) = &mut self.networks else {
            return Vec::new();
        };
        networks.refresh(true);
        let since = |bytes: u64| {
            if is_first {
                0
            } else {
                rate(bytes, 0, elapsed_ms)
            }
        };
        let mut interfaces: Vec<_> = networks
            .iter()
            .filter(|(name, _data)| match self.network_devices.is_empty() {
                true => *name != "lo",
                false => self
                    .network_devices
                    .iter()
                    .any(|device| *name == device.as_str()),
            })
            .map(|(name, data)| InterfaceDetail {
                name: name.to_string_lossy().into_owned(),
                received_bytes_per_second: since(data.received()),
                sent_bytes_per_second: since(data.transmitted()),
            })
            .collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        interfaces
    }
}

fn rate(now: u64, then: u64, elapsed_ms: u64) -> u64 {
    now.saturating_sub(then).saturating_mul(1_000) / elapsed_ms
}

fn thousandths(value: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped, and NaN casts to 0"
    )]
    let whole = value.clamp(0.0, f64::from(u32::MAX)).round() as u32;
    whole
}

/// What disks did in a time. One that has just come has done nothing yet.
fn disk_rates(
    before: &BTreeMap<String, DiskCounters>,
    now: &BTreeMap<String, DiskCounters>,
    elapsed_ms: u64,
) -> Vec<DiskDetail> {
    let detail = |(name, now): (&String, &DiskCounters)| {
        let then = before.get(name).unwrap_or(now);
        let busy = rate(now.busy_ms, then.busy_ms, elapsed_ms).min(1_000);
        DiskDetail {
            name: name.clone(),
            read_bytes_per_second: rate(now.read_bytes, then.read_bytes, elapsed_ms),
            written_bytes_per_second: rate(now.written_bytes, then.written_bytes, elapsed_ms),
            busy_milli: u32::try_from(busy).unwrap_or(1_000),
        }
    };
    now.iter().map(detail).collect()
}

/// Interfaces that are cards: bridges, bonds and the ends of containers carry what these carry once more.
fn network_devices() -> Vec<String> {
    let Ok(directory) = fs::read_dir("/sys/class/net") else {
        return Vec::new();
    };
    let card = |entry: fs::DirEntry| {
        let has_device = entry.path().join("device").exists();
        has_device.then(|| entry.file_name().into_string().ok())?
    };
    directory.flatten().filter_map(card).collect()
}

fn disk_names() -> Vec<String> {
    let Ok(directory) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
    directory
        .flatten()
        .filter_map(name)
        .filter(|name| !NO_DISKS.iter().any(|kind| name.starts_with(kind)))
        .filter(|name| !lies_on_others(name))
        .collect()
}

/// Volumes of LVM, LUKS and md: what they do is counted with the disks below them.
fn lies_on_others(disk: &str) -> bool {
    let below = fs::read_dir(format!("/sys/block/{disk}/slaves"));
    below.is_ok_and(|mut below| below.next().is_some())
}

/// `/proc/diskstats`: major, minor, name, then for reads and writes each: completed, merged, sectors, milliseconds;
/// then in flight and milliseconds busy (Documentation/admin-guide/iostats.rst).
fn disk_counters(text: &str) -> BTreeMap<String, DiskCounters> {
    let line = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let counters = DiskCounters {
            read_bytes: number(5)?.saturating_mul(SECTOR_BYTES),
            written_bytes: number(9)?.saturating_mul(SECTOR_BYTES),
            busy_ms: number(12)?,
        };
        Some(((*fields.get(2)?).to_owned(), counters))
    };
    text.lines().filter_map(line).collect()
}

fn pressure() -> Option<Pressure> {
    let read = |name: &str| fs::read_to_string(format!("/proc/pressure/{name}")).ok();
    let [cpu, memory, io] = ["cpu", "memory", "io"].map(read);
    let (cpu, memory, io) = (cpu?, memory?, io?);
    Some(Pressure {
        cpu_some: average(&cpu, "some")?,
        memory_some: average(&memory, "some")?,
        memory_full: average(&memory, "full")?,
        io_some: average(&io, "some")?,
        io_full: average(&io, "full")?,
    })
}

/// The average over 10 s of a line like `some avg10=1.53 avg60=0.87 avg300=0.32 total=58761459`, in hundredths of a
/// percent.
fn average(text: &str, kind: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
    let field = line
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("avg10="))?;
    let (percent, hundredths) = field.split_once('.')?;
    let (percent, hundredths): (u32, u32) = (percent.parse().ok()?, hundredths.parse().ok()?);
    Some(percent * 100 + hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_in_hundredths_of_a_percent() {
        let text = "some avg10=97.18 avg60=82.62 avg300=45.19 total=8749743278\nfull avg10=0.07 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(average(text, "some"), Some(9_718));
        assert_eq!(average(text, "full"), Some(7));
        assert_eq!(average("some total=1", "some"), None);
    }

    #[test]
    fn sectors_and_busy_time_of_a_disk_are_found() {
        let text =
            " 259       0 nvme0n1 100 1 2000 30 200 2 4000 60 0 70 90\n   7       0 loop0 x\n";
        let counters = DiskCounters {
            read_bytes: 2_000 * 512,
            written_bytes: 4_000 * 512,
            busy_ms: 70,
        };
        assert_eq!(
            disk_counters(text),
            BTreeMap::from([("nvme0n1".to_owned(), counters)])
        );
    }

    #[test]
    fn what_disks_did_is_seen_as_a_rate() {
        let counters = |read_bytes, written_bytes, busy_ms| DiskCounters {
            read_bytes,
            written_bytes,
            busy_ms,
        };
        let named = |counters| BTreeMap::from([("vda".to_owned(), counters)]);
        let before = named(counters(1_000, 8_192, 100));
        let rates = |before: &_, now| disk_rates(before, &named(now), 500).swap_remove(0);
        let seen = rates(&before, counters(1_000, 12_288, 350));
        assert_eq!(
            (seen.read_bytes_per_second, seen.written_bytes_per_second),
            (0, 8_192)
        );
        assert_eq!(seen.busy_milli, 500);
        let back = rates(&before, counters(0, 0, 0));
        assert_eq!((back.written_bytes_per_second, back.busy_milli), (0, 0));
        let new = rates(&BTreeMap::new(), counters(9, 9, 9));
        assert_eq!((new.read_bytes_per_second, new.busy_milli), (0, 0));
    }

    #[test]
    fn a_second_look_right_after_the_first_keeps_its_rates() {
        let system = System::new().unwrap();
        let mut details = Details::new();
        let first = details.look(&system, (1, 1));
        let second = details.look(&system, (1, 1));
        assert_eq!(first.disks, second.disks);
        assert_eq!(first.interfaces, second.interfaces);
        let carried = |interface: &InterfaceDetail| interface.received_bytes_per_second;
        assert!(first.interfaces.iter().all(|one| carried(one) == 0));
        assert!(first.interfaces.iter().all(|one| one.name != "lo"));
        assert_eq!(details.looks, 1);
    }
}
