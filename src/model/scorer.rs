//! A folder with a CLIP model, which says how well pictures fit their texts.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::{Config, missing};
use super::graph_file::{FLOATS, GraphFile, Role};
use super::hash::hash_files;
use super::signature::{Dtype, TensorInfo};
use super::spec::folder_name;
use super::text_part::{TOKENIZER_FILES, read_tokenizer, token_limit};
use crate::error::{Error, Location, Result};
use crate::pixels::{ClipImage, Filter, Resize};
use crate::prompt::{PromptTokenizer, TokenizerFiles};

/// Token ids of a text where nothing says how many: every published CLIP's.
const CLIP_TOKENS: usize = 77;

/// A CLIP model's folder: configs and graph signatures, without tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct ScorerSpec {
    /// The folder.
    pub dir: PathBuf,
    /// The folder's name.
    pub name: String,
    /// Texts to embeddings.
    pub text: TextTower,
    /// Pictures to embeddings.
    pub image: ImageTower,
    /// How pictures are prepared.
    pub preprocessor: ClipImage,
    tokenizer: TokenizerFiles,
    model_max_length: usize,
}

/// The graph that embeds texts.
#[derive(Debug, Clone, PartialEq)]
pub struct TextTower {
    /// The file.
    pub file: GraphFile,
    /// int32 or int64 `[batch, sequence]`.
    pub input_ids: TensorInfo,
    /// int32, int64 or float `[batch, sequence]`, if the graph takes it: which ids are text.
    pub attention_mask: Option<TensorInfo>,
    /// float `[batch, width]`.
    pub text_embeds: TensorInfo,
}

/// The graph that embeds pictures; in optimum's exports the same as that which embeds texts.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTower {
    /// The file.
    pub file: GraphFile,
    /// float `[batch, 3, height, width]`.
    pub pixel_values: TensorInfo,
    /// float `[batch, width]`.
    pub image_embeds: TensorInfo,
}

const PIXELS: Role = Role { names: &["pixel_values"], shape: "[batch, 3, height, width]", ..FLOATS };

const IDS: Role = Role {
    names: &["input_ids"],
    dtype: Dtype::is_int,
    dtype_name: "int32 or int64",
    ranks: &[2],
    shape: "[batch, sequence]",
    ..FLOATS
};

const MASK: Role = Role {
    names: &["attention_mask"],
    dtype: |dtype| dtype.is_int() || dtype.is_float(),
    dtype_name: "int32, int64 or float",
    ..IDS
};

const EMBEDS: Role = Role { side: "output", ranks: &[2], shape: "[batch, width]", ..FLOATS };

impl ScorerSpec {
    /// Reads the folder `dir`: `model.onnx` with both towers, as optimum exports CLIP, or `text_model.onnx` and
    /// `vision_model.onnx`, as transformers.js has them, there or in its folder `onnx`; `preprocessor_config.json`; and the
    /// tokenizer's files.
    ///
    /// # Errors
    /// A file is missing or broken, or the graphs are not a CLIP model's.
    pub fn open(dir: impl AsRef<Path>) -> Result<ScorerSpec> {
        let dir = dir.as_ref();
        let (text, image) = graphs(dir)?;
        let text = TextTower {
            input_ids: text.input(&IDS)?,
            attention_mask: text.optional_input(&MASK)?,
            text_embeds: text.output(&Role { names: &["text_embeds"], ..EMBEDS })?,
            file: text,
        };
        let image = ImageTower {
            pixel_values: image.input(&PIXELS)?,
            image_embeds: image.output(&Role { names: &["image_embeds"], ..EMBEDS })?,
            file: image,
        };
        let known: Vec<&TensorInfo> =
            [&text.input_ids, &image.pixel_values].into_iter().chain(&text.attention_mask).collect();
        [&text.file, &image.file].into_iter().try_for_each(|file| file.only_inputs(&known))?;
        let preprocessor = read_preprocessor(dir)?;
        check_size(&preprocessor, &image)?;
        let limit = token_limit(dir)?.or(text.input_ids.fixed(1)).unwrap_or(CLIP_TOKENS);
        let (dir, name, tokenizer) = (dir.to_path_buf(), folder_name(dir), read_tokenizer(dir)?);
        Ok(ScorerSpec { dir, name, text, image, preprocessor, tokenizer, model_max_length: limit })
    }

    /// Returns whether one graph embeds both.
    pub fn is_joint(&self) -> bool {
        self.text.file.path == self.image.file.path
    }

    /// Returns the tokenizer.
    ///
    /// # Errors
    /// Its files are broken, or lack a special token.
    pub fn prompt_tokenizer(&self) -> Result<PromptTokenizer> {
        let tokenizer = PromptTokenizer::new(&self.tokenizer, self.model_max_length);
        tokenizer.map_err(|error| error.at(Location::file(&self.dir)))
    }

    /// Returns the BLAKE3 hash (64 hex digits) over the name and bytes of every file that changes scores.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn hash(&self) -> Result<String> {
        let graphs = [&self.text.file, &self.image.file];
        let weights = graphs.iter().flat_map(|graph| graph.external_files());
        let others = TOKENIZER_FILES.iter().chain(&["preprocessor_config.json"]).map(|name| self.dir.join(name));
        let files = graphs.iter().map(|graph| graph.path.clone()).chain(weights);
        hash_files(&self.dir, files.chain(others.filter(|path| path.is_file())).collect())
    }
}

/// Returns the graphs that embed texts and pictures.
fn graphs(dir: &Path) -> Result<(GraphFile, GraphFile)> {
    let folders = [dir.to_path_buf(), dir.join("onnx")];
    let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    if let Some(both) = find("model.onnx") {
        let both = GraphFile::open(both)?;
        return Ok((both.clone(), both));
    }
    match (find("text_model.onnx"), find("vision_model.onnx")) {
        (Some(text), Some(vision)) => Ok((GraphFile::open(text)?, GraphFile::open(vision)?)),
        _ => Err(missing(&dir.join("model.onnx")).hint(
            "a scorer is a CLIP model as ONNX: `model.onnx` of `optimum-cli export onnx --task zero-shot-image-classification`, \
             or `text_model.onnx` and `vision_model.onnx`",
        )),
    }
}

/// Returns how pictures are prepared for the CLIP model in `dir`, as its `preprocessor_config.json` says.
///
/// # Errors
/// The file is missing or broken, or asks for what we cannot do.
pub fn read_preprocessor(dir: &Path) -> Result<ClipImage> {
    let hint = "it says how pictures are prepared: copy it from where the model comes from";
    let config = &Config::read(dir.join("preprocessor_config.json"), hint)?;
    let is_on = |step: &str| Ok::<_, Error>(config.flag(step)?.unwrap_or(true));
    let resize = if is_on("do_resize")? { Some((resize(config)?, filter(config)?)) } else { None };
    let crop = if is_on("do_center_crop")? { crop(config)? } else { None };
    let rescale =
        if is_on("do_rescale")? { Some(config.number("rescale_factor")?.unwrap_or(1.0 / 255.0)) } else { None };
    let normalize = if is_on("do_normalize")? {
        Some((channels(config, "image_mean")?, channels(config, "image_std")?))
    } else {
        None
    };
    Ok(ClipImage { resize, crop, rescale, normalize })
}

fn resize(config: &Config) -> Result<Resize> {
    let side = |value: &Value| value.as_u64().and_then(|side| u32::try_from(side).ok()).filter(|side| *side > 0);
    let found = config.value("size").and_then(|size| match size {
        Value::Object(size) => match (size.get("shortest_edge"), size.get("width"), size.get("height")) {
            (Some(edge), _, _) => side(edge).map(Resize::ShortestEdge),
            (None, Some(width), Some(height)) => Some(Resize::Exact(side(width)?, side(height)?)),
            _ => None,
        },
        size => side(size).map(Resize::ShortestEdge),
    });
    found.ok_or_else(|| config.bad("size", "must be a number, or have `shortest_edge`, or `width` and `height`"))
}

fn crop(config: &Config) -> Result<Option<(u32, u32)>> {
    let side = |value: Option<&Value>| u32::try_from(value?.as_u64()?).ok().filter(|side| *side > 0);
    match config.value("crop_size") {
        None => Ok(None),
        Some(size) => match size.as_object() {
            Some(sides) => side(sides.get("width")).zip(side(sides.get("height"))),
            None => side(Some(size)).map(|side| (side, side)),
        }
        .map(Some)
        .ok_or_else(|| config.bad("crop_size", "must be a number, or have `width` and `height`")),
    }
}

/// Returns Pillow's filter of this number.
fn filter(config: &Config) -> Result<Filter> {
    match config.count("resample")?.unwrap_or(3) {
        1 => Ok(Filter::Lanczos),
        3 => Ok(Filter::Bicubic),
        other => Err(config.bad("resample", &format!("`{other}` is not supported, only 3 (bicubic) and 1 (Lanczos)"))),
    }
}

fn channels(config: &Config, key: &str) -> Result<[f32; 3]> {
    let numbers = config.numbers(key)?.unwrap_or_default();
    match numbers.as_slice() {
        [red, green, blue] => Ok([*red as f32, *green as f32, *blue as f32]),
        _ => Err(config.bad(key, "must be three numbers")),
    }
}

/// Fails where the graph takes pictures of one size, and they are prepared to another.
fn check_size(preprocessor: &ClipImage, image: &ImageTower) -> Result<()> {
    let exact = match preprocessor.resize {
        Some((Resize::Exact(width, height), _)) => Some((width, height)),
        _ => None,
    };
    let tensor = &image.pixel_values;
    let Some((width, height)) = preprocessor.crop.or(exact) else {
        let message = "preprocessor_config.json does not bring all pictures to one size, and CLIP models take one";
        return Err(image.file.error(message.to_string()).hint("take both files from the same model"));
    };
    if tensor.accepts(&[1, 3, height as usize, width as usize]) {
        return Ok(());
    }
    let message = format!("the graph takes {tensor}, and preprocessor_config.json makes pictures {width} × {height}");
    Err(image.file.error(message).hint("take both files from the same model"))
}
