//! What XID numbers mean: "Analyzing Xid Errors with the Xid Catalog", NVIDIA, r575
//! (<https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>), in our words.

/// What helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    Program,
    Nothing,
    Watch,
    Reset,
    Restart,
    Cables,
}

impl Remedy {
    fn words(self) -> &'static str {
        match self {
            Self::Program => {
                "look for a bug in the program: run it with CUDA_LAUNCH_BLOCKING=1, or under compute-sanitizer"
            }
            Self::Nothing => "run it again: the card goes on",
            Self::Watch => {
                "run it again; the card goes on, but set a date to reset it, and have it looked at if it happens often"
            }
            Self::Reset => {
                "reset it (`nvidia-smi --gpu-reset`, with this node stopped) or restart the machine"
            }
            Self::Restart => "restart the machine, and have the card looked at if it happens again",
            Self::Cables => "stop the machine and look at its power cables",
        }
    }
}

/// What an event says of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XidMeaning {
    /// What happened, about the card.
    pub meaning: &'static str,
    /// What helps.
    pub remedy: &'static str,
    /// The card must not be used until that is done.
    pub is_broken: bool,
}

/// Broken are those whose immediate action in the catalogue is `RESET_GPU`, `RESTART_BM` or `CHECK_MECHANICALS`, and those
/// with a workflow that ends in a reset (48, 74, 144 to 150). Of the others these are the application's fault, contained,
/// or a hint.
const KNOWN: [(u32, &str, Remedy); 32] = [
    (
        13,
        "a kernel made an illegal access or did an illegal instruction",
        Remedy::Program,
    ),
    (
        31,
        "a kernel used an address that is not its own",
        Remedy::Program,
    ),
    (
        32,
        "the driver sent it a damaged list of commands",
        Remedy::Watch,
    ),
    (
        43,
        "a kernel went wrong and was ended; the card is well",
        Remedy::Program,
    ),
    (
        45,
        "its work was taken off it, as when a program is killed or another error came first",
        Remedy::Nothing,
    ),
    (
        48,
        "its memory has an error that cannot be corrected",
        Remedy::Reset,
    ),
    (54, "its power cable is not connected", Remedy::Cables),
    (62, "its micro-controller has halted", Remedy::Reset),
    (63, "a bad part of its memory was set aside", Remedy::Watch),
    (
        64,
        "a bad part of its memory could not be set aside",
        Remedy::Reset,
    ),
    (68, "its video decoder failed", Remedy::Watch),
    (69, "a kernel was set up wrongly", Remedy::Program),
    (74, "its NVLink has failed", Remedy::Reset),
    (79, "the GPU has fallen off the bus", Remedy::Restart),
    (92, "its memory corrects many errors", Remedy::Watch),
    (
        94,
        "an error of its memory that cannot be corrected was kept to one program",
        Remedy::Watch,
    ),
    (
        95,
        "an error of its memory may have reached every process on it",
        Remedy::Reset,
    ),
    (109, "it hung between two processes", Remedy::Reset),
    (110, "its security processor has failed", Remedy::Reset),
    (119, "its system processor does not answer", Remedy::Reset),
    (120, "its system processor has failed", Remedy::Reset),
    (136, "its NVLink could not be set up", Remedy::Reset),
    (
        140,
        "its memory has an error that was not recovered from",
        Remedy::Reset,
    ),
    (143, "it could not be initialised", Remedy::Reset),
    (144, "its NVLink has failed", Remedy::Reset),
    (145, "its NVLink has failed", Remedy::Reset),
    (146, "its NVLink has failed", Remedy::Reset),
    (147, "its NVLink has failed", Remedy::Reset),
    (148, "its NVLink has failed", Remedy::Reset),
    (149, "its NVLink has failed", Remedy::Reset),
    (150, "its NVLink has failed", Remedy::Reset),
    (
        154,
        "the driver says that something must be done about it",
        Remedy::Watch,
    ),
];

/// What is known of an event; none for the many that say nothing to a person.
#[must_use]
pub fn xid_meaning(xid: u32) -> Option<XidMeaning> {
    let (_, meaning, remedy) = KNOWN.iter().find(|(number, ..)| *number == xid)?;
    Some(XidMeaning {
        meaning,
        remedy: remedy.words(),
        is_broken: matches!(remedy, Remedy::Reset | Remedy::Restart | Remedy::Cables),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_order_and_the_fault_of_a_program_breaks_no_card() {
        assert!(KNOWN.is_sorted_by(|(one, ..), (other, ..)| one < other));
        for xid in [13, 31, 43, 45, 63, 69, 92, 94] {
            assert!(!xid_meaning(xid).unwrap().is_broken, "{xid}");
        }
        for xid in [48, 54, 74, 79, 95, 119, 150] {
            assert!(xid_meaning(xid).unwrap().is_broken, "{xid}");
        }
        assert_eq!(xid_meaning(7), None);
    }
}
