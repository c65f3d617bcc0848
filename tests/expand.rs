//! Templates: what they stand for, what is wrong with them, and that explicit rows stay what they were.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use nightshift::error::Error;
use nightshift::manifest;
use nightshift::run::{ExpandOptions, expand};
use nightshift::template::{Dice, Mode, parse, parse_numbers};
use proptest::prelude::*;
use tempfile::TempDir;

type Row = BTreeMap<String, String>;

/// Expands a template of this name and text.
fn rows_of(folder: &Path, name: &str, text: &str, mode: Mode) -> Result<Vec<Row>, Error> {
    let (template, out) = (folder.join(name), folder.join("out.csv"));
    fs::write(&template, text).expect("writable");
    let reading = manifest::Options::default();
    let options = ExpandOptions { template, out: out.clone(), wildcards: None, mode, max_rows: 10_000, reading };
    let told = expand(&options)?;
    let mut reader = csv::Reader::from_path(out).expect("readable");
    let rows: Vec<Row> = reader.deserialize().map(|row| row.expect("a row")).collect();
    assert_eq!(told.rows, rows.len() as u64, "the count is that of the rows");
    Ok(rows)
}

fn column(rows: &[Row], name: &str) -> Vec<String> {
    rows.iter().map(|row| row[name].clone()).collect()
}

/// Returns what a prompt stands for, all of it.
fn prompts(text: &str) -> Vec<String> {
    let folder = TempDir::new().expect("a temporary folder");
    fs::create_dir(folder.path().join("wildcards")).expect("writable");
    let animals = "# animals\ncat\n\n3::dog\n  {red|gray} fox\n";
    fs::write(folder.path().join("wildcards/animal.txt"), animals).expect("writable");
    fs::write(folder.path().join("wildcards/loop.txt"), "a\n__loop__\n").expect("writable");
    let quoted = text.replace('"', "\"\"");
    match rows_of(folder.path(), "t.csv", &format!("prompt\n\"{quoted}\"\n"), Mode::All) {
        Ok(rows) => column(&rows, "prompt"),
        Err(error) => vec![format!("{}: {error}", error.code()).replace(&folder.path().display().to_string(), "")],
    }
}

#[test]
fn the_syntax_is_that_of_dynamic_prompts() {
    // What the package dynamicprompts 0.32 gives for the same texts, but that options are trimmed at both ends.
    for (text, expected) in [
        ("a cat", vec!["a cat"]),
        (
            "a {red|blue} {big|small} cat",
            vec!["a red big cat", "a red small cat", "a blue big cat", "a blue small cat"],
        ),
        ("{2$$x|y|z}", vec!["x,y", "x,z", "y,x", "y,z", "z,x", "z,y"]),
        ("{2$$ and $$x|y}", vec!["x and y", "y and x"]),
        ("{1-2$$a|b}", vec!["a", "b", "a,b", "b,a"]),
        ("{-2$$a|b}", vec!["a", "b", "a,b", "b,a"]),
        ("{2-$$a|b}", vec!["a,b", "b,a"]),
        ("{0-1$$a|b}", vec!["", "a", "b"]),
        ("{3$$a|b}", vec!["a,b", "b,a"]),
        ("x{a||b}", vec!["xa", "x", "xb"]),
        ("{a|{b|c}}", vec!["a", "b", "c"]),
        ("{2::a|0.5::b}", vec!["a", "b"]),
        ("a { red | blue } b", vec!["a red b", "a blue b"]),
        ("__animal__", vec!["cat", "dog", "red fox", "gray fox"]),
        (
            "{2$$__animal__}",
            vec![
                "cat,dog",
                "cat,red fox",
                "cat,gray fox",
                "dog,cat",
                "dog,red fox",
                "dog,gray fox",
                "red fox,cat",
                "red fox,dog",
                "gray fox,cat",
                "gray fox,dog",
            ],
        ),
        (r"\{a\|b\} \_\_x\_\_ \$ \\ 5 $ a_b", vec![r"{a|b} __x__ $ \ 5 $ a_b"]),
    ] {
        assert_eq!(prompts(text), expected, "{text}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, expected) in [
        ("a {red|blue", "bad_template: /t.csv: row 0 (line 2), column `prompt`: `{` is never closed (character 3)"),
        ("a }", "bad_template: /t.csv: row 0 (line 2), column `prompt`: `}` closes nothing (character 3)"),
        (
            "__animl__",
            "no_wildcard: /t.csv: row 0 (line 2), column `prompt`: there is no wildcard `animl`: no file /wildcards/animl.txt",
        ),
        (
            "a __animal",
            "bad_template: /t.csv: row 0 (line 2), column `prompt`: `__` begins no wildcard such as `__animal__` (character 3)",
        ),
        (
            "__loop__",
            "bad_template: /t.csv: row 0 (line 2), column `prompt`: in line 2 of wildcard `loop`: wildcard `loop` leads back to itself: `loop` → `loop` (character 1)",
        ),
        ("${x}", "bad_reference: /t.csv: row 0 (line 2): `${x}` names no column"),
    ] {
        assert_eq!(prompts(text), [expected], "{text}");
    }
    let many = prompts(&"{a|b|c|d|e|f|g|h|i|j}".repeat(5));
    assert!(many[0].contains("stands for 100000 rows") && many[0].starts_with("too_many_rows"), "{many:?}");
    let endless = prompts(&"{a|b|c|d|e|f|g|h|i|j}".repeat(90));
    assert!(endless[0].contains("more than 10^19"), "{endless:?}");
}

#[test]
fn ranges_are_exact() {
    for (text, expected) in [
        ("7", vec!["7"]),
        ("-1", vec!["-1"]),
        ("1-4", vec!["1", "2", "3", "4"]),
        ("4..6:0.5", vec!["4", "4.5", "5", "5.5", "6"]),
        ("0..0.3:0.1", vec!["0", "0.1", "0.2", "0.3"]),
        ("3..1", vec!["3", "2", "1"]),
        ("-1..1:0.5", vec!["-1", "-0.5", "0", "0.5", "1"]),
        ("1..10:4", vec!["1", "5", "9"]),
        ("{20|30}", vec!["20", "30"]),
        ("1,3-5", vec!["1", "3", "4", "5"]),
        ("7.5e0", vec!["7.5e0"]),
    ] {
        let folder = TempDir::new().expect("a temporary folder");
        let rows = rows_of(folder.path(), "t.csv", &format!("prompt,guidance_scale\na,\"{text}\"\n"), Mode::All);
        assert_eq!(column(&rows.expect("well-formed"), "guidance_scale"), expected, "{text}");
    }
    for wrong in ["1..x", "1..5:0", "0..99999999"] {
        assert!(parse_numbers(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn rows_keep_their_ids_when_the_template_grows() {
    let folder = TempDir::new().expect("a temporary folder");
    let ids = |text: &str| {
        let rows = rows_of(folder.path(), "t.csv", text, Mode::All).expect("well-formed");
        rows.into_iter().map(|row| (row["prompt"].clone(), row["id"].clone())).collect::<BTreeMap<_, _>>()
    };
    let few = ids("id,prompt,seed\ncats,a {red|blue} cat,1-2\nfox,a fox,\n");
    let more = ids("id,prompt,seed,label\nowl,an owl,,\ncats,a {green|red|blue} cat,1-2,\nfox,a fox,,\n");
    assert_eq!(few["a fox"], "fox", "the only row keeps the id as it is");
    assert!(few["a red cat"].starts_with("cats-"));
    assert!(few.iter().all(|(prompt, id)| more[prompt] == *id), "{few:?}\n{more:?}");
    let twice = rows_of(folder.path(), "t.csv", "prompt\n{a|a}\n", Mode::All).expect("well-formed");
    assert_eq!(twice.iter().map(|row| &row["id"]).collect::<BTreeSet<_>>().len(), 2);
}

#[test]
fn a_column_can_be_said_again_and_yaml_reads_as_csv_does() {
    let folder = TempDir::new().expect("a temporary folder");
    let csv = "animal,prompt,steps\n{cat|dog},a photo of a ${animal},10-12:2\n";
    let yaml = "- animal: [cat, dog]\n  prompt: a photo of a ${animal}\n  steps: [10, 12]\n";
    let from_csv = rows_of(folder.path(), "t.csv", csv, Mode::All).expect("well-formed");
    assert_eq!(from_csv, rows_of(folder.path(), "t.yaml", yaml, Mode::All).expect("well-formed"));
    let one = "animal: '{cat|dog}'\nprompt: a photo of a ${animal}\nnum_inference_steps: 10..12:2\n";
    assert_eq!(from_csv, rows_of(folder.path(), "t.yml", one, Mode::All).expect("well-formed"));
    assert_eq!(column(&from_csv, "prompt")[2], "a photo of a dog");
    assert_eq!(column(&from_csv, "num_inference_steps"), ["10", "12", "10", "12"]);
    for wrong in ["- a\n", "prompt: {a: 1}\n", "prompt: [a\n", "3\n", "promt: a\n"] {
        assert!(rows_of(folder.path(), "t.yaml", wrong, Mode::All).is_err(), "{wrong}");
    }
}

#[test]
fn draws_follow_weights_and_seed() {
    let folder = TempDir::new().expect("a temporary folder");
    let text = "prompt,seed\n{3::red|blue|0::green} {1-2$$a|b},1-1000000\n";
    let draw = |rows, seed| rows_of(folder.path(), "t.csv", text, Mode::Sample(rows, seed)).expect("well-formed");
    let many = draw(4000, 7);
    assert_eq!(many[..50], draw(50, 7), "more draws change none of the first");
    assert_ne!(many[..50], draw(50, 8));
    let red = many.iter().filter(|row| row["prompt"].starts_with("red")).count();
    assert!((2850..3150).contains(&red), "{red} of 4000 are red");
    assert!(many.iter().all(|row| !row["prompt"].starts_with("green")));
    assert!(column(&many, "seed").iter().collect::<BTreeSet<_>>().len() > 3980);
}

#[test]
fn an_expanded_template_is_made_as_it_is() {
    let folder = TempDir::new().expect("a temporary folder");
    let template = folder.path().join("template.csv");
    fs::write(&template, "id,prompt,seed,steps,label\nq,a {red|blue} ${label},1-2,2,{heart|ring}\n").expect("writable");
    let manifest = folder.path().join("manifest.csv");
    let output =
        support::nightshift().arg("expand").arg(&template).arg("-o").arg(&manifest).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.starts_with("8 rows from 1 template: "), "{said}{output:?}");
    let out = folder.path().join("out");
    support::run_to(0, &manifest, &out, &["--guidance-scale", "1"]);
    assert_eq!(support::pictures(&out).len(), 8);
    let same = support::nightshift().arg("expand").arg(&template).arg("-o").arg(&template).output().expect("it starts");
    assert_eq!(same.status.code(), Some(2));
}

/// Texts of templates that are mostly well-formed.
fn template_text() -> impl Strategy<Value = String> {
    let plain = prop::sample::select(vec!["a", "b c", "", "x::y", "2", "-", "é", "\\{", "\\|"]).prop_map(String::from);
    plain.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|options| format!("{{{}}}", options.join("|"))),
            (prop::collection::vec(inner, 1..4), 0..3_usize, 0..3_usize).prop_map(|(options, least, more)| format!(
                "{{{least}-{}$$ + $${}}}",
                least + more,
                options.join("|")
            )),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The count is the number of rows; every draw is one of them.
    #[test]
    fn counts_rows_and_draws_agree(text in template_text(), seed: u64) {
        let folder = TempDir::new().expect("a temporary folder");
        let file = format!("prompt,note\n\"{}\",x\n", text.replace('"', "\"\""));
        let Ok(all) = rows_of(folder.path(), "t.csv", &file, Mode::All) else { return Ok(()) };
        let all: BTreeSet<String> = column(&all, "prompt").into_iter().collect();
        let some = rows_of(folder.path(), "t.csv", &file, Mode::Sample(20, seed)).expect("it was well-formed");
        prop_assert!(column(&some, "prompt").iter().all(|prompt| all.contains(prompt)));
    }

    /// Whatever the text is: an error, or what it stands for; never a panic. Plain text stands for itself.
    #[test]
    fn any_text_is_read(text in "[a{}|$_\\\\:0-9 .,-]{0,24}") {
        let read = parse(&text, &|_| Ok(vec![(1, "w".to_string())]));
        if !text.contains(['{', '}', '$', '_', '\\']) {
            prop_assert_eq!(read.expect("nothing in it means anything"), if text.is_empty() { vec![] } else {
                vec![nightshift::template::Node::Text(text.clone())]
            });
        }
        let _ = parse_numbers(&text);
    }

    /// Dice are fair enough to be below their limit, and the same each time.
    #[test]
    fn dice_repeat(seed: u64, limit in 1_u64..) {
        let (mut one, mut other) = (Dice::new(&[seed, 1]), Dice::new(&[seed, 1]));
        let number = one.below(limit);
        prop_assert!(number < limit && number == other.below(limit));
    }
}
