//! The state machine from outside: refusals of each command, properties of random logs, golden bytes.

mod admission;
mod archives;
mod commands;
mod golden;
mod histories;
mod late;
mod members;
mod properties;
mod samples;
