//! End to end: real processes of the `muster` binary, spoken to as people do, by the command line and by HTTP.

// Integration tests are always built for tests; the attribute says so to clippy, which allows more there.
#[cfg(test)]
mod admission;
#[cfg(test)]
mod again;
#[cfg(test)]
mod artifacts;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod backups;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod bad_requests;
#[cfg(test)]
mod byzantine;
#[cfg(test)]
mod causes;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod copies;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod environments;
#[cfg(test)]
mod experiments;
#[cfg(test)]
mod gangs;
#[cfg(test)]
mod gpu_sharing;
#[cfg(test)]
mod gpus;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod http;
#[cfg(test)]
mod late;
#[cfg(test)]
mod leadership;
#[cfg(test)]
mod machines;
#[cfg(test)]
mod members;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod output;
#[cfg(test)]
mod outputs;
#[cfg(test)]
mod overload;
#[cfg(test)]
mod packages;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod steering;
#[cfg(test)]
mod storage;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod sweeps;
#[cfg(test)]
mod top;
#[cfg(test)]
mod usage;
