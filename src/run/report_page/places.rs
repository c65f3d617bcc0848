//! Where the page goes, and how it finds the pictures from there.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Location, Result};
use crate::output::layout::Format;

/// Returns the full path of what is to be written, without links in its folder.
///
/// # Errors
/// Kind `Usage`: it would lie in `out`, where loaders look at every file.
pub fn outside(out: &Path, path: &Path) -> Result<PathBuf> {
    let full = full(path);
    if !full.starts_with(self::full(out)) {
        return Ok(full);
    }
    let error = Error::new(ErrorKind::Usage, "report_among_data", "loaders would take it for a part of the dataset");
    Err(error.at(Location::file(path)).hint("write it beside the output folder"))
}

/// Returns `OUT.html`, beside the folder.
pub fn beside(out: &Path) -> PathBuf {
    let out = full(out);
    let name = out.file_name().map_or_else(|| "report".to_string(), |name| name.to_string_lossy().into_owned());
    out.with_file_name(format!("{name}.html"))
}

/// Returns what leads from the page to the pictures; nothing where these lie inside of other files.
pub fn base(page: &Path, out: &Path, format: Format) -> Option<String> {
    if format.is_packed() {
        return None;
    }
    let (page, out) = (full(page), full(out));
    let relative = page.parent().and_then(|folder| out.strip_prefix(folder).ok());
    let path = relative.map_or_else(|| format!("file://{}", out.display()), |path| format!("./{}", path.display()));
    Some(path.bytes().map(in_address).collect::<String>() + "/")
}

fn in_address(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' | b':' | b'~' => char::from(byte).into(),
        other => format!("%{other:02X}"),
    }
}

/// Returns the path without links and dots, as far as it exists.
fn full(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => full(parent).join(name),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_stand_beside_the_data_and_find_it() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("a night");
        std::fs::create_dir_all(out.join("images")).unwrap();
        let page = beside(&out.join("images/.."));
        assert!(page.ends_with("a night.html"), "{}", page.display());
        assert_eq!(base(&page, &out, Format::Imagefolder).unwrap(), "./a%20night/");
        assert_eq!(base(&page, &out, Format::Parquet), None);
        let elsewhere = base(Path::new("/elsewhere/x.html"), &out, Format::Imagefolder).unwrap();
        assert!(elsewhere.starts_with("file:///") && elsewhere.ends_with("/a%20night/"), "{elsewhere}");
        assert!(outside(&out, &page).is_ok());
        let error = outside(&out, &out.join("new/x.html")).unwrap_err();
        assert_eq!(error.code(), "report_among_data");
    }
}
