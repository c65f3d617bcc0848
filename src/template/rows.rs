//! The cells of a template's row → explicit rows with ids of their own.

use std::collections::HashMap;

use super::choice::{self, Piece, Sequence};
use super::dice::Dice;
use crate::error::{Error, ErrorKind, Result};

/// Which rows are made of a template's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All combinations.
    All,
    /// So many draws, with this seed.
    Sample(u64, u64),
}

/// A row of a template.
#[derive(Debug)]
pub struct Template {
    /// Its own id, as it is written; empty where it has none.
    pub id: String,
    /// Names of its columns and what their cells stand for.
    pub cells: Vec<(String, Sequence)>,
}

impl Template {
    /// Returns how many rows `mode` makes of it; `u64::MAX` for more than that.
    pub fn count(&self, mode: Mode) -> u64 {
        match mode {
            Mode::All => self.cells.iter().map(|(_, cell)| choice::count(cell)).fold(1, u64::saturating_mul),
            Mode::Sample(rows, _) => rows,
        }
    }

    /// Returns the rows, cells in the order of the columns, the last column changing fastest. `number` is this row's among those of
    /// the template.
    ///
    /// # Errors
    /// Kind `Manifest`: a reference to a column that is not there, or that itself refers to one. Without a place.
    pub fn rows(&self, mode: Mode, number: u64) -> Result<Vec<Vec<String>>> {
        match mode {
            Mode::All => self.all(),
            Mode::Sample(rows, seed) => (0..rows).map(|sample| self.sample(&[seed, number, sample])).collect(),
        }
    }

    fn all(&self) -> Result<Vec<Vec<String>>> {
        let cells: Vec<_> = self.cells.iter().map(|(_, cell)| choice::all(cell)).collect();
        let total: usize = cells.iter().map(Vec::len).product();
        let row = |index: usize| {
            let mut left = index;
            let mut picks: Vec<&[Piece]> = Vec::with_capacity(cells.len());
            for cell in cells.iter().rev() {
                picks.push(&cell[left % cell.len()]);
                left /= cell.len();
            }
            picks.reverse();
            self.resolved(&picks)
        };
        (0..total).map(row).collect()
    }

    fn sample(&self, numbers: &[u64; 3]) -> Result<Vec<String>> {
        let draws = self.cells.iter().enumerate().map(|(at, (_, cell))| {
            // Each column has dice of its own, so that changing one changes no other.
            let mut dice = Dice::new(&[numbers[0], numbers[1], numbers[2], at as u64]);
            choice::draw(cell, &mut dice)
        });
        let draws: Vec<Vec<Piece>> = draws.collect();
        self.resolved(&draws.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// Puts the texts of other columns in the place of `${column}`.
    fn resolved(&self, cells: &[&[Piece]]) -> Result<Vec<String>> {
        let text = |pieces: &[Piece]| -> Result<String> {
            let mut text = String::new();
            for piece in pieces {
                match piece {
                    Piece::Text(part) => text.push_str(part),
                    Piece::Column(name) => text.push_str(&self.plain(name, cells)?),
                }
            }
            Ok(text)
        };
        cells.iter().map(|pieces| text(pieces)).collect()
    }

    fn plain(&self, name: &str, cells: &[&[Piece]]) -> Result<String> {
        let wrong = |message: String| Error::new(ErrorKind::Manifest, "bad_reference", message);
        if name == "id" {
            return Err(wrong("`${id}` cannot be used: ids are made last".to_string()));
        }
        let Some(at) = self.cells.iter().position(|(column, _)| column == name) else {
            let names: Vec<&str> = self.cells.iter().map(|(column, _)| column.as_str()).collect();
            return Err(
                wrong(format!("`${{{name}}}` names no column")).hint(format!("columns are {}", names.join(", ")))
            );
        };
        let part = |piece: &Piece| match piece {
            Piece::Text(text) => Ok(text.clone()),
            Piece::Column(other) => Err(wrong(format!("`${{{name}}}` itself refers to `${{{other}}}`"))
                .hint("refer to columns that refer to no others")),
        };
        cells[at].iter().map(part).collect()
    }
}

/// Gives rows their ids: that of the template where it makes one row of it, else with a hash of the row's cells behind it, so that
/// rows keep their ids when others come or go.
#[derive(Debug, Default)]
pub struct Ids(HashMap<String, u64>);

impl Ids {
    /// Returns the id of a row of `template`.
    pub fn of(&mut self, template: &Template, row: &[String], is_only: bool) -> String {
        if is_only && !template.id.is_empty() {
            return template.id.clone();
        }
        let mut hasher = blake3::Hasher::new();
        for ((name, _), cell) in template.cells.iter().zip(row).filter(|(_, cell)| !cell.is_empty()) {
            for text in [name, cell] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        let hash = &hasher.finalize().to_hex()[..16];
        let id = if template.id.is_empty() { format!("x{hash}") } else { format!("{}-{hash}", template.id) };
        let seen = self.0.entry(id.clone()).or_insert(0);
        *seen += 1;
        if *seen == 1 { id } else { format!("{id}-{seen}") }
    }
}
