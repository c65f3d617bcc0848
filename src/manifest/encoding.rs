//! Bytes → UTF-8, without ever guessing silently or replacing a byte that cannot be read.

use std::borrow::Cow;
use std::path::Path;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::notices::Notices;
use super::shown::shown;
use crate::error::{Error, ErrorKind, Location, Result};

/// Returns `bytes` as UTF-8 without byte order mark. A mark decides; else `label` (a name such as `windows-1252`); else
/// the bytes are returned as they are, so that each row with bytes that are not UTF-8 can be reported at its place.
///
/// # Errors
/// `bad_encoding` (usage) for an unknown label; structure errors for UTF-32, for UTF-16 without a mark, and for bytes
/// that the encoding does not have.
pub(super) fn decode<'b>(
    bytes: &'b [u8],
    label: Option<&str>,
    path: &Path,
    notices: &mut Notices,
) -> Result<Cow<'b, [u8]>> {
    if bytes.starts_with(b"\xFF\xFE\0\0") || bytes.starts_with(b"\0\0\xFE\xFF") {
        return Err(structure("the text is UTF-32", path).hint("save it as UTF-8"));
    }
    let (encoding, mark) = match (Encoding::for_bom(bytes), label) {
        (Some((encoding, mark)), _) => (encoding, mark),
        (None, Some(label)) => (named(label)?, 0),
        (None, None) => {
            refuse_utf16_without_mark(bytes, path)?;
            return Ok(Cow::Borrowed(bytes));
        }
    };
    let text = &bytes[mark..];
    if encoding == UTF_8 {
        return Ok(Cow::Borrowed(text));
    }
    notices.say(format!("{}: read as {}", path.display(), encoding.name()));
    match encoding.decode_without_bom_handling_and_without_replacement(text) {
        Some(decoded) => Ok(Cow::Owned(decoded.into_owned().into_bytes())),
        None => Err(structure(format!("the text is not valid {}", encoding.name()), path)
            .hint("the file may be cut or have another encoding: save it as UTF-8")),
    }
}

/// Returns the encoding that is called `label`.
fn named(label: &str) -> Result<&'static Encoding> {
    Encoding::for_label_no_replacement(label.trim().as_bytes()).ok_or_else(|| {
        Error::new(ErrorKind::Usage, "bad_encoding", format!("there is no encoding `{}`", shown(label)))
            .hint("use a name such as utf-8, windows-1252, utf-16le, shift_jis, gb18030")
    })
}

/// Checks that the text has no NUL in every second place, as Latin text in UTF-16 has.
fn refuse_utf16_without_mark(bytes: &[u8], path: &Path) -> Result<()> {
    let head = &bytes[..bytes.len().min(4096)];
    let nuls = |odd: usize| head.iter().skip(odd).step_by(2).filter(|&&byte| byte == 0).count();
    let (even, odd) = (nuls(0), nuls(1));
    let many = head.len() / 5;
    if even + odd == 0 || even + odd < many.max(2) {
        return Ok(());
    }
    let name = if odd >= even { UTF_16LE } else { UTF_16BE }.name().to_ascii_lowercase();
    Err(structure(
        format!("{} of the first {} bytes are NUL: the text looks like UTF-16", even + odd, head.len()),
        path,
    )
    .hint(format!("save it as UTF-8, or use `--encoding {name}`")))
}

fn structure(message: impl Into<String>, path: &Path) -> Error {
    Error::new(ErrorKind::Manifest, "wrong_encoding", message).at(Location::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8], label: Option<&str>) -> Result<Vec<u8>, &'static str> {
        let read = decode(bytes, label, Path::new("a.csv"), &mut Notices::default());
        read.map(Cow::into_owned).map_err(|error| error.code())
    }

    #[test]
    fn marks_decide_then_labels() {
        assert_eq!(decoded(b"\xEF\xBB\xBFprompt", None).expect("decodes"), b"prompt");
        assert_eq!(decoded(b"\xFF\xFEp\0\xE9\0", Some("utf-8")).expect("decodes"), "pé".as_bytes());
        assert_eq!(decoded(b"\xFE\xFF\0p\0\xE9", None).expect("decodes"), "pé".as_bytes());
        assert_eq!(decoded(b"p\xE9", Some("windows-1252")).expect("decodes"), "pé".as_bytes());
        assert_eq!(decoded(b"p\xE9", None).expect("decodes"), b"p\xE9", "left for the row's own error");
    }

    #[test]
    fn nothing_is_replaced_or_guessed() {
        assert_eq!(decoded(b"\xFF\xFEp\0\x00\xD8x\0", None), Err("wrong_encoding"), "a lone surrogate");
        assert_eq!(decoded(b"\xFF\xFEp\0q", None), Err("wrong_encoding"), "half a unit");
        assert_eq!(decoded(b"p\0r\0o\0m\0p\0t\0\n\0", None), Err("wrong_encoding"));
        assert_eq!(decoded(b"\xFF\xFE\0\0p\0\0\0", None), Err("wrong_encoding"));
        assert_eq!(decoded(b"p", Some("klingon")), Err("bad_encoding"));
        assert!(decoded(b"prompt\na\0 cat with one NUL in a long enough line\n", None).is_ok());
    }
}
