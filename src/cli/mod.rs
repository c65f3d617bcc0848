//! The command line as typed by the user, and nothing else: parsing, help texts, and conversion to what `run` takes.

mod args;
mod man;
mod print;

pub use args::{Cli, Command};
pub use print::print_error;

use std::process::ExitCode;

use clap::Parser;

use crate::error::Result;
use crate::run::events::Events;
use crate::run::logging::LogFormat;
use crate::run::{self, Watchers};

/// Parses the process's arguments, does what they ask for, and returns the exit code (design: "Exit codes").
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let logs_json = matches!(&cli.command, Command::Run(args) if args.log_format == LogFormat::Json && !args.dry_run);
    match dispatch(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if logs_json {
                print::log_error(&error)
            } else {
                print_error(&error)
            }
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<u8> {
    match command {
        Command::Run(args) if args.dry_run => {
            args.quality.scorer.iter().try_for_each(|dir| run::check_scorer(dir))?;
            check(args.job, args.summary)
        }
        Command::Run(args) => {
            let bars = run::logging::init(args.log_format);
            let (json, events) = (args.summary.json, args.watching.events);
            let told = if events { Events::to(std::io::stdout()) } else { Events::default() };
            let summary = run::run(args.into_options()?, &Watchers { bars, events: told })?;
            // The last event is the summary.
            if !events {
                print::data(json, &summary)?;
            }
            Ok(summary.exit_code)
        }
        Command::Check(args) => check(args.job, args.summary),
        Command::Expand(args) => {
            run::logging::init(run::logging::LogFormat::Text);
            let json = args.summary.json;
            print::data(json, &run::expand(&args.into_options())?)
        }
        Command::Inspect(args) => print::data(args.summary.json, &run::inspect(&args.dir)?),
        Command::Schedule(args) => print::data(args.summary.json, &run::schedule(&args.into_options())?),
        Command::Trace(args) => {
            run::logging::init(run::logging::LogFormat::Text);
            let json = args.summary.json;
            print::data(json, &run::trace(args.into_options())?)
        }
        Command::Status(args) => print::data(args.summary.json, &run::status(&args.out)?),
        Command::Verify(args) => {
            let report = run::verify(&args.out, args.deep)?;
            print::data(args.summary.json, &report)?;
            Ok(report.exit_code)
        }
        Command::Repair(args) => {
            let report = run::repair(&args.out, args.quarantine_extra)?;
            print::data(args.summary.json, &report)?;
            Ok(report.exit_code)
        }
        Command::Prepare(args) => {
            run::logging::init(run::logging::LogFormat::Text);
            let json = args.summary.json;
            print::data(json, &run::build_engines(&args.into_options())?)
        }
        Command::Report(args) => {
            run::logging::init(run::logging::LogFormat::Text);
            let json = args.summary.json;
            print::data(json, &run::report_page(&args.into_options())?)
        }
        Command::Doctor(args) => {
            let report = run::doctor(args.ort_lib.as_deref());
            print::data(args.summary.json, &report)?;
            Ok(if report.is_well() { 0 } else { 10 })
        }
        Command::Completions(args) => {
            print::completions(args.shell);
            Ok(0)
        }
        Command::Man(args) => {
            let pages = man::pages();
            match args.dir {
                Some(dir) => run::write_pages(&dir, &pages)?,
                None => pages.first().into_iter().for_each(|(_, page)| print::bytes(page)),
            }
            Ok(0)
        }
    }
}

fn check(job: args::JobArgs, summary: args::SummaryArgs) -> Result<u8> {
    run::logging::init(run::logging::LogFormat::Text);
    let report = run::check(&job.into_options())?;
    print::data(summary.json, &report)?;
    Ok(report.exit_code())
}
