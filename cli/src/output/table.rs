//! A drawn table, for people. Its columns are as wide as the first rows want them; the rows behind these are drawn as
//! they come, so that a table of any length takes little memory.

use std::io::{self, Write};

use aqueduct::arrow::array::RecordBatch;
use aqueduct::arrow::datatypes::SchemaRef;
use aqueduct::arrow::util::display::{ArrayFormatter, FormatOptions};
use console::measure_text_width;

use crate::output::grid::Grid;
use crate::output::place::Writer;
use crate::output::{Encode, EncodeError};

/// Rows that settle the widths of the columns.
const MEASURED_ROWS: usize = 1_000;

/// Bytes of text that are held, at about the most, to settle the widths.
const MEASURED_BYTES: usize = 1 << 20;

/// The table in the making.
pub(crate) struct TableText {
    out: Writer,
    names: Vec<String>,
    right: Vec<bool>,
    /// Rows to be drawn at the most.
    limit: Option<usize>,
    /// Characters of a line, where lines have an end.
    line: Option<usize>,
    /// Rows that wait for the widths.
    held: Vec<Vec<String>>,
    held_bytes: usize,
    /// Settled with the first line that is drawn.
    grid: Option<Grid>,
    taken_rows: usize,
    rows: usize,
}

impl TableText {
    pub(crate) fn new(out: Writer, schema: &SchemaRef, limit: Option<usize>, line: Option<usize>) -> Self {
        Self {
            out,
            names: schema.fields().iter().map(|field| shown(field.name())).collect(),
            right: schema.fields().iter().map(|field| field.data_type().is_numeric()).collect(),
            limit,
            line,
            held: Vec::new(),
            held_bytes: 0,
            grid: None,
            taken_rows: 0,
            rows: 0,
        }
    }

    /// Settles the widths, and draws what waited for them.
    fn settle(&mut self) -> io::Result<()> {
        if self.grid.is_some() {
            return Ok(());
        }
        let mut widths: Vec<usize> = self.names.iter().map(|name| measure_text_width(name)).collect();
        for row in &self.held {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(measure_text_width(cell));
            }
        }
        let grid = Grid::new(&widths, &self.right, self.line);
        // A statement that makes something has no columns.
        if !widths.is_empty() {
            let border = grid.border();
            write!(self.out, "{border}{}{border}", grid.line(&self.names))?;
        }
        for row in std::mem::take(&mut self.held) {
            self.out.write_all(grid.line(&row).as_bytes())?;
        }
        self.grid = Some(grid);
        Ok(())
    }

    fn take(&mut self, row: Vec<String>) -> io::Result<()> {
        self.taken_rows += 1;
        if let Some(grid) = &self.grid {
            return self.out.write_all(grid.line(&row).as_bytes());
        }
        self.held_bytes += row.iter().map(String::len).sum::<usize>();
        self.held.push(row);
        if self.held.len() >= MEASURED_ROWS || self.held_bytes >= MEASURED_BYTES { self.settle() } else { Ok(()) }
    }

    /// What stands below the table.
    fn summary(&self, shown_columns: usize) -> String {
        let mut summary = format!("({} {}", self.rows, if self.rows == 1 { "row" } else { "rows" });
        if self.taken_rows < self.rows {
            summary += &format!(", the first {} shown: --rows 0 shows all", self.taken_rows);
        }
        if shown_columns < self.names.len() {
            summary += &format!("; {} columns, {shown_columns} shown", self.names.len());
        }
        summary + ")\n"
    }
}

impl Encode for TableText {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        self.rows += batch.num_rows();
        let left = self.limit.map_or(usize::MAX, |limit| limit - self.taken_rows);
        if left == 0 {
            return Ok(());
        }
        let options = FormatOptions::default().with_null("NULL").with_display_error(true);
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows().min(left) {
            self.take(columns.iter().map(|column| shown(&column.value(row).to_string())).collect())?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), EncodeError> {
        self.settle()?;
        if let Some(grid) = self.grid.as_ref().filter(|_| !self.names.is_empty()) {
            let (border, summary) = (grid.border(), self.summary(grid.shown()));
            write!(self.out, "{border}{summary}")?;
        }
        Ok(())
    }
}

/// `text` as it can stand in a line: what would move the cursor is spelled out.
fn shown(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars().fold(String::with_capacity(text.len()), |mut shown, character| {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
        shown
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_move_the_cursor_are_spelled_out() {
        assert_eq!(shown("a\nb\t\u{1b}[2J ü"), "a\\nb\\t\\u{1b}[2J ü");
    }
}
