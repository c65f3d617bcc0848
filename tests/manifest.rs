//! Manifests from files: what bad ones say, word for word, and that good ones are read whatever their dialect.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nightshift::error::{Error, ErrorKind, Result};
use nightshift::job::Defaults;
use nightshift::manifest::{self, Manifest, Options, Rules};
use nightshift::model::ModelSpec;
use nightshift::recipe::Recipe;
use proptest::prelude::*;

#[path = "manifests/bad.rs"]
mod bad;
#[path = "manifests/formats.rs"]
mod formats;

fn defaults() -> Defaults {
    Defaults {
        negative_prompt: "blurry".into(),
        seed: 0,
        scheduler: "euler".into(),
        num_inference_steps: 20,
        guidance_scale: 4.0,
        guidance_rescale: 0.0,
        guidance_start: None,
        guidance_stop: None,
        eta: 0.0,
        strength: None,
        clip_skip: None,
        cache_interval: None,
        width: 64,
        height: 48,
        num_images_per_prompt: 1,
    }
}

/// That of a model shaped like Stable Diffusion.
fn recipe() -> &'static Recipe {
    static RECIPE: OnceLock<Recipe> = OnceLock::new();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny");
    RECIPE.get_or_init(|| ModelSpec::open(tiny).expect("a model folder").recipe)
}

fn resolve(name: &str) -> Result<String> {
    match name.to_lowercase().as_str() {
        "ddim" | "ddimscheduler" => Ok("ddim".into()),
        _ => Err(Error::new(ErrorKind::Usage, "unknown_scheduler", format!("there is no scheduler `{name}`"))
            .hint("did you mean `euler`?")),
    }
}

fn read_with(paths: &[PathBuf], options: Options) -> Result<Manifest> {
    let defaults = defaults();
    manifest::read(
        paths,
        &Rules {
            defaults: &defaults,
            size_multiple: 8,
            max_size: 4096,
            max_steps: 1000,
            recipe: recipe(),
            resolve_scheduler: &resolve,
            read_levels: &|_, text, _| Ok(text.split(',').filter_map(|word| word.parse().ok()).collect()),
            check: &|_| Ok(()),
            options,
        },
    )
}

/// Files that live as long as a test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().expect("a folder for the test"))
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("write a test file");
        path
    }

    fn read(&self, bytes: impl AsRef<[u8]>, options: Options) -> Result<Manifest> {
        read_with(&[self.file("a.csv", bytes)], options)
    }

    /// Returns `lines` without the name of this folder.
    fn without_path(&self, lines: &[String]) -> Vec<String> {
        lines.iter().map(|line| line.replace(&format!("{}/", self.0.path().display()), "")).collect()
    }
}

fn good(bytes: impl AsRef<[u8]>) -> Manifest {
    let manifest = Folder::new().read(bytes, Options::default()).expect("a good manifest");
    assert!(manifest.errors.is_empty(), "{:?}", manifest.errors);
    manifest
}

fn prompts(manifest: &Manifest) -> Vec<&str> {
    manifest.jobs.iter().map(|job| &*job.prompt).collect()
}

/// Returns all errors of a file as the table of bad files writes them.
fn errors_of(path: &Path) -> Vec<(ErrorKind, &'static str, String, String)> {
    let errors = match read_with(&[path.to_path_buf()], Options::default()) {
        Err(error) => vec![error],
        Ok(manifest) => manifest.errors.into_iter().flat_map(|row| row.errors).collect(),
    };
    let told = |error: Error| {
        let message = error.to_string();
        let message = message.strip_prefix(path.to_str().expect("a plain path")).expect("the file's name").to_string();
        (error.kind(), error.code(), message, error.how_to_fix().unwrap_or("no hint").to_string())
    };
    errors.into_iter().map(told).collect()
}

#[test]
fn bad_files_say_what_is_wrong_and_how_to_fix_it() {
    let folder = Path::new("tests/manifests/bad");
    let names: BTreeSet<&str> = bad::BAD.iter().map(|case| case.0).collect();
    for name in &names {
        let wanted: Vec<_> = bad::BAD.iter().filter(|case| case.0 == *name).collect();
        let found = errors_of(&folder.join(if name.contains('.') { name.to_string() } else { format!("{name}.csv") }));
        assert_eq!(found.len(), wanted.len(), "{name}: {found:#?}");
        for (found, (_, kind, code, message, hint)) in found.iter().zip(wanted) {
            assert_eq!((found.0, found.1, &*found.2, &*found.3), (*kind, *code, *message, *hint), "{name}");
            assert_eq!(found.0.exit_code(), if *kind == ErrorKind::Manifest { 2 } else { 3 });
        }
    }
    let files: BTreeSet<String> = fs::read_dir(folder)
        .expect("the bad files")
        .map(|entry| entry.expect("an entry").file_name())
        .map(stem)
        .collect();
    assert_eq!(files, names.into_iter().map(String::from).collect(), "each file is in the table");
}

fn stem(name: std::ffi::OsString) -> String {
    name.to_str().expect("a plain name").trim_end_matches(".csv").to_string()
}

#[test]
fn paths_that_cannot_be_read_are_structure_errors() {
    let folder = Folder::new();
    let missing = folder.0.path().join("none.csv");
    let empty = folder.0.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    for (path, code) in [(missing.as_path(), "unreadable_file"), (&empty, "no_manifest_in_folder")] {
        let error = read_with(&[folder.file("a.csv", "prompt\na cat\n"), path.to_path_buf()], Options::default())
            .expect_err("not readable");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Manifest, code));
        assert_eq!(error.location().expect("a place").path, path);
    }
}

fn utf16(text: &str, big: bool) -> Vec<u8> {
    let unit = |unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() };
    std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(unit).collect()
}

#[test]
fn the_same_rows_in_many_dialects() {
    let plain = "prompt,seed\na café 猫,1\n\"two, \"\"cats\"\"\",2\n";
    let wanted = good(plain);
    assert_eq!(prompts(&wanted), ["a café 猫", "two, \"cats\""]);
    assert_eq!(wanted.notices, [""; 0]);
    let dialects: Vec<(Vec<u8>, &[&str])> = vec![
        (format!("\u{feff}{plain}").into(), &[]),
        ("\u{feff}\"prompt\",\"seed\"\n\"a café 猫\",\"1\"\n\"two, \"\"cats\"\"\",\"2\"\n".into(), &[]),
        (plain.replace('\n', "\r\n").into(), &[]),
        (plain.replace('\n', "\r").into(), &[]),
        (plain.replacen('\n', "\r\n", 1).into(), &[]),
        (plain.trim_end().into(), &["a.csv: the file does not end with a line break: is it whole?"]),
        (format!("{plain}\u{1a}").into(), &[]),
        (format!("\n{}\n  \n", plain.replace('\n', "\n\n")).into(), &[]),
        (format!("sep=,\r\n{plain}").into(), &[]),
        (
            plain.replace(",1", ";1").replace(",2", ";2").replace("t,s", "t;s").into(),
            &["a.csv: read with a semicolon between the cells"],
        ),
        (
            plain.replace(",1", "\t1").replace(",2", "\t2").replace("t,s", "t\ts").into(),
            &["a.csv: read with a tab between the cells"],
        ),
        (
            plain.replace(",1", "|1").replace(",2", "|2").replace("t,s", "t|s").into(),
            &["a.csv: read with a `|` between the cells"],
        ),
        (utf16(plain, false), &["a.csv: read as UTF-16LE"]),
        (utf16(plain, true), &["a.csv: read as UTF-16BE"]),
        (plain.replace("seed\n", "seed,\n").replace("1\n", "1,\n").replace("2\n", "2,\n").into(), &[]),
        (
            plain.replace("prompt,seed", " Prompt ,SEED").into(),
            &["a.csv: column ` Prompt ` read as `prompt`", "a.csv: column `SEED` read as `seed`"],
        ),
        (plain.replace("prompt", "text").into(), &[]),
        (format!("{plain},\n").into(), &["a.csv: line 4: a row of empty cells is left out"]),
    ];
    let folder = Folder::new();
    for (bytes, notices) in dialects {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let manifest = folder.read(bytes, Options::default()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(prompts(&manifest), prompts(&wanted), "{text:?}");
        assert_eq!(manifest.jobs.iter().map(|job| job.seed).collect::<Vec<_>>(), [Some(1), Some(2)], "{text:?}");
        assert_eq!(folder.without_path(&manifest.notices), notices, "{text:?}");
    }
}

#[test]
fn options_read_what_cannot_be_known() {
    let folder = Folder::new();
    let read = |bytes: &[u8], options| folder.read(bytes, options).expect("a good manifest");
    let options = Options { encoding: Some("windows-1252".into()), ..Options::default() };
    assert_eq!(prompts(&read(b"prompt\nun caf\xE9\n", options)), ["un café"]);
    let options = Options { escape: Some(b'\\'), ..Options::default() };
    assert_eq!(prompts(&read(b"prompt\n\"a \\\"red\\\" cat, \"\"big\"\"\"\n", options)), ["a \"red\" cat, \"big\""]);
    let options = Options { delimiter: Some(b'~'), ..Options::default() };
    assert_eq!(prompts(&read(b"seed~prompt\n1~a, b; c\n", options)), ["a, b; c"]);
    let options = Options { prompt_col: Some("title".into()), id_col: Some("sku".into()), ..Options::default() };
    let manifest = read(b"sku,title,prompt,key\nx1,a cat,old,k\n", options);
    assert_eq!((prompts(&manifest), manifest.jobs[0].key()), (vec!["a cat"], "x1".to_string()));
    assert_eq!(manifest.columns, ["sku", "title", "prompt", "key"]);
    assert_eq!(manifest.extra_columns.iter().map(|name| &**name).collect::<Vec<_>>(), ["src_prompt", "src_key"]);
    let options = Options { allow_empty: true, ..Options::default() };
    assert_eq!(prompts(&read(b"prompt,seed\n,1\n,\n", options)), ["", ""]);
    let missing = Options { prompt_col: Some("titel".into()), ..Options::default() };
    let error = folder.read("title\na cat\n", missing).expect_err("no such column");
    assert!(error.to_string().ends_with("a.csv: line 1: no column is called `titel`: the header reads `title`"));
}

#[test]
fn every_column_reaches_its_field_and_empty_cells_the_defaults() {
    let text = "custom_id,caption,negative_prompt,seed,steps,cfg,guidance_rescale,eta,width,height,n,sampler,label,note\n\
                007,\" a cat \",dogs,18446744073709551615,30,7.5,0.7,1,512,256,3,DDIMScheduler,x, kept \n\
                1e5,NA,,-1,,,,,,,,,,\n";
    let manifest = good(text);
    let job = &manifest.jobs[0];
    assert_eq!((job.key().as_str(), &*job.prompt, &*job.negative_prompt), ("007", "a cat", "dogs"));
    assert_eq!((job.seed, job.num_inference_steps, job.num_images_per_prompt), (Some(u64::MAX), 30, 3));
    assert_eq!((job.guidance_scale, job.rare().guidance_rescale, job.rare().eta), (7.5, 0.7, 1.0));
    assert_eq!((job.width, job.height, &*job.scheduler), (512, 256, "ddim"));
    assert_eq!(job.extra, [("src_label", "x"), ("note", " kept ")].into());
    let job = &manifest.jobs[1];
    let given = defaults();
    assert_eq!((job.key().as_str(), &*job.prompt, &*job.negative_prompt), ("1e5", "NA", "blurry"));
    assert_eq!((job.seed, job.num_inference_steps, job.num_images_per_prompt), (None, 20, 1));
    assert_eq!((job.guidance_scale, job.rare().guidance_rescale, job.rare().eta), (4.0, 0.0, 0.0));
    assert_eq!((job.width, job.height, &*job.scheduler), (given.width, given.height, &*given.scheduler));
    assert!(
        manifest.notices[1]
            .ends_with("row 1 (line 3), column `seed`: -1 stands for a seed derived from the run's seed and the key")
    );
    let sized = good("prompt,size\na,512x256\nb,\nc,64 X 72\n");
    assert_eq!(
        sized.jobs.iter().map(|job| (job.width, job.height)).collect::<Vec<_>>(),
        [(512, 256), (64, 48), (64, 72)]
    );
}

#[test]
fn words_of_other_languages_of_data_are_plain_text() {
    let words = ["NA", "null", "None", "nan", "TRUE", "=cmd()", "+1", "@x", "5\" tv", "«a»", "👩‍🚀 שלום", "a\u{301}"];
    assert_eq!(prompts(&good(format!("prompt,seed\n{}\n", words.map(|word| format!("{word},")).join("\n")))), words);
}

#[test]
fn a_failed_csv_is_a_manifest_of_the_same_errors() {
    let folder = Folder::new();
    let first = folder.file("a.csv", "text,seed,label\na cat,1,x\n,2,y\na, b,3,z\na dog\n");
    let second = folder.file("b.csv", "note,id,prompt,width\nfine,c,a cat,64\nkept,d,a dog,500\n");
    let manifest = read_with(&[first, second], Options::default()).expect("good structure");
    assert_eq!(manifest.columns, ["prompt", "seed", "label", "note", "id", "width"]);
    assert_eq!(manifest.rows, 6);
    assert_eq!(manifest.jobs.iter().map(|job| job.row).collect::<Vec<_>>(), [0, 4]);
    let cells: Vec<&[String]> = manifest.errors.iter().map(|row| &*row.cells).collect();
    assert_eq!(cells[0], ["", "2", "y", "", "", ""]);
    assert_eq!(cells[1], ["a", " b", "3", "", "", "", "z"], "too many stay too many");
    assert_eq!(cells[2], ["a dog"], "too few stay too few");
    assert_eq!(cells[3], ["a dog", "", "", "kept", "d", "500"]);
    assert_eq!(
        manifest.errors.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(),
        ["000000001", "000000002", "000000003", "d"]
    );

    let mut failed = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
    failed
        .write_record(["error_code", "error_message"].into_iter().chain(manifest.columns.iter().map(|c| &**c)))
        .expect("written");
    for row in &manifest.errors {
        let error = &row.errors[0];
        let verdict = [error.code().to_string(), error.to_string()];
        failed.write_record(verdict.iter().chain(&row.cells)).expect("written");
    }
    let again = folder.read(failed.into_inner().expect("written"), Options::default()).expect("good structure");
    assert_eq!(again.columns, manifest.columns);
    assert!(again.jobs.is_empty());
    let told = |manifest: &Manifest| -> Vec<(&str, Vec<String>)> {
        manifest.errors.iter().map(|row| (row.errors[0].code(), row.cells.clone())).collect()
    };
    assert_eq!(told(&again), told(&manifest));
}

#[test]
fn ids_are_unique_over_all_files() {
    let folder = Folder::new();
    let one = folder.file("a.csv", "prompt,id\na cat,cat\n");
    let two = folder.file("b.csv", "key,prompt\ndog,a dog\nCAT,a cat\n");
    let error = read_with(&[one.clone(), two.clone()], Options::default()).expect_err("an id twice");
    let wanted =
        "b.csv: row 2 (line 3), column `key`: `CAT` differs only by case from `cat`, the id of row 0 (a.csv, line 2)";
    assert_eq!(folder.without_path(&[error.to_string()]), [wanted]);
    let bad_row = folder.file("c.csv", "prompt,id\n,cat\n");
    assert_eq!(read_with(&[one, bad_row], Options::default()).expect_err("an id twice").code(), "duplicate_id");
}

#[test]
fn image_names_of_rows_do_not_meet() {
    let code = |text: &str| Folder::new().read(text, Options::default()).map(|_| ()).map_err(|error| error.code());
    assert_eq!(code("id,prompt,n\ncat,a,2\ncat_2,b,1\n"), Ok(()), "the images are cat_0 and cat_1");
    assert_eq!(code("id,prompt,n\ncat,a,2\ncat_01,b,1\n"), Ok(()));
    assert_eq!(code("id,prompt,n\ncat,a,1\ncat_0,b,1\n"), Ok(()));
    assert_eq!(code("id,prompt,n\ncat,a,2\ncat_1,b,2\n"), Ok(()), "cat_1_0 and cat_1_1");
    assert_eq!(code("id,prompt,n\nCat,a,2\ncat_1,b,1\n"), Err("duplicate_id"));
    assert_eq!(code("id,prompt,n\n,a,2\n000000000_1,b,1\n"), Err("duplicate_id"));
    assert_eq!(code("id,prompt,n\n,a,1\n000000000,b,1\n"), Err("duplicate_id"));
    assert_eq!(code("id,prompt,n\nx,a,1\n000000000,b,1\n000000002,c,1\n"), Ok(()));
}

#[test]
fn long_cells_are_refused_and_allowed() {
    let folder = Folder::new();
    let text = format!("prompt,seed\n{},1\na cat,2\n", "é".repeat(40_000));
    let manifest = folder.read(&text, Options::default()).expect("good structure");
    let error = &manifest.errors[0].errors[0];
    assert_eq!((error.code(), error.message()), ("field_too_long", "the cell has 80000 bytes, more than 65536"));
    assert_eq!(manifest.jobs.len(), 1);
    assert_eq!(folder.read(&text, Options { max_field: 80_000, ..Options::default() }).expect("good").jobs.len(), 2);
    let lines = format!("prompt,seed\n\"{}\",1\n", "a\n".repeat(150));
    assert_eq!(folder.read(&lines, Options::default()).expect_err("too many lines").code(), "unclosed_quote");
    assert_eq!(folder.read(&lines, Options { max_field: 131_072, ..Options::default() }).expect("good").jobs.len(), 1);
}

#[test]
fn remarks_are_said_once_with_a_count() {
    let folder = Folder::new();
    let text =
        "prompt,mask_file_name,seed\n\"a\" cat,m.png,-1\n\"a\" dog,,-1\n\"a\nbird\",,-1\na \u{7}fish,,\na , \"b\",1\n";
    let manifest = folder.read(text, Options::default()).expect("good structure");
    assert_eq!(
        folder.without_path(&manifest.notices),
        [
            "a.csv: column `mask_file_name` goes to the metadata as `src_mask_filename`",
            "a.csv: row 0 (line 2), column `prompt`: text follows the closing quote and was taken as part of the cell (and 1 more)",
            "a.csv: row 0 (line 2), column `seed`: -1 stands for a seed derived from the run's seed and the key (and 2 more)",
            "a.csv: row 2 (line 4), column `prompt`: the prompt has several lines",
            "a.csv: row 3 (line 6), column `prompt`: the cell has control characters; they are kept",
            "a.csv: row 4 (line 7), column `mask_file_name`: a space stands before the quotes, so that they are part of the text",
        ]
    );
    let ragged = format!("prompt,seed\n{}{}", "a cat,1\n".repeat(20), "a, b,1\n".repeat(3));
    let manifest = folder.read(ragged, Options::default()).expect("good structure");
    assert!(manifest.notices[0].starts_with("3 of 23 rows have the wrong number of cells"), "{:?}", manifest.notices);
}

#[test]
fn strict_allows_no_bad_row() {
    let folder = Folder::new();
    let error = folder.read("prompt,seed\na,1\nb,x\n", Options::default()).expect("good structure").strict();
    assert_eq!(error.expect_err("a bad row").to_string(), "1 of 2 rows cannot be made, and `--strict` allows none");
    assert!(good("prompt\na\n").strict().is_ok());
}

#[test]
fn the_hash_is_that_of_the_files_one_after_the_other() {
    let folder = Folder::new();
    let (one, two) = (folder.file("a.csv", "prompt\na\n"), folder.file("b.csv", "prompt\nb\n"));
    let manifest = read_with(&[one, two], Options::default()).expect("good");
    assert_eq!(manifest.hash, blake3::hash(b"prompt\na\nprompt\nb\n").to_hex().to_string());
}

/// A header, and what stands in a row.
type Table = (&'static str, fn(u32) -> String);

#[test]
#[ignore = "a measurement: cargo test --release --test manifest -- --ignored --nocapture million"]
fn a_million_rows_take_seconds() {
    let tables: [Table; 3] = [
        ("prompt,seed", |row| format!("a small red heart above a yellow ring number {row},{row}")),
        ("prompt,negative_prompt,seed,steps,label", |row| {
            format!(
                "\"a small red heart, above a yellow ring number {row}\",\"blurry, dark\",{row},{},heart",
                20 + row % 5
            )
        }),
        ("id,prompt,seed,steps,guidance_scale,width,height,scheduler,label", |row| {
            format!("img_{row},\"a small red heart, above a yellow ring\",{row},20,7.5,512,512,ddim,heart")
        }),
    ];
    let folder = Folder::new();
    for (header, row) in tables {
        let rows: Vec<String> = (0..1_000_000).map(row).collect();
        let path = folder.file("a.csv", format!("{header}\n{}\n", rows.join("\n")));
        drop(rows);
        let start = std::time::Instant::now();
        let manifest = read_with(&[path], Options::default()).expect("good");
        let seconds = start.elapsed().as_secs_f64();
        println!("{header}: {seconds:.2} s");
        assert_eq!(manifest.jobs.len(), 1_000_000);
    }
}

/// Cells of any characters but NUL, with a liking for those that mean something to a CSV reader.
fn cell() -> impl Strategy<Value = String> {
    prop_oneof![
        "[\\PC\n\r\t]{0,20}",
        proptest::collection::vec(
            prop_oneof![
                Just("\""),
                Just(","),
                Just("\n"),
                Just("\r\n"),
                Just(";"),
                Just("猫🐱"),
                Just("\\"),
                Just("a")
            ],
            0..12
        )
        .prop_map(|parts| parts.concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_csv_writer_wrote_comes_back(
        rows in proptest::collection::vec((cell(), cell(), cell()), 1..8),
        crlf in any::<bool>(),
        quote_all in any::<bool>(),
    ) {
        let mut writer = csv::WriterBuilder::new()
            .terminator(if crlf { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') })
            .quote_style(if quote_all { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary })
            .from_writer(Vec::new());
        writer.write_record(["prompt", "note", "seed"]).expect("written");
        let mut lines = Vec::new();
        for (at, (prompt, note, class)) in rows.iter().enumerate() {
            writer.flush().expect("in memory");
            lines.push(1 + line_breaks(writer.get_ref()));
            writer.write_record([&format!("x{prompt}x"), &format!("{note}{class}"), &at.to_string()]).expect("written");
        }
        let manifest = Folder::new().read(writer.into_inner().expect("written"), Options::default()).expect("good structure");
        prop_assert!(manifest.errors.is_empty());
        prop_assert_eq!(manifest.jobs.len(), rows.len());
        for (at, (job, (prompt, note, class))) in manifest.jobs.iter().zip(&rows).enumerate() {
            prop_assert_eq!(&*job.prompt, &format!("x{prompt}x"));
            prop_assert_eq!(job.extra.get("note"), Some(&*format!("{note}{class}")));
            prop_assert_eq!((job.row, job.line, job.seed), (at as u64, lines[at], Some(at as u64)));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), header in any::<bool>()) {
        let bytes = if header { [b"prompt,id,n,size\n", &*bytes].concat() } else { bytes };
        let _ = Folder::new().read(bytes, Options::default());
    }

    #[test]
    fn no_text_of_csv_parts_makes_it_panic(parts in proptest::collection::vec(prop_oneof![
        Just("prompt"), Just("id"), Just(","), Just("\n"), Just("\r"), Just("\""), Just("\\\""), Just("x"), Just("0"),
        Just("-1"), Just("é"), Just(";"), Just("image"), Just("sep=,"), Just("\u{1a}"), Just(" "), Just("n"), Just("2"),
    ], 0..40), escape in any::<bool>(), lead in any::<bool>()) {
        let text = if lead { format!("id,prompt,n\n{}", parts.concat()) } else { parts.concat() };
        let options = Options { escape: escape.then_some(b'\\'), ..Options::default() };
        if let Ok(manifest) = Folder::new().read(text, options) {
            prop_assert_eq!(manifest.jobs.len() + manifest.errors.len(), manifest.rows as usize);
            let mut keys = BTreeSet::new();
            for job in &manifest.jobs {
                for index in 0..job.num_images_per_prompt.min(50) {
                    prop_assert!(keys.insert(job.image_key(index).to_lowercase()), "two images of one name");
                }
            }
        }
    }
}

/// Returns the number of line breaks in `text`: CR LF, LF or CR.
fn line_breaks(text: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(text).replace("\r\n", "\n").replace('\r', "\n");
    text.matches('\n').count() as u64
}
