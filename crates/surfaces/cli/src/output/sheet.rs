//! A table without lines.

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Row, Table};

use super::amounts::plain;
use super::look::{Look, Mood};

/// A table without lines: bold heads, two spaces between columns.
pub(crate) struct Sheet {
    table: Table,
    look: Look,
}

/// A cell of text that may come from others.
pub(crate) fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new(plain(text.as_ref()))
}

/// A cell of several lines.
pub(crate) fn lines(texts: &[String]) -> Cell {
    let texts: Vec<String> = texts.iter().map(|text| plain(text)).collect();
    Cell::new(texts.join("\n"))
}

/// A word in the colour of its mood.
pub(crate) fn word(text: &str) -> Cell {
    let cell = cell(text);
    match Mood::of(text) {
        Mood::Good => cell.fg(Color::DarkGreen),
        Mood::Busy => cell.fg(Color::DarkYellow),
        Mood::Bad => cell.fg(Color::DarkRed),
        Mood::Quiet => cell.add_attribute(Attribute::Dim),
        Mood::Plain => cell,
    }
}

impl Sheet {
    /// An empty table with these heads.
    pub(crate) fn new(heads: &[&str], look: &Look) -> Self {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_truncation_indicator("…");
        table.set_header(
            heads
                .iter()
                .map(|head| Cell::new(head).add_attribute(Attribute::Bold)),
        );
        if look.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        match look.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        Self { table, look: *look }
    }

    /// Adds a line.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.table.add_row(cells);
    }

    /// Adds a line that is cut short rather than wrapped.
    pub(crate) fn short_row(&mut self, cells: Vec<Cell>) {
        let mut row = Row::from(cells);
        row.max_height(1);
        self.table.add_row(row);
    }

    /// Leaves these columns out, by number from 0, and gives each other but the last the room that it wants.
    pub(crate) fn squeeze(&mut self, hidden: &[usize]) {
        let last = self.table.column_count() - 1;
        for (number, column) in self.table.column_iter_mut().enumerate() {
            if hidden.contains(&number) {
                column.set_constraint(ColumnConstraint::Hidden);
            } else if number < last {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
    }

    /// The text, each line ended, without spaces at the ends of lines.
    pub(crate) fn text(mut self) -> String {
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut text = String::new();
        for line in self.table.lines() {
            // A coloured last cell ends in its reset code, after which there is nothing to trim.
            let line = if self.look.color {
                line.as_str()
            } else {
                line.trim_end()
            };
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}
