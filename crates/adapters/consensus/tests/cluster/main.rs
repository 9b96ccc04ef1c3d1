//! Whole replicas against each other: elections, restarts, snapshots, reads.

#[cfg(test)]
mod compare;
#[cfg(test)]
mod copies;
#[cfg(test)]
#[cfg(debug_assertions)]
mod crash_points;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod descriptors;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod reads;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod writes;
