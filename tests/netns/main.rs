//! The laboratory of networks: real nodes on hosts of their own, that is in network namespaces on a bridge, whose
//! network, machines and processes fail while clients work. At the end the history is checked.
//!
//! How to write a scenario:
//!
//! ```ignore
//! let Some(lab) = NetLab::new() else { return };       // skipped with a line where namespaces are not permitted
//! let nodes = lab.cluster(["a", "b", "c"]);            // three voters, each on its host, multicast DNS on
//! let tally = under_load(&lab, &nodes, 1, || {         // clients submit, read, move and stop meanwhile
//!     lab.lan.cut(&[&nodes[0]], &[&nodes[1], &nodes[2]]);
//!     wait_until(PATIENCE, "the others elect", || leader_seen_by(&nodes[1], &["b", "c"]));
//!     lab.lan.heal();
//! });                                                  // panics with the evidence if anything was violated
//! ```
//!
//! `lab.host("d")` makes a host with a node that was not started; `lab.lan.in_host` takes any line of `ip`, as for
//! another device; [`harness::Node::variables`] sets variables of the node process, as `LD_PRELOAD`.
//!
//! `MUSTER_NETNS=required` makes a test fail where it would be skipped, `MUSTER_NETNS=skip` skips all.

// Integration tests are always built for tests; the attribute says so to clippy, which allows more there.
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod clocks;
#[cfg(test)]
mod discovery;
#[cfg(test)]
#[expect(
    dead_code,
    unused_imports,
    reason = "shared with tests/e2e, which uses all of it"
)]
#[path = "../e2e/harness.rs"]
mod harness;
#[cfg(test)]
mod history;
#[cfg(test)]
mod home;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod lan;
#[cfg(test)]
mod leaders;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod linearizable;
#[cfg(test)]
mod load;
#[cfg(test)]
mod long_work;
#[cfg(test)]
mod nat;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod partitions;
#[cfg(test)]
mod planes;
#[cfg(test)]
mod reads;
#[cfg(test)]
mod repeats;
#[cfg(test)]
mod replacements;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod traffic;
#[cfg(test)]
mod verdict;
#[cfg(test)]
mod weather;
