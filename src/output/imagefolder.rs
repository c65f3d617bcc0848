//! The `imagefolder` layout: `OUT/images/00000/<key>.png`, 1,000 images a folder.
//!
//! The folder follows from an image's place in the manifest, its name from its key and never from words of its prompt:
//! loaders take a word such as `test` in a path for the name of a split, and then see one image instead of all.

use std::path::Path;

use super::durable::{Durable, WholeFile};
use crate::error::Result;

/// How many images a folder holds.
pub const IMAGES_PER_FOLDER: u64 = 1000;

/// An image ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedImage {
    /// Position among all images of the run; decides the folder.
    pub ordinal: u64,
    /// Unique name; the file's name without extension.
    pub key: String,
    /// The whole PNG file.
    pub bytes: Vec<u8>,
}

/// What is known of an image once it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenImage {
    /// Unique name.
    pub key: String,
    /// Path relative to `OUT`, with `/`.
    pub file_name: String,
    /// Size of the file.
    pub bytes: u64,
    /// Hash of the file.
    pub blake3: [u8; 32],
}

/// Returns the number of the folder that holds the `ordinal`-th image.
pub fn folder_number(ordinal: u64) -> u64 {
    ordinal / IMAGES_PER_FOLDER
}

/// Returns the path, relative to `OUT`, of the `ordinal`-th image: `images/00012/<key>.png`, with the key as
/// [`file_stem`] gives it.
pub fn relative_path(ordinal: u64, key: &str) -> String {
    format!("images/{:05}/{}.png", folder_number(ordinal), file_stem(key))
}

/// The words that loaders take for splits (`datasets` 5.2, `data_files.py`, `SPLIT_KEYWORDS`).
const SPLIT_WORDS: [&str; 10] =
    ["train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval", "evaluation"];

/// Returns `key` as the name of a file: itself, with a `~` after each word that would be taken for a split. No key has a
/// `~`, so no two become one. `cat_test_1` gives `cat_test~_1`.
pub fn file_stem(key: &str) -> String {
    let mut stem = String::with_capacity(key.len() + 1);
    // Words end where `datasets` sees their end: at one of `-._ 0-9`.
    for piece in key.split_inclusive(is_between_words) {
        let word = piece.trim_end_matches(is_between_words);
        stem.push_str(word);
        if SPLIT_WORDS.iter().any(|split| word.eq_ignore_ascii_case(split)) {
            stem.push('~');
        }
        stem.push_str(&piece[word.len()..]);
    }
    stem
}

fn is_between_words(c: char) -> bool {
    matches!(c, '-' | '.' | '_' | ' ' | '0'..='9')
}

/// Writes a batch of images below `out`, all durable when it returns, and returns what was written, in the same order.
///
/// # Errors
/// Kind `Storage`.
pub fn write_batch(durable: &Durable, out: &Path, images: &[EncodedImage]) -> Result<Vec<WrittenImage>> {
    let written: Vec<WrittenImage> = images.iter().map(describe).collect();
    let files: Vec<WholeFile<'_>> = written
        .iter()
        .zip(images)
        .map(|(written, image)| WholeFile { path: out.join(&written.file_name), bytes: &image.bytes })
        .collect();
    durable.commit(&files)?;
    Ok(written)
}

fn describe(image: &EncodedImage) -> WrittenImage {
    WrittenImage {
        key: image.key.clone(),
        file_name: relative_path(image.ordinal, &image.key),
        bytes: image.bytes.len() as u64,
        blake3: blake3::hash(&image.bytes).into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_thousand_images_a_folder() {
        assert_eq!(relative_path(0, "000000000"), "images/00000/000000000.png");
        assert_eq!(relative_path(999, "cat_1"), "images/00000/cat_1.png");
        assert_eq!(relative_path(1000, "x"), "images/00001/x.png");
    }

    #[test]
    fn names_of_splits_are_broken_up_and_nothing_else() {
        for (key, stem) in [
            ("test", "test~"),
            ("cat_test_1", "cat_test~_1"),
            ("train-5", "train~-5"),
            ("TEST1", "TEST~1"),
            ("1val2dev", "1val~2dev~"),
            ("contest", "contest"),
            ("tests_trainer", "tests_trainer"),
            ("000000017", "000000017"),
            ("a--b__9", "a--b__9"),
        ] {
            assert_eq!(file_stem(key), stem);
        }
    }

    #[test]
    fn a_batch_may_span_folders() {
        let out = tempfile::tempdir().unwrap();
        let image = |ordinal, key: &str| EncodedImage { ordinal, key: key.into(), bytes: key.as_bytes().to_vec() };
        let written = write_batch(&Durable::default(), out.path(), &[image(999, "a"), image(1000, "bb")]).unwrap();
        assert_eq!(written[1].file_name, "images/00001/bb.png");
        assert_eq!((written[1].bytes, written[1].blake3), (2, blake3::hash(b"bb").into()));
        assert_eq!(std::fs::read(out.path().join("images/00000/a.png")).unwrap(), b"a");
    }
}
