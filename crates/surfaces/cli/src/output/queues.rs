//! `muster queue ls`.

use rest::wire::{LimitsView, QueueView};

use super::amounts::{bytes, milli};
use super::look::Look;
use super::sheet::{Sheet, cell};

/// The table of queues.
pub(crate) fn queues(queues: &[QueueView], look: &Look) -> String {
    let heads = [
        "NAME", "PRIORITY", "WEIGHT", "WAITING", "ACTIVE", "AT ONCE", "STATE", "MADE BY",
    ];
    let mut sheet = Sheet::new(&heads, look);
    for queue in queues {
        sheet.row(vec![
            cell(&queue.name),
            cell(queue.priority.to_string()),
            cell(queue.weight.to_string()),
            cell(queue.waiting.to_string()),
            cell(queue.active.to_string()),
            cell(queue_limits(queue)),
            cell(match &queue.paused {
                Some(word) => format!("paused by {word}"),
                None => "open".to_owned(),
            }),
            cell(&queue.created_by),
        ]);
    }
    sheet.text()
}

/// `8 gpus; each user 2 gpus`, or `no limit`.
pub(crate) fn queue_limits(queue: &QueueView) -> String {
    let all = words(&queue.limits);
    let each = words(&queue.user_limits);
    match (all.is_empty(), each.is_empty()) {
        (true, true) => "no limit".to_owned(),
        (false, true) => all,
        (true, false) => format!("each user {each}"),
        (false, false) => format!("{all}; each user {each}"),
    }
}

fn words(limits: &LimitsView) -> String {
    let all = [
        (
            limits.experiments,
            match limits.experiments {
                1 => "1 experiment".to_owned(),
                several => format!("{several} experiments"),
            },
        ),
        (
            limits.gpu_milli,
            format!("{} gpus", milli(limits.gpu_milli)),
        ),
        (
            limits.cpu_milli,
            format!("{} cpus", milli(limits.cpu_milli)),
        ),
        (
            limits.memory_bytes,
            format!("{} memory", bytes(limits.memory_bytes)),
        ),
    ];
    let set = all.into_iter().filter(|(limit, _)| *limit > 0);
    let set: Vec<_> = set.map(|(_, text)| text).collect();
    set.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_a_plain_table() {
        let queue = QueueView {
            name: "default".into(),
            priority: 0,
            weight: 1,
            paused: None,
            limits: LimitsView::default(),
            user_limits: LimitsView {
                gpu_milli: 2_000,
                ..LimitsView::default()
            },
            waiting: 12,
            active: 3,
            created_by: "muster".into(),
        };
        let text = queues(&[queue], &Look::plain_at(0));
        let expected = "\
NAME     PRIORITY  WEIGHT  WAITING  ACTIVE  AT ONCE           STATE  MADE BY
default  0         1       12       3       each user 2 gpus  open   muster
";
        assert_eq!(text, expected, "\n{text}");
    }
}
