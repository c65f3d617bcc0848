//! The `nightshift` binary: see `nightshift --help`.

fn main() -> std::process::ExitCode {
    nightshift::cli::main()
}
