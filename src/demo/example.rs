//! The experiment of the demo: `examples/digits`, carried in the binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

const FILES: [(&str, &[u8]); 3] = [
    ("train.py", include_bytes!("../../examples/digits/train.py")),
    ("train.sh", include_bytes!("../../examples/digits/train.sh")),
    (
        "digits.csv",
        include_bytes!("../../examples/digits/digits.csv"),
    ),
];

/// What to submit.
pub(super) struct Example {
    pub(super) directory: PathBuf,
    pub(super) command: Vec<String>,
    pub(super) description: String,
    /// Metric lines that a complete run prints, one per epoch.
    pub(super) epochs: u64,
}

/// Writes the example below `directory`; without python3 it is the shell's.
pub(super) fn write(directory: &Path) -> anyhow::Result<Example> {
    let directory = directory.join("digits");
    std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    for (name, bytes) in FILES {
        std::fs::write(directory.join(name), bytes).with_context(|| format!("write {name}"))?;
    }
    let (program, epochs, description) = if has_python() {
        (
            ["python3", "train.py"],
            40,
            "a small neural network learns 1,797 handwritten digits in plain Python",
        )
    } else {
        (
            ["sh", "train.sh"],
            12,
            "no python3 on this machine: softmax regression on 1,797 handwritten digits in awk",
        )
    };
    let mut command: Vec<_> = program.iter().map(|&word| word.to_owned()).collect();
    command.extend(["--epochs".to_owned(), epochs.to_string()]);
    Ok(Example {
        directory,
        command,
        description: description.to_owned(),
        epochs,
    })
}

fn has_python() -> bool {
    let mut python = Command::new("python3");
    python
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}
