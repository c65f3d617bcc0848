//! What the tests of the documentation need to know of Markdown: links, headings, tables, code.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the documentation.
pub struct Page {
    pub path: PathBuf,
    pub text: String,
}

/// Folders that hold no documentation of ours.
const PASSED_OVER: [&str; 3] = ["target", "out", "proptest-regressions"];

/// Returns every Markdown file below `root`, hidden folders and what is built left out.
pub fn pages(root: &Path) -> Vec<Page> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && !PASSED_OVER.contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.push(page(&path));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Returns the file at `path`.
pub fn page(path: &Path) -> Page {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Page { path: path.to_path_buf(), text }
}

impl Page {
    /// Returns the lines, each with whether it stands in a fenced block of code; the fences themselves are left out.
    pub fn lines(&self) -> impl Iterator<Item = (bool, &str)> {
        let mut in_code = false;
        self.text.lines().filter_map(move |line| {
            let fence = line.trim_start().starts_with("```");
            in_code ^= fence;
            (!fence).then_some((in_code, line))
        })
    }

    /// Returns the targets of all links that are not in code.
    pub fn links(&self) -> Vec<&str> {
        let prose = self.lines().filter(|(in_code, _)| !in_code).map(|(_, line)| line);
        prose.flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next())).collect()
    }

    /// Returns what a link to each of the headings is called.
    pub fn anchors(&self) -> Vec<String> {
        let headings = self.lines().filter(|(in_code, line)| !in_code && line.starts_with('#'));
        headings.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
    }

    /// Returns the page from the heading `## title` to the next of its kind.
    pub fn section(&self, title: &str) -> Page {
        let (_, rest) =
            self.text.split_once(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no section {title}"));
        let text = rest.split("\n## ").next().unwrap_or_default().to_string();
        Page { path: self.path.clone(), text }
    }

    /// Returns all that stands below each heading of the second kind.
    pub fn sections(&self) -> Vec<Page> {
        let section = |text: &str| Page { path: self.path.clone(), text: text.to_string() };
        self.text.split("\n## ").skip(1).map(section).collect()
    }

    /// Returns the cells of all rows of all tables, headers and rules left out.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let lines: Vec<&str> = self.lines().filter(|(in_code, _)| !in_code).map(|(_, line)| line).collect();
        let is_rule = |line: &str| line.starts_with("|--");
        let rows = (0..lines.len()).filter(|&at| {
            let header = lines.get(at + 1).is_some_and(|next| is_rule(next));
            lines[at].starts_with('|') && !is_rule(lines[at]) && !header
        });
        rows.map(|at| cells(lines[at])).collect()
    }

    /// Returns the commands in blocks of code, a line each with its continuations, and what stands between backticks elsewhere.
    pub fn code(&self) -> Vec<String> {
        let mut code = Vec::new();
        let mut pending = String::new();
        for (in_code, line) in self.lines() {
            match (in_code, line.strip_suffix('\\')) {
                (true, Some(begun)) => pending.push_str(begun),
                (true, None) => code.push(std::mem::take(&mut pending) + line),
                (false, _) => code.extend(spans(line).map(str::to_string)),
            }
        }
        code
    }
}

/// Returns what stands between backticks in a line.
pub fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_matches('|').replace("\\|", "\u{1}");
    line.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
}

/// Returns a heading as GitHub makes an anchor of it.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}
