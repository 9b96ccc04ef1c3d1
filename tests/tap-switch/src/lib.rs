//! A network switch in user space, over TAP devices, with weather: delay, jitter, loss, reordering and duplicates.
//!
//! The kernel's own netem is often not built in; a TAP device in each host's namespace and one thread that carries
//! frames between them do the same anywhere that gives out `/dev/net/tun`. What befalls the nth frame is drawn from
//! a seed.

mod error;
mod flight;
mod switch;
mod weather;

pub use error::Error;
pub use switch::{Counts, Switch};
pub use weather::Weather;
