//! NVIDIA's management library, opened at run time.

mod card;
mod events;
mod health;
mod lineage;
mod mig;
mod places;
mod processes;
mod topology;
mod xid;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use crate::{AttemptGpus, GpuDetail, OwnTree};
use card::Card;
use lineage::Lineage;
pub(crate) use places::{Places, lost};
use xid::{Heard, XidLog};

/// What seldom changes (names, limits, topology, counted memory errors) is read again after this many samples, or at
/// once after an XID event.
const SELDOM: u32 = 30;

/// What outlives a driver that is opened anew.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    places: Places,
    /// By uuid of the card.
    xids: BTreeMap<String, XidLog>,
}

impl Memory {
    /// The driver was gone: what it said of broken cards was of its last life.
    pub(crate) fn forget_xids(&mut self) {
        self.xids.clear();
    }
}

/// What one look at all GPUs gave.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    pub(crate) details: Vec<GpuDetail>,
    pub(crate) attempts: Vec<AttemptGpus>,
    pub(crate) warnings: Vec<String>,
    /// A card is lost: NVML finds it again only when it is opened anew.
    pub(crate) has_lost: bool,
}

/// What came of the card at one of NVML's indexes.
#[derive(Debug)]
enum Seen {
    /// It, or its instances.
    Read(Vec<GpuDetail>),
    /// It does not answer. Its uuid is known if it did before.
    Failed {
        uuid: Option<String>,
        problem: String,
        xids: Vec<Heard>,
    },
}

/// Opens the library at `path`, or the driver's own.
pub(crate) fn open(path: Option<&Path>) -> Result<Nvml, NvmlError> {
    let mut builder = Nvml::builder();
    if let Some(path) = path {
        return builder.lib_path(path.as_os_str()).init();
    }
    // The name without a number, nvml-wrapper's default, is a link that many distributions and containers leave out.
    match builder.lib_path("libnvidia-ml.so.1".as_ref()).init() {
        Err(NvmlError::LibloadingError(_)) => Nvml::init(),
        opened => opened,
    }
}

/// The open driver.
pub(crate) struct Driver<'nvml> {
    nvml: &'nvml Nvml,
    /// By NVML's index.
    cards: Vec<Option<Card<'nvml>>>,
    memory: Memory,
    samples: u32,
}

impl<'nvml> Driver<'nvml> {
    pub(crate) fn new(nvml: &'nvml Nvml, memory: Memory) -> Self {
        Self {
            nvml,
            cards: Vec::new(),
            memory,
            samples: 0,
        }
    }

    /// To hand on to the next driver.
    pub(crate) fn into_memory(self) -> Memory {
        let mut memory = self.memory;
        for card in self.cards.into_iter().flatten().filter(|card| card.is_lost) {
            memory.xids.entry(card.uuid).or_default().lose();
        }
        memory
    }

    /// Reads all GPUs. One that fails keeps its place; an error is of the driver as a whole.
    pub(crate) fn sample(&mut self, trees: &[OwnTree]) -> Result<Sample, NvmlError> {
        let mut lineage = Lineage::new(trees);
        let count = self.nvml.device_count()?;
        self.cards
            .resize_with(usize::try_from(count).unwrap_or_default(), || None);
        let is_due = self.samples.is_multiple_of(SELDOM);
        self.samples = self.samples.wrapping_add(1);
        let mut seen = Vec::new();
        for index in 0..self.cards.len() {
            seen.push(self.look_at(index, is_due, &mut lineage)?);
        }
        let has_lost = seen.iter().any(|seen| matches!(seen, Seen::Failed { .. }));
        let mut details = self.memory.places.arrange(seen);
        let cards = || self.cards.iter().flatten();
        let links = cards().map(|card| (card.uuid.as_str(), card.links()));
        topology::join(&mut details, &links.collect());
        let worries = cards().map(|card| (card.uuid.as_str(), card.worries()));
        Ok(Sample {
            warnings: warnings(&details, &worries.collect()),
            attempts: processes::of_attempts(trees, &details),
            details,
            has_lost,
        })
    }

    fn look_at(
        &mut self,
        index: usize,
        is_due: bool,
        lineage: &mut Lineage<'_>,
    ) -> Result<Seen, NvmlError> {
        let read = self.read(index, is_due, lineage);
        let card = self.cards[index].as_mut();
        let error = match read {
            Ok(details) => return Ok(Seen::Read(details)),
            Err(error) if is_of_driver(&error) => return Err(error),
            Err(error) => error,
        };
        let Some(card) = card else {
            return Ok(Seen::Failed {
                uuid: None,
                problem: silence(&error),
                xids: Vec::new(),
            });
        };
        card.is_lost = true;
        // An event tells more than the error that follows from it.
        let log = self.memory.xids.get(&card.uuid);
        let told = log.and_then(XidLog::problem);
        Ok(Seen::Failed {
            uuid: Some(card.uuid.clone()),
            problem: told.unwrap_or_else(|| silence(&error)),
            xids: log.map(|log| log.last().to_vec()).unwrap_or_default(),
        })
    }

    fn read(
        &mut self,
        index: usize,
        is_due: bool,
        lineage: &mut Lineage<'_>,
    ) -> Result<Vec<GpuDetail>, NvmlError> {
        // Events first: of a card that is lost they say why.
        if let Some(card) = self.cards[index].as_mut() {
            let log = self.memory.xids.entry(card.uuid.clone()).or_default();
            card.hear(log);
        }
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let device = self.nvml.device_by_index(number)?;
        let uuid = device.uuid()?;
        let place = &mut self.cards[index];
        let is_new = place.as_ref().is_none_or(|card| card.uuid != uuid);
        let log = self.memory.xids.entry(uuid.clone()).or_default();
        if is_new {
            // It was never seen by this driver, or another had its index.
            *place = Some(Card::open(self.nvml, &device, uuid)?);
            log.find();
        }
        let card = place.as_mut().expect("it was put there");
        card.read(&device, is_due || is_new, log, lineage)
    }
}

/// What a person should know: why a card is not offered, and what worries about one that is. Once for each card.
fn warnings(details: &[GpuDetail], worries: &BTreeMap<&str, Option<String>>) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut warnings = Vec::new();
    for (place, detail) in details.iter().enumerate() {
        let card = detail.part_of.as_deref().unwrap_or(&detail.uuid);
        let worry = worries.get(card).and_then(Option::as_deref);
        if !told.insert(card) {
            continue;
        }
        let has_no_size = detail.problem.is_none() && detail.vram_total_bytes == 0;
        let size = "the driver does not tell how much memory it has: declare its `vram`, or nothing fits on it";
        let size = has_no_size.then_some(size);
        let said = [detail.problem.as_deref(), size, worry];
        let said = said.into_iter().flatten();
        warnings.extend(said.map(|text| format!("GPU {place} ({}): {text}", detail.model)));
    }
    warnings
}

/// Whether it is not about one card.
fn is_of_driver(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::DriverNotLoaded | NvmlError::Uninitialized | NvmlError::LibRmVersionMismatch
    )
}

/// Nothing if a card, its driver or its rights do not tell this; an error if the card tells nothing at all.
fn told<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => Err(error),
        Err(error) if is_of_driver(&error) => Err(error),
        Err(_not_told) => Ok(None),
    }
}

/// Why a card does not answer, in a person's words, with what to do.
fn silence(error: &NvmlError) -> String {
    match error {
        NvmlError::GpuLost => {
            "the GPU has fallen off the bus; restart the machine, and have the card looked at if it happens again".to_owned()
        }
        NvmlError::ResetRequired => {
            "the GPU must be reset: `nvidia-smi --gpu-reset` once nothing uses it, or a restart of the machine".to_owned()
        }
        other => format!("the GPU does not answer ({other}); `nvidia-smi` and `dmesg` may tell why"),
    }
}

/// The driver's failure in a person's words, with what to do.
pub(crate) fn describe(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            "CPU node: no NVIDIA driver (libnvidia-ml.so.1)".to_owned()
        }
        NvmlError::DriverNotLoaded => {
            "the NVIDIA driver is installed but not loaded: no GPUs are offered; `modprobe nvidia` or a restart may help".to_owned()
        }
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver and its library have different versions: no GPUs are offered until the machine is restarted".to_owned()
        }
        other => format!("the NVIDIA driver failed ({other}): no GPUs are offered"),
    }
}

#[cfg(test)]
mod tests {
    use fake_nvml::{Fake, World};

    use super::*;

    #[test]
    fn lost_card_keeps_its_reason_until_it_answers_a_driver_that_was_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let whole = World::named("8xh100").unwrap();
        let fake = Fake::new(directory.path(), &whole).unwrap();
        let nvml = open(Some(fake.library())).unwrap();
        let mut driver = Driver::new(&nvml, Memory::default());
        assert!(!driver.sample(&[]).unwrap().has_lost);
        fake.set(&World::named("xid79").unwrap()).unwrap();
        let is_told = |sample: &Sample| {
            let gpu = &sample.details[5];
            let problem = gpu.problem.as_deref().unwrap_or_default();
            gpu.xids == [79] && problem.starts_with("XID 79") && sample.warnings.len() == 1
        };
        let sample = driver.sample(&[]).unwrap();
        assert!(is_told(&sample) && sample.has_lost, "{sample:#?}");
        // Opened anew it does not say which card is lost.
        let memory = driver.into_memory();
        drop(nvml);
        let nvml = open(Some(fake.library())).unwrap();
        let mut driver = Driver::new(&nvml, memory);
        let sample = driver.sample(&[]).unwrap();
        assert!(is_told(&sample) && sample.has_lost, "{sample:#?}");
        let uuids = sample.details.iter().map(|gpu| &gpu.uuid);
        assert!(uuids.eq(whole.gpus.iter().map(|gpu| &gpu.uuid)));
        // Not found again by a driver that lost it, but by the next one.
        fake.set(&whole).unwrap();
        assert!(driver.sample(&[]).unwrap().has_lost);
        let memory = driver.into_memory();
        drop(nvml);
        let nvml = open(Some(fake.library())).unwrap();
        let sample = Driver::new(&nvml, memory).sample(&[]).unwrap();
        assert!(
            !sample.has_lost && sample.warnings.is_empty(),
            "{sample:#?}"
        );
        assert_eq!(sample.details[5].xids, Vec::<u64>::new());
    }

    #[test]
    fn card_that_only_broke_stays_broken_when_the_driver_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut world = World::named("8xh100").unwrap();
        let fake = Fake::new(directory.path(), &world).unwrap();
        let nvml = open(Some(fake.library())).unwrap();
        let mut driver = Driver::new(&nvml, Memory::default());
        driver.sample(&[]).unwrap();
        world.gpus[1].xids = vec![95];
        fake.set(&world).unwrap();
        assert!(driver.sample(&[]).unwrap().details[1].problem.is_some());
        let memory = driver.into_memory();
        drop(nvml);
        let nvml = open(Some(fake.library())).unwrap();
        let sample = Driver::new(&nvml, memory).sample(&[]).unwrap();
        assert!(sample.details[1].problem.is_some(), "nobody has reset it");
    }

    #[test]
    fn card_that_never_told_its_name_is_counted_and_gets_it_later() {
        let directory = tempfile::tempdir().unwrap();
        let mut world = World::named("4xa10g").unwrap();
        world.gpus[1].lost = true;
        let fake = Fake::new(directory.path(), &world).unwrap();
        let nvml = open(Some(fake.library())).unwrap();
        let mut driver = Driver::new(&nvml, Memory::default());
        let sample = driver.sample(&[]).unwrap();
        assert_eq!(sample.details[1].uuid, "lost-1");
        assert_eq!(sample.details.len(), 4);
        world.gpus[1].lost = false;
        fake.set(&world).unwrap();
        let memory = driver.into_memory();
        drop(nvml);
        let nvml = open(Some(fake.library())).unwrap();
        let sample = Driver::new(&nvml, memory).sample(&[]).unwrap();
        let uuids = sample.details.iter().map(|gpu| &gpu.uuid);
        assert!(uuids.eq(world.gpus.iter().map(|gpu| &gpu.uuid)));
    }

    #[test]
    fn card_without_memory_of_its_own_is_counted_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut world = World::named("4xa10g").unwrap();
        world.gpus.truncate(1);
        world.gpus[0].vram_total_bytes = 0;
        let fake = Fake::new(directory.path(), &world).unwrap();
        let nvml = open(Some(fake.library())).unwrap();
        let sample = Driver::new(&nvml, Memory::default()).sample(&[]).unwrap();
        assert_eq!(sample.details[0].problem, None);
        assert!(
            sample.warnings[0].contains("declare its `vram`"),
            "{:?}",
            sample.warnings
        );
    }
}
