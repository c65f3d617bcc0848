//! `nightshift report` on every layout, of finished and of partial runs. What the page does with its data is tested in Chromium
//! (`make test-report`).

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use support::{fixtures, manifest, nightshift};
use tempfile::{TempDir, tempdir};

const LAYOUTS: [&str; 3] = ["imagefolder", "webdataset", "parquet"];

/// Rows of which one is bad, one gives no numbers, and one gives a picture of one colour.
const ROWS: usize = 12;

fn rows() -> String {
    let mut text = String::from("id,prompt,seed,num_inference_steps,guidance_scale,label,width\n");
    for row in 0..ROWS {
        let word = match row {
            2 => "</script><b>bold</b>",
            5 => "nan",
            7 => "blank",
            _ => "red",
        };
        let width = if row == 9 { 65 } else { 64 };
        text += &format!("row{row:02},a {word} heart,{row},2,1,{},{width}\n", ["even", "odd"][row % 2]);
    }
    text
}

struct Night {
    folder: TempDir,
    out: PathBuf,
}

impl Night {
    fn new(layout: &str, flags: &[&str], code: i32) -> Night {
        let folder = tempdir().expect("a temporary folder");
        let (csv, out) = (manifest(&folder, &rows()), folder.path().join("out"));
        let mut command = nightshift();
        command.arg("run").arg(csv).arg("--model").arg(fixtures().join("null")).arg("--out").arg(&out);
        let output = command.args(["--format", layout, "--shard-size", "4"]).args(flags).output().expect("it starts");
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        Night { folder, out }
    }

    fn page(&self) -> PathBuf {
        self.folder.path().join("out.html")
    }

    fn try_report(&self, flags: &[&str]) -> Output {
        nightshift().arg("report").arg(&self.out).args(flags).output().expect("the binary starts")
    }

    /// Writes the page, checks that nothing else has changed, and returns what was told and what the page carries.
    fn report(&self, flags: &[&str]) -> (Value, Value) {
        let before = files(&self.out);
        let output = self.try_report(&[&["--json"], flags].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(files(&self.out) == before, "the output folder is as it was");
        let html = fs::read_to_string(self.page()).expect("written");
        assert!(!html.contains("http://") && !html.contains("https://"), "the page needs no network");
        let data = html.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).expect("data");
        assert!(!data.contains('<'), "no prompt can end the script");
        let told = serde_json::from_slice(&output.stdout).expect("JSON");
        (told, serde_json::from_str(data).expect("JSON"))
    }
}

/// Returns all files below a folder with their bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).expect("readable"))),
        }
    }
    found
}

/// Returns the cells of a column, row by row.
fn column(data: &Value, name: &str) -> Vec<String> {
    let columns = data["columns"].as_array().expect("columns");
    let column = columns.iter().find(|column| column["name"] == name).unwrap_or_else(|| panic!("no column {name}"));
    let value = |at: usize| column["values"][at].as_str().expect("a text").to_string();
    let places = column["rows"].as_array();
    let count = data["rows"].as_u64().expect("a number") as usize;
    (0..count).map(|row| value(places.map_or(row, |places| places[row].as_u64().expect("a place") as usize))).collect()
}

#[test]
fn scores_have_columns_and_low_ones_come_first() {
    let clip = support::root().join("onnx/tiny-clip").display().to_string();
    for layout in LAYOUTS {
        let flags = ["--scorer", &clip, "--min-clip-score", "100", "--retries", "2"];
        let (told, data) = Night::new(layout, &flags, 3).report(&[]);
        assert_eq!((&told["images"], &told["suspect"]), (&10.into(), &10.into()), "{layout}: nothing reaches 100");
        let status = column(&data, "status");
        assert_eq!(status[..2], ["failed", "failed"], "{layout}");
        assert_eq!(status.iter().filter(|status| *status == "low_score").count(), 9, "{layout}: one is of one colour");
        assert_eq!(column(&data, "retries")[2..], ["2"; 10], "{layout}");
        let scores = column(&data, "clip_score");
        assert!(
            scores[2..].iter().all(|score| score.parse::<f64>().is_ok_and(|score| score < 100.0)),
            "{layout}: {scores:?}"
        );
    }
}

#[test]
fn every_layout_has_a_page() {
    for layout in LAYOUTS {
        let night = Night::new(layout, &[], 3);
        let sheets = night.folder.path().join("sheets");
        let (told, data) = night.report(&["--contact-sheets", sheets.to_str().expect("UTF-8")]);
        assert_eq!(told["images"], 10, "{layout}");
        assert_eq!((&told["failed"], &told["suspect"]), (&2.into(), &1.into()), "{layout}");
        assert_eq!((&told["embedded"], &told["contact_sheets"]), (&10.into(), &3.into()), "{layout}");
        // Failed rows first, as in the manifest, then what is suspect.
        assert_eq!(column(&data, "key")[..4], ["row05", "row09", "row07", "row00"], "{layout}");
        assert_eq!(column(&data, "status")[..4], ["failed", "failed", "suspect", "ok"], "{layout}");
        assert_eq!(column(&data, "error_code")[..3], ["not_a_number", "bad_width", ""], "{layout}");
        assert_eq!(column(&data, "text")[5], "a </script><b>bold</b> heart", "{layout}");
        assert_eq!(column(&data, "src_label")[..6], ["odd", "odd", "odd", "even", "odd", "even"], "{layout}");
        let thumbnails = data["thumbnails"].as_object().expect("thumbnails");
        assert!(thumbnails.values().all(|jpeg| jpeg.as_str().is_some_and(|text| text.starts_with("/9j/"))));
        let base = if layout == "imagefolder" { Value::from("./out/") } else { Value::Null };
        assert_eq!(data["base"], base, "{layout}");
        let start = data["starts"][0].as_array().expect("a start");
        assert_eq!((&start[0][1], &start[start.len() - 1][1]), (&0.0.into(), &10.0.into()), "{layout}");
        let sheet = support::open_picture(&sheets.join("00000-0.png".replacen("00000", first_shard(layout), 1)));
        assert!(sheet.width() > 3 * 192, "{:?}", sheet.dimensions());
    }
}

fn first_shard(layout: &str) -> &'static str {
    if layout == "webdataset" { "000000" } else { "00000" }
}

#[test]
fn pictures_that_wait_for_their_shard_are_seen_too() {
    for layout in LAYOUTS {
        let night = Night::new(layout, &["--limit", "6"], 75);
        let (told, data) = night.report(&[]);
        assert_eq!(
            (&told["images"], &told["failed"], &told["embedded"]),
            (&5.into(), &2.into(), &5.into()),
            "{layout}"
        );
        // What no metadata says yet, the pictures say themselves.
        assert!(column(&data, "text").iter().all(|text| text.starts_with("a ")), "{layout}");
        assert!(data["total"].as_u64() > Some(6), "{layout}: there is more to come");
        let files = column(&data, "file");
        assert_eq!(files.iter().filter(|file| !file.is_empty()).count(), 5, "{layout}: {files:?}");
    }
}

#[test]
fn a_run_that_was_killed_has_a_page() {
    let night = Night::new("webdataset", &[], 3);
    // As a kill leaves it: failures in the journal alone.
    fs::remove_file(night.out.join(".nightshift/failed.csv")).expect("it is there");
    fs::remove_dir_all(night.out.join(".nightshift/progress")).expect("it is there");
    let (told, data) = night.report(&[]);
    assert_eq!((&told["images"], &told["failed"]), (&10.into(), &1.into()));
    assert_eq!((&*column(&data, "key")[0], &*column(&data, "error_code")[0]), ("row05", "not_a_number"));
    assert_eq!(data["starts"].as_array().map(Vec::len), Some(0));
}

#[test]
fn only_so_many_pictures_are_carried() {
    let night = Night::new("parquet", &[], 3);
    let (told, data) = night.report(&["--embed", "2"]);
    assert_eq!(told["embedded"], 2);
    let carried: Vec<&String> = data["thumbnails"].as_object().expect("thumbnails").keys().collect();
    assert_eq!(carried, ["2", "3"], "the suspect one, and the first of the others");
    assert_eq!(data["rows"], 12);
}

#[test]
fn what_is_wrong_is_told() {
    let night = Night::new("imagefolder", &["--limit", "1"], 75);
    let refused = |flags: &[&str], expected: &str| {
        let output = night.try_report(flags);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(expected), "{flags:?}: {said}");
    };
    let inside = night.out.join("report.html");
    refused(&["-o", inside.to_str().expect("UTF-8")], "part of the dataset");
    refused(&["--contact-sheets", night.out.to_str().expect("UTF-8")], "part of the dataset");
    let output = nightshift().arg("report").arg(night.folder.path()).output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("no run of nightshift"), "{said}");
}
