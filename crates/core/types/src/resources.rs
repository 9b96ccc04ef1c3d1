//! What an experiment asks for and what a node has, in integers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of a GPU on its node, in NVML's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GpuIndex(pub u32);

/// What an experiment asks of the node that runs it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceRequest {
    /// Thousandths of a CPU core.
    pub cpu_milli: u64,
    /// Bytes of main memory.
    pub memory_bytes: u64,
    /// Thousandths of a GPU: 1000 is a whole one, less is a share of one, more must be whole ones.
    pub gpu_milli: u64,
    /// Bytes of GPU memory on each GPU; 0: what the share implies.
    pub vram_bytes: u64,
    /// Bytes of disk for the working directory and outputs.
    pub disk_bytes: u64,
    /// Accepted GPU models, any if empty.
    pub gpu_models: Vec<String>,
    /// Labels that the node must carry, as (name, value).
    pub constraints: Vec<(String, String)>,
    /// Nodes that run one rank each (gang), each with all of the above; 1 for an ordinary experiment.
    pub nodes: u32,
    /// No other attempt runs on its nodes meanwhile.
    pub exclusive: bool,
}

impl Default for ResourceRequest {
    /// One core and 1 GiB: what an unstated experiment gets.
    fn default() -> Self {
        Self {
            cpu_milli: 1_000,
            memory_bytes: 1 << 30,
            gpu_milli: 0,
            vram_bytes: 0,
            disk_bytes: 0,
            gpu_models: Vec::new(),
            constraints: Vec::new(),
            nodes: 1,
            exclusive: false,
        }
    }
}

impl ResourceRequest {
    /// Most nodes of one request: a placement names all that each of them has, and no command is over 64 KiB.
    pub const MAX_NODES: u32 = 64;

    /// Whether a GPU of this model is accepted.
    #[must_use]
    pub fn accepts_model(&self, model: &str) -> bool {
        accepts_model(&self.gpu_models, model)
    }
}

/// Whether a GPU of this model is accepted: one of the names, if there are any, is the model's, or a run of whole words
/// of it, whatever the case of their letters. `A100` accepts `NVIDIA A100-SXM4-80GB`, `A10` does not.
#[must_use]
pub fn accepts_model(names: &[String], model: &str) -> bool {
    names.is_empty() || names.iter().any(|name| is_part_of(name, model))
}

fn is_part_of(name: &str, model: &str) -> bool {
    let mut rest = words(model);
    loop {
        let mut run = rest.clone();
        let mut wanted = words(name).peekable();
        if wanted.peek().is_none() || rest.next().is_none() {
            return false;
        }
        if wanted.all(|word| run.next().is_some_and(|one| one.eq_ignore_ascii_case(word))) {
            return true;
        }
    }
}

/// The words of a model's name.
fn words(name: &str) -> impl Iterator<Item = &str> + Clone {
    let words = name.split(|letter: char| !letter.is_alphanumeric());
    words.filter(|word| !word.is_empty())
}

/// Part of one GPU, booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GpuShare {
    /// Which GPU of the node.
    pub index: GpuIndex,
    /// Thousandths of it.
    pub milli: u64,
    /// Bytes of its memory.
    pub vram_bytes: u64,
}

/// Resources of one node that one rank holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes of main memory.
    pub memory_bytes: u64,
    /// Bytes of disk.
    pub disk_bytes: u64,
    /// Shares of GPUs.
    pub gpus: Vec<GpuShare>,
}

impl fmt::Display for ResourceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cpus, {} memory",
            Milli(self.cpu_milli),
            Bytes(self.memory_bytes)
        )?;
        if self.gpu_milli > 0 {
            write!(f, ", {} gpus", Milli(self.gpu_milli))?;
        }
        if self.vram_bytes > 0 {
            write!(f, ", {} vram", Bytes(self.vram_bytes))?;
        }
        if self.disk_bytes > 0 {
            write!(f, ", {} disk", Bytes(self.disk_bytes))?;
        }
        if !self.gpu_models.is_empty() {
            write!(f, ", {}", self.gpu_models.join(" or "))?;
        }
        if self.exclusive {
            f.write_str(", alone on its node")?;
        }
        if self.nodes > 1 {
            write!(f, ", on each of {} nodes", self.nodes)?;
        }
        Ok(())
    }
}

/// Thousandths, printed as a number of whole things.
struct Milli(u64);

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 1_000 {
            0 => write!(f, "{}", self.0 / 1_000),
            part => f.write_str(format!("{}.{part:03}", self.0 / 1_000).trim_end_matches('0')),
        }
    }
}

/// Bytes, printed for people in the largest binary unit that keeps one decimal: `1.5 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [
            ("TiB", 1_u64 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ] {
            if self.0 >= size {
                let tenths = u128::from(self.0) * 10 / u128::from(size);
                return match tenths % 10 {
                    0 => write!(f, "{} {unit}", tenths / 10),
                    rest => write!(f, "{}.{rest} {unit}", tenths / 10),
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// The text is no amount.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not {what}: write {hint}")]
pub struct ParseResourceError {
    /// What was given.
    pub text: String,
    /// What it should have been.
    pub what: &'static str,
    /// What a good one looks like.
    pub hint: &'static str,
}

/// Parses `512MiB`, `1.5GiB`, `2GB`, `1048576`.
///
/// # Errors
/// No number, an unknown unit, or too large.
pub fn parse_bytes(text: &str) -> Result<u64, ParseResourceError> {
    let hint = "a number and a unit, such as 512MiB, 1.5GiB or 2GB";
    let error = || ParseResourceError {
        text: text.to_owned(),
        what: "an amount of bytes",
        hint,
    };
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let size: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(error()),
    };
    let milli = parse_milli(number).ok_or_else(error)?;
    let bytes = u128::from(milli) * u128::from(size) / 1_000;
    u64::try_from(bytes).map_err(|_too_large| error())
}

/// Parses `4` or `0.5` cores into thousandths.
///
/// # Errors
/// Not a number with at most three decimals.
pub fn parse_cpus(text: &str) -> Result<u64, ParseResourceError> {
    let hint = "a number with at most three decimals, such as 4 or 0.5";
    parse_milli(text).ok_or(ParseResourceError {
        text: text.to_owned(),
        what: "a number of cpus",
        hint,
    })
}

/// Parses `0`, `2` or `0.5` GPUs into thousandths; above one only whole GPUs.
///
/// # Errors
/// Not a number, or a broken number above one.
pub fn parse_gpus(text: &str) -> Result<u64, ParseResourceError> {
    let hint = "a whole number, or a share of one GPU such as 0.5";
    let error = ParseResourceError {
        text: text.to_owned(),
        what: "a number of gpus",
        hint,
    };
    match parse_milli(text) {
        Some(milli) if milli <= 1_000 || milli % 1_000 == 0 => Ok(milli),
        _ => Err(error),
    }
}

fn parse_milli(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || part.len() > 3 || !digits(whole) || !digits(part) {
        return None;
    }
    let part: u64 = format!("{part:0<3}").parse().ok()?; // not digits: refused above, so only a bug gets here
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000)?
        .checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_parse() {
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(parse_cpus("0.5"), Ok(500));
        assert_eq!(parse_gpus("2"), Ok(2_000));
        for bad in [
            "",
            "x",
            "1.2345",
            "-1",
            "1e3",
            "99999999999999999999TiB",
            "1 GigaByte",
        ] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert!(parse_gpus("1.5").is_err());
    }

    #[test]
    fn a_model_is_accepted_by_whole_words_of_its_name() {
        let asking = |names: &[&str]| ResourceRequest {
            gpu_models: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let model = "NVIDIA A100-SXM4-80GB";
        for accepted in [
            &[][..],
            &["A100"],
            &["h100", "a100"],
            &["A100-SXM4"],
            &[model],
        ] {
            assert!(asking(accepted).accepts_model(model), "{accepted:?}");
        }
        for refused in [&["A10"][..], &["100"], &["SXM4 A100"], &["-"], &["H100"]] {
            assert!(!asking(refused).accepts_model(model), "{refused:?}");
        }
    }

    #[test]
    fn requests_print_as_people_write_them() {
        let request = ResourceRequest {
            cpu_milli: 1_500,
            memory_bytes: 3 << 29,
            gpu_milli: 500,
            ..Default::default()
        };
        assert_eq!(request.to_string(), "1.5 cpus, 1.5 GiB memory, 0.5 gpus");
    }

    #[test]
    fn whole_amounts_are_shown_whole() {
        for (bytes, text) in [
            (60 << 10, "60 KiB"),
            (2_048 + 512, "2.5 KiB"),
            (1_000 << 20, "1000 MiB"),
            ((1 << 40) - 1, "1023.9 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
