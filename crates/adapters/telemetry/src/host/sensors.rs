//! Temperatures, read in a thread of its own: a sensor of a dying disk may take half a minute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sysinfo::Components;

use crate::Temperature;

/// Time between two looks: some sensors take milliseconds to answer.
const INTERVAL: Duration = Duration::from_secs(10);

/// The last that was read.
#[derive(Debug, Default)]
pub(super) struct Sensors(Arc<Mutex<Vec<Temperature>>>);

impl Sensors {
    /// Starts the thread; it ends a look after this is dropped.
    pub(super) fn start() -> Self {
        let sensors = Self::default();
        let shared = Arc::downgrade(&sensors.0);
        let thread = std::thread::Builder::new().name("sensors".to_owned());
        if let Err(error) = thread.spawn(move || read(&shared)) {
            tracing::warn!(%error, "no thread for the sensors: temperatures are not told");
        }
        sensors
    }

    pub(super) fn latest(&self) -> Vec<Temperature> {
        lock(&self.0).clone()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own, which waits for nothing but its next look"
)]
fn read(shared: &Weak<Mutex<Vec<Temperature>>>) {
    let Ok(mut components) = Components::new() else {
        return; // The kernel lists none.
    };
    loop {
        components.refresh(true);
        let read = components.iter().filter_map(temperature).collect();
        let Some(latest) = shared.upgrade() else {
            return;
        };
        *lock(&latest) = read;
        drop(latest);
        std::thread::sleep(INTERVAL);
    }
}

fn lock(latest: &Mutex<Vec<Temperature>>) -> MutexGuard<'_, Vec<Temperature>> {
    latest.lock().unwrap_or_else(PoisonError::into_inner) // Replaced whole.
}

fn temperature(component: &sysinfo::Component) -> Option<Temperature> {
    let celsius = component
        .temperature()
        .filter(|celsius| celsius.is_finite())?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a sensor that tells more than two million degrees is broken"
    )]
    let milli_celsius = (celsius * 1_000.0) as i32;
    Some(Temperature {
        sensor: component.label().to_owned(),
        milli_celsius,
    })
}
