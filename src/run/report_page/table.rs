//! Rows kept by columns, each distinct text once.

use std::collections::HashMap;

use serde_json::{Value, json};

/// A table that grows by rows; columns appear as they come.
#[derive(Debug, Default)]
pub struct Table {
    columns: Vec<Column>,
    places: HashMap<String, usize>,
    rows: usize,
}

#[derive(Debug)]
struct Column {
    name: String,
    values: Vec<String>,
    known: HashMap<String, u32>,
    /// Which value each row has.
    rows: Vec<u32>,
}

impl Table {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Adds a row; columns that it does not name are empty in it.
    pub fn push<N: AsRef<str>, V: Into<String>>(&mut self, cells: impl IntoIterator<Item = (N, V)>) {
        for (name, value) in cells {
            let at = self.column(name.as_ref());
            let column = &mut self.columns[at];
            // A name that a row says twice keeps its first value.
            if column.rows.len() == self.rows {
                let value = column.index(value.into());
                column.rows.push(value);
            }
        }
        self.rows += 1;
        for column in &mut self.columns {
            if column.rows.len() < self.rows {
                let empty = column.index(String::new());
                column.rows.push(empty);
            }
        }
    }

    /// Returns a cell; `None` for a column that no row has.
    pub fn get(&self, row: usize, name: &str) -> Option<&str> {
        let column = &self.columns[*self.places.get(name)?];
        Some(&column.values[*column.rows.get(row)? as usize])
    }

    /// Returns the columns as the page reads them: `values`, and which of them each row has; `rows` is null where each row has its own.
    pub fn columns(&self) -> Vec<Value> {
        let column = |column: &Column| {
            let own = column.rows.iter().enumerate().all(|(row, value)| *value as usize == row);
            let rows = if own { Value::Null } else { json!(column.rows) };
            json!({"name": column.name, "values": column.values, "rows": rows})
        };
        self.columns.iter().map(column).collect()
    }

    fn column(&mut self, name: &str) -> usize {
        if let Some(at) = self.places.get(name) {
            return *at;
        }
        let mut column = Column { name: name.to_string(), values: Vec::new(), known: HashMap::new(), rows: Vec::new() };
        if self.rows > 0 {
            column.rows = vec![column.index(String::new()); self.rows];
        }
        self.places.insert(name.to_string(), self.columns.len());
        self.columns.push(column);
        self.columns.len() - 1
    }
}

impl Column {
    fn index(&mut self, value: String) -> u32 {
        if let Some(index) = self.known.get(&value) {
            return *index;
        }
        let index = self.values.len() as u32;
        self.values.push(value.clone());
        self.known.insert(value, index);
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_appear_as_they_come() {
        let mut table = Table::default();
        table.push([("a", "x")]);
        table.push([("a", "y"), ("b", "1")]);
        table.push([("b", "1"), ("a", "y")]);
        let expected = json!([
            {"name": "a", "values": ["x", "y"], "rows": [0, 1, 1]},
            {"name": "b", "values": ["", "1"], "rows": [0, 1, 1]},
        ]);
        assert_eq!(json!(table.columns()), expected);
        assert_eq!(table.len(), 3);
        assert_eq!((table.get(2, "a"), table.get(0, "b"), table.get(0, "c")), (Some("y"), Some(""), None));
    }
}
