//! `muster show`: a page about one experiment.

use rest::wire::{
    AttemptView, CauseView, ExperimentDetail, KeptView, RankView, ResourcesView, SourceView,
};

use super::amounts::{ago, bytes, command_line, plain, span};
use super::look::{Look, Mood};
use super::outputs;

/// The page: what, where, why, its attempts, what the last of them used by `used`, and its history.
pub(crate) fn experiment_page(
    detail: &ExperimentDetail,
    used: &[(&str, String)],
    look: &Look,
) -> String {
    let summary = &detail.summary;
    let state = look.paint(Mood::of(&summary.state), &plain(&summary.state));
    let headline = look.bold(&plain(&summary.name));
    let mut page = Page {
        text: format!("{headline}  {}  {state}\n", plain(&summary.id)),
    };
    page.field("why", &summary.reason);
    page.field("group", summary.group.as_deref().unwrap_or_default());
    if let Some(origin) = &detail.origin {
        page.field(
            "made from",
            &format!("{} of {}", origin.how, origin.experiment),
        );
    }
    page.field("command", &command_line(&detail.command));
    if detail.filled_command != detail.command {
        page.field("runs as", &command_line(&detail.filled_command));
    }
    page.field("directory", &detail.working_directory);
    page.field("needs", &needs(&detail.resources, &summary.resources));
    page.field("code", &detail.source.as_ref().map_or(String::new(), code));
    page.field("packages", &packages(detail));
    page.field("variables", &pairs(&detail.variables));
    page.field("parameters", &pairs(&detail.parameters));
    page.field("keeps", &detail.outputs.join(", "));
    page.field(
        "submitted",
        &format!(
            "{} by {}",
            ago(look.now_ms, summary.submitted_at),
            detail.submitted_by
        ),
    );
    page.field(
        "queue",
        &format!("{}, priority {}", summary.queue, detail.priority),
    );
    page.field("limits", &limits(detail));
    page.field(
        "stop asked by",
        detail.stop_requested_by.as_deref().unwrap_or_default(),
    );
    if let Some(cause) = &detail.cause {
        page.field(
            "ended",
            &format!("{}, exit code {}", cause.text, cause.exit_code),
        );
    }
    for attempt in &detail.attempts {
        page.heading(&format!("Attempt {}", attempt.number), look);
        page.attempt(attempt, look);
    }
    if !used.is_empty() {
        page.heading(
            &format!("Resources of attempt {}", detail.attempts.len()),
            look,
        );
    }
    for (name, value) in used {
        page.field(name, value);
    }
    if !detail.history.is_empty() {
        page.heading("History", look);
        for entry in &detail.history {
            let line = format!("{} by {}  {}", entry.action, entry.author, entry.detail);
            page.field(&ago(look.now_ms, entry.at), line.trim_end());
        }
    }
    page.text
}

/// Lines of `  name  value`.
struct Page {
    text: String,
}

impl Page {
    fn heading(&mut self, text: &str, look: &Look) {
        self.text.push_str(&format!("\n{}\n", look.bold(text)));
    }

    /// One line; none if there is nothing to say.
    fn field(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.text
                .push_str(&format!("  {name:<13} {}\n", plain(value)));
        }
    }

    fn attempt(&mut self, attempt: &AttemptView, look: &Look) {
        let nodes: Vec<&str> = attempt
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect();
        let mirror = attempt.mirror.as_ref();
        let mirror = mirror.map_or(String::new(), |node| {
            format!(", records mirrored on {}", node.name)
        });
        self.field("where", &format!("{}{mirror}", nodes.join(", ")));
        self.field("why there", &attempt.reason);
        self.field("placed", &ago(look.now_ms, attempt.placed_at));
        if let Some(started) = attempt.started_at {
            let ran = span(
                attempt
                    .ended_at
                    .unwrap_or(look.now_ms)
                    .saturating_sub(started),
            );
            self.field(
                "started",
                &format!("{}, ran {ran}", ago(look.now_ms, started)),
            );
        }
        for warning in &attempt.warnings {
            self.field("warning", warning);
        }
        self.field("used", &used(attempt));
        self.field("records", &records(attempt));
        for kept in &attempt.outputs {
            self.outputs(kept, attempt.ranks.is_empty());
        }
        for rank in &attempt.ranks {
            self.field(&format!("rank {}", rank.rank), &how_it_fares(rank, look));
        }
        if let Some(cause) = &attempt.cause {
            self.cause("ended", cause);
        }
        if let Some(late) = &attempt.late {
            self.cause("late result", late);
        }
        if !attempt.tree_kill_method.is_empty() {
            self.field(
                "processes",
                &format!("ended by {}", attempt.tree_kill_method),
            );
        }
    }

    fn outputs(&mut self, kept: &KeptView, is_alone: bool) {
        let rank = match is_alone {
            true => String::new(),
            false => format!("rank {}: ", kept.rank),
        };
        self.field("outputs", &format!("{rank}{}", outputs::kept(kept)));
        for line in &kept.left_out {
            self.field("  not kept", line);
        }
    }

    fn cause(&mut self, name: &str, cause: &CauseView) {
        self.field(
            name,
            &format!("{} (exit code {})", cause.text, cause.exit_code),
        );
        for evidence in &cause.evidence {
            self.field("  evidence", evidence);
        }
        for advice in &cause.advice {
            self.field("  advice", advice);
        }
        for finding in &cause.findings {
            self.field("  also", &format!("{}: {}", finding.text, finding.evidence));
            self.field("  advice", &finding.advice);
        }
    }
}

/// One rank in a line.
fn how_it_fares(rank: &RankView, look: &Look) -> String {
    let node = &rank.node.name;
    match (&rank.cause, rank.started_at) {
        (Some(cause), _) => format!("{node}: {}", cause.text),
        (None, Some(at)) => format!("{node}: started {}", ago(look.now_ms, at)),
        (None, None) => format!("{node}: has not started"),
    }
}

fn used(attempt: &AttemptView) -> String {
    let mut parts = Vec::new();
    if attempt.peak_memory_bytes > 0 {
        parts.push(format!(
            "{} memory at most",
            bytes(attempt.peak_memory_bytes)
        ));
    }
    if attempt.cpu_ms > 0 {
        parts.push(format!("{} processor time", span(attempt.cpu_ms)));
    }
    parts.join(", ")
}

fn records(attempt: &AttemptView) -> String {
    match attempt.segments {
        0 => String::new(),
        count => format!("{} in {count} sealed segments", bytes(attempt.record_bytes)),
    }
}

fn needs(resources: &ResourcesView, text: &str) -> String {
    let mut parts = vec![text.to_owned()];
    if let Some(disk) = resources.disk_bytes.filter(|&disk| disk > 0) {
        parts.push(format!("{} disk", bytes(disk)));
    }
    if !resources.gpu_models.is_empty() {
        parts.push(format!("gpu model {}", resources.gpu_models.join(" or ")));
    }
    parts.extend(
        resources
            .constraints
            .iter()
            .map(|label| format!("label {label}")),
    );
    parts.join(", ")
}

fn code(source: &SourceView) -> String {
    let size = format!("{} files, {}", source.files, bytes(source.bytes));
    let short = source.revision.get(..12).unwrap_or(&source.revision);
    let changed = if source.revision.ends_with('+') {
        " with changes"
    } else {
        ""
    };
    match (short, source.remote.as_str()) {
        ("", _) => format!("a plain directory, {size}"),
        (_, "") => format!("commit {short}{changed}, {size}"),
        (_, remote) => format!("commit {short}{changed} of {remote}, {size}"),
    }
}

fn packages(detail: &ExperimentDetail) -> String {
    match (&detail.environment, &detail.source) {
        (Some(environment), _) => environment.summary.clone(),
        (None, Some(_)) => "those of the machine".to_owned(),
        (None, None) => String::new(),
    }
}

fn pairs(pairs: &[(String, String)]) -> String {
    let texts: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    texts.join(" ")
}

fn limits(detail: &ExperimentDetail) -> String {
    let mut parts = vec![format!(
        "retries: {} for lost nodes, {} for own failures",
        detail.retries_node_lost, detail.retries_failed
    )];
    if detail.time_limit_ms > 0 {
        parts.push(format!("time: {}", span(detail.time_limit_ms)));
    }
    if !detail.stop_when.is_empty() {
        parts.push(format!("ends when {}", detail.stop_when));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests;
