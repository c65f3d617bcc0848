//! The same pictures as diffusers: for each row of `tests/golden/pipeline/rows.csv` the pixels equal those that diffusers'
//! own pipeline made in PyTorch of the same weights, within 1/255 (`tests/golden/make_pipeline_goldens.py`).

mod support;

use image::RgbImage;
use support::{root, run_to};

fn open(path: &std::path::Path) -> RgbImage {
    image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).to_rgb8()
}

/// Returns the largest difference of any channel, and how many channels differ at all.
fn difference(ours: &RgbImage, theirs: &RgbImage) -> (u8, usize) {
    assert_eq!(ours.dimensions(), theirs.dimensions());
    let differences = ours.as_raw().iter().zip(theirs.as_raw()).map(|(a, b)| a.abs_diff(*b));
    (differences.clone().max().unwrap_or(0), differences.filter(|difference| *difference > 0).count())
}

#[test]
fn pictures_equal_those_of_diffusers() {
    let golden = root().join("tests/golden/pipeline");
    let out = tempfile::tempdir().expect("a temporary folder");
    run_to(0, &golden.join("rows.csv"), &out.path().join("out"), &[]);
    let mut rows = csv::Reader::from_path(golden.join("rows.csv")).expect("the goldens are there");
    let mut worst = Vec::new();
    for row in rows.records() {
        let name = format!("{}.png", &row.expect("a CSV row")[0]);
        let (most, channels) =
            difference(&open(&out.path().join("out/images/00000").join(&name)), &open(&golden.join(&name)));
        println!("{name:24} largest difference {most}/255, in {channels} values");
        worst.push((most, name));
    }
    assert_eq!(worst.len(), 8);
    assert!(worst.iter().all(|(most, _)| *most <= 1), "{worst:?}");
}

#[test]
fn goldens_of_different_rows_differ() {
    let golden = root().join("tests/golden/pipeline");
    let (one, other) = (open(&golden.join("ddim.png")), open(&golden.join("euler.png")));
    assert!(difference(&one, &other).0 > 10, "a test that any picture passes shows nothing");
}
