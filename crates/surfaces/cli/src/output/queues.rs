//! `muster queue ls`.

use rest::wire::QueueView;

use super::look::Look;
use super::sheet::{Sheet, cell};

/// The table of queues.
pub(crate) fn queues(queues: &[QueueView], look: &Look) -> String {
    let heads = ["NAME", "PRIORITY", "WAITING", "ACTIVE", "MADE BY"];
    let mut sheet = Sheet::new(&heads, look);
    for queue in queues {
        sheet.row(vec![
            cell(&queue.name),
            cell(queue.priority.to_string()),
            cell(queue.waiting.to_string()),
            cell(queue.active.to_string()),
            cell(&queue.created_by),
        ]);
    }
    sheet.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_a_plain_table() {
        let queue = QueueView {
            name: "default".into(),
            priority: 0,
            waiting: 12,
            active: 3,
            created_by: "muster".into(),
        };
        let text = queues(&[queue], &Look::plain_at(0));
        let expected = "\
NAME     PRIORITY  WAITING  ACTIVE  MADE BY
default  0         12       3       muster
";
        assert_eq!(text, expected, "\n{text}");
    }
}
