//! `muster compare`: what differs, one column for each experiment, then the code.

use std::collections::BTreeSet;

use rest::wire::{CompareView, ComparedView, SourceDifference, SourceView};

use super::amounts::{bytes, command_line, plain, span};
use super::groups::number;
use super::look::Look;
use super::sheet::{Sheet, cell};

/// What stands where an experiment has no such thing.
const NONE: &str = "-";

/// A line of the table.
struct Line {
    name: String,
    values: Vec<String>,
}

/// The page. `all`: also what is the same; `diffs`: also the lines of code that differ.
pub(crate) fn comparison(view: &CompareView, (all, diffs): (bool, bool), look: &Look) -> String {
    let mut heads = vec![String::new()];
    heads.extend(view.experiments.iter().map(|one| plain(&one.id)));
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let mut sheet = Sheet::new(&heads, look);
    let mut same = Vec::new();
    for line in lines(&view.experiments) {
        if !all && line.values.iter().all(|value| *value == line.values[0]) {
            same.push(line.name);
            continue;
        }
        let cells = std::iter::once(line.name).chain(line.values);
        sheet.row(cells.map(cell).collect());
    }
    let mut text = sheet.text();
    if !same.is_empty() {
        text.push_str(&format!("the same: {}\n", plain(&same.join(", "))));
    }
    for source in &view.sources {
        code(&mut text, &view.experiments[0].id, source, (diffs, look));
    }
    text
}

fn lines(experiments: &[ComparedView]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: &dyn Fn(&ComparedView) -> String| {
        let values: Vec<String> = experiments.iter().map(value).collect();
        if values.iter().any(|value| value != NONE) {
            lines.push(Line {
                name: name.to_owned(),
                values,
            });
        }
    };
    line("name", &|one| one.name.clone());
    line("state", &|one| one.state.clone());
    line("ended", &|one| or_none(one.reason.clone()));
    line("user", &|one| one.user.clone());
    line("made from", &|one| {
        let origin = one.origin.as_ref();
        origin.map_or(NONE.to_owned(), |origin| {
            format!("{} of {}", origin.how, origin.experiment)
        })
    });
    line("command", &|one| command_line(&one.command));
    line("directory", &|one| or_none(one.working_directory.clone()));
    let named = |one: &ComparedView| {
        let parameters = one.parameters.iter().map(|(name, _)| name.clone());
        parameters.collect::<Vec<_>>()
    };
    for name in in_order(experiments.iter().map(named)) {
        line(&format!("param {name}"), &|one| {
            value_of(&one.parameters, &name)
        });
    }
    let named = |one: &ComparedView| {
        let variables = one.variables.iter().map(|(name, _)| name.clone());
        variables.collect::<Vec<_>>()
    };
    for name in in_order(experiments.iter().map(named)) {
        line(&format!("env {name}"), &|one| {
            value_of(&one.variables, &name)
        });
    }
    line("packages", &|one| one.environment.clone());
    line("code", &|one| {
        one.source.as_ref().map_or(NONE.to_owned(), source)
    });
    line("needs", &|one| one.resources.clone());
    line("attempts", &|one| one.attempts.to_string());
    line("machine", &|one| {
        let names: Vec<&str> = one.nodes.iter().map(|node| node.name.as_str()).collect();
        or_none(names.join(", "))
    });
    line("ran", &|one| one.ran_ms.map_or(NONE.to_owned(), span));
    line("processor time", &|one| amount(one.cpu_ms, span));
    line("peak memory", &|one| amount(one.peak_memory_bytes, bytes));
    let named = |one: &ComparedView| {
        let metrics = one.metrics.iter().map(|metric| metric.name.clone());
        metrics.collect::<Vec<_>>()
    };
    for name in in_order(experiments.iter().map(named)) {
        line(&name, &|one| {
            let found = one.metrics.iter().find(|metric| metric.name == name);
            let shown = found.map(|metric| format!("{} at {}", number(metric.value), metric.step));
            shown.unwrap_or_else(|| NONE.to_owned())
        });
    }
    line("no metrics", &|one| or_none(one.metrics_unknown.clone()));
    lines
}

/// Names of all, as the first that has one has it.
fn in_order(names: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let mut known = BTreeSet::new();
    names
        .flatten()
        .filter(|name| known.insert(name.clone()))
        .collect()
}

fn value_of(pairs: &[(String, String)], name: &str) -> String {
    let found = pairs.iter().find(|(known, _)| known == name);
    found.map_or(NONE.to_owned(), |(_, value)| value.clone())
}

fn or_none(text: String) -> String {
    if text.is_empty() {
        NONE.to_owned()
    } else {
        text
    }
}

fn amount(amount: u64, text: fn(u64) -> String) -> String {
    match amount {
        0 => NONE.to_owned(),
        amount => text(amount),
    }
}

fn source(source: &SourceView) -> String {
    let tree = source.tree.get(..12).unwrap_or(&source.tree);
    let short = source.revision.get(..12).unwrap_or(&source.revision);
    match short {
        "" => format!("{} files, tree {tree}", source.files),
        commit => format!("commit {commit}, {} files, tree {tree}", source.files),
    }
}

fn code(text: &mut String, first: &str, source: &SourceDifference, (diffs, look): (bool, &Look)) {
    let (first, other) = (plain(first), plain(&source.experiment));
    if !source.unknown.is_empty() {
        text.push_str(&format!(
            "\nthe code of {first} and {other}: {}\n",
            plain(&source.unknown)
        ));
    }
    if source.files.is_empty() {
        return;
    }
    let heading = format!("Code of {other}, compared with {first}");
    text.push_str(&format!("\n{}\n", look.bold(&heading)));
    for file in &source.files {
        let note = match file.note.as_str() {
            "" => String::new(),
            note => format!(" ({note})"),
        };
        let line = format!("{} {}{note}", file.change, file.path);
        text.push_str(&format!("  {}\n", plain(&line)));
    }
    if source.more > 0 {
        text.push_str(&format!("  and {} more files\n", source.more));
    }
    for file in source
        .files
        .iter()
        .filter(|file| diffs && !file.diff.is_empty())
    {
        text.push('\n');
        for line in file.diff.lines() {
            // Tabs are part of code; whatever else steers a terminal is not.
            let shown: Vec<String> = line.split('\t').map(plain).collect();
            text.push_str(&shown.join("\t"));
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use rest::wire::{FileDifference, MetricView};

    use super::*;

    fn compared(id: &str, lr: &str, loss: f64) -> ComparedView {
        ComparedView {
            id: id.into(),
            name: "digits".into(),
            state: "finished".into(),
            reason: "finished".into(),
            user: "ana".into(),
            origin: None,
            command: vec!["python3".into(), "train.py".into()],
            working_directory: String::new(),
            parameters: vec![("lr".into(), lr.into())],
            variables: vec![],
            environment: "host".into(),
            source: None,
            resources: "1 cpus".into(),
            attempts: 1,
            nodes: vec![],
            ran_ms: Some(1_000),
            cpu_ms: 0,
            peak_memory_bytes: 0,
            metrics: vec![MetricView {
                name: "loss".into(),
                step: 9,
                value: loss,
            }],
            metrics_unknown: String::new(),
        }
    }

    #[test]
    fn what_differs_is_a_table_and_the_rest_a_line() {
        let view = CompareView {
            experiments: vec![
                compared("0a1b2c3d", "0.1", 0.5),
                compared("9z8y7x6w", "0.2", 0.25),
            ],
            sources: vec![SourceDifference {
                experiment: "9z8y7x6w".into(),
                files: vec![FileDifference {
                    path: "train.py".into(),
                    change: "changed".into(),
                    diff: "--- a/train.py\n+++ b/train.py\n@@ -1,1 +1,1 @@\n-\told\n+\tn\u{1b}ew\n"
                        .into(),
                    note: String::new(),
                }],
                more: 2,
                unknown: String::new(),
            }],
        };
        let text = comparison(&view, (false, true), &Look::plain_at(0));
        let expected = "          0a1b2c3d  9z8y7x6w
param lr  0.1       0.2
loss      0.5 at 9  0.25 at 9
the same: name, state, ended, user, command, packages, needs, attempts, ran

Code of 9z8y7x6w, compared with 0a1b2c3d
  changed train.py
  and 2 more files

--- a/train.py
+++ b/train.py
@@ -1,1 +1,1 @@
-\told
+\tn\u{fffd}ew
";
        assert_eq!(text, expected, "\n{text}");
        let text = comparison(&view, (true, false), &Look::plain_at(0));
        assert!(
            text.contains("command   python3 train.py  python3 train.py\n"),
            "{text}"
        );
        assert!(!text.contains("@@"), "{text}");
    }
}
