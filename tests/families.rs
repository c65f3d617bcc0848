//! The same pictures as diffusers for every family: for each folder of `tests/golden/families` (a small random model, rows, and
//! the pictures of diffusers' own pipelines; `tests/parity/make_parity.py --golden` made them) the pixels are equal within
//! 1/255. `tests/PARITY.md` is the whole table.

mod support;

use std::path::Path;

use support::{difference, nightshift, open_picture, root};

/// Runs the rows of a family and returns the largest difference of each picture from diffusers' own.
fn compare(family: &Path) -> Vec<(String, u8)> {
    let out = tempfile::tempdir().expect("a temporary folder");
    let mut command = nightshift();
    command.arg("run").arg(family.join("rows.csv")).arg("--model").arg(family.join("model"));
    let done = command.arg("--out").arg(out.path().join("out")).output().expect("the binary starts");
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let mut rows = csv::Reader::from_path(family.join("rows.csv")).expect("the goldens are there");
    let at = rows.headers().expect("a header").iter().position(|name| name == "id").expect("rows have ids");
    let ids = rows.records().map(|row| row.expect("a CSV row")[at].to_string());
    ids.map(|id| {
        let ours = open_picture(&out.path().join(format!("out/images/00000/{id}.png")));
        let theirs = open_picture(&family.join(format!("expected/{id}.png")));
        (id, difference(&ours, &theirs).0)
    })
    .collect()
}

#[test]
fn pictures_of_every_family_equal_those_of_diffusers() {
    let folder = root().join("tests/golden/families");
    let families = std::fs::read_dir(&folder).expect("the goldens are there");
    let mut families: Vec<_> = families.map(|entry| entry.expect("readable").path()).collect();
    families.sort();
    assert!(families.len() >= 8, "only {} families in {}", families.len(), folder.display());
    let mut failed = Vec::new();
    for family in families.iter().filter(|family| family.is_dir()) {
        for (id, most) in compare(family) {
            let name = family.file_name().unwrap_or_default().to_string_lossy().into_owned();
            println!("{name:14} {id:32} largest difference {most}/255");
            if most > 1 {
                failed.push((name, id, most));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
