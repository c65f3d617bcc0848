//! The same pictures as diffusers: for each row of `tests/golden/pipeline/rows.csv` the pixels equal those that diffusers'
//! own pipeline made in PyTorch of the same weights, within 1/255 (`tests/golden/make_pipeline_goldens.py`).

mod support;

use support::{difference, open_picture, root, run_to};

#[test]
fn pictures_equal_those_of_diffusers() {
    let golden = root().join("tests/golden/pipeline");
    let out = tempfile::tempdir().expect("a temporary folder");
    run_to(0, &golden.join("rows.csv"), &out.path().join("out"), &[]);
    let mut rows = csv::Reader::from_path(golden.join("rows.csv")).expect("the goldens are there");
    let mut worst = Vec::new();
    for row in rows.records() {
        let name = format!("{}.png", &row.expect("a CSV row")[0]);
        let (most, channels) = difference(
            &open_picture(&out.path().join("out/images/00000").join(&name)),
            &open_picture(&golden.join(&name)),
        );
        println!("{name:24} largest difference {most}/255, in {channels} values");
        worst.push((most, name));
    }
    assert_eq!(worst.len(), 12);
    assert!(worst.iter().all(|(most, _)| *most <= 1), "{worst:?}");
}

#[test]
fn goldens_of_different_rows_differ() {
    let golden = root().join("tests/golden/pipeline");
    let (one, other) = (open_picture(&golden.join("ddim.png")), open_picture(&golden.join("euler.png")));
    assert!(difference(&one, &other).0 > 10, "a test that any picture passes shows nothing");
}
