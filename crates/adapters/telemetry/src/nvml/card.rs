//! One card: what it is, and what it says each time.

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper::{Device, Nvml};

use super::health::Health;
use super::lineage::Lineage;
use super::xid::{XidLog, apart};
use super::{events, mig, processes, told, topology};
use crate::GpuDetail;
use crate::sampler::now;

/// The words of NVML; that it idles is no reason to worry.
const THROTTLE_WORDS: [(ThrottleReasons, &str); 8] = [
    (
        ThrottleReasons::APPLICATIONS_CLOCKS_SETTING,
        "applications-clocks-setting",
    ),
    (ThrottleReasons::SW_POWER_CAP, "sw-power-cap"),
    (ThrottleReasons::HW_SLOWDOWN, "hw-slowdown"),
    (ThrottleReasons::SYNC_BOOST, "sync-boost"),
    (ThrottleReasons::SW_THERMAL_SLOWDOWN, "sw-thermal-slowdown"),
    (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hw-thermal-slowdown"),
    (
        ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN,
        "hw-power-brake-slowdown",
    ),
    (
        ThrottleReasons::DISPLAY_CLOCK_SETTING,
        "display-clock-setting",
    ),
];

/// A card that answered at least once.
pub(super) struct Card<'nvml> {
    pub(super) uuid: String,
    /// It does not answer any more.
    pub(super) is_lost: bool,
    events: Option<EventSet<'nvml>>,
    heard: bool,
    seldom: Seldom,
}

/// What seldom changes.
#[derive(Debug, Default)]
struct Seldom {
    model: String,
    pci_address: Option<String>,
    numa_node: Option<u32>,
    power_limit_milliwatts: Option<u32>,
    sm_clock_max_mhz: Option<u32>,
    /// PCI addresses of the other ends.
    links: Vec<String>,
    health: Health,
}

impl<'nvml> Card<'nvml> {
    /// Begins to listen to its events.
    pub(super) fn open(
        nvml: &'nvml Nvml,
        device: &Device<'nvml>,
        uuid: String,
    ) -> Result<Self, NvmlError> {
        Ok(Self {
            uuid,
            is_lost: false,
            events: told(events::listen(nvml, device))?.flatten(),
            heard: false,
            seldom: Seldom::default(),
        })
    }

    /// Takes what happened to it since the last time; never waits.
    pub(super) fn hear(&mut self, log: &mut XidLog) {
        for xid in self.events.iter().flat_map(events::take) {
            log.add(xid, now().0);
            self.heard = true;
        }
    }

    /// PCI addresses at the other ends of its links by NVLink.
    pub(super) fn links(&self) -> &[String] {
        &self.seldom.links
    }

    /// What a person should know although it is offered.
    pub(super) fn worries(&self) -> Option<String> {
        self.seldom.health.worries()
    }

    /// Reads it: itself, or its instances.
    pub(super) fn read(
        &mut self,
        device: &Device<'nvml>,
        is_due: bool,
        log: &XidLog,
        lineage: &mut Lineage<'_>,
    ) -> Result<Vec<GpuDetail>, NvmlError> {
        if is_due || self.heard || self.is_lost {
            self.seldom = Seldom::read(device)?;
            self.heard = false;
        }
        let mut detail = self.known(log);
        if mig::is_split(device)? {
            let instances = mig::instances(device, &detail, lineage)?;
            if !instances.is_empty() {
                self.is_lost = false;
                return Ok(instances);
            }
            detail.problem.get_or_insert_with(|| mig::EMPTY.to_owned());
        }
        memory(device, &mut detail, lineage)?;
        figures(device, &mut detail)?;
        self.is_lost = false;
        Ok(vec![detail])
    }

    /// What is known without asking.
    fn known(&self, log: &XidLog) -> GpuDetail {
        let seldom = &self.seldom;
        let (xids, xids_at) = apart(log.last());
        GpuDetail {
            uuid: self.uuid.clone(),
            model: seldom.model.clone(),
            pci_address: seldom.pci_address.clone(),
            numa_node: seldom.numa_node,
            power_limit_milliwatts: seldom.power_limit_milliwatts,
            sm_clock_max_mhz: seldom.sm_clock_max_mhz,
            ecc_corrected: seldom.health.ecc_corrected,
            ecc_uncorrected: seldom.health.ecc_uncorrected,
            retired_pages: seldom.health.retired,
            xids,
            xids_at,
            problem: log.problem().or_else(|| seldom.health.problem()),
            ..GpuDetail::default()
        }
    }
}

impl Seldom {
    fn read(device: &Device<'_>) -> Result<Self, NvmlError> {
        let pci = told(device.pci_info())?;
        Ok(Self {
            model: told(device.name())?.unwrap_or_else(|| "unknown".to_owned()),
            numa_node: topology::numa_node(device, pci.as_ref())?,
            pci_address: pci.map(|pci| pci.bus_id),
            power_limit_milliwatts: told(device.enforced_power_limit())?,
            sm_clock_max_mhz: told(device.max_clock_info(Clock::SM))?,
            links: topology::nvlinks(device)?,
            health: Health::read(device)?,
        })
    }
}

/// Fills in what changes all the time.
fn figures(device: &Device<'_>, detail: &mut GpuDetail) -> Result<(), NvmlError> {
    if let Some(rates) = told(device.utilization_rates())? {
        detail.utilisation_percent = Some(percent(rates.gpu));
        detail.memory_utilisation_percent = Some(percent(rates.memory));
    }
    detail.power_milliwatts = told(device.power_usage())?;
    detail.temperature_celsius = told(device.temperature(TemperatureSensor::Gpu))?;
    detail.sm_clock_mhz = told(device.clock_info(Clock::SM))?;
    detail.memory_clock_mhz = told(device.clock_info(Clock::Memory))?;
    let reasons = told(device.current_throttle_reasons())?.unwrap_or(ThrottleReasons::NONE);
    let words = THROTTLE_WORDS
        .iter()
        .filter(|(reason, _word)| reasons.contains(*reason));
    detail.throttle_reasons = words.map(|(_reason, word)| (*word).to_owned()).collect();
    Ok(())
}

/// Fills in the memory of a card or an instance, and who uses it. No total: it does not tell.
pub(super) fn memory(
    device: &Device<'_>,
    detail: &mut GpuDetail,
    lineage: &mut Lineage<'_>,
) -> Result<(), NvmlError> {
    detail.processes = processes::read(device, lineage)?;
    let memory = match device.memory_info() {
        // It shares the machine's memory, or the driver is from before 2022.
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => return Ok(()),
        answer => answer?,
    };
    detail.vram_total_bytes = memory.total;
    // NVML counts what the driver keeps for itself apart; nobody else can have it either.
    let used = memory.used.saturating_add(memory.reserved);
    detail.vram_used_bytes = used.min(memory.total);
    detail.vram_foreign_bytes = processes::foreign_bytes(&detail.processes, memory.used);
    Ok(())
}

fn percent(value: u32) -> u8 {
    u8::try_from(value.min(100)).unwrap_or(100)
}
