//! What the report prints.

use std::io::Write as _;

/// The table at the end.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// With the load average of their time.
    rows: Vec<(Row, String)>,
}

/// One figure beside its peer's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// What, with its unit.
    pub(crate) figure: String,
    pub(crate) ours: f64,
    /// Name of the peer and its figure.
    pub(crate) peer: Option<(&'static str, f64)>,
    /// What we aim for, in words; empty: nothing.
    pub(crate) target: &'static str,
}

const HEAD: [&str; 6] = ["figure", "muster", "peer", "ratio", "target", "load"];

impl Table {
    /// Adds a figure with the load average of now, and prints it at once.
    pub(crate) fn add(&mut self, row: Row) {
        let cells = row.cells();
        say(&format!(
            "  => {}: {} | {} | ratio {}",
            cells[0], cells[1], cells[2], cells[3]
        ));
        self.rows.push((row, load_average()));
    }

    /// Prints all figures.
    pub(crate) fn print(&self) {
        if self.rows.is_empty() {
            return;
        }
        let mut lines = vec![HEAD.map(str::to_owned)];
        for (row, load) in &self.rows {
            let [figure, ours, peer, ratio] = row.cells();
            let target = row.target.to_owned();
            lines.push([figure, ours, peer, ratio, target, load.clone()]);
        }
        let width = |column: usize| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        say("");
        for line in &lines {
            let cells = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}", width = *width));
            say(cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

impl Row {
    fn cells(&self) -> [String; 4] {
        let (peer, ratio) = match self.peer {
            Some((name, figure)) => (
                format!("{name} {}", short(figure)),
                short(self.ours / figure),
            ),
            None => ("not measured".to_owned(), String::new()),
        };
        [self.figure.clone(), short(self.ours), peer, ratio]
    }
}

/// Three significant digits, as far as a reader cares.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Processes that want to run, over the last minute.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// One line to the reader. A reader that is gone wants no more lines.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}
