//! `muster metrics`: what an experiment reported of itself.

use rest::wire::{MetricsView, PointsView, SeriesView};

use super::amounts::{moment, plain};
use super::groups::number;
use super::look::Look;
use super::sheet::{Sheet, cell, word};

/// The table of all metrics of an attempt.
pub(crate) fn metrics(view: &MetricsView, look: &Look) -> String {
    let id = plain(&view.experiment);
    let mut text = look.bold(&format!("{id}  attempt {}", view.attempt));
    text.push_str("\n\n");
    if view.metrics.is_empty() {
        text.push_str("no metrics: a line `metric: loss=0.25 step=3`, or {\"step\": 3, \"loss\": 0.25}, on standard output is one\n");
        return text;
    }
    let heads = [
        "METRIC", "POINTS", "STEPS", "LAST", "LEAST", "AT", "GREATEST", "AT",
    ];
    let mut sheet = Sheet::new(&heads, look);
    for metric in &view.metrics {
        let points = &metric.points;
        sheet.short_row(vec![
            word(&metric.name),
            cell(points.count.to_string()),
            cell(steps(points)),
            cell(number(points.last)),
            cell(number(points.min)),
            cell(points.min_step.to_string()),
            cell(number(points.max)),
            cell(points.max_step.to_string()),
        ]);
    }
    sheet.squeeze(&[]);
    text.push_str(&sheet.text());
    text
}

/// The table of one metric.
pub(crate) fn series(view: &SeriesView, look: &Look) -> String {
    let (id, name) = (plain(&view.experiment), plain(&view.name));
    let head = look.bold(&format!("{id}  attempt {}  {name}", view.attempt));
    let shown: u64 = view.points.iter().map(|points| points.count).sum();
    let of = match shown == view.total {
        true => format!("{} points", view.total),
        false => format!("{shown} of {} points", view.total),
    };
    let mut text = format!("{head}  {of}\n\n");
    let by_time = view.by == "time";
    let place = if by_time { "TIME (UTC)" } else { "STEPS" };
    let heads = [place, "LAST", "LEAST", "MEAN", "GREATEST", "POINTS"];
    let mut sheet = Sheet::new(&heads, look);
    for points in &view.points {
        let place = match by_time {
            true => moment(points.first_at),
            false => steps(points),
        };
        sheet.short_row(vec![
            cell(place),
            cell(number(points.last)),
            cell(number(points.min)),
            cell(number(points.mean)),
            cell(number(points.max)),
            cell(points.count.to_string()),
        ]);
    }
    sheet.squeeze(&[]);
    text.push_str(&sheet.text());
    text
}

/// `3`, or `3 to 90`.
fn steps(points: &PointsView) -> String {
    match points.first_step == points.last_step {
        true => points.first_step.to_string(),
        false => format!("{} to {}", points.first_step, points.last_step),
    }
}

/// What both kinds of lines have of points.
const COLUMNS: &str =
    "first_step,last_step,first_at,last_at,count,nans,last,min,min_step,max,max_step,mean";

fn columns(points: &PointsView) -> String {
    let PointsView {
        count,
        nans,
        first_step,
        last_step,
        first_at,
        last_at,
        last,
        min,
        min_step,
        max,
        max_step,
        mean,
    } = points;
    format!(
        "{first_step},{last_step},{first_at},{last_at},{count},{nans},{last},{min},{min_step},{max},{max_step},{mean}"
    )
}

/// All metrics, a line each; times are milliseconds since 1970.
pub(crate) fn metrics_csv(view: &MetricsView) -> String {
    let mut text = format!("name,{COLUMNS}\n");
    for metric in &view.metrics {
        text.push_str(&format!(
            "{},{}\n",
            quoted(&metric.name),
            columns(&metric.points)
        ));
    }
    text
}

/// One metric, a line for each point, or for each few of them.
pub(crate) fn series_csv(view: &SeriesView) -> String {
    let mut text = format!("{COLUMNS}\n");
    for points in &view.points {
        text.push_str(&columns(points));
        text.push('\n');
    }
    text
}

/// A field of CSV (RFC 4180).
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rest::wire::MetricSummary;

    fn points(first_step: i64, last_step: i64) -> PointsView {
        PointsView {
            count: 3,
            nans: 1,
            first_step,
            last_step,
            first_at: 1_000,
            last_at: 2_000,
            last: f64::NAN,
            min: 0.25,
            min_step: 2,
            max: 1.5,
            max_step: 1,
            mean: 0.875,
        }
    }

    #[test]
    fn each_metric_has_a_line_for_people_and_for_programs() {
        let view = MetricsView {
            experiment: "0a1b2c3d".into(),
            attempt: 1,
            rank: 0,
            metrics: vec![MetricSummary {
                name: "loss,\"raw\"".into(),
                points: points(1, 3),
            }],
        };
        let text = metrics(&view, &Look::plain_at(0));
        assert!(text.contains("1 to 3") && text.contains("0.25"), "{text}");
        let lines = metrics_csv(&view);
        let expected = "\"loss,\"\"raw\"\"\",1,3,1000,2000,3,1,NaN,0.25,2,1.5,1,0.875\n";
        assert_eq!(lines, format!("name,{COLUMNS}\n{expected}"));
        let none = MetricsView::default();
        assert!(metrics(&none, &Look::plain_at(0)).contains("metric: loss"));
    }

    #[test]
    fn a_series_says_how_much_of_it_is_shown() {
        let view = SeriesView {
            experiment: "0a1b2c3d".into(),
            attempt: 1,
            rank: 0,
            name: "loss".into(),
            by: "step".into(),
            total: 10,
            points: vec![points(1, 3), points(4, 4)],
        };
        let text = series(&view, &Look::plain_at(0));
        assert!(text.contains("loss  6 of 10 points"), "{text}");
        assert_eq!(series_csv(&view).lines().count(), 3);
    }
}
