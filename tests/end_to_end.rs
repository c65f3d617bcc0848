//! The binary on the model that ships: what lands on disk, what comes again, what stops it.

mod support;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use support::{manifest, mixed_manifest, nightshift, pictures, run_to, shuffled, temporaries};
use tempfile::tempdir;

const FEW: &str = "id,prompt,seed,num_inference_steps,label\n\
    a,a red heart on a white background,1,4,x\n\
    b,a small blue star,2,3,\n\
    c,\"a green ring, on a black background\",3,2,\"y, \"\"z\"\"\"\n";

#[test]
fn a_run_makes_every_picture_and_the_same_command_makes_nothing_again() {
    let folder = tempdir().expect("a temporary folder");
    let (csv, out) = (manifest(&folder, FEW), folder.path().join("out"));
    run_to(0, &csv, &out, &[]);
    let first = pictures(&out);
    assert_eq!(first.keys().collect::<Vec<_>>(), ["a.png", "b.png", "c.png"]);
    for bytes in first.values() {
        let image = image::load_from_memory(bytes).expect("a whole PNG");
        assert_eq!((image.width(), image.height()), (64, 64));
    }
    assert!(out.join("images/00000/metadata.parquet").is_file());
    assert!(temporaries(&out).is_empty());

    let before = fs::metadata(out.join("images/00000/a.png")).expect("it is there").modified().expect("a time");
    let output = support::run(&csv, &out, &["--ort-lib", "/nowhere"]);
    assert!(output.status.success(), "nothing to make needs no library");
    assert!(String::from_utf8_lossy(&output.stdout).contains("all 3 images are done"));
    let after = fs::metadata(out.join("images/00000/a.png")).expect("it is there").modified().expect("a time");
    assert_eq!(before, after);
}

#[test]
fn bytes_are_the_same_for_any_lanes_threads_order_and_limit() {
    let folder = tempdir().expect("a temporary folder");
    let text = mixed_manifest(30, 9);
    let csv = manifest(&folder, &text);
    let base = folder.path().join("base");
    run_to(0, &csv, &base, &["--lanes", "16"]);
    let expected = pictures(&base);
    assert_eq!(expected.len(), 30);
    let distinct: std::collections::BTreeSet<_> = expected.values().collect();
    assert!(distinct.len() > 25, "the rows must differ for this test to mean anything");

    for flags in [&["--lanes", "1"][..], &["--lanes", "3", "--threads", "1"]] {
        let out = folder.path().join(flags.join(""));
        run_to(0, &csv, &out, flags);
        assert!(pictures(&out) == expected, "{flags:?}");
    }
    let other = tempdir().expect("a temporary folder");
    let (csv, out) = (manifest(&other, &shuffled(&text)), folder.path().join("shuffled"));
    run_to(75, &csv, &out, &["--lanes", "5", "--limit", "7"]);
    assert_eq!(pictures(&out).len(), 7);
    run_to(0, &csv, &out, &["--lanes", "5"]);
    assert!(pictures(&out) == expected, "shuffled, in two parts");
}

#[test]
fn a_bad_row_costs_itself_only_and_failed_csv_is_a_manifest() {
    let folder = tempdir().expect("a temporary folder");
    let csv = manifest(
        &folder,
        "prompt,width,seed,num_inference_steps,note\na red heart,64,1,2,keep\na star,65,2,2,mend\n,64,3,2,\n",
    );
    let out = folder.path().join("out");
    let stderr = run_to(3, &csv, &out, &[]);
    assert!(stderr.contains("row 1 (line 3), column `width`: `65` is not a multiple of"), "{stderr}");
    assert!(stderr.contains("row 2 (line 4), column `prompt`"), "{stderr}");
    assert_eq!(pictures(&out).into_keys().collect::<Vec<_>>(), ["000000000.png"]);

    let failed = fs::read_to_string(out.join(".nightshift/failed.csv")).expect("rows failed");
    assert!(failed.starts_with("error_code,error_message,id,prompt,width,seed,num_inference_steps,note\n"), "{failed}");
    let mended = manifest(&folder, &failed.replace(",65,", ",64,").lines().take(2).collect::<Vec<_>>().join("\n"));
    run_to(0, &mended, &out, &[]);
    assert_eq!(pictures(&out).into_keys().collect::<Vec<_>>(), ["000000000.png", "000000001.png"]);
}

#[test]
fn max_failed_tolerates_and_strict_refuses() {
    let folder = tempdir().expect("a temporary folder");
    let csv = manifest(&folder, "prompt,width,num_inference_steps\na red heart,64,1\na star,65,1\n");
    run_to(0, &csv, &folder.path().join("a"), &["--max-failed", "1"]);
    run_to(3, &csv, &folder.path().join("b"), &["--max-failed", "10%"]);
    run_to(2, &csv, &folder.path().join("c"), &["--strict"]);
    assert!(!folder.path().join("c").exists(), "nothing was begun");
}

#[test]
fn a_broken_structure_stops_before_anything_is_made() {
    let folder = tempdir().expect("a temporary folder");
    let csv = manifest(&folder, "promt,seed\na red heart,1\n");
    let out = folder.path().join("out");
    let stderr = run_to(2, &csv, &out, &[]);
    assert!(stderr.contains("`promt`") && stderr.contains("hint:"), "{stderr}");
    assert!(!out.exists());
}

#[test]
fn only_changed_and_new_rows_are_made_again() {
    let folder = tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    run_to(0, &manifest(&folder, FEW), &out, &[]);
    let first = pictures(&out);
    let edited = FEW.replace("a small blue star", "a small green star") + "d,a white cross,4,2,\n";
    let output = support::run(&manifest(&folder, &edited), &out, &["--json"]);
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((summary["made"].as_u64(), summary["skipped"].as_u64()), (Some(2), Some(2)), "{summary}");
    let second = pictures(&out);
    assert_eq!((&first["a.png"], &first["c.png"]), (&second["a.png"], &second["c.png"]));
    assert_ne!(first["b.png"], second["b.png"]);
}

#[test]
fn another_runs_folder_is_refused_with_the_differing_fields() {
    let folder = tempdir().expect("a temporary folder");
    let (csv, out) = (manifest(&folder, FEW), folder.path().join("out"));
    run_to(0, &csv, &out, &[]);
    let stderr = run_to(12, &csv, &out, &["--guidance-scale", "3"]);
    assert!(stderr.contains("guidance_scale") && stderr.contains("7.5") && stderr.contains('3'), "{stderr}");
}

#[test]
fn a_live_runs_folder_is_locked() {
    let folder = tempdir().expect("a temporary folder");
    let (csv, out) = (manifest(&folder, &mixed_manifest(400, 30)), folder.path().join("out"));
    let mut child = nightshift();
    child.arg("run").arg(&csv).arg("--model").arg(support::model()).arg("--out").arg(&out);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    while !out.join(".nightshift/journal").is_dir() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let started = std::time::Instant::now();
    let stderr = run_to(11, &csv, &out, &[]);
    assert!(started.elapsed() < Duration::from_secs(10), "it does not wait for the other");
    assert!(stderr.contains(&format!("process {} on", child.id())), "{stderr}");
    child.kill().expect("SIGKILL");
    child.wait().expect("it ends");
    run_to(75, &csv, &out, &["--limit", "1"]);
}

#[test]
fn a_missing_library_or_model_says_how_to_get_it() {
    let folder = tempdir().expect("a temporary folder");
    let (csv, out) = (manifest(&folder, FEW), folder.path().join("out"));
    let stderr = run_to(10, &csv, &out, &["--ort-lib", "/nowhere/libonnxruntime.so"]);
    assert!(stderr.contains("/nowhere/libonnxruntime.so") && stderr.contains("make setup"), "{stderr}");
    let output =
        nightshift().args(["check", csv.to_str().expect("UTF-8"), "--model", "/nowhere"]).output().expect("starts");
    assert_eq!(output.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere"));
}

#[test]
fn killed_at_any_time_a_run_resumes_to_the_same_bytes() {
    let folder = tempdir().expect("a temporary folder");
    let csv = manifest(&folder, &mixed_manifest(60, 8));
    let base = folder.path().join("base");
    run_to(0, &csv, &base, &[]);
    let (expected, out) = (pictures(&base), folder.path().join("out"));
    for delay in [700, 900, 1200] {
        let mut child = nightshift();
        child.arg("run").arg(&csv).arg("--model").arg(support::model()).arg("--out").arg(&out);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().expect("SIGKILL");
        child.wait().expect("it ends");
        for (name, bytes) in pictures(&out) {
            assert_eq!(bytes, expected[&name], "what is under a final name is whole");
        }
    }
    run_to(0, &csv, &out, &[]);
    assert!(pictures(&out) == expected);
    assert!(temporaries(&out).is_empty());
}

#[test]
fn sigterm_drains_and_exits_75_and_the_same_command_resumes() {
    let folder = tempdir().expect("a temporary folder");
    let csv = manifest(&folder, &mixed_manifest(400, 30));
    let out = folder.path().join("out");
    let mut child = nightshift();
    child.arg("run").arg(&csv).arg("--model").arg(support::model()).arg("--out").arg(&out);
    let child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    std::thread::sleep(Duration::from_millis(1500));
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(75));
    assert!(pictures(&out).len() < 400);
    let status = nightshift().arg("status").arg(&out).output().expect("starts");
    assert!(String::from_utf8_lossy(&status.stdout).contains("stopped early"));
}

#[test]
fn commands_that_look_print_json() {
    let model = support::model();
    let json = |args: &[&str]| -> serde_json::Value {
        let output = nightshift().args(args).output().expect("starts");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
    };
    let schedule = json(&["schedule", "--scheduler", "euler", "--steps", "4", "--json"]);
    assert_eq!(schedule["scheduler"], "EulerDiscreteScheduler");
    assert_eq!(schedule["timesteps"].as_array().map(Vec::len), Some(4));
    assert_eq!(schedule["sigmas"].as_array().map(Vec::len), Some(5));
    assert!(schedule["init_noise_sigma"].as_f64().is_some_and(|sigma| sigma > 10.0));
    let inspect = json(&["inspect", model.to_str().expect("UTF-8"), "--json"]);
    assert!(inspect.to_string().contains("encoder_hidden_states"));
    let check = json(&["check", "jobs/demo.csv", "--model", model.to_str().expect("UTF-8"), "--json"]);
    assert_eq!(
        (check["rows"].as_u64(), check["images"].as_u64(), check["bad_rows"].as_u64()),
        (Some(24), Some(26), Some(0))
    );
    assert!(json(&["doctor", "--json"]).is_object());
}
