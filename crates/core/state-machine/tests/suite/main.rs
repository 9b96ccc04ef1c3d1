//! The state machine from outside: refusals of each command, properties of random logs, golden bytes.

// Integration tests are always built for tests; the attribute says so to clippy, which allows more there.
#[cfg(test)]
mod admission;
#[cfg(test)]
mod archives;
#[cfg(test)]
mod clocks;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod forged;
#[cfg(test)]
mod gangs;
mod golden;
#[cfg(test)]
mod groups;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod late;
#[cfg(test)]
mod members;
#[cfg(test)]
mod overuse;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod waiting;
