//! `nightshift expand`: a template → a manifest whose rows say all, so that a run can be looked through before it is made.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Location, Result};
use crate::manifest::{self, TemplateCell, TemplateColumn, read_template};
use crate::output::Durable;
use crate::template::{Choice, Ids, Mode, Node, Sequence, Template, Weighted, parse, parse_numbers};

/// Options of `nightshift expand`.
#[derive(Debug)]
pub struct ExpandOptions {
    /// The template.
    pub template: PathBuf,
    /// The manifest to write.
    pub out: PathBuf,
    /// Folder of wildcards; `wildcards` beside the template where none is given.
    pub wildcards: Option<PathBuf>,
    /// All combinations, or draws.
    pub mode: Mode,
    /// Most rows to write.
    pub max_rows: u64,
    /// How the template is written.
    pub reading: manifest::Options,
}

/// What `nightshift expand` did.
#[derive(Debug, Serialize)]
pub struct Expanded {
    /// Rows of the template.
    pub templates: u64,
    /// Rows written.
    pub rows: u64,
    /// Where they are.
    pub out: PathBuf,
}

/// Writes the rows that a template stands for.
///
/// # Errors
/// Kind `Manifest`: the template or a wildcard is not well-formed, or stands for too many rows. Kind `Usage`: the manifest would
/// replace the template. Kind `Storage`.
pub fn expand(options: &ExpandOptions) -> Result<Expanded> {
    let file = read_template(&options.template, &options.reading)?;
    for notice in &file.notices {
        tracing::info!("{notice}");
    }
    refuse_same(&options.template, &options.out)?;
    let wildcards = Folder::new(options);
    let templates = file.rows.iter().map(|(place, cells)| template(place, &file.columns, cells, &wildcards));
    let templates = templates.collect::<Result<Vec<Template>>>()?;
    let total = templates.iter().map(|template| template.count(options.mode)).fold(0, u64::saturating_add);
    refuse_too_many(options, &file.rows, &templates, total)?;
    let names = file.columns.iter().map(|column| column.name.as_str()).filter(|name| *name != "id");
    let header: Vec<&str> = std::iter::once("id").chain(names).collect();
    Durable::default().stream(&options.out, |sink| {
        let mut writer = csv::Writer::from_writer(sink);
        let written = |error: csv::Error| Error::storage("write", &options.out, std::io::Error::other(error));
        writer.write_record(&header).map_err(written)?;
        let mut ids = Ids::default();
        for (number, (template, (place, _))) in templates.iter().zip(&file.rows).enumerate() {
            let rows = template.rows(options.mode, number as u64).map_err(|error| error.at(place.clone()))?;
            let is_only = rows.len() == 1;
            for row in &rows {
                let id = ids.of(template, row, is_only);
                writer.write_record(std::iter::once(&id).chain(row)).map_err(written)?;
            }
        }
        writer.flush().map_err(|error| Error::storage("write", &options.out, error))
    })?;
    Ok(Expanded { templates: templates.len() as u64, rows: total, out: options.out.clone() })
}

/// Reads the cells of one row.
fn template(
    place: &Location,
    columns: &[TemplateColumn],
    cells: &[TemplateCell],
    wildcards: &Folder,
) -> Result<Template> {
    let mut template = Template { id: String::new(), cells: Vec::new() };
    for (column, cell) in columns.iter().zip(cells) {
        let at = |error: Error| match error.location() {
            None => error.at(place.clone().column(&column.name)),
            Some(_) => error,
        };
        match cell {
            TemplateCell::Text(id) if column.name == "id" => template.id = id.trim().to_string(),
            _ => template.cells.push((column.name.clone(), sequence(column, cell, wildcards).map_err(at)?)),
        }
    }
    Ok(template)
}

fn sequence(column: &TemplateColumn, cell: &TemplateCell, wildcards: &Folder) -> Result<Sequence> {
    let one = |text: &String| match column.is_number {
        true => parse_numbers(text),
        false => parse(text, &|name| wildcards.lines(name)),
    };
    match cell {
        TemplateCell::Text(text) => one(text),
        TemplateCell::List(items) => {
            let option = |text| Ok(Weighted { weight: 1.0, sequence: one(text)? });
            let options = items.iter().map(option).collect::<Result<_>>()?;
            Ok(vec![Node::Choice(Choice { options, least: 1, most: 1, joiner: String::new() })])
        }
    }
}

fn refuse_same(template: &Path, out: &Path) -> Result<()> {
    let same = std::fs::canonicalize(out).ok().zip(std::fs::canonicalize(template).ok()).is_some_and(|(a, b)| a == b);
    if !same {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Usage, "same_file", "the manifest would replace the template");
    Err(error.at(Location::file(out)).hint("give `-o` another name"))
}

fn refuse_too_many(
    options: &ExpandOptions,
    rows: &[(Location, Vec<TemplateCell>)],
    templates: &[Template],
    total: u64,
) -> Result<()> {
    if total <= options.max_rows {
        return Ok(());
    }
    let count = |template: &Template| template.count(options.mode);
    let largest = (0..templates.len()).max_by_key(|number| count(&templates[*number])).unwrap_or(0);
    let many = |count: u64| if count == u64::MAX { "more than 10^19".to_string() } else { count.to_string() };
    let message = format!(
        "this row stands for {} rows, the template for {}, and {} are allowed",
        many(count(&templates[largest])),
        many(total),
        options.max_rows
    );
    let error = Error::new(ErrorKind::Manifest, "too_many_rows", message).at(rows[largest].0.clone());
    Err(error.hint("draw some of them with `--sample N`, or allow more with `--max-rows`"))
}

/// The lines of a wildcard, with their numbers.
type Lines = Vec<(u64, String)>;

/// A folder of wildcards: `NAME.txt`, one option a line; blank lines and those that begin with `#` are left out.
struct Folder {
    path: PathBuf,
    read: RefCell<HashMap<String, Lines>>,
}

impl Folder {
    fn new(options: &ExpandOptions) -> Folder {
        let beside = || options.template.parent().unwrap_or(Path::new("")).join("wildcards");
        Folder { path: options.wildcards.clone().unwrap_or_else(beside), read: RefCell::default() }
    }

    fn lines(&self, name: &str) -> Result<Lines> {
        if let Some(lines) = self.read.borrow().get(name) {
            return Ok(lines.clone());
        }
        let path = self.path.join(format!("{name}.txt"));
        let text = std::fs::read_to_string(&path).map_err(|error| self.unreadable(name, &path, error))?;
        let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
        let lines = lines.map(|(number, line)| (number as u64 + 1, line.trim().to_string()));
        let lines: Lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
        if lines.is_empty() {
            let error = Error::new(ErrorKind::Manifest, "empty_wildcard", format!("wildcard `{name}` has no lines"));
            return Err(error.at(Location::file(&path)).hint("write one option a line"));
        }
        self.read.borrow_mut().insert(name.to_string(), lines.clone());
        Ok(lines)
    }

    fn unreadable(&self, name: &str, path: &Path, error: std::io::Error) -> Error {
        if error.kind() != std::io::ErrorKind::NotFound {
            let message = format!("cannot read wildcard `{name}`: {error}");
            return Error::new(ErrorKind::Manifest, "unreadable_wildcard", message)
                .at(Location::file(path))
                .source(error);
        }
        let message = format!("there is no wildcard `{name}`: no file {}", path.display());
        let hint = match self.near(name) {
            Some(near) => format!("did you mean `__{near}__`?"),
            None => "name the folder of wildcards with `--wildcards`; it has a file NAME.txt for each".to_string(),
        };
        Error::new(ErrorKind::Manifest, "no_wildcard", message).hint(hint)
    }

    /// Returns the name in the folder that is closest.
    fn near(&self, name: &str) -> Option<String> {
        let entries = std::fs::read_dir(&self.path).ok()?;
        let names = entries.filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_string));
        let near = names.map(|other| (strsim::damerau_levenshtein(name, &other), other));
        near.filter(|(distance, _)| *distance <= 2).min().map(|(_, other)| other)
    }
}

impl fmt::Display for Expanded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.templates == 1 { "" } else { "s" };
        write!(f, "{} rows from {} template{s}: {}", self.rows, self.templates, self.out.display())
    }
}
