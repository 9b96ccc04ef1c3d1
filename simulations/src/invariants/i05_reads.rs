//! Invariant 5: reads are linearizable: an answer is never older than what anybody had been told when it was asked
//! for. (Ongaro 2014, section 6.4: `ReadIndex`.)

use super::{Fact, Invariant, Scene};

#[derive(Debug, Default)]
pub(super) struct Reads;

impl Invariant for Reads {
    fn note(&mut self, fact: &Fact<'_>, _scene: &Scene<'_>) -> Result<(), String> {
        match fact {
            Fact::Read { floor, index } if index < floor => Err(format!(
                "a read was answered from index {index} though {floor} had been seen before it was asked"
            )),
            _ => Ok(()),
        }
    }
}
