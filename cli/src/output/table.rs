//! Tables for people, as wide as the terminal and no wider.

use std::borrow::Cow;

use console::{measure_text_width, truncate_str};
use postroad_common::text::one_line;

/// Between two columns.
const GAP: usize = 2;
/// A column is not made narrower than this; before that, columns at the right are left out.
const WIDTH_MIN: usize = 4;
/// Nor is one of names, if it is the first.
const NAME_WIDTH_MIN: usize = 12;

/// Rows under headers.
pub(crate) struct Table {
    headers: Vec<&'static str>,
    right: Vec<usize>,
    first_min: usize,
    rows: Vec<Vec<String>>,
}

/// A table as text.
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// Columns that had no room.
    pub(crate) hidden: usize,
}

impl Table {
    pub(crate) fn new<const N: usize>(headers: [&'static str; N]) -> Self {
        Self {
            headers: headers.into(),
            right: Vec::new(),
            first_min: usize::MAX,
            rows: Vec::new(),
        }
    }

    /// The first column holds names, which are known by their beginnings, and no ids.
    pub(crate) fn of_names(mut self) -> Self {
        self.first_min = NAME_WIDTH_MIN;
        self
    }

    /// Aligns these columns at the right: numbers, which are shown whole or not at all.
    pub(crate) fn right(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        self.right.extend(columns);
        self
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.headers.len(), "a cell for each header");
        self.rows.push(cells.map(|cell| one_line(&cell)).into());
    }

    /// The table for a terminal of this width; without one, as wide as it is.
    pub(crate) fn render(&self, width: Option<usize>) -> Rendered {
        let widths = match width {
            Some(width) => self.fitted(width.max(1)),
            None => self.natural_widths(),
        };
        let mut text = String::new();
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|name| Cow::Borrowed(*name))
            .collect();
        self.push_line(&mut text, &headers, &widths);
        for row in &self.rows {
            let cells: Vec<_> = row
                .iter()
                .map(|cell| Cow::Borrowed(cell.as_str()))
                .collect();
            self.push_line(&mut text, &cells, &widths);
        }
        Rendered {
            text,
            hidden: self.headers.len() - widths.len(),
        }
    }

    fn natural_widths(&self) -> Vec<usize> {
        let mut widths: Vec<_> = self.headers.iter().map(|name| name.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(measure_text_width(cell));
            }
        }
        widths
    }

    /// The widths of the columns that fit. Texts give way first, then names; then columns at the
    /// right are left out; the last to give way is what a row is called by.
    fn fitted(&self, room: usize) -> Vec<usize> {
        let mut widths = self.natural_widths();
        let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * (widths.len() - 1);
        while total(&widths) > room {
            let is_text = |n: &usize| !self.right.contains(n);
            let wide = (1..widths.len())
                .filter(is_text)
                .filter(|n| widths[*n] > WIDTH_MIN);
            match wide.max_by_key(|n| widths[*n]) {
                Some(widest) => widths[widest] -= 1,
                None if widths[0] > self.first_min => widths[0] -= 1,
                None if widths.len() > 1 => drop(widths.pop()),
                None => widths[0] = room,
            }
        }
        widths
    }

    fn push_line(&self, text: &mut String, cells: &[Cow<'_, str>], widths: &[usize]) {
        let mut line = String::new();
        for (n, (cell, width)) in cells.iter().zip(widths).enumerate() {
            if n > 0 {
                line.push_str(&" ".repeat(GAP));
            }
            let cell = truncate_str(cell, *width, "…");
            let room = " ".repeat(width.saturating_sub(measure_text_width(&cell)));
            match self.right.contains(&n) {
                true => line += &format!("{room}{cell}"),
                false => line += &format!("{cell}{room}"),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["ID", "NAME", "COUNT", "ERROR"]).right([2]);
        for n in [1, 1000] {
            table.row([
                "0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a".to_owned(),
                "ÄÖ 漢字 😀".to_owned(),
                n.to_string(),
                "the other side said\n\u{1b}[2J no ".repeat(9),
            ]);
        }
        table
    }

    #[test]
    fn it_fits_every_width() {
        let table = table();
        for width in 0..300 {
            for line in table.render(Some(width)).text.lines() {
                assert!(measure_text_width(line) <= width.max(1), "{width}: {line}");
            }
        }
    }

    #[test]
    fn what_identifies_a_row_is_kept_whole_and_columns_at_the_right_go_first() {
        let table = table();
        let at_80 = table.render(Some(80));
        assert_eq!(at_80.hidden, 0);
        assert!(at_80.text.contains("0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a"));
        let at_40 = table.render(Some(40));
        assert_eq!(at_40.hidden, 3);
        assert!(at_40.text.contains("0193c2a5-7b1e-7c3a-9f00-3b1f5d1c2e4a"));
        assert!(table.render(Some(20)).text.contains("0193c2a5-7b1e-7c3a-…"));
    }

    #[test]
    fn numbers_stand_at_the_right_and_nothing_moves_the_cursor() {
        let text = table().render(None).text;
        let lines: Vec<_> = text.lines().collect();
        let end_of = |line: &str, what: &str| measure_text_width(&line[..line.find(what).unwrap()]);
        assert_eq!(
            end_of(lines[1], "1  the") + 1,
            end_of(lines[2], "1000  the") + 4
        );
        assert!(!text.contains('\u{1b}'), "{text}");
        assert_eq!(lines.len(), 3);
    }
}
