//! The first line: which column means what.

use std::path::Path;
use std::sync::Arc;

use super::Options;
use super::columns::{FIELDS, Field, UNSUPPORTED, field_named, misspelt, normal};
use super::notices::Notices;
use super::place::Place;
use super::records::Record;
use super::shown::shown;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::job::Names;

/// What we do with a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Column {
    /// A column that we know.
    Field(Field),
    /// Goes to the metadata unchanged, under this name.
    Extra(Arc<str>),
    /// Would change pixels in a way that we cannot yet; must be empty.
    Unsupported,
    /// Has no name; must be empty.
    Unnamed,
    /// `error_code` or `error_message` of a `failed.csv` that is run again; left out.
    Verdict,
}

/// The columns of one file.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// Names for messages: as in the file, trimmed and fit to be shown.
    pub titles: Vec<String>,
    /// Names for `failed.csv`: as in the file and trimmed, but those of known columns are ours.
    pub names: Vec<String>,
    /// What each column is.
    pub columns: Vec<Column>,
    /// Cells that every row must have: all but unnamed columns at the end.
    pub required: usize,
    /// Names of the columns that go to the metadata, as rows carry them.
    pub extra: Names,
    /// Position of the column of each field.
    positions: [Option<usize>; FIELDS.len()],
}

impl Header {
    /// Returns the position of the column that holds `field`.
    pub fn position(&self, field: Field) -> Option<usize> {
        self.positions[field as usize]
    }

    /// Returns the place of the cell `at` of a row, for messages.
    pub fn location(&self, place: Place, at: usize) -> Location {
        match self.titles.get(at) {
            Some(title) if !title.is_empty() => place.location().column(title),
            _ => place.location(),
        }
    }
}

/// Returns what the names of the header in line `line` of `path` mean.
///
/// # Errors
/// Structure errors: no prompt column, two columns of one meaning, misspelt names.
pub(super) fn understand(
    cells: &[String],
    options: &Options,
    path: &Path,
    line: u64,
    notices: &mut Notices,
) -> Result<Header> {
    whole(cells, options, path, ("the header reads", &|| Location::file(path).line(line)), notices)
}

/// Does the same for the columns of a file that has no lines.
pub(super) fn of_columns(names: &[String], options: &Options, path: &Path, notices: &mut Notices) -> Result<Header> {
    whole(names, options, path, ("the columns are", &|| Location::file(path)), notices)
}

fn whole(
    cells: &[String],
    options: &Options,
    path: &Path,
    (what, at): (&str, At),
    notices: &mut Notices,
) -> Result<Header> {
    let mut header = Header::default();
    cells.iter().try_for_each(|cell| header.add(cell, options, path, at, notices))?;
    header.complete(what, options, at)?;
    header.settle(path, notices);
    Ok(header)
}

/// Where a message about the header points.
type At<'a> = &'a dyn Fn() -> Location;

impl Header {
    /// Returns the header of a file that is nothing but prompts.
    pub fn of_prompts(options: &Options) -> Header {
        // So that the same option reads failed.csv.
        let name = options.prompt_col.as_deref().map_or(Field::Prompt.name(), str::trim).to_string();
        let mut header = Header::default();
        header.push(name.clone(), name, Column::Field(Field::Prompt));
        header.settle(Path::new(""), &mut Notices::default());
        header
    }

    /// Adds the column called `cell`.
    ///
    /// # Errors
    /// Structure errors: its name is misspelt, or it means the same as another one.
    pub fn add(&mut self, cell: &str, options: &Options, path: &Path, at: At, notices: &mut Notices) -> Result<()> {
        let name = cell.trim();
        let column = column_named(name, options).map_err(|error| error.at(at()))?;
        let written = match &column {
            Column::Field(field) if !options.names(*field, name) => {
                remark(cell, *field, path, notices);
                field.name().to_string()
            }
            _ => name.to_string(),
        };
        if let Some(first) = self.clash(&written, &column) {
            return Err(twice(&self.titles[first], cell).at(at()));
        }
        self.push(shown(name), written, column);
        Ok(())
    }

    fn push(&mut self, title: String, name: String, column: Column) {
        if let Column::Field(field) = column {
            self.positions[field as usize] = Some(self.columns.len());
        }
        self.titles.push(title);
        self.names.push(name);
        self.columns.push(column);
    }

    /// Checks that the columns that must be there are; `what` begins the list of those that are.
    ///
    /// # Errors
    /// A structure error.
    pub fn complete(&self, what: &str, options: &Options, at: At) -> Result<()> {
        if self.position(Field::Prompt).is_none() {
            return Err(self.no_prompt(what, options).at(at()));
        }
        match options.id_col.as_deref().filter(|_| self.position(Field::Id).is_none()) {
            Some(name) => Err(self.no_column(name, "--id-col", what).at(at())),
            None => Ok(()),
        }
    }

    /// Works out what follows from the columns that are there so far.
    pub fn settle(&mut self, path: &Path, notices: &mut Notices) {
        self.required = self.columns.iter().rposition(|column| *column != Column::Unnamed).map_or(0, |last| last + 1);
        self.rename_reserved(path, notices);
        self.extra = self.extra_names();
    }

    /// Returns the position of the column that means the same as a new one.
    fn clash(&self, name: &str, column: &Column) -> Option<usize> {
        if *column == Column::Unnamed {
            return None;
        }
        let same = |(other_name, other): (&String, &Column)| match (other, column) {
            (Column::Field(other), Column::Field(field)) => other == field,
            _ => other_name == name,
        };
        self.names.iter().zip(&self.columns).position(same)
    }

    /// Returns the names of the columns that go to the metadata.
    fn extra_names(&self) -> Names {
        let name = |column: &Column| match column {
            Column::Extra(name) => Some(name.clone()),
            _ => None,
        };
        Arc::new(self.columns.iter().filter_map(name).collect())
    }

    /// Renames the pass-through columns whose names the output needs or a loader would misread.
    fn rename_reserved(&mut self, path: &Path, notices: &mut Notices) {
        for at in 0..self.columns.len() {
            let Column::Extra(name) = &self.columns[at] else { continue };
            let taken = |name: &str, columns: &[Column]| {
                columns.iter().any(|column| matches!(column, Column::Extra(other) if **other == *name))
            };
            let reserved = super::columns::is_reserved(name);
            if !reserved && !taken(name, &self.columns[..at]) {
                continue;
            }
            let mut free = if reserved { super::columns::unreserved(name) } else { format!("{name}_") };
            while taken(&free, &self.columns) {
                free.push('_');
            }
            let shown_name = shown(name);
            notices.say(format!("{}: column `{shown_name}` goes to the metadata as `{free}`", path.display()));
            self.columns[at] = Column::Extra(free.into());
        }
    }
}

/// Returns what a column called `name` is.
fn column_named(name: &str, options: &Options) -> Result<Column> {
    if name.is_empty() {
        return Ok(Column::Unnamed);
    }
    if let Some(field) = options.field_named(name) {
        return Ok(Column::Field(field));
    }
    let normal = normal(name);
    if UNSUPPORTED.contains(&normal.as_str()) {
        return Ok(Column::Unsupported);
    }
    if ["error_code", "error_message"].contains(&normal.as_str()) {
        return Ok(Column::Verdict);
    }
    match misspelt(&normal).filter(|field| !options.overrides(*field)) {
        Some(field) => {
            let message = format!("column `{}` is unknown, but looks like one of ours", shown(name));
            Err(Error::new(ErrorKind::Manifest, "unknown_column", message)
                .hint(format!("did you mean `{}`? if not, choose a name less like it", field.name())))
        }
        None => Ok(Column::Extra(name.into())),
    }
}

impl Options {
    /// Returns the field that a column called `name` holds.
    fn field_named(&self, name: &str) -> Option<Field> {
        if self.names(Field::Prompt, name) {
            return Some(Field::Prompt);
        }
        if self.names(Field::Id, name) {
            return Some(Field::Id);
        }
        field_named(&normal(name)).filter(|field| !self.overrides(*field))
    }

    /// Returns whether an option names another column for `field`.
    fn overrides(&self, field: Field) -> bool {
        match field {
            Field::Prompt => self.prompt_col.is_some(),
            Field::Id => self.id_col.is_some(),
            _ => false,
        }
    }

    /// Returns whether an option says that the column called `name` holds `field`.
    fn names(&self, field: Field, name: &str) -> bool {
        let option = match field {
            Field::Prompt => &self.prompt_col,
            Field::Id => &self.id_col,
            _ => &None,
        };
        option.as_deref().is_some_and(|option| option.trim() == name)
    }

    /// Returns whether a column called `name` has a meaning to us.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.field_named(name.trim()).is_some() || UNSUPPORTED.contains(&normal(name).as_str())
    }

    /// Returns whether a column called `cell` can be the prompt.
    pub(super) fn is_prompt(&self, cell: &str) -> bool {
        self.field_named(cell.trim()) == Some(Field::Prompt)
    }
}

/// Says that a known column was recognised though its name is written another way. Aliases need no remark.
fn remark(cell: &str, field: Field, path: &Path, notices: &mut Notices) {
    if !field.spellings().contains(&cell) {
        notices.say(format!("{}: column `{}` read as `{}`", path.display(), shown(cell), field.name()));
    }
}

fn twice(first: &str, second: &str) -> Error {
    let (first, second) = (shown(first.trim()), shown(second.trim()));
    let message = match first == second {
        true => format!("two columns are called `{first}`"),
        false => format!("the columns `{first}` and `{second}` mean the same"),
    };
    Error::new(ErrorKind::Manifest, "duplicate_column", message).hint("rename or remove one of them")
}

impl Header {
    fn no_prompt(&self, what: &str, options: &Options) -> Error {
        if let Some(name) = &options.prompt_col {
            return self.no_column(name, "--prompt-col", what);
        }
        let message = format!("no column is called `prompt`: {what} {}", listed(&self.titles));
        let hint = match (what, self.columns.len()) {
            ("the header reads", 1) => {
                "begin the file with the names of its columns, such as `prompt`; or read one prompt a line with `--input-format txt`"
            }
            ("the header reads", _) => {
                "begin the file with the names of its columns, such as `prompt,seed`, or name the column with `--prompt-col`"
            }
            _ => "call the column of the prompts `prompt`, or name it with `--prompt-col`",
        };
        Error::new(ErrorKind::Manifest, "no_prompt_column", message).hint(hint)
    }

    fn no_column(&self, name: &str, option: &str, what: &str) -> Error {
        let message = format!("no column is called `{}`: {what} {}", shown(name), listed(&self.titles));
        Error::new(ErrorKind::Manifest, "no_such_column", message).hint(format!("name one of these with `{option}`"))
    }
}

/// Returns the cells of a row as text; bytes that are not UTF-8 have been refused before, where it matters.
pub(super) fn cells(record: &Record) -> Vec<String> {
    record.cells.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect()
}

/// Returns the first names, fit to be shown, in backticks.
fn listed(cells: &[String]) -> String {
    let mut names: Vec<String> = cells.iter().take(8).map(|cell| format!("`{cell}`")).collect();
    if cells.len() > names.len() {
        names.push("…".into());
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cells: &[&str], options: &Options) -> (Result<Header, String>, Vec<String>) {
        let cells: Vec<String> = cells.iter().map(|cell| cell.to_string()).collect();
        let mut notices = Notices::default();
        let header = understand(&cells, options, Path::new("a.csv"), 1, &mut notices);
        (header.map_err(|error| error.to_string()), notices.into_lines())
    }

    #[test]
    fn names_are_known_in_any_dress() {
        let (header, notices) = read(&[" Prompt ", "CFG Scale", "steps", "label", "my note", ""], &Options::default());
        let header = header.expect("a good header");
        assert_eq!(header.names, ["prompt", "guidance_scale", "num_inference_steps", "label", "my note", ""]);
        assert_eq!(header.columns[3], Column::Extra("src_label".into()));
        assert_eq!(header.required, 5);
        assert_eq!(
            notices,
            [
                "a.csv: column ` Prompt ` read as `prompt`",
                "a.csv: column `CFG Scale` read as `guidance_scale`",
                "a.csv: column `label` goes to the metadata as `src_label`",
            ]
        );
    }

    #[test]
    fn an_option_names_the_prompt_and_frees_the_other_names() {
        let options = Options { prompt_col: Some("beschreibung".into()), ..Options::default() };
        let header = read(&["prompt", "beschreibung", "prompts"], &options).0.expect("a good header");
        assert_eq!(header.position(Field::Prompt), Some(1));
        assert_eq!(header.columns[0], Column::Extra("src_prompt".into()));
        assert_eq!(header.names[1], "beschreibung", "so that the same option reads failed.csv");
    }

    #[test]
    fn renamed_columns_stay_apart() {
        let header = read(&["prompt", "src_label", "label"], &Options::default()).0.expect("a good header");
        assert_eq!(header.columns[2], Column::Extra("src_label_".into()));
    }
}
