//! How wide the columns of a drawn table are, and the lines that are drawn with that.

use console::{measure_text_width, truncate_str};

/// A value is not cut below this many characters to make room for other columns.
const LEAST_WIDTH: usize = 12;

/// A value on a terminal has at most this many characters.
const MOST_WIDTH: usize = 60;

/// Stands for what was cut, or left out.
const CUT: &str = "…";

/// Columns, their widths, and which of them are drawn.
#[derive(Debug)]
pub(crate) struct Grid {
    columns: Vec<Column>,
    /// Place of the mark for columns that are left out.
    gap: Option<usize>,
    /// Whether values may be cut: on a terminal, where a long line is no use, and nowhere else.
    cut: bool,
}

#[derive(Debug)]
struct Column {
    /// Its place in a row.
    place: usize,
    width: usize,
    right: bool,
}

impl Grid {
    /// The layout of columns whose values are `wanted` characters wide at the most, on lines of `line` characters where
    /// lines have an end. `right` says which columns are aligned so.
    pub(crate) fn new(wanted: &[usize], right: &[bool], line: Option<usize>) -> Self {
        let column = |(place, (width, right)): (usize, (&usize, &bool))| Column { place, width: *width, right: *right };
        let mut columns: Vec<Column> = wanted.iter().zip(right).enumerate().map(column).collect();
        let Some(line) = line else { return Self { columns, gap: None, cut: false } };
        for column in &mut columns {
            column.width = column.width.min(MOST_WIDTH);
        }
        // The widest give way first.
        while drawn_width(&columns, false) > line {
            match columns.iter_mut().max_by_key(|column| column.width) {
                Some(widest) if widest.width > LEAST_WIDTH => widest.width -= 1,
                _ => break,
            }
        }
        let mut gap = None;
        while drawn_width(&columns, gap.is_some()) > line && columns.len() > 2 {
            let middle = columns.len() / 2;
            columns.remove(middle);
            gap = Some(middle);
        }
        Self { columns, gap, cut: true }
    }

    /// How many columns are drawn.
    pub(crate) fn shown(&self) -> usize {
        self.columns.len()
    }

    /// The line above, between and below.
    pub(crate) fn border(&self) -> String {
        let mut dashes: Vec<String> = self.columns.iter().map(|column| "-".repeat(column.width + 2)).collect();
        if let Some(gap) = self.gap {
            dashes.insert(gap, "---".into());
        }
        format!("+{}+\n", dashes.join("+"))
    }

    /// The line of one row.
    pub(crate) fn line(&self, cells: &[String]) -> String {
        let mut drawn: Vec<String> =
            self.columns.iter().map(|column| self.cell(column, &cells[column.place])).collect();
        if let Some(gap) = self.gap {
            drawn.insert(gap, CUT.into());
        }
        format!("| {} |\n", drawn.join(" | "))
    }

    fn cell(&self, column: &Column, text: &str) -> String {
        let wide = measure_text_width(text);
        if wide > column.width {
            // Elsewhere than on a terminal a longer value makes a longer line: nothing is lost.
            return if self.cut { truncate_str(text, column.width, CUT).into_owned() } else { text.to_owned() };
        }
        let padding = " ".repeat(column.width - wide);
        if column.right { padding + text } else { text.to_owned() + &padding }
    }
}

fn drawn_width(columns: &[Column], gap: bool) -> usize {
    columns.iter().map(|column| column.width + 3).sum::<usize>() + 1 + if gap { 4 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_string()).collect()
    }

    #[test]
    fn without_an_end_of_line_nothing_is_cut() {
        let grid = Grid::new(&[3, 2], &[false, true], None);
        assert_eq!(grid.border(), "+-----+----+\n");
        assert_eq!(grid.line(&cells(&["a", "1"])), "| a   |  1 |\n");
        assert_eq!(grid.line(&cells(&["longer", "1"])), "| longer |  1 |\n");
    }

    #[test]
    fn on_a_terminal_the_widest_give_way_and_then_the_columns_in_the_middle() {
        let grid = Grid::new(&[4, 100], &[true, false], Some(40));
        let line = grid.line(&cells(&["7", &"x".repeat(100)]));
        assert_eq!(measure_text_width(line.trim_end()), 40);
        assert!(line.ends_with("x… |\n"), "{line}");

        let grid = Grid::new(&[20; 10], &[false; 10], Some(80));
        let texts: Vec<String> = (0..10).map(|place| format!("value {place}")).collect();
        let line = grid.line(&texts);
        assert!(measure_text_width(line.trim_end()) <= 80, "{line}");
        assert!(line.contains("value 0") && line.contains("value 9") && line.contains(CUT), "{line}");
        assert_eq!(grid.border().len(), grid.line(&texts).chars().count());
        assert!(grid.shown() < 10);
    }
}
