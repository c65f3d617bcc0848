//! `cache_interval`: a UNet whose inner blocks are evaluated every so many evaluations only. That its pictures are those of the
//! definition is in tests/parity.rs.

mod support;

use std::collections::BTreeMap;
use std::fs;

use support::{manifest, pictures, run_to};

/// Rows of all kinds: `cache_interval` 1 to 3, guided in part or not at all, several sizes and schedulers.
fn rows(numbers: impl Iterator<Item = usize>) -> String {
    let header = "id,prompt,seed,num_inference_steps,guidance_scale,guidance_stop,scheduler,width,cache_interval\n";
    let row = |number: usize| {
        let (steps, scale, stop) = (3 + number % 5, [4, 1, 7][number % 3], ["", "0.5", "0.3"][number / 2 % 3]);
        let (scheduler, width) = (["DDIM", "Euler a", "DPM++ 2M"][number % 3], if number % 5 == 4 { 96 } else { 64 });
        let interval = ["", "2", "3", "1"][number % 4];
        format!(
            "r{number},a blue star on a red background,{number},{steps},{scale},{stop},{scheduler},{width},{interval}\n"
        )
    };
    String::from(header) + &numbers.map(row).collect::<String>()
}

fn made(text: &str, flags: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    run_to(0, &manifest(&folder, text), &folder.path().join("out"), flags);
    pictures(&folder.path().join("out"))
}

#[test]
fn pictures_are_the_same_for_any_number_of_lanes_and_threads() {
    let all = made(&rows(0..16), &["--lanes", "8"]);
    assert_eq!(all.len(), 16);
    assert_eq!(made(&rows(0..16), &["--lanes", "1", "--threads", "1"]), all);
    assert_eq!(made(&rows(0..16), &["--lanes", "5", "--device", "cpu,cpu"]), all);
}

#[test]
fn rows_without_it_do_not_see_those_with_it() {
    let is_plain = |number: &usize| matches!(number % 4, 0 | 3);
    let (all, plain) = (made(&rows(0..16), &[]), made(&rows((0..16).filter(is_plain)), &[]));
    assert_eq!(plain.len(), 8);
    assert!(plain.iter().all(|(name, picture)| all[name] == *picture));
}

#[test]
fn it_is_another_picture_and_another_row() {
    let row = |interval: &str| format!("id,prompt,seed,steps,cache_interval\nx,a red heart,1,8,{interval}\n");
    let [plain, cached] = ["", "2"].map(|interval| made(&row(interval), &[]));
    assert_ne!(plain, cached);
    assert_eq!(made(&row(""), &["--cache-interval", "2"]), cached, "the flag stands for empty cells");
    // An edited cell makes the row anew.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    for (interval, pictures) in [("", &plain), ("2", &cached), ("1", &plain)] {
        run_to(0, &manifest(&folder, &row(interval)), &out, &[]);
        assert_eq!(&support::pictures(&out), pictures, "{interval}");
    }
}

#[test]
fn it_works_with_onnx_runtimes_kernels_alone() {
    let (ours, theirs) = (made(&rows(0..4), &[]), made(&rows(0..4), &["--kernels", "onnxruntime"]));
    for (name, picture) in &ours {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = |file: &str, bytes: &[u8]| {
            fs::write(folder.path().join(file), bytes).expect("writable");
            support::open_picture(&folder.path().join(file))
        };
        let (most, _) = support::difference(&open("a.png", picture), &open("b.png", &theirs[name]));
        assert!(most <= 2, "{name}: {most} of 255");
    }
}
