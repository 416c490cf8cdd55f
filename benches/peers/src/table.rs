//! A table for people.

use std::fmt;

/// Rows and columns are in the order in which they are first named.
pub(crate) struct Table {
    title: &'static str,
    rows: Vec<String>,
    columns: Vec<String>,
    cells: Vec<(usize, usize, String)>,
}

impl Table {
    pub(crate) fn new(title: &'static str) -> Self {
        Self {
            title,
            rows: Vec::new(),
            columns: Vec::new(),
            cells: Vec::new(),
        }
    }

    pub(crate) fn set(&mut self, row: &str, column: &str, text: &str) {
        let row = place(&mut self.rows, row);
        let column = place(&mut self.columns, column);
        self.cells.push((row, column, text.to_owned()));
    }
}

fn place(names: &mut Vec<String>, name: &str) -> usize {
    names
        .iter()
        .position(|known| known == name)
        .unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |row, column| {
            let found = self
                .cells
                .iter()
                .find(|cell| (cell.0, cell.1) == (row, column));
            found.map_or("-", |cell| &cell.2)
        };
        let first = self.rows.iter().map(String::len).max().unwrap_or(0);
        let widths = self.columns.iter().enumerate().map(|(column, name)| {
            let cells = (0..self.rows.len()).map(|row| cell(row, column).len());
            cells.max().unwrap_or(0).max(name.len())
        });
        let widths: Vec<_> = widths.collect();

        writeln!(f, "{}", self.title)?;
        write!(f, "{:first$}", "")?;
        for (name, width) in self.columns.iter().zip(&widths) {
            write!(f, "  {name:>width$}")?;
        }
        for (row, name) in self.rows.iter().enumerate() {
            write!(f, "\n{name:first$}")?;
            for (column, width) in widths.iter().enumerate() {
                write!(f, "  {:>width$}", cell(row, column))?;
            }
        }
        writeln!(f)
    }
}
