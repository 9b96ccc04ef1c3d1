//! XID events: the driver's word for what went wrong with a card.

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper::{Device, Nvml};

/// Events taken at once: a card in a storm of them must not hold up the others.
const MAX_AT_ONCE: usize = 64;
/// NVML's number of an event whose number it does not know.
const UNKNOWN_XID: u64 = 999;

/// A set of this card's own, so that one that cannot be registered takes none from the others; nothing if the card
/// has no such events. What happened before is not told.
pub(super) fn listen<'nvml>(
    nvml: &'nvml Nvml,
    device: &Device<'nvml>,
) -> Result<Option<EventSet<'nvml>>, NvmlError> {
    let types = EventTypes::CRITICAL_XID_ERROR;
    if !device.supported_event_types()?.contains(types) {
        return Ok(None);
    }
    let set = nvml.create_event_set()?;
    let set = device.register_events(types, set);
    set.map(Some).map_err(|error| error.error)
}

/// The numbers of what happened since the last time, without waiting.
pub(super) fn take(set: &EventSet<'_>) -> Vec<u64> {
    let mut xids = Vec::new();
    for _event in 0..MAX_AT_ONCE {
        // A timeout says that there is none; another error is told by what is read of the card.
        let Ok(event) = set.wait(0) else { break };
        match event.event_data {
            Some(XidError::Value(xid)) => xids.push(xid),
            Some(XidError::Unknown) => xids.push(UNKNOWN_XID),
            None => {}
        }
    }
    xids
}
