//! Cells that pass through to the metadata: a row holds its texts in one piece, and shares the names with its neighbours.

use std::fmt;
use std::sync::Arc;

/// Names of pass-through columns, which rows share.
pub type Names = Arc<Vec<Arc<str>>>;

/// Pass-through cells of one row, with the names of their columns, in the manifest's order.
#[derive(Clone, Default)]
pub struct Extra {
    names: Option<Names>,
    /// The cells, each with a NUL after it: cells have none, or their row is refused.
    cells: Box<str>,
}

impl Extra {
    /// Returns `cells` under `names`: as many as there are names.
    pub fn new<'c>(names: &Names, cells: impl IntoIterator<Item = &'c str>) -> Self {
        let mut text = String::new();
        for cell in cells {
            debug_assert!(!cell.contains('\0'), "cells have no NUL");
            text.push_str(cell);
            text.push('\0');
        }
        let names = (!names.is_empty()).then(|| names.clone());
        Extra { names, cells: text.into_boxed_str() }
    }

    /// Returns names and cells.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &str)> {
        self.names.iter().flat_map(|names| names.iter()).zip(self.cells.split_terminator('\0'))
    }

    /// Returns the cell of the column called `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(other, _)| ***other == *name).map(|(_, cell)| cell)
    }
}

impl PartialEq for Extra {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Extra {
    fn from(pairs: [(&str, &str); N]) -> Self {
        let names = Arc::new(pairs.iter().map(|(name, _)| Arc::from(*name)).collect());
        Extra::new(&names, pairs.map(|(_, cell)| cell))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_come_back_under_their_names() {
        let extra = Extra::from([("a", ""), ("b", " x\n"), ("c", "")]);
        let cells: Vec<_> = extra.iter().map(|(name, cell)| (&**name, cell)).collect();
        assert_eq!(cells, [("a", ""), ("b", " x\n"), ("c", "")]);
        assert_eq!((extra.get("b"), extra.get("c"), extra.get("d")), (Some(" x\n"), Some(""), None));
        assert_eq!(Extra::default().iter().count(), 0);
        assert_ne!(extra, Extra::from([("a", ""), ("b", " x\n")]));
    }
}
