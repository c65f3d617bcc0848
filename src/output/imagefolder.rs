//! Names of pictures in the `imagefolder` layout.
//!
//! A name comes from an image's key and never from words of its prompt: loaders take a word such as `test` in a path for the
//! name of a split, and then see one image instead of all.

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

/// Returns the key whose file is called `stem`.
pub fn key_of(stem: &str) -> String {
    stem.replace('~', "")
}

fn is_between_words(c: char) -> bool {
    matches!(c, '-' | '.' | '_' | ' ' | '0'..='9')
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(key_of(stem), key);
        }
    }
}
