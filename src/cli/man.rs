//! Man pages: one for the program and one for each of its commands, as `clap` knows them.

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::Cli;

/// Returns the pages of the program and of all its commands: their files' names and their content. The program's is the first.
pub fn pages() -> Vec<(String, Vec<u8>)> {
    // `help` has nothing to say that its page would not repeat.
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let commands = root.get_subcommands().filter(|command| !command.is_hide_set());
    std::iter::once(&root).chain(commands).map(|command| (file_name(command), page(command))).collect()
}

fn file_name(command: &Command) -> String {
    format!("{}.1", command.get_display_name().unwrap_or(command.get_name()))
}

/// Returns the page of one command.
fn page(command: &Command) -> Vec<u8> {
    let laid_out = command.get_after_help().map(ToString::to_string).filter(|text| is_laid_out(text));
    let plain = match &laid_out {
        Some(_) => command.clone().after_help(None::<&str>),
        None => command.clone(),
    };
    let mut bytes = Vec::new();
    let written = Man::new(plain).render(&mut bytes);
    written.expect("memory takes all that is written to it");
    bytes.extend(laid_out.map(|text| as_it_is(&text)).unwrap_or_default());
    bytes
}

/// Returns whether the lines of `text` stand where they stand on purpose: `man` would fill them up.
fn is_laid_out(text: &str) -> bool {
    text.lines().any(|line| line.starts_with(' '))
}

fn as_it_is(text: &str) -> Vec<u8> {
    let mut section = Roff::default();
    section.control("SH", ["EXTRA"]).control("nf", []);
    for line in text.lines() {
        section.text([roman(line)]);
    }
    section.control("fi", []);
    section.render().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_all_its_flags() {
        let (mut root, pages) = (Cli::command(), pages());
        root.build();
        assert!(pages.iter().any(|(name, _)| name == "nightshift.1"));
        for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
            let name = format!("nightshift-{}.1", command.get_name());
            let (_, page) = pages.iter().find(|(other, _)| *other == name).expect("a page");
            let page = String::from_utf8(page.clone()).expect("text").replace('\\', "");
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(page.contains(&format!("--{flag}")), "{name}: --{flag}");
            }
        }
    }

    #[test]
    fn tables_keep_their_lines() {
        let page = String::from_utf8(pages().remove(0).1).expect("text");
        let (_, extra) = page.split_once(".nf\n").expect("lines as they are");
        assert!(extra.contains("\n  0 every row done "), "{extra}");
    }
}
