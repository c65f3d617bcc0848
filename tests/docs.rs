//! Documentation and program say the same: flags, columns, error codes, exit codes, links, commands.
//!
//! `docs/cli.md` is written by `UPDATE_DOCS=1 cargo test --release --test docs`.

#[path = "support/markdown.rs"]
mod markdown;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory};
use markdown::{Page, page, pages, spans};
use nightshift::cli::Cli;
use nightshift::manifest::COLUMNS;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn doc(name: &str) -> Page {
    page(&root().join(name))
}

/// Returns the program, its help as wide as the pages are.
fn program() -> Command {
    let quiet = |command: Command| command.term_width(110).mut_args(|arg| arg.hide_env_values(true));
    let mut program = quiet(Cli::command().disable_help_subcommand(true));
    let names: Vec<String> = program.get_subcommands().map(|command| command.get_name().to_string()).collect();
    for name in names {
        program = program.mut_subcommand(name, quiet);
    }
    program.build();
    program
}

// Flags.

const CLI_HEAD: &str = "\
# Command line

Written by `UPDATE_DOCS=1 cargo test --release --test docs` from the program's own help; do not edit.
A flag beats its environment variable. `nightshift man` has the same as man pages, and `nightshift completions` helps shells.
";

fn cli_page() -> String {
    let mut program = program();
    let mut text = format!("{CLI_HEAD}\n## nightshift\n\n```\n{}```\n", plain(&mut program));
    for command in program.get_subcommands_mut() {
        let name = command.get_name().to_string();
        text += &format!("\n## nightshift {name}\n\n```\n{}```\n", plain(command));
    }
    text
}

/// Returns a command's help without what terminals take for styles and blanks at the ends of lines.
fn plain(command: &mut Command) -> String {
    let help = command.render_long_help().to_string();
    help.lines().map(|line| line.trim_end().to_string() + "\n").collect()
}

#[test]
fn the_page_of_the_command_line_is_the_programs_own_help() {
    let path = root().join("docs/cli.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, cli_page()).expect("writable");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == cli_page(),
        "docs/cli.md is not what --help says: UPDATE_DOCS=1 cargo test --release --test docs"
    );
}

fn long_names(arg: &Arg) -> Vec<String> {
    arg.get_long_and_visible_aliases().unwrap_or_default().into_iter().map(str::to_string).collect()
}

/// Returns the flags of every command, with those names that help does not show.
fn flags() -> BTreeMap<String, BTreeSet<String>> {
    let program = program();
    let all = |command: &Command| {
        let hidden = command.get_arguments().flat_map(|arg| arg.get_all_aliases().unwrap_or_default());
        let hidden: Vec<String> = hidden.map(str::to_string).collect();
        command.get_arguments().flat_map(long_names).chain(hidden).collect()
    };
    program.get_subcommands().map(|command| (command.get_name().to_string(), all(command))).collect()
}

/// Returns the flags in a piece of code.
fn flags_in(code: &str) -> impl Iterator<Item = &str> {
    let words = code.split(|c: char| c.is_whitespace() || "\"'()[]{}|,;=`".contains(c));
    words.filter_map(|word| word.strip_prefix("--")).filter(|flag| flag.starts_with(|c: char| c.is_ascii_alphabetic()))
}

#[test]
fn commands_in_the_documentation_have_flags_that_exist() {
    let flags = flags();
    let mut wrong = Vec::new();
    for page in pages(root()) {
        for command in page.code().iter().flat_map(|code| code.split("&&")) {
            let Some((_, words)) = command.split_once("nightshift ") else { continue };
            let words = words.split("#").next().unwrap_or_default();
            let name = words.split_whitespace().next().unwrap_or_default();
            let Some(known) = flags.get(name) else { continue };
            let unknown = flags_in(words).filter(|flag| !known.contains(*flag) && *flag != "help");
            wrong.extend(unknown.map(|flag| format!("{}: nightshift {name} --{flag}", page.path.display())));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// Flags of other programs that the pages name by themselves.
const OF_OTHERS: [&str; 9] =
    ["batch-count", "gpus", "jobs", "joblog", "termseq", "array", "dependency", "release", "test"];

#[test]
fn flags_that_are_named_alone_exist() {
    let scripts = ["onnx", "benches", "tests", "scripts"].map(|folder| sources(folder, "py")).concat();
    let mut known: BTreeSet<String> = flags().into_values().flatten().collect();
    known.extend(["help", "version"].map(str::to_string));
    known.extend(OF_OTHERS.map(str::to_string));
    known.extend(scripts.iter().flat_map(|(_, text)| flags_in(text)).map(str::to_string));
    let mut wrong = BTreeSet::new();
    for page in ["README.md", "ARCHITECTURE.md"].map(doc).into_iter().chain(pages(&root().join("docs"))) {
        let prose = page.lines().filter(|(in_code, _)| !in_code);
        let named = prose.flat_map(|(_, line)| spans(line)).filter(|span| span.starts_with("--"));
        let unknown = named.flat_map(flags_in).filter(|flag| !known.contains(*flag));
        wrong.extend(unknown.map(|flag| format!("{}: --{flag}", page.path.display())));
    }
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn commands_that_are_named_exist() {
    let flags = flags();
    let mut wrong = BTreeSet::new();
    for page in pages(root()) {
        for span in page.lines().filter(|(in_code, _)| !in_code).flat_map(|(_, line)| spans(line)) {
            let Some(name) = span.strip_prefix("nightshift ").and_then(|rest| rest.split_whitespace().next()) else {
                continue;
            };
            if !flags.contains_key(name) && !name.starts_with(['-', '…']) {
                wrong.insert(format!("{}: {span}", page.path.display()));
            }
        }
    }
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn environment_variables_of_the_documentation_exist() {
    let code = ["src", "jobs", "tests", "benches"].map(|folder| all_files(&root().join(folder))).concat();
    let code: String =
        code.iter().filter(|path| !is_page(path)).filter_map(|path| fs::read_to_string(path).ok()).collect();
    let mut wrong = BTreeSet::new();
    for page in pages(root()) {
        let names = page.text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
        let ours = names.filter(|name| name.starts_with("NIGHTSHIFT_") && name.len() > "NIGHTSHIFT_".len());
        wrong.extend(ours.filter(|name| !code.contains(*name)).map(|name| format!("{}: {name}", page.path.display())));
    }
    assert_eq!(wrong, BTreeSet::new());
}

// Columns.

#[test]
fn the_manifest_reference_has_every_column_with_its_aliases_and_no_other() {
    let section = doc("docs/manifest.md").section("Columns");
    let names = |cell: &str| spans(cell).map(str::to_string).collect::<Vec<_>>();
    let documented: BTreeMap<String, Vec<String>> =
        section.rows().iter().map(|row| (names(&row[0]).concat(), names(&row[1]))).collect();
    let strings = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let known: BTreeMap<String, Vec<String>> =
        COLUMNS.iter().map(|column| (column.name.to_string(), strings(column.aliases))).collect();
    assert_eq!(documented, known);
}

#[test]
fn the_readme_has_every_column() {
    let section = doc("README.md").section("The manifest");
    let named: BTreeSet<&str> = section.text.lines().filter(|line| line.starts_with('|')).flat_map(spans).collect();
    let missing: Vec<_> = COLUMNS.iter().map(|column| column.name).filter(|name| !named.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

// Error codes.

/// Returns the codes of errors in `src` that a user can cause, as far as they stand where the error is made: after the error's
/// kind (`ErrorKind::Row, "bad_weight"`), or before what is wrong (`"empty_prompt", Problem::new`).
fn codes() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for (_, text) in sources("src", "rs") {
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        codes.extend(text.split("ErrorKind::").skip(1).filter_map(code_after_kind).map(str::to_string));
        let parts: Vec<&str> = text.split("\", Problem::new(").collect();
        let before_problems = parts.iter().rev().skip(1).filter_map(|text| text.rsplit('"').next());
        let of_calls = text.split("Err(error(\"").skip(1).filter_map(|text| text.split('"').next());
        codes.extend(before_problems.chain(of_calls).filter(|code| is_code(code)).map(str::to_string));
    }
    codes
}

fn code_after_kind(rest: &str) -> Option<&str> {
    let (kind, rest) = rest.split_once(',')?;
    let (code, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
    (kind.chars().all(char::is_alphabetic) && kind != "Unexpected" && is_code(code)).then_some(code)
}

fn is_code(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Returns the codes in the first column of the tables of errors.
fn documented_codes() -> BTreeSet<String> {
    let pages = ["docs/manifest.md", "docs/models.md", "docs/faq.md"].map(doc);
    let tables = pages.iter().flat_map(Page::sections).filter(|section| section.text.contains("\n| code |"));
    let first: Vec<String> = tables.flat_map(|section| section.rows()).map(|row| row[0].clone()).collect();
    let codes = first.iter().flat_map(|cell| spans(cell)).filter(|span| is_code(span) && !span.ends_with('_'));
    codes.map(str::to_string).collect()
}

#[test]
fn every_error_that_a_user_can_cause_is_documented() {
    let documented = documented_codes();
    let column = |code: &str| COLUMNS.iter().any(|column| code == format!("bad_{}", column.name));
    let codes = codes();
    assert!(codes.len() > 80, "found only {codes:?}");
    let missing: Vec<&String> = codes.iter().filter(|code| !documented.contains(*code) && !column(code)).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn every_documented_error_exists() {
    let source: String = sources("src", "rs").into_iter().map(|(_, text)| text).collect();
    let unknown: Vec<_> =
        documented_codes().into_iter().filter(|code| !source.contains(&format!("\"{code}\""))).collect();
    assert_eq!(unknown, Vec::<String>::new());
}

// Exit codes.

/// Returns the exit codes that the program has: those of its errors, success, and the two of a stop.
fn exit_codes() -> BTreeSet<u8> {
    let source = fs::read_to_string(root().join("src/error.rs")).expect("readable");
    let body = source.split_once("fn exit_code").expect("there").1;
    let body = body.split("\n    }\n").next().unwrap_or_default();
    let of_errors = body.lines().filter_map(|line| line.split_once("=> ")?.1.trim_end_matches(',').parse().ok());
    of_errors.chain([0, 75, 130]).collect()
}

fn exit_codes_of(page: &Page) -> BTreeSet<u8> {
    page.rows().iter().map(|row| row[0].parse().unwrap_or_else(|_| panic!("{row:?}"))).collect()
}

#[test]
fn every_exit_code_is_told_everywhere() {
    let codes = exit_codes();
    assert_eq!(codes.len(), 11);
    assert_eq!(exit_codes_of(&doc("docs/faq.md").section("Exit codes")), codes, "docs/faq.md");
    assert_eq!(exit_codes_of(&doc("README.md").section("Exit codes")), codes, "README.md");
    let orchestrators = doc("docs/clusters.md").section("Exit codes as orchestrators see them");
    assert_eq!(exit_codes_of(&orchestrators), codes, "docs/clusters.md");
    let help = Cli::command().get_after_help().expect("examples and codes").to_string();
    let words: BTreeSet<u8> = help.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(codes.is_subset(&words), "--help: {words:?}");
}

// Links.

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for page in pages(root()) {
        let folder = page.path.parent().expect("a folder");
        for link in page.links().into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.path.clone() } else { folder.join(file) };
            let there = target.exists() && (anchor.is_empty() || has_anchor(&target, anchor));
            if !there {
                wrong.push(format!("{}: {link}", page.path.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

fn has_anchor(path: &Path, anchor: &str) -> bool {
    is_page(path) && page(path).anchors().iter().any(|other| other == anchor)
}

#[test]
fn every_page_of_docs_is_linked_from_the_readme() {
    let readme = doc("README.md");
    let pages = pages(&root().join("docs"));
    let names = pages.iter().map(|page| format!("docs/{}", page.path.file_name().expect("a name").to_string_lossy()));
    let missing: Vec<String> = names.filter(|name| !readme.text.contains(&format!("]({name}"))).collect();
    assert_eq!(missing, Vec::<String>::new());
}

// Files.

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "md")
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { all_files(&path) } else { vec![path] }).collect()
}

/// Returns the files of a folder that end in `ending`, and their texts.
fn sources(folder: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let files = all_files(&root().join(folder)).into_iter();
    let files = files.filter(|path| path.extension().is_some_and(|other| other == ending));
    files.map(|path| (path.clone(), fs::read_to_string(&path).expect("text"))).collect()
}
