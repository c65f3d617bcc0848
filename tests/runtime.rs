//! What is no ONNX Runtime. In a process of its own: none is loaded here.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::path::Path;

use nightshift::error::{Error, ErrorKind};
use nightshift::onnx::Runtime;

fn refusal(library: &Path) -> Error {
    Runtime::load(Some(library)).expect_err("not ONNX Runtime")
}

#[test]
fn what_is_no_library_is_said_to_be_so() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libonnxruntime.so");
    std::fs::write(&text, "words").unwrap();
    let error = refusal(&text);
    assert_eq!(error.kind(), ErrorKind::Provider);
    assert!(error.to_string().contains("cannot be loaded"), "{error}");
    assert!(error.how_to_fix().is_some_and(|hint| hint.contains("make setup")));
}

#[test]
fn a_library_of_something_else_is_said_to_be_so() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.split_whitespace().find(|word| word.contains("/libc.so") || word.contains("/ld-musl"));
    let error = refusal(Path::new(libc.expect("every process has a libc")));
    assert!(error.to_string().contains("this library is not ONNX Runtime"), "{error}");
}
