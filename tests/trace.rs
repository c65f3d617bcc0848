//! `nightshift trace`: what it shows is what `run` makes, and the numbers are those of the process.

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{difference, model, nightshift, open_picture, run_to};
use tempfile::TempDir;

/// Traces a picture; returns the numbers of its frames.
fn trace(out: &Path, flags: &[&str]) -> Vec<Value> {
    let mut command = nightshift();
    command.args(["trace", "--prompt", "a red heart on a white background", "--seed", "1"]);
    let output = command.arg("--model").arg(model()).arg("--out").arg(out).args(flags).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&fs::read(out.join("trace.json")).expect("written")).expect("a list")
}

fn number(frame: &Value, name: &str) -> f64 {
    frame[name].as_f64().unwrap_or_else(|| panic!("{name}: {frame}"))
}

#[test]
fn a_trace_ends_in_the_picture_that_run_makes() {
    let folder = TempDir::new().expect("a temporary folder");
    for scheduler in ["ddim", "euler", "dpmpp_2m"] {
        let out = folder.path().join(scheduler);
        let frames = trace(&out, &["--scheduler", scheduler, "--steps", "12", "--guidance-scale", "4"]);
        assert_eq!(frames.len(), 13, "{scheduler}: every evaluation, and the picture");
        let made = folder.path().join(format!("{scheduler}-run"));
        run_to(0, &out.join("trace.csv"), &made, &[]);
        let (ours, theirs) =
            (open_picture(&out.join("picture.png")), open_picture(&made.join("images/00000/trace.png")));
        assert_eq!(difference(&ours, &theirs), (0, 0), "{scheduler}");
        // From nothing but noise down to nothing of it.
        let noise: Vec<f64> = frames.iter().map(|frame| number(frame, "noise_percent")).collect();
        assert!(noise[0] > 95.0 && noise[12] == 0.0, "{scheduler}: {noise:?}");
        assert!(noise.is_sorted_by(|a, b| a >= b), "{scheduler}: {noise:?}");
        let sigmas: Vec<f64> = frames.iter().map(|frame| number(frame, "sigma")).collect();
        assert!(sigmas[0] > 10.0 && sigmas.is_sorted_by(|a, b| a > b), "{scheduler}: {sigmas:?}");
        // A network that has learnt to find noise finds as much as there is: of size 1.
        let sizes: Vec<f64> = frames[..12].iter().map(|frame| number(frame, "noise_size")).collect();
        assert!(sizes[..8].iter().all(|size| (0.7..1.4).contains(size)), "{scheduler}: {sizes:?}");
        assert!(frames[..12].iter().all(|frame| number(frame, "guidance_size") > 0.0));
    }
}

#[test]
fn guidance_pulls_where_it_is_on() {
    let folder = TempDir::new().expect("a temporary folder");
    let out = folder.path().join("out");
    let flags = ["--steps", "10", "--guidance-scale", "4", "--guidance-start", "0.2", "--guidance-stop", "0.7"];
    let frames = trace(&out, &flags);
    let pulls: Vec<bool> = frames[..10].iter().map(|frame| number(frame, "guidance_size") > 0.0).collect();
    assert_eq!(pulls, [false, false, true, true, true, true, true, false, false, false]);
    let made = folder.path().join("run");
    run_to(0, &out.join("trace.csv"), &made, &[]);
    let (ours, theirs) = (open_picture(&out.join("picture.png")), open_picture(&made.join("images/00000/trace.png")));
    assert_eq!(difference(&ours, &theirs), (0, 0));
}

#[test]
fn strip_animation_and_page_are_whole() {
    let folder = TempDir::new().expect("a temporary folder");
    let out = folder.path().join("out");
    let frames = trace(&out, &["--scheduler", "ddim", "--steps", "8", "--guidance-scale", "1", "--columns", "5"]);
    assert!(frames[..8].iter().all(|frame| number(frame, "guidance_size") == 0.0), "no guidance, no pull");
    let strip = open_picture(&out.join("strip.png"));
    assert!((5 * 128..6 * 128).contains(&strip.width()), "five columns: {:?}", strip.dimensions());
    let animation = fs::read(out.join("trace.webp")).expect("written");
    assert!(&animation[..4] == b"RIFF" && animation.windows(4).any(|four| four == b"ANIM"), "an animated WebP");
    let page = fs::read_to_string(out.join("trace.html")).expect("written");
    let data = page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).expect("data");
    let data: Value = serde_json::from_str(data).expect("JSON");
    assert_eq!(data["frames"].as_array().map(Vec::len), Some(9));
    assert!(!page.contains("http://") && !page.contains("https://"), "the page needs nothing else");
}

#[test]
fn a_given_picture_is_noised_and_comes_back() {
    let folder = TempDir::new().expect("a temporary folder");
    let first = folder.path().join("first");
    trace(&first, &["--scheduler", "ddim", "--steps", "10", "--guidance-scale", "3"]);
    let (picture, out) = (first.join("picture.png"), folder.path().join("out"));
    let flags = ["--image", picture.to_str().expect("UTF-8"), "--strength", "0.5"];
    let frames =
        trace(&out, &[&flags[..], &["--scheduler", "ddim", "--steps", "10", "--guidance-scale", "3"]].concat());
    let forward: Vec<&Value> = frames.iter().filter(|frame| frame["phase"] == "forward").collect();
    assert_eq!((forward.len(), frames.len()), (6, 12), "the picture and five levels; as many back, and the picture");
    assert_eq!(number(forward[0], "noise"), 0.0);
    assert_eq!(
        number(forward[5], "noise"),
        number(&frames[6], "noise"),
        "the way back begins where the way there ends"
    );
    let made = folder.path().join("run");
    run_to(0, &out.join("trace.csv"), &made, &[]);
    let (ours, theirs) = (open_picture(&out.join("picture.png")), open_picture(&made.join("images/00000/trace.png")));
    assert_eq!(difference(&ours, &theirs), (0, 0));
}

#[test]
fn what_is_wrong_is_told() {
    let folder = TempDir::new().expect("a temporary folder");
    let refused = |flags: &[&str], expected: &str| {
        let mut command = nightshift();
        command.args(["trace", "--prompt", "x", "--out"]).arg(folder.path()).arg("--model").arg(model()).args(flags);
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(expected), "{flags:?}: {said}");
    };
    refused(&["--width", "65"], "column `width`");
    refused(&["--scheduler", "eulr"], "did you mean");
    refused(&["--image", "/nowhere.png"], "column `image`");
    refused(&["--strength", "0.5"], "--image");
}
