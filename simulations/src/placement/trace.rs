//! Clusters and task lists as files: comma separated, with a line of names first (the openb format).

use std::collections::BTreeMap;

/// Thousandths of a GPU.
pub(super) const WHOLE: u64 = 1_000;
/// More GPUs in one machine than any has.
const MAX_GPUS: u64 = 64;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceNode {
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// MiB of memory.
    pub memory_mib: u64,
    /// GPUs.
    pub gpus: usize,
    /// Their model; empty without GPUs.
    pub model: String,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    /// Thousandths of cores.
    pub cpu_milli: u64,
    /// MiB of memory.
    pub memory_mib: u64,
    /// GPUs.
    pub gpus: u64,
    /// Thousandths of each: 1000, or less for a share of one.
    pub milli: u64,
    /// Accepted models; all if empty.
    pub models: Vec<String>,
}

impl Task {
    /// Thousandths of GPUs in all.
    #[must_use]
    pub fn gpu_milli(&self) -> u64 {
        self.gpus * self.milli
    }

    /// It asks for a part of one GPU.
    #[must_use]
    pub fn is_share(&self) -> bool {
        self.gpus == 1 && self.milli < WHOLE
    }
}

/// A cluster and what comes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Machines.
    pub nodes: Vec<TraceNode>,
    /// Tasks, by name.
    pub tasks: Vec<Task>,
}

/// A file that is no cluster or task list.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The first line lacks a column.
    #[error("the first line must name the columns {wanted}: {missing} is missing")]
    Column {
        /// All of them.
        wanted: String,
        /// The first that is not there.
        missing: &'static str,
    },
    /// A field is no number, or too large.
    #[error("line {line}: {column} is {text:?}, not a number from 0 to {most}")]
    Number {
        /// From 1.
        line: usize,
        /// Which.
        column: &'static str,
        /// What is there.
        text: String,
        /// Largest.
        most: u64,
    },
    /// Nothing after the first line.
    #[error("there is nothing after the first line")]
    Empty,
    /// No GPU in the cluster.
    #[error("the cluster has no GPU: nothing can be allocated")]
    NoGpus,
}

impl Trace {
    /// Reads both lists.
    ///
    /// # Errors
    /// A column is missing, a field is no number, or there is nothing.
    pub fn read(nodes: &str, tasks: &str) -> Result<Self, TraceError> {
        let nodes = Table::read(nodes, &["cpu_milli", "memory_mib", "gpu", "model"], &[])?;
        let nodes: Vec<_> = nodes.rows(|row| {
            Ok(TraceNode {
                cpu_milli: row.number(0, 1 << 40)?,
                memory_mib: row.number(1, 1 << 40)?,
                gpus: usize::try_from(row.number(2, MAX_GPUS)?).unwrap_or(0),
                model: row.text(3).to_owned(),
            })
        })?;
        if nodes.iter().all(|node| node.gpus == 0) {
            return Err(TraceError::NoGpus);
        }
        let columns = ["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"];
        let tasks = Table::read(tasks, &columns, &["gpu_spec"])?;
        let mut named: Vec<_> = tasks.rows(|row| {
            let gpus = row.number(3, MAX_GPUS)?;
            let milli = match gpus {
                0 => 0,
                1 => row.number(4, WHOLE)?.max(1),
                _ => WHOLE,
            };
            let models = row.text(5).split('|').filter(|model| !model.is_empty());
            let models = if gpus == 0 {
                Vec::new()
            } else {
                models.map(str::to_owned).collect()
            };
            let task = Task {
                cpu_milli: row.number(1, 1 << 40)?,
                memory_mib: row.number(2, 1 << 40)?,
                gpus,
                milli,
                models,
            };
            Ok((row.text(0).to_owned(), task))
        })?;
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Self {
            nodes,
            tasks: named.into_iter().map(|(_, task)| task).collect(),
        })
    }

    /// Thousandths of all GPUs of the cluster.
    #[must_use]
    pub fn gpu_milli(&self) -> u64 {
        let gpus: usize = self.nodes.iter().map(|node| node.gpus).sum();
        gpus as u64 * WHOLE
    }
}

/// Lines of fields.
struct Table<'t> {
    /// Names and where they are; a column that may be missing is nowhere.
    columns: Vec<(&'static str, Option<usize>)>,
    lines: Vec<(usize, Vec<&'t str>)>,
}

struct Row<'r> {
    columns: &'r [(&'static str, Option<usize>)],
    line: usize,
    fields: &'r [&'r str],
}

impl<'t> Table<'t> {
    fn read(
        text: &'t str,
        wanted: &[&'static str],
        optional: &[&'static str],
    ) -> Result<Self, TraceError> {
        let mut lines = (1..).zip(text.lines());
        let (_, head) = lines.next().unwrap_or((1, ""));
        let names: BTreeMap<_, _> = head.split(',').map(str::trim).zip(0_usize..).collect();
        let found = |name: &&'static str| (*name, names.get(name).copied());
        let columns: Vec<_> = wanted.iter().chain(optional).map(found).collect();
        let missing = columns
            .iter()
            .take(wanted.len())
            .find(|(_, at)| at.is_none());
        if let Some((missing, _)) = missing {
            return Err(TraceError::Column {
                wanted: wanted.join(","),
                missing,
            });
        }
        let lines: Vec<_> = lines
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(number, line)| (number, line.split(',').map(str::trim).collect()))
            .collect();
        if lines.is_empty() {
            return Err(TraceError::Empty);
        }
        Ok(Self { columns, lines })
    }

    fn rows<T>(
        &self,
        row: impl Fn(Row<'_>) -> Result<T, TraceError>,
    ) -> Result<Vec<T>, TraceError> {
        let rows = self.lines.iter().map(|(line, fields)| {
            row(Row {
                columns: &self.columns,
                line: *line,
                fields,
            })
        });
        rows.collect()
    }
}

impl Row<'_> {
    fn text(&self, column: usize) -> &str {
        let (_, at) = self.columns[column];
        at.and_then(|at| self.fields.get(at)).copied().unwrap_or("")
    }

    fn number(&self, column: usize, most: u64) -> Result<u64, TraceError> {
        let text = self.text(column);
        let number = text.parse().ok().filter(|number| *number <= most); // told below
        number.ok_or_else(|| TraceError::Number {
            line: self.line,
            column: self.columns[column].0,
            text: text.to_owned(),
            most,
        })
    }
}
