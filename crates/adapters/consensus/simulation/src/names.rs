//! Machines have numbers, which are their Raft ids; the core knows them by name.

use types::NodeId;

/// The name of machine `number`.
pub(crate) fn name(number: u64) -> NodeId {
    let letters: String = number
        .to_string()
        .bytes()
        .map(|digit| char::from(digit - b'0' + b'a'))
        .collect();
    format!("node{letters}")
        .parse()
        .expect("letters a to j are base58")
}

/// The number of a machine of that name.
pub(crate) fn number(name: &NodeId) -> Option<u64> {
    let letters = name.as_str().strip_prefix("node")?;
    let digits: String = letters
        .bytes()
        .map(|letter| char::from(letter.wrapping_sub(b'a').wrapping_add(b'0')))
        .collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_number() {
        for machine in [0, 7, 10, 42] {
            assert_eq!(number(&name(machine)), Some(machine));
        }
        assert_eq!(number(&"stranger".parse().unwrap()), None);
    }
}
