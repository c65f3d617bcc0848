//! Templates of manifests: cells that stand for many, such as `a {red|blue} __animal__` or `1-10`. Pure: whoever calls reads the
//! files and gives the lines of wildcards.
//!
//! `parse` reads a cell, `choice` knows all that it stands for and draws from it with `dice`, `numbers` does the same for columns
//! of numbers, `rows` puts the cells of a row together.

mod choice;
mod dice;
mod numbers;
mod parse;
mod rows;

pub use choice::{Choice, Node, Piece, Sequence, Weighted};
pub use dice::Dice;
pub use numbers::parse_numbers;
pub use parse::{Wildcards, parse};
pub use rows::{Ids, Mode, Template};
