//! Manifests that are no CSV: the same rows give the same jobs, however they are written and packed.

use std::io::Write;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, DictionaryArray, Float32Array, Float64Array, Int64Array, LargeStringArray,
    ListArray, NullArray, RecordBatch, StringArray, StringViewArray, UInt64Array,
};
use nightshift::job::Job;
use nightshift::manifest::Format;
use parquet::arrow::ArrowWriter;

use super::*;

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let batch = batch.expect("columns of one length");
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("in memory");
    writer.write(&batch).expect("in memory");
    writer.into_inner().expect("in memory")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).expect("in memory");
    writer.finish().expect("in memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("in memory")
}

fn read_named(name: &str, bytes: impl AsRef<[u8]>, options: Options) -> Result<Manifest> {
    let folder = Folder::new();
    let mut manifest = read_with(&[folder.file(name, bytes)], options)?;
    manifest.notices = folder.without_path(&manifest.notices);
    Ok(manifest)
}

fn good_named(name: &str, bytes: impl AsRef<[u8]>) -> Manifest {
    let manifest = read_named(name, bytes, Options::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(manifest.errors.is_empty(), "{name}: {:?}", manifest.errors);
    manifest
}

/// Returns the jobs without their lines, which differ from format to format.
fn jobs(manifest: &Manifest) -> Vec<Job> {
    manifest.jobs.iter().map(|job| Job { line: 0, ..(**job).clone() }).collect()
}

#[test]
fn a_table_is_the_same_in_every_format() {
    let csv = "id,prompt,seed,steps,guidance_scale,width,label,note\n\
               a,a café 猫,1,20,7.5,64,x,\n\
               ,\"two, \"\"cats\"\"\",,,,,y,kept\n\
               c,,18446744073709551615,30,0.1,72,,\n"
        .replace("c,,", "c,third,");
    let wanted = good_named("a.csv", &csv);
    assert_eq!(wanted.jobs.len(), 3);
    let tsv = "id\tprompt\tseed\tsteps\tguidance_scale\twidth\tlabel\tnote\n\
               a\ta café 猫\t1\t20\t7.5\t64\tx\t\n\
               \t\"two, \"\"cats\"\"\"\t\t\t\t\ty\tkept\n\
               c\tthird\t18446744073709551615\t30\t0.1\t72\t\t\n";
    let jsonl = r#"{"id": "a", "prompt": "a caf\u00e9 猫", "seed": 1, "steps": 20.0, "guidance_scale": 7.5, "width": "64", "label": "x", "note": null}
{"prompt": "two, \"cats\"", "label": "y", "note": "kept"}

{"id": "c", "prompt": "third", "seed": 18446744073709551615, "steps": 30, "guidance_scale": 0.1, "width": 72.0, "label": ""}
"#;
    let labels: DictionaryArray<Int32Type> = [Some("x"), Some("y"), None].into_iter().collect();
    let parquet = parquet(vec![
        ("id", Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]))),
        ("prompt", Arc::new(LargeStringArray::from(vec!["a café 猫", "two, \"cats\"", "third"]))),
        ("seed", Arc::new(UInt64Array::from(vec![Some(1), None, Some(u64::MAX)]))),
        ("steps", Arc::new(Float64Array::from(vec![Some(20.0), None, Some(30.0)]))),
        ("guidance_scale", Arc::new(Float32Array::from(vec![Some(7.5), None, Some(0.1)]))),
        ("width", Arc::new(Int64Array::from(vec![Some(64), None, Some(72)]))),
        ("label", Arc::new(labels)),
        ("note", Arc::new(StringViewArray::from(vec![None, Some("kept"), None]))),
    ]);
    let renamed = ["a.csv: column `label` goes to the metadata as `src_label`"];
    assert_eq!(wanted.notices, renamed);
    let crlf = jsonl.replace('\n', "\r\n");
    for (name, bytes) in [
        ("a.tsv", tsv.as_bytes()),
        ("a.tab", tsv.as_bytes()),
        ("a.jsonl", jsonl.as_bytes()),
        ("a.ndjson", jsonl.trim_end().as_bytes()),
        ("a.jsonl", crlf.as_bytes()),
        ("a.jsonl", format!("\u{feff}{jsonl}").as_bytes()),
        ("stdin", jsonl.as_bytes()),
        ("a.parquet", &parquet),
        ("stdin", &parquet),
        ("stdin", csv.as_bytes()),
    ] {
        for (packed, bytes) in [("", bytes.to_vec()), (".gz", gzip(bytes)), (".zst", zstd(bytes)), ("", gzip(bytes))] {
            let manifest = good_named(&format!("{name}{packed}"), &bytes);
            assert_eq!(jobs(&manifest), jobs(&wanted), "{name}{packed}");
            assert_eq!(manifest.columns, wanted.columns, "{name}{packed}");
            assert_eq!(manifest.notices, renamed.map(|line| line.replace("a.csv", &format!("{name}{packed}"))));
            assert_eq!(manifest.hash, blake3::hash(&bytes).to_hex().to_string(), "of the bytes as they lie there");
        }
    }
    let lines = |name, bytes| good_named(name, bytes).jobs.iter().map(|job| job.line).collect::<Vec<_>>();
    assert_eq!((lines("a.jsonl", jsonl.as_bytes()), lines("a.parquet", &parquet)), (vec![1, 2, 4], vec![0, 0, 0]));
}

#[test]
fn a_line_of_a_txt_is_a_prompt() {
    let manifest = good_named("a.txt", "a cat, \"big\"\n\n \t \r\n{red|blue} dog; [x]\r\n  =a\tbird \n");
    assert_eq!(prompts(&manifest), ["a cat, \"big\"", "{red|blue} dog; [x]", "=a\tbird"]);
    assert_eq!(manifest.jobs.iter().map(|job| job.line).collect::<Vec<_>>(), [1, 4, 5]);
    assert_eq!((manifest.columns.as_slice(), manifest.notices.len()), (&["prompt".to_string()][..], 0));

    let manifest = good_named("a.txt", "prompt\na cat");
    assert_eq!(prompts(&manifest), ["a cat"]);
    assert_eq!(
        manifest.notices,
        [
            "a.txt: line 1, `prompt`, is taken for a header, and left out",
            "a.txt: the file does not end with a line break: is it whole?"
        ]
    );
    let txt = Options { format: Some(Format::Txt), ..Options::default() };
    let manifest = read_named("a.csv", "prompt,seed\na, b\n", txt).expect("one prompt a line");
    assert_eq!(prompts(&manifest), ["prompt,seed", "a, b"]);
}

#[test]
fn an_option_says_the_format() {
    let read = |name: &str, text: &str, format| {
        let manifest = read_named(name, text, Options { format: Some(format), ..Options::default() });
        manifest.map(|manifest| prompts(&manifest).join("|")).map_err(|error| error.code())
    };
    assert_eq!(read("a.csv", "{\"prompt\":\"x\"}", Format::Jsonl), Ok("x".into()));
    assert_eq!(read("a.txt", "prompt,seed\na,1\n", Format::Csv), Ok("a".into()));
    assert_eq!(read("a.txt", "prompt\tseed\na,b\t1\n", Format::Tsv), Ok("a,b".into()));
    assert_eq!(read("a.parquet", "prompt\na\n", Format::Parquet), Err("not_parquet"));
    assert_eq!(read("a.csv", "{\"prompt\":\"x\"}", Format::Tsv), Err("not_tsv"));
}

#[test]
fn a_folder_stands_for_its_manifests() {
    let folder = Folder::new();
    for (name, text) in [
        ("b.jsonl", "{\"prompt\": \"2\"}\n"),
        ("a.csv", "prompt\n1\n"),
        ("c.tsv.gz", "prompt\tseed\n3\t1\n"),
        (".hidden.csv", "prompt\nhidden\n"),
        ("notes.txt", "notes\n"),
        ("readme.md", "prompt\n"),
    ] {
        folder.file(name, if name.ends_with(".gz") { gzip(text.as_bytes()) } else { text.into() });
    }
    fs::create_dir(folder.0.path().join("d.csv")).expect("a folder");
    let last = Folder::new();
    let paths = [folder.0.path().to_path_buf(), last.file("x.txt", "4\n")];
    let manifest = read_with(&paths, Options::default()).expect("good");
    assert_eq!(prompts(&manifest), ["1", "2", "3", "4"]);
    assert_eq!(manifest.jobs.iter().map(|job| job.row).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(
        folder.without_path(&manifest.notices),
        ["notes.txt: left out of the folder's manifests; name it if it holds prompts"]
    );
    let manifest = read_with(&[last.0.path().to_path_buf()], Options::default()).expect("only texts");
    assert_eq!(prompts(&manifest), ["4"]);
}

#[test]
fn objects_may_have_different_names() {
    let manifest = good_named(
        "a.jsonl",
        r#"{"prompt": "a", "tags": ["x", {"y": 1}], "ok": true}
{"rating": 4.50, "prompt": "b"}
{"prompt": "c", "timesteps": [999, 749.5], "_x": "z"}
"#,
    );
    let cells =
        |at: usize| manifest.jobs[at].extra.iter().map(|(name, cell)| format!("{name}={cell}")).collect::<Vec<_>>();
    assert_eq!(cells(0), [r#"tags=["x", {"y": 1}]"#, "ok=true"]);
    assert_eq!(cells(1), ["tags=", "ok=", "rating=4.50"]);
    assert_eq!(cells(2), ["tags=", "ok=", "rating=", "src_x=z"]);
    assert_eq!(manifest.jobs[2].rare().timesteps.as_deref(), Some(&[999.0, 749.5][..]));
    assert_eq!(manifest.columns, ["prompt", "tags", "ok", "rating", "timesteps", "_x"]);
    let many: String = (0..1001).map(|at| format!("{{\"prompt\": \"a\", \"x{at}\": 1}}\n")).collect();
    let error = read_named("a.jsonl", many, Options::default()).expect_err("too many");
    assert!(
        error.to_string().ends_with("a.jsonl: line 1000: the objects have more than 1000 different names"),
        "{error}"
    );
}

#[test]
fn requests_of_openais_batch_api_are_rows() {
    let request = |id: &str, body: &str| {
        format!(r#"{{"custom_id": "{id}", "method": "POST", "url": "/v1/images/generations", "body": {body}}}"#)
    };
    let text = [
        request(
            "request-1",
            r#"{"model": "gpt-image-1", "prompt": "a cat", "n": 2, "size": "64x72", "quality": "high"}"#,
        ),
        request(
            "request-2",
            r#"{"prompt": "a dog", "size": "auto", "user": "me", "seed": 7, "steps": 5, "negative_prompt": "x"}"#,
        ),
    ];
    let manifest = good_named("batch.jsonl", text.join("\n"));
    assert!(manifest.openai_batch && !good("prompt\na\n").openai_batch);
    let (one, two) = (&manifest.jobs[0], &manifest.jobs[1]);
    assert_eq!((one.image_key(1).as_str(), &*one.prompt, one.width, one.height), ("request-1_1", "a cat", 64, 72));
    assert_eq!((two.seed, two.num_inference_steps, &*two.negative_prompt, two.width), (Some(7), 5, "x", 64));
    assert_eq!((one.extra.get("src_model"), one.extra.get("quality")), (Some("gpt-image-1"), Some("high")));
    assert_eq!(
        manifest.notices,
        [
            "batch.jsonl: column `model` goes to the metadata as `src_model`",
            "batch.jsonl: settings of OpenAI's have no effect and go to the metadata: `model`, `quality`, `user`",
        ]
    );
    let lines =
        [request("a/1", "{\"prompt\": \"x\"}"), text[0].clone(), request("b", "{}").replace("POST", "PUT"), "{".into()];
    let bad = read_named("batch.jsonl", lines.join("\n"), Options::default()).expect("good structure");
    let ids = bad.errors.iter().map(|row| (row.key.as_str(), bad.custom_id(row))).collect::<Vec<_>>();
    assert_eq!(ids, [("000000000", "a/1"), ("b", "b"), ("000000003", "000000003")]);
}

#[test]
fn columns_of_parquet_without_cells_are_left_out_or_refused() {
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]);
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![&b"x"[..]]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let manifest = good_named(
        "a.parquet",
        parquet(vec![
            ("scores", Arc::new(lists)),
            ("prompt", text.clone()),
            ("ok", Arc::new(BooleanArray::from(vec![true]))),
            ("none", Arc::new(NullArray::new(1))),
            ("x", Arc::new(Float64Array::from(vec![20.0]))),
        ]),
    );
    let cells: Vec<_> = manifest.jobs[0].extra.iter().map(|(name, cell)| format!("{name}={cell}")).collect();
    assert_eq!(cells, ["ok=true", "none=", "x=20.0"]);
    assert_eq!(manifest.notices, ["a.parquet: column `scores` holds lists and is left out"]);

    let error = |columns| read_named("a.parquet", parquet(columns), Options::default()).expect_err("bad");
    let told = error(vec![("prompt", text.clone()), ("image", bytes)]).to_string();
    assert!(told.ends_with("a.parquet: the column `image` holds bytes, which no cell can"), "{told}");
    let told = error(vec![("title", text.clone())]).to_string();
    assert!(told.ends_with("a.parquet: no column is called `prompt`: the columns are `title`"), "{told}");
    let twice: ArrayRef = Arc::new(StringArray::from(vec!["x", "x"]));
    let told = error(vec![("id", twice.clone()), ("prompt", twice.clone())]).to_string();
    assert!(told.ends_with("a.parquet: row 1, column `id`: `x` is also the id of row 0"), "{told}");
    let empty: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let manifest = read_named("a.parquet", parquet(vec![("prompt", empty)]), Options::default()).expect("structure");
    assert!(
        manifest.errors[0].errors[0].to_string().ends_with("a.parquet: row 1, column `prompt`: the prompt is empty")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_table_is_the_same_in_every_format(
        rows in proptest::collection::vec((cell(), cell(), proptest::option::of(any::<u64>()), 1u32..50), 1..6),
        members in 1usize..3,
    ) {
        let prompts: Vec<String> = rows.iter().map(|row| format!("x{}", row.0)).collect();
        let table = |delimiter: u8| {
            let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
            writer.write_record(["prompt", "note", "seed", "steps"]).expect("written");
            for (prompt, (_, note, seed, steps)) in prompts.iter().zip(&rows) {
                let seed = seed.map(|seed| seed.to_string()).unwrap_or_default();
                writer.write_record([prompt, note, &seed, &steps.to_string()]).expect("written");
            }
            writer.into_inner().expect("written")
        };
        let lines: Vec<String> = prompts.iter().zip(&rows).map(|(prompt, (_, note, seed, steps))| {
            serde_json::json!({"prompt": prompt, "note": note, "seed": seed, "steps": steps}).to_string()
        }).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("prompt", Arc::new(StringArray::from(prompts.clone()))),
            ("note", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1)))),
            ("seed", Arc::new(UInt64Array::from_iter(rows.iter().map(|row| row.2)))),
            ("steps", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| f64::from(row.3))))),
        ];
        let wanted = good_named("a.csv", table(b','));
        prop_assert_eq!(wanted.jobs.len(), rows.len());
        for (name, bytes) in [
            ("a.csv", table(b',')),
            ("a.tsv", table(b'\t')),
            ("a.jsonl", lines.join("\n").into_bytes()),
            ("a.parquet", parquet(columns)),
        ] {
            let pieces: Vec<&[u8]> = bytes.chunks(bytes.len().div_ceil(members)).collect();
            let pack = |one: fn(&[u8]) -> Vec<u8>| pieces.iter().flat_map(|piece| one(piece)).collect::<Vec<u8>>();
            for packed in [bytes.clone(), pack(gzip), pack(zstd)] {
                prop_assert_eq!(jobs(&good_named(name, packed)), jobs(&wanted), "{}", name);
            }
        }
    }

    #[test]
    fn no_bytes_make_other_formats_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        lead in proptest::sample::select(vec![&b""[..], b"PAR1", b"\x1F\x8B\x08\0", b"\x28\xB5\x2F\xFD", b"{\"prompt\":"]),
        tail in proptest::sample::select(vec![&b""[..], b"PAR1", b"\x0C\0\0\0PAR1", b"}\n"]),
        name in proptest::sample::select(vec!["a.csv", "a.tsv", "a.jsonl", "a.txt", "a.parquet", "a"]),
    ) {
        let _ = read_named(name, [lead, &bytes, tail].concat(), Options::default());
    }

    #[test]
    fn no_damage_makes_parquet_panic(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a cat", "a dog", "a bird"]));
        let seeds: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let mut bytes = parquet(vec![("prompt", text), ("seed", seeds)]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(if cut { at } else { bytes.len() });
        let _ = read_named("a.parquet", bytes, Options::default());
    }
}

#[test]
#[ignore = "a measurement: cargo test --release --test manifest -- --ignored --nocapture million"]
fn a_million_rows_take_seconds_in_any_format() {
    let prompts: Vec<String> =
        (0..1_000_000).map(|row| format!("a small red heart, above a yellow ring {row}")).collect();
    let line = |(row, prompt): (usize, &String)| {
        format!("{{\"prompt\": \"{prompt}\", \"seed\": {row}, \"note\": \"heart\"}}\n")
    };
    let jsonl: String = prompts.iter().enumerate().map(line).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("prompt", Arc::new(StringArray::from_iter_values(&prompts))),
        ("seed", Arc::new(Int64Array::from_iter_values(0..1_000_000))),
        ("note", Arc::new(StringArray::from_iter_values(prompts.iter().map(|_| "heart")))),
    ];
    for (name, bytes) in [
        ("a.jsonl", jsonl.clone().into_bytes()),
        ("a.jsonl.gz", gzip(jsonl.as_bytes())),
        ("a.jsonl.zst", zstd(jsonl.as_bytes())),
        ("a.parquet", parquet(columns)),
        ("a.txt", (prompts.join("\n") + "\n").into_bytes()),
    ] {
        let folder = Folder::new();
        let path = folder.file(name, bytes);
        let start = std::time::Instant::now();
        let manifest = read_with(&[path], Options::default()).expect("good");
        println!("{name}: {:.2} s", start.elapsed().as_secs_f64());
        assert_eq!(manifest.jobs.len(), 1_000_000);
    }
}
