//! The `nightshift` binary.

fn main() {
    println!("nightshift {}", env!("CARGO_PKG_VERSION"));
}
