//! One JSON object a line: its names are columns, which may differ from line to line.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::columns::Field;
use super::header::{Column, Header};
use super::json::{self, Object};
use super::lines::{Line, lines};
use super::numbers::Problem;
use super::table::{Reading, RowProblem, Table, empty_file};
use super::{Options, openai, rowcheck};
use crate::error::{Error, ErrorKind, Location, Result};

/// Columns of one file: who has more writes values as names.
const MOST_COLUMNS: usize = 1000;

/// A file as far as it has been read.
struct Lines<'r, 'm, 'p> {
    reading: &'m mut Reading<'r>,
    table: Table<'p>,
    /// Position of the column of each name.
    positions: HashMap<String, usize>,
    /// Whether the lines are requests of OpenAI's; the first object tells.
    batch: Option<bool>,
    without_effect: BTreeSet<&'static str>,
}

/// Adds the rows of `text`.
pub(super) fn read(reading: &mut Reading, text: &[u8], path: &Path) -> Result<()> {
    let mut all = lines(text).peekable();
    let Some(first) = all.peek() else {
        return Err(empty_file(path, "write an object on each line, such as {\"prompt\": \"a cat\"}"));
    };
    refuse_documents(first, &reading.rules.options, path)?;
    reading.begin(path, None);
    let table = Table { path, header: Header::default(), slots: Vec::new() };
    let mut file = Lines { reading, table, positions: HashMap::new(), batch: None, without_effect: BTreeSet::new() };
    all.try_for_each(|line| file.line(&line))?;
    file.finish()
}

/// Checks that the first line is not the beginning of JSON that goes over several lines, of a list of objects, or of CSV.
fn refuse_documents(first: &Line, options: &Options, path: &Path) -> Result<()> {
    let line = first.bytes.trim_ascii();
    let names_prompt = |cell: &[u8]| std::str::from_utf8(cell).is_ok_and(|cell| options.is_prompt(cell));
    let (what, hint) = match line {
        _ if line.split(|byte| b",;\t|".contains(byte)).any(names_prompt) => {
            ("CSV, to judge by its header", "call it .csv, or use `--input-format csv`")
        }
        b"{" => ("one JSON object over several lines", "write one object a line: jq -c ."),
        _ if line.starts_with(b"[") && !first.unfinished && !line.ends_with(b"]") => {
            ("a JSON list over several lines", "write one object a line: jq -c '.[]'")
        }
        _ if line.starts_with(b"[{") => ("a JSON list", "write one object a line: jq -c '.[]'"),
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Manifest, "not_jsonl", format!("this is {what}"))
        .at(Location::file(path).line(first.number))
        .hint(hint))
}

impl Lines<'_, '_, '_> {
    fn line(&mut self, line: &Line) -> Result<()> {
        let Ok(text) = std::str::from_utf8(line.bytes) else {
            return self.refuse(line, "not_utf8", rowcheck::no_utf8("line", line.bytes));
        };
        match json::object(text, line.unfinished) {
            Ok(object) => self.object(object, line),
            Err((code, problem)) => self.refuse(line, code, problem),
        }
    }

    /// Adds a row without cells to the errors.
    fn refuse(&mut self, line: &Line, code: &'static str, problem: Problem) -> Result<()> {
        self.reading.refuse_line(self.table.path, line.number, code, problem);
        Ok(())
    }

    fn object(&mut self, object: Object, line: &Line) -> Result<()> {
        let batch = *self.batch.get_or_insert_with(|| openai::is_request(&object));
        let (object, error) = if batch { openai::columns(object) } else { (object, None) };
        if batch {
            self.reading.openai_batch = true;
            openai::note_without_effect(object.0.iter().map(|(name, _)| &**name), &mut self.without_effect);
        }
        self.learn(&object, line.number)?;
        let mut problems: Vec<RowProblem> = error.map(|(code, problem)| (None, code, problem)).into_iter().collect();
        let cells = self.cells(&object, &mut problems);
        let texts: Vec<&str> = cells.iter().map(|cell| cell.as_deref().unwrap_or("")).collect();
        let no_prompt = self.table.header.position(Field::Prompt).is_none();
        if problems.is_empty() && no_prompt && !self.reading.rules.options.allow_empty {
            let hint = "give each object a prompt, such as {\"prompt\": \"a cat\"}";
            problems.push((None, "empty_prompt", Problem::new("the object has no `prompt`", hint)));
        }
        self.reading.row(&self.table, &texts, line.number, problems)
    }

    /// Makes columns of the names that are new.
    fn learn(&mut self, object: &Object, line: u64) -> Result<()> {
        let path = self.table.path;
        let known = self.table.header.columns.len();
        for (name, _) in object.0.iter().filter(|(name, _)| !name.trim().is_empty()) {
            if self.positions.contains_key(&**name) {
                continue;
            }
            let at = || Location::file(path).line(line);
            let header = &mut self.table.header;
            if header.columns.len() == MOST_COLUMNS {
                let message = format!("the objects have more than {MOST_COLUMNS} different names");
                return Err(Error::new(ErrorKind::Manifest, "too_many_columns", message)
                    .at(at())
                    .hint("put what differs from row to row into values"));
            }
            header.add(name, &self.reading.rules.options, path, &at, &mut self.reading.notices)?;
            self.positions.insert(name.to_string(), header.columns.len() - 1);
        }
        if self.table.header.columns.len() > known {
            self.table.header.settle(path, &mut self.reading.notices);
            for at in known..self.table.header.columns.len() {
                let header = &self.table.header;
                let slot = self.reading.slot(&header.names[at], &header.columns[at]);
                self.table.slots.push(slot);
                if header.columns[at] == Column::Field(Field::Id) {
                    self.reading.id_column(header.titles[at].clone());
                }
            }
        }
        Ok(())
    }

    /// Returns a cell for each column, `None` where the object has none.
    fn cells<'l>(&self, object: &Object<'l>, problems: &mut Vec<RowProblem>) -> Vec<Option<Cow<'l, str>>> {
        let header = &self.table.header;
        let mut cells = vec![None; header.columns.len()];
        for (name, value) in &object.0 {
            let Some(&at) = self.positions.get(&**name) else {
                let hint = "give the value a name";
                problems.push((None, "unnamed_column", Problem::new("a value of the object has an empty name", hint)));
                continue;
            };
            if cells[at].is_some() {
                let message = format!("the name `{}` stands in the object twice", header.titles[at]);
                problems.push((None, "duplicate_key", Problem::new(message, "keep one of them")));
                continue;
            }
            let (field, code) = match header.columns[at] {
                Column::Field(field) => (Some(field), field.code()),
                _ => (None, "bad_json"),
            };
            match json::cell(value, field) {
                Ok(cell) => cells[at] = Some(cell),
                Err(problem) => problems.push((Some(at), code, problem)),
            }
        }
        if !problems.is_empty() {
            // What cannot be written as cells must not become another row when failed.csv is run.
            let id = header.position(Field::Id);
            cells.iter_mut().enumerate().filter(|(at, _)| Some(*at) != id).for_each(|(_, cell)| *cell = None);
        }
        cells
    }

    fn finish(self) -> Result<()> {
        let Lines { reading, table, without_effect, .. } = self;
        // A file whose objects could none of them be read says so row by row.
        if !table.header.columns.is_empty() {
            table.header.complete("the objects have", &reading.rules.options, &|| Location::file(table.path))?;
        }
        if !without_effect.is_empty() {
            let names: Vec<String> = without_effect.iter().map(|name| format!("`{name}`")).collect();
            let (names, path) = (names.join(", "), table.path.display());
            reading.notices.say(format!("{path}: settings of OpenAI's have no effect and go to the metadata: {names}"));
        }
        reading.end(table.path, false);
        Ok(())
    }
}
