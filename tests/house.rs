//! The rules of the house that are easily broken without noticing (ARCHITECTURE.md).

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns the code of a file without its test module and comments: tests may use files.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source file is readable");
    let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_string();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn offenders(allowed: &[&str], forbidden: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "found only {} source files", files.len());
    let inside = |path: &Path| allowed.iter().any(|room| path.starts_with(root.join(room)));
    let breaks = |path: &PathBuf| !inside(path) && forbidden.iter().any(|word| has_word(&code(path), word));
    files.iter().filter(|path| breaks(path)).map(|path| path.display().to_string()).collect()
}

/// Returns whether `word` stands in `code` with nothing before it that would make it part of a longer name.
fn has_word(code: &str, word: &str) -> bool {
    let alone = |at: usize| !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
    code.match_indices(word).any(|(at, _)| alone(at))
}

#[test]
fn only_onnx_uses_ort() {
    assert_eq!(offenders(&["onnx"], &["ort::", "use ort;"]), Vec::<String>::new());
}

#[test]
fn only_one_file_knows_the_crate_for_buckets_and_its_runtime() {
    let words = ["object_store::", "tokio::", "reqwest::", "rustls::", "async "];
    assert_eq!(offenders(&["remote/store.rs"], &words), Vec::<String>::new());
}

#[test]
fn only_rooms_that_are_said_to_touch_files_do() {
    let rooms = ["manifest", "model", "onnx", "journal", "output", "run", "remote"];
    assert_eq!(offenders(&rooms, &["std::fs", "fs::read", "File::open"]), Vec::<String>::new());
}

#[test]
fn pure_rooms_have_no_clock_thread_or_log() {
    let others = ["manifest", "model", "onnx", "journal", "output", "run", "remote", "cli", "engine", "main.rs"];
    let words = ["std::time", "std::thread", "tracing::", "static mut", "rand::"];
    assert_eq!(offenders(&others, &words), Vec::<String>::new());
}
