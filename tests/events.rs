//! Programs that follow a run: events on standard output, metrics at an address and in a file, logs as JSON lines.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::night::{command, dataset, fast_tempdir, night, night_to, null_model, rows, start};

/// Four rows: good, the same pixels again, no numbers, and bad to begin with.
const ROWS: &str = "id,prompt,seed,num_inference_steps,width\n\
    good,a star,1,2,64\nsame,a star,1,2,64\nfails,a nan star,1,2,64\nbad,a star,1,2,65\n";

fn write(folder: &Path, text: &str) -> std::path::PathBuf {
    let path = folder.join("manifest.csv");
    fs::write(&path, text).expect("writable");
    path
}

fn objects(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn of<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name).collect()
}

#[test]
fn events_tell_each_image_and_end_with_the_summary() {
    let folder = fast_tempdir();
    let (rows, out) = (write(folder.path(), ROWS), folder.path().join("out"));
    let output = command(&rows, &out, &["--events"]).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let events = objects(&output.stdout);
    assert!(events.iter().all(|event| event["time"].is_f64()), "{events:?}");
    let started = &events[0];
    let counts = ["rows", "bad_rows", "images", "skipped", "planned"].map(|name| started[name].as_u64());
    assert_eq!((&started["event"], counts), (&"started".into(), [Some(4), Some(1), Some(3), Some(0), Some(3)]));
    let mut images: Vec<_> = of(&events, "image");
    images.sort_by_key(|image| image["row"].as_u64());
    let told = |name: &str| images.iter().map(|image| image[name].clone()).collect::<Vec<_>>();
    assert_eq!(told("key"), ["good", "same", "fails"]);
    assert_eq!(told("status"), ["done", "copied", "failed"]);
    assert_eq!(told("error_code"), [Value::Null, Value::Null, "not_a_number".into()]);
    for image in &images[..2] {
        let file = out.join(image["file_name"].as_str().expect("a path"));
        assert_eq!(fs::metadata(file).map(|file| file.len()).ok(), image["bytes"].as_u64());
    }
    assert!(!of(&events, "progress").is_empty());
    let last = events.last().expect("events");
    let summary = ["made", "copied", "failed", "left", "exit_code"].map(|name| last[name].as_u64());
    assert_eq!((&last["event"], summary), (&"finished".into(), [Some(2), Some(1), Some(1), Some(0), Some(3)]));

    // What --json prints is one object, the same but for event and time.
    let summary = night_to(3, &rows, &folder.path().join("again"), &["--limit", "9"]);
    let names = |object: &Value| object.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let expected: Vec<String> = names(last).into_iter().filter(|name| name != "event" && name != "time").collect();
    assert_eq!(names(&summary), expected);
}

#[test]
fn a_finished_run_and_one_that_cannot_begin_have_a_last_event_too() {
    let folder = fast_tempdir();
    let (rows, out) = (rows(folder.path(), 3), folder.path().join("out"));
    night_to(0, &rows, &out, &[]);
    let events = objects(&command(&rows, &out, &["--events"]).output().expect("starts").stdout);
    assert_eq!((events.len(), &events[0]["event"], &events[0]["skipped"]), (1, &"finished".into(), &3.into()));
    let output = command(&rows, &out, &["--events", "--width", "128"]).output().expect("starts");
    let events = objects(&output.stdout);
    assert_eq!((events.len(), &events[0]["event"]), (1, &"error".into()));
    assert_eq!(events[0]["exit_code"].as_i64(), output.status.code().map(i64::from));
    assert_eq!(events[0]["exit_code"], 12);
}

#[test]
fn nobody_who_reads_events_can_end_a_run() {
    let folder = fast_tempdir();
    let (rows, out) = (rows(folder.path(), 40), folder.path().join("out"));
    let mut child =
        command(&rows, &out, &["--events"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().expect("piped"));
    reader.read_line(&mut first).expect("a line");
    assert!(first.contains("started"), "{first}");
    drop(reader);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(dataset(&out).len(), 41);
}

/// Returns the value of a sample.
fn sample(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Checks that a text is in Prometheus' format: each family once, with its help and type before its samples.
fn check_format(text: &str) {
    let mut families: Vec<&str> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(help) = lines.next() {
        let name = help.strip_prefix("# HELP ").and_then(|rest| rest.split(' ').next()).expect(help);
        assert!(!families.contains(&name), "{name} twice");
        families.push(name);
        let kind = lines.next().expect("a type").strip_prefix(&format!("# TYPE {name} ")).expect("a type");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}: {kind}");
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            assert!(line.starts_with(&format!("{name} ")) || line.starts_with(&format!("{name}{{")), "{line}");
            assert!(line.rsplit(' ').next().is_some_and(|value| value.parse::<f64>().is_ok()), "{line}");
        }
    }
}

#[test]
fn a_metrics_file_says_how_the_run_went() {
    let folder = fast_tempdir();
    let (rows, out, file) = (write(folder.path(), ROWS), folder.path().join("out"), folder.path().join("night.prom"));
    let flags = ["--metrics-file", file.to_str().expect("UTF-8"), "--device", "cpu,cpu"];
    night_to(3, &rows, &out, &flags);
    let text = fs::read_to_string(&file).expect("it is there");
    check_format(&text);
    let bytes: usize =
        dataset(&out).iter().filter(|(name, _)| name.ends_with(".png")).map(|(_, bytes)| bytes.len()).sum();
    for (name, value) in [
        ("nightshift_images", 3.0),
        ("nightshift_images_there", 2.0),
        ("nightshift_images_left", 0.0),
        ("nightshift_bad_rows", 1.0),
        ("nightshift_images_done_total", 2.0),
        ("nightshift_images_copied_total", 1.0),
        ("nightshift_images_failed_total", 1.0),
        ("nightshift_failures_total{code=\"not_a_number\"}", 1.0),
        ("nightshift_written_bytes_total", bytes as f64),
        ("nightshift_run_state{state=\"completed\"}", 1.0),
        ("nightshift_run_state{state=\"in_progress\"}", 0.0),
    ] {
        assert_eq!(sample(&text, name), Some(value), "{name} in\n{text}");
    }
    let lanes =
        ["used", "offered"].map(|what| sample(&text, &format!("nightshift_lanes_{what}_total{{device=\"cpu\"}}")));
    assert!(lanes[0] > Some(0.0) && lanes[1] >= lanes[0], "{lanes:?}");
    assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 3, "no temporary file is left");
    // A run with nothing to do leaves the file as true as before; one that fails says so.
    let (code, said) = night(&rows, &out, &["--metrics-file", flags[1], "--width", "128"]);
    assert_eq!(code, 12, "{said}");
    let text = fs::read_to_string(&file).expect("it is there");
    assert_eq!(sample(&text, "nightshift_run_state{state=\"failed\"}"), Some(1.0), "{text}");
}

fn scrape(address: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default())
}

#[test]
fn metrics_are_served_while_the_run_goes_on() {
    let folder = fast_tempdir();
    let text: String = (0..3000).map(|row| format!("a picture of {row},{row},40\n")).collect();
    let rows = write(folder.path(), &format!("prompt,seed,num_inference_steps\n{text}"));
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let port = free.port().to_string();
    let mut child = start(&rows, &folder.path().join("out"), &["--metrics-addr", &port]);
    let (begun, mut last) = (Instant::now(), String::new());
    while sample(&last, "nightshift_images_done_total").is_none_or(|done| done == 0.0) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no picture is told of:\n{last}");
        std::thread::sleep(Duration::from_millis(20));
        last = scrape(&free.to_string()).unwrap_or_default();
    }
    check_format(&last);
    assert_eq!(sample(&last, "nightshift_images"), Some(3000.0), "{last}");
    assert!(sample(&last, "nightshift_eta_seconds") > Some(0.0), "{last}");
    // Nobody else may have the port: told before anything is read.
    let (code, said) = night(&rows, &folder.path().join("other"), &["--metrics-addr", &port]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("cannot listen for metrics") && said.contains("hint: another program"), "{said}");
    assert!(!folder.path().join("other").exists());
    child.kill().and_then(|()| child.wait()).expect("it can be killed");
}

#[test]
fn what_is_wrong_with_metrics_is_told_before_the_night() {
    let folder = fast_tempdir();
    let rows = rows(folder.path(), 2);
    let out = folder.path().join("out");
    let (code, said) = night(&rows, &out, &["--metrics-file", "/nowhere/night.prom"]);
    assert!(code == 2 && said.contains("/nowhere/night.prom") && said.contains("hint:"), "{code}: {said}");
    let (code, said) = night(&rows, &out, &["--metrics-addr", ":9400"]);
    assert!(code == 2 && said.contains("0.0.0.0:9400"), "{code}: {said}");
    assert!(!out.exists());
}

#[test]
fn every_line_of_a_json_log_is_an_object() {
    let folder = fast_tempdir();
    let (rows, out) = (write(folder.path(), ROWS), folder.path().join("out"));
    let output = command(&rows, &out, &["--log-format", "json"]).output().expect("starts");
    let lines = objects(&output.stderr);
    assert!(!lines.is_empty() && lines.iter().all(|line| line["level"].is_string() && line["message"].is_string()));
    let output = command(&rows, &out, &["--log-format", "json", "--width", "128"]).output().expect("starts");
    let lines = objects(&output.stderr);
    let last = lines.last().expect("the error");
    assert_eq!((&last["level"], &last["exit_code"], &last["code"]), (&"ERROR".into(), &12.into(), &"other_run".into()));
}

/// The snippet of docs/integrations.md that follows a run needs Python and nothing else. `make test-clients` runs the others.
#[test]
fn the_example_of_the_documentation_follows_a_run() {
    let text = fs::read_to_string(support::root().join("docs/integrations.md")).expect("readable");
    let code =
        text.split("```python\n").find_map(|rest| rest.split_once("```").map(|(code, _)| code)).expect("an example");
    assert!(code.lines().count() <= 20, "it is to be short");
    let folder = fast_tempdir();
    fs::write(folder.path().join("cats.csv"), ROWS).expect("writable");
    fs::write(folder.path().join("follow.py"), code).expect("writable");
    std::os::unix::fs::symlink(null_model(), folder.path().join("model")).expect("writable");
    std::os::unix::fs::symlink(support::root().join(".ort"), folder.path().join(".ort")).expect("writable");
    let binary = Path::new(env!("CARGO_BIN_EXE_nightshift"));
    let path =
        format!("{}:{}", binary.parent().expect("a folder").display(), std::env::var("PATH").unwrap_or_default());
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_string());
    let mut command = std::process::Command::new(python);
    let output =
        command.arg("follow.py").current_dir(folder.path()).env("PATH", path).output().expect("Python is there");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("good: images/00000/good.png") && said.contains("fails: not_a_number"), "{said}");
    assert!(said.contains("2 made, 1 failed, 0 left"), "{said}");
}
