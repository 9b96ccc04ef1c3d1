//! `muster usage`: what an attempt used, in numbers and as a chart in characters.

use rest::wire::{SamplesView, UsagePoint, UsageSummary};

use super::amounts::{bytes, milli, plain, span};
use super::look::{Look, Mood};

/// Columns beside the chart: a name, three amounts with a unit, spaces.
const OTHER_COLUMNS: u16 = 54;
/// Width where there is no terminal.
const USUAL_WIDTH: u16 = 100;
/// Columns of the narrowest and the widest chart: fewer show nothing, more than the API has points.
const CHART_COLUMNS: (u16, u16) = (12, 1_000);
/// Levels of a column of the chart, from nothing to the largest of the line.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How many points fit beside the numbers.
pub(crate) fn chart_columns(look: &Look) -> u32 {
    let (least, most) = CHART_COLUMNS;
    let width = look.width.unwrap_or(USUAL_WIDTH);
    width
        .saturating_sub(OTHER_COLUMNS)
        .clamp(least, most)
        .into()
}

/// The page: totals beside what was asked for, then a line per figure.
pub(crate) fn usage(view: &SamplesView, look: &Look) -> String {
    let id = plain(&view.experiment);
    let mut text = look.bold(&format!("{id}  attempt {}", view.attempt));
    if let Some(summary) = &view.summary {
        let count = summary.samples;
        let samples = if count == 1 { "sample" } else { "samples" };
        text.push_str(&format!(
            "  {count} {samples} over {}",
            span(summary.span_ms)
        ));
    }
    text.push('\n');
    for (name, value) in usage_lines(view) {
        text.push_str(&format!("  {name:<13} {value}\n"));
    }
    for warning in &view.warnings {
        let head = look.paint(Mood::Busy, "warning");
        text.push_str(&format!("  {head}       {}\n", plain(warning)));
    }
    if !view.points.is_empty() {
        text.push('\n');
        text.push_str(&chart(view, look));
    }
    text
}

/// Names and values of what was used in all; none before the first sample.
pub(crate) fn usage_lines(view: &SamplesView) -> Vec<(&'static str, String)> {
    let Some(summary) = &view.summary else {
        return Vec::new();
    };
    let asked = &summary.requested;
    let memory = of_asked(summary.peak_memory_bytes, asked.memory_bytes, bytes, "");
    let mut lines = vec![
        ("memory", format!("{memory} at most")),
        (
            "cpu",
            format!(
                "{} on average, {} at most",
                of_asked(
                    summary.cpu_milli_mean,
                    asked.cpu_milli,
                    hundredths,
                    " cores"
                ),
                hundredths(summary.cpu_milli_max)
            ),
        ),
    ];
    // On a machine with GPUs everybody is told figures, also who asked for none and used none.
    let is_apart = asked.gpu_milli == 0 && summary.peak_vram_bytes.unwrap_or(0) == 0;
    let mean = summary.gpu_utilisation_percent_mean;
    if let Some(mean) = mean.filter(|_| !is_apart) {
        let most = summary.gpu_utilisation_percent_max.unwrap_or(mean);
        lines.push((
            "gpu",
            format!(
                "{} on average, {} at most",
                of_asked(u64::from(mean) * 10, asked.gpu_milli, hundredths, " gpus"),
                hundredths(u64::from(most) * 10)
            ),
        ));
    } else if asked.gpu_milli > 0 {
        lines.push(("gpu", "no driver told what was used".to_owned()));
    }
    if let Some(vram) = summary.peak_vram_bytes.filter(|_| !is_apart) {
        let vram = of_asked(vram, asked.vram_bytes, bytes, "");
        lines.push(("vram", format!("{vram} at most")));
    }
    if let (Some(read), Some(written)) = (summary.disk_read_bytes, summary.disk_written_bytes) {
        let text = format!("{} read, {} written", bytes(read), bytes(written));
        lines.push(("disk", text));
    }
    lines.extend(network_line(summary));
    lines.extend(warning_lines(view));
    lines
}

/// What a person should know while it runs; after its end the cause says it.
fn warning_lines(view: &SamplesView) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    for finding in view.findings.iter().filter(|_| view.ended_at.is_none()) {
        let said = format!("{}: {}", finding.text, finding.evidence);
        lines.push(("warning", plain(&said)));
        lines.push(("  advice", plain(&finding.advice)));
    }
    lines
}

fn network_line(summary: &UsageSummary) -> Option<(&'static str, String)> {
    let received = bytes(summary.network_received_bytes?);
    let sent = bytes(summary.network_sent_bytes?);
    let whose = match summary.network_is_hosts {
        true => ", network of the whole machine",
        false => "",
    };
    Some((
        "network",
        format!("{received} received, {sent} sent{whose}"),
    ))
}

/// `1.2 GiB of 4 GiB (30 %)`, `0.5 of 2 cores (25 %)`.
fn of_asked(used: u64, asked: u64, show: fn(u64) -> String, unit: &str) -> String {
    let (amount, whole) = (u128::from(used), u128::from(asked));
    match (amount * 100 + whole / 2).checked_div(whole) {
        Some(percent) => format!("{} of {}{unit} ({percent} %)", show(used), show(asked)),
        None => format!("{}{unit}", show(used)),
    }
}

/// Thousandths as whole things with at most two decimals.
fn hundredths(amount: u64) -> String {
    milli(amount.saturating_add(5) / 10 * 10)
}

fn per_second(amount: u64) -> String {
    format!("{}/s", bytes(amount))
}

fn percent(amount: u64) -> String {
    format!("{amount} %")
}

fn number(amount: u64) -> String {
    amount.to_string()
}

/// One line of the chart.
struct Line {
    name: &'static str,
    figure: fn(&UsagePoint) -> Option<u64>,
    show: fn(u64) -> String,
    /// The most of any sample, where points hold means.
    most: Option<u64>,
}

fn lines(summary: Option<&UsageSummary>) -> [Line; 10] {
    let line = |name, figure, show| Line {
        name,
        figure,
        show,
        most: None,
    };
    let cpu_most = summary.map(|summary| summary.cpu_milli_max);
    let gpu_most = summary.and_then(|summary| summary.gpu_utilisation_percent_max);
    [
        Line {
            most: cpu_most,
            ..line("cpu", |point| Some(point.cpu_milli), hundredths)
        },
        line("memory", |point| Some(point.memory_bytes), bytes),
        Line {
            most: gpu_most.map(u64::from),
            ..line(
                "gpu",
                |point| point.gpu_utilisation_percent.map(u64::from),
                percent,
            )
        },
        line("vram", |point| point.vram_bytes, bytes),
        line(
            "disk read",
            |point| point.disk_read_bytes_per_second,
            per_second,
        ),
        line(
            "disk write",
            |point| point.disk_written_bytes_per_second,
            per_second,
        ),
        line(
            "net in",
            |point| point.network_received_bytes_per_second,
            per_second,
        ),
        line(
            "net out",
            |point| point.network_sent_bytes_per_second,
            per_second,
        ),
        line("processes", |point| Some(point.processes.into()), number),
        line("threads", |point| Some(point.threads.into()), number),
    ]
}

fn chart(view: &SamplesView, look: &Look) -> String {
    let columns = view.points.len().max("OVER TIME".len());
    let head = format!(
        "{:<10}  {:<columns$}  {:>12}  {:>12}  {:>12}",
        "FIGURE", "OVER TIME", "MIN", "MEAN", "MAX"
    );
    let mut text = format!("{}\n", look.bold(&head));
    for line in lines(view.summary.as_ref()) {
        let figures: Vec<Option<u64>> = view.points.iter().map(line.figure).collect();
        let known = || figures.iter().flatten().copied();
        let (Some(least), Some(most)) = (known().min(), known().max()) else {
            continue;
        };
        let drawn: String = figures.iter().map(|figure| block(*figure, most)).collect();
        let mean = mean(&view.points, line.figure);
        text.push_str(&format!(
            "{:<10}  {drawn:<columns$}  {:>12}  {:>12}  {:>12}\n",
            line.name,
            (line.show)(least),
            (line.show)(mean),
            (line.show)(line.most.unwrap_or(most)),
        ));
    }
    text
}

/// A column; a space where nothing is known.
fn block(figure: Option<u64>, most: u64) -> char {
    let Some(figure) = figure else {
        return ' ';
    };
    let highest = BLOCKS.len() - 1;
    let level = (u128::from(figure) * highest as u128).div_ceil(u128::from(most.max(1)));
    let level = usize::try_from(level).unwrap_or(highest);
    BLOCKS[level.min(highest)]
}

/// By the time that each point covers.
fn mean(points: &[UsagePoint], figure: fn(&UsagePoint) -> Option<u64>) -> u64 {
    let mut sums = (0_u128, 0_u128);
    for point in points {
        if let Some(figure) = figure(point) {
            let time_ms = u128::from(point.span_ms.max(1));
            sums.0 += u128::from(figure) * time_ms;
            sums.1 += time_ms;
        }
    }
    let mean = sums.0.checked_div(sums.1).unwrap_or_default();
    u64::try_from(mean).expect("a mean is no more than the largest")
}

#[cfg(test)]
mod tests;
