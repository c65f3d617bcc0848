//! Each exit code by what causes it, and a summary whose numbers are the files on disk (workflow R27, design "Exit codes").

mod support;

use std::fs;
use std::path::Path;

use support::night::{LAYOUTS, dataset, fast_tempdir, night, night_to, rows};

fn write(folder: &Path, text: &str) -> std::path::PathBuf {
    let path = folder.join("manifest.csv");
    fs::write(&path, text).expect("writable");
    path
}

#[test]
fn each_code_has_its_cause() {
    let folder = fast_tempdir();
    let out = |name: &str| folder.path().join(name);
    let good = rows(folder.path(), 5);
    let (code, said) = night(&good, &out("0"), &[]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = night(&good, &out("2"), &["--lanes", "many"]);
    assert_eq!(code, 2, "a flag: {said}");
    let (code, said) = night(&write(folder.path(), "promt\na star\n"), &out("2"), &[]);
    assert_eq!(code, 2, "the manifest's structure: {said}");
    let (code, said) = night(&write(folder.path(), "prompt,width\na star,64\na star,65\n"), &out("3"), &[]);
    assert_eq!(code, 3, "a row: {said}");
    let (code, said) = night(&good, &out("10"), &["--ort-lib", "/nowhere.so"]);
    assert_eq!(code, 10, "the library: {said}");
    let (code, said) = night(&good, &out("10"), &["--device", "cuda"]);
    assert_eq!(code, 10, "a device that is not there, and never the processor instead: {said}");
    let (code, said) = night(&good, &out("0"), &["--steps", "9"]);
    assert_eq!(code, 12, "another run's folder: {said}");
    fs::write(out("file"), "not a folder").expect("writable");
    let (code, said) = night(&good, &out("file"), &[]);
    assert_eq!(code, 13, "storage: {said}");
    let (code, said) = night(&good, &out("75"), &["--limit", "2"]);
    assert_eq!(code, 75, "a limit: {said}");
    // 11, 13 for all kinds of faults, 75 and 130 for signals: tests/kills.rs, tests/faulty_disk.rs. 14 takes a GPU to lose.
    let source = fs::read_to_string(support::root().join("src/error.rs")).expect("readable");
    assert!(source.contains("ErrorKind::GpuLost => 14") && source.contains("ErrorKind::Unexpected => 1,"));
}

#[test]
fn the_summary_counts_what_is_on_disk() {
    let text = "id,prompt,seed,num_images_per_prompt,width\na,one,1,1,64\nb,two,2,3,64\nc,a nan,3,2,64\nd,bad,4,1,65\n";
    for layout in LAYOUTS {
        let folder = fast_tempdir();
        let (rows, out) = (write(folder.path(), text), folder.path().join("out"));
        let flags = ["--format", layout, "--steps", "2"];
        let part = night_to(75, &rows, &out, &[&flags[..], &["--limit", "2"]].concat());
        let count = |summary: &serde_json::Value, name: &str| summary[name].as_u64().unwrap_or(u64::MAX);
        assert_eq!((count(&part, "made"), count(&part, "left")), (2, 4), "{layout}: {part}");
        let summary = night_to(3, &rows, &out, &flags);
        let counts =
            ["rows", "images", "made", "skipped", "failed", "left", "failed_rows"].map(|name| count(&summary, name));
        assert_eq!(counts, [4, 6, 2, 2, 2, 0, 2], "{layout}: {summary}");
        assert_eq!(counts[1], counts[2] + counts[3] + counts[4] + counts[5], "it adds up");
        let files = dataset(&out);
        let pictures = match layout {
            "imagefolder" => files.keys().filter(|name| name.ends_with(".png")).count(),
            "webdataset" => {
                let mut pictures = 0;
                let path = out.join("000000.tar");
                nightshift::output::webdataset::read(&path, |name, _| pictures += usize::from(name.ends_with(".png")))
                    .expect("whole");
                pictures
            }
            _ => {
                let mut pictures = 0;
                let path = out.join("data/train-00000-of-00001.parquet");
                nightshift::output::parquet_shard::read(&path, |_, _| pictures += 1).expect("whole");
                pictures
            }
        };
        assert_eq!(pictures as u64, counts[2] + counts[3], "{layout}");
        let status = fs::read_to_string(out.join(".nightshift/status.json")).expect("written");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!((&status["state"], &status["done"], &status["failed"]), (&"completed".into(), &4.into(), &2.into()));
    }
}

#[test]
fn a_batch_of_openais_api_is_answered() {
    let request = |id: &str, url: &str, body: &str| {
        format!(
            r#"{{"custom_id":"{id}","method":"POST","url":"{url}","body":{{"model":"x","size":"64x64","steps":2,{body}}}}}"#
        )
    };
    let images = "/v1/images/generations";
    let lines = [
        request("two", images, r#""prompt":"a red heart","n":2"#),
        request("bad", images, r#""prompt":"a nan""#),
        request("other", "/v1/chat/completions", r#""prompt":"hello""#),
    ];
    let folder = fast_tempdir();
    let (rows, out) = (folder.path().join("batch.jsonl"), folder.path().join("out"));
    fs::write(&rows, lines.join("\n") + "\n").expect("writable");
    let summary = night_to(3, &rows, &out, &[]);
    assert_eq!((&summary["made"], &summary["failed_rows"]), (&2.into(), &2.into()), "{summary}");
    let read = |name: &str| -> Vec<serde_json::Value> {
        let text = fs::read_to_string(out.join(".nightshift").join(name)).expect("written");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let answers = read("output.jsonl");
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0]["custom_id"], "two");
    assert_eq!(answers[0]["response"]["status_code"], 200);
    assert_eq!(answers[0]["response"]["body"]["data"][1]["url"], "images/00000/two_1.png");
    let errors = read("errors.jsonl");
    let told: Vec<_> = errors.iter().map(|line| (line["custom_id"].as_str(), line["error"]["code"].as_str())).collect();
    assert_eq!(told, [(Some("bad"), Some("not_a_number")), (Some("other"), Some("bad_request"))]);
    assert!(dataset(&out).keys().all(|name| name.starts_with("images/")), "nothing else is to be seen");
}
