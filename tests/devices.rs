//! `--device`: several workers make one manifest together, with the bytes of one.

mod support;

use nightshift::output::status;
use support::{manifest, mixed_manifest, nightshift, pictures, run_to, temporaries};

#[test]
fn any_number_of_workers_makes_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = manifest(&folder, &mixed_manifest(40, 4));
    let make = |name: &str, flags: &[&str]| {
        let out = folder.path().join(name);
        run_to(0, &manifest, &out, flags);
        assert!(temporaries(&out).is_empty(), "{name}");
        let status = status::read(&out).expect("readable").expect("there");
        assert_eq!((status.done, status.failed), (40, 0), "{name}");
        pictures(&out)
    };
    let one = make("one", &["--device", "cpu"]);
    assert_eq!(one.len(), 40);
    assert!(make("three", &["--device", "cpu,cpu,cpu"]) == one);
    assert!(make("two", &["--device", "cpu,cpu", "--threads", "3", "--lanes", "3"]) == one);
}

#[test]
fn a_small_model_with_many_images_gets_several_workers_and_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = manifest(&folder, &mixed_manifest(130, 1));
    let make = |name: &str, flags: &[&str]| {
        let out = folder.path().join(name);
        let stderr = run_to(0, &manifest, &out, flags);
        (stderr.contains("2 workers share the processor's 2 threads"), pictures(&out))
    };
    let (is_shared, one) = make("one", &["--threads", "2", "--lanes", "16"]);
    assert!(!is_shared && one.len() == 130);
    let (is_shared, two) = make("two", &["--threads", "2"]);
    assert!(is_shared && two == one);
}

#[test]
fn a_gpu_that_is_not_there_is_never_replaced_by_the_processor() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = manifest(&folder, &mixed_manifest(2, 1));
    let out = folder.path().join("out");
    let stderr = run_to(10, &manifest, &out, &["--device", "cpu,cuda:7"]);
    assert!(stderr.contains("cuda:7"), "{stderr}");
    assert!(pictures(&out).is_empty());
    let mut command = nightshift();
    let command = command.arg("run").arg(&manifest).arg("--model").arg(support::model()).arg("--out").arg(&out);
    let output = command.args(["--device", "cuda"]).env("CUDA_VISIBLE_DEVICES", "").output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(10), "{stderr}");
    assert!(stderr.contains("no NVIDIA GPU can be seen"), "{stderr}");
    run_to(2, &manifest, &out, &["--device", "cuda:0,tensorrt:0"]);
}

#[test]
fn prepare_shows_that_a_device_takes_the_networks_and_says_what_it_keeps() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = manifest(&folder, &mixed_manifest(12, 2));
    let mut command = nightshift();
    let command = command.arg("prepare").arg(&manifest).arg("--model").arg(support::model());
    let output = command.args(["--device", "cpu", "--lanes", "4"]).output().expect("it starts");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("4 lanes a call, first calls for 2 sizes of picture"), "{stdout}");
    assert!(stdout.contains("nothing is kept: only TensorRT has engines"), "{stdout}");
}

#[test]
fn options_of_providers_are_checked_before_anything_is_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = manifest(&folder, &mixed_manifest(1, 1));
    let stderr = run_to(2, &manifest, &folder.path().join("out"), &["--cuda-option", "prefer_nhcw=1"]);
    assert!(stderr.contains("`prefer_nhcw` is no option of this provider"), "{stderr}");
    assert!(!folder.path().join("out").exists());
}
