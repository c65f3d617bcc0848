//! What goes to standard output and standard error, and how. A closed pipe never ends anything.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use clap::CommandFactory;
use serde::Serialize;

use super::Cli;
use crate::error::{Error, ErrorKind, Result};

/// Prints `value` on standard output, as text or as one line of JSON; returns exit code 0.
///
/// # Errors
/// `value` cannot be written as JSON.
pub fn data<T: Display + Serialize>(json: bool, value: &T) -> Result<u8> {
    let text = if json {
        serde_json::to_string(value)
            .map_err(|error| Error::new(ErrorKind::Unexpected, "json", format!("cannot write JSON: {error}")))?
    } else {
        value.to_string()
    };
    // Unlike `println!`, which panics when the reader has gone away.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(0)
}

/// Prints an error and its hint on standard error.
pub fn print_error(error: &Error) {
    let (red, bold, off) = if colored() { ("\x1b[31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "{red}{bold}error:{off} {error}");
    if let Some(hint) = error.how_to_fix() {
        let _ = writeln!(stderr, "{bold}hint:{off} {hint}");
    }
}

/// Prints bytes as they are.
pub fn bytes(bytes: &[u8]) {
    let _ = std::io::stdout().write_all(bytes);
}

/// Logs an error and its hint, where every line of standard error is an object.
pub fn log_error(error: &Error) {
    let (code, hint, exit_code) = (error.code(), error.how_to_fix(), error.kind().exit_code());
    tracing::error!(code, hint, exit_code, "{error}");
}

/// Prints the completion script for `shell`.
pub fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "nightshift", &mut std::io::stdout());
}

fn colored() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
