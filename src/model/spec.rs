//! What a model folder says about itself, checked to fit together.

use std::path::{Path, PathBuf};

use super::config::{Config, missing, read_bytes_if_there, read_text_if_there};
use super::family::{Family, not_yet};
use super::graphs::{GraphFile, TextEncoderGraph, UnetGraph, VaeDecoderGraph};
use super::hash::hash_files;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::prompt::{PromptTokenizer, TokenizerFiles};

/// A model folder: its configs and graph signatures, without tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The folder.
    pub dir: PathBuf,
    /// The folder's name.
    pub name: String,
    /// `_class_name` of `model_index.json`, as it is written.
    pub class_name: String,
    /// What kind of pipeline it is.
    pub family: Family,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Pixels per latent cell: 2^(blocks of the VAE − 1).
    pub vae_scale_factor: u32,
    /// What latents are multiplied by after encoding and divided by before decoding.
    pub scaling_factor: f64,
    /// What is subtracted from latents after encoding and added before decoding (0 for most models).
    pub shift_factor: f64,
    /// Number of token ids that every text becomes.
    pub model_max_length: usize,
    /// Width and height in pixels that the model was trained for, or that its graphs are fixed to.
    pub default_size: (u32, u32),
    /// Width and height in pixels of the only size that the graphs take, if they are fixed to one.
    pub fixed_size: Option<(u32, u32)>,
    /// Number of lanes of the only batch that the UNet takes, if it is fixed to one.
    pub fixed_lanes: Option<usize>,
    /// Width and height must be multiples of this many pixels.
    pub size_multiple: u32,
    /// Least number of attention heads of any of the UNet's blocks, if its config says it.
    pub attention_heads: Option<usize>,
    /// `scheduler/scheduler_config.json`, as it is.
    pub scheduler_config: String,
    /// The tokenizer's files.
    pub tokenizer: TokenizerFiles,
    /// The text encoder's graph.
    pub text_encoder: TextEncoderGraph,
    /// The UNet's graph.
    pub unet: UnetGraph,
    /// The VAE decoder's graph.
    pub vae_decoder: VaeDecoderGraph,
}

/// The `config.json` of each network; only the VAE's must be there.
struct Configs {
    text_encoder: Option<Config>,
    unet: Option<Config>,
    vae: Config,
    tokenizer: Option<Config>,
}

impl ModelSpec {
    /// Reads the folder `dir` in optimum's layout and checks that its parts fit together.
    ///
    /// # Errors
    /// A file is missing, broken or unlike the others, or the model is of a kind that we cannot run yet.
    pub fn open(dir: impl AsRef<Path>) -> Result<ModelSpec> {
        let dir = dir.as_ref();
        check_folder(dir)?;
        let index =
            Config::read(dir.join("model_index.json"), "this file makes a folder a model; copy the whole folder")?;
        let class_name =
            index.string("_class_name")?.ok_or_else(|| index.bad("_class_name", "is missing"))?.to_string();
        if dir.join("transformer").is_dir() {
            return Err(not_yet(dir, &format!("transformer pipelines (`{class_name}`)")));
        }
        let unet = GraphFile::open(dir, &["unet"])?;
        let family = Family::identify(dir, &class_name, &unet.signature)?;
        let unet = UnetGraph::bind(unet)?;
        let text_encoder = TextEncoderGraph::bind(GraphFile::open(dir, &["text_encoder"])?)?;
        let vae_decoder = VaeDecoderGraph::bind(GraphFile::open(dir, &["vae_decoder", "vae"])?)?;
        let configs = Configs::read(dir, &vae_decoder)?;
        let scheduler = Config::read(
            dir.join("scheduler").join("scheduler_config.json"),
            "it says how noise was added in training; copy it from the original model",
        )?;
        let tokenizer = read_tokenizer(&dir.join("tokenizer"))?;
        let spec = assemble(dir, (class_name, family), &configs, (text_encoder, unet, vae_decoder))?;
        let spec = ModelSpec { scheduler_config: scheduler.text, tokenizer, ..spec };
        check_fit(&spec, &configs)?;
        Ok(spec)
    }

    /// Returns the tokenizer of the text encoder.
    ///
    /// # Errors
    /// Its files are broken, or lack a special token.
    pub fn prompt_tokenizer(&self) -> Result<PromptTokenizer> {
        let place = Location::file(self.dir.join("tokenizer"));
        PromptTokenizer::new(&self.tokenizer, self.model_max_length).map_err(|error| error.at(place))
    }

    /// Returns the BLAKE3 hash (64 hex digits) over the name and bytes of every file that changes pixels: graphs, weights,
    /// configs, tokenizer. Takes seconds for large models.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn hash(&self) -> Result<String> {
        hash_files(&self.dir, self.files())
    }

    /// Returns every file that changes pixels and is there.
    fn files(&self) -> Vec<PathBuf> {
        let graphs = [&self.text_encoder.file, &self.unet.file, &self.vae_decoder.file];
        let configs = graphs.iter().map(|graph| graph.path.with_file_name("config.json"));
        let tokenizer = TOKENIZER_FILES.iter().map(|name| self.dir.join("tokenizer").join(name));
        let others = ["model_index.json", "scheduler/scheduler_config.json"].map(|name| self.dir.join(name));
        let optional = configs.chain(tokenizer).filter(|path| path.is_file());
        let weights = graphs.iter().flat_map(|graph| graph.external_files());
        graphs.iter().map(|graph| graph.path.clone()).chain(weights).chain(others).chain(optional).collect()
    }
}

const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];

fn check_folder(dir: &Path) -> Result<()> {
    let message = match std::fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "a model is a folder, this is a file".to_string(),
        Err(error) => format!("cannot open the model folder: {error}"),
    };
    Err(Error::new(ErrorKind::Model, "no_model", message)
        .at(Location::file(dir))
        .hint("give a folder with `model_index.json`, such as `onnx/tiny-shapes` or what `onnx/export.py` writes"))
}

fn read_tokenizer(folder: &Path) -> Result<TokenizerFiles> {
    let files = TokenizerFiles {
        json: read_bytes_if_there(&folder.join("tokenizer.json"))?,
        vocab_json: read_bytes_if_there(&folder.join("vocab.json"))?,
        merges_txt: read_text_if_there(&folder.join("merges.txt"))?,
        tokenizer_config: read_text_if_there(&folder.join("tokenizer_config.json"))?,
        special_tokens_map: read_text_if_there(&folder.join("special_tokens_map.json"))?,
    };
    if files.json.is_none() && (files.vocab_json.is_none() || files.merges_txt.is_none()) {
        return Err(missing(&folder.join("tokenizer.json"))
            .hint("or it holds `vocab.json` and `merges.txt` there; copy the whole `tokenizer` folder"));
    }
    Ok(files)
}

impl Configs {
    fn read(dir: &Path, vae: &VaeDecoderGraph) -> Result<Configs> {
        Ok(Configs {
            text_encoder: Config::read_if_there(&dir.join("text_encoder/config.json"))?,
            unet: Config::read_if_there(&dir.join("unet/config.json"))?,
            vae: Config::read(
                vae.file.path.with_file_name("config.json"),
                "it says the scale of the latents; copy `vae/config.json` of the original model here",
            )?,
            tokenizer: Config::read_if_there(&dir.join("tokenizer/tokenizer_config.json"))?,
        })
    }
}

type Graphs = (TextEncoderGraph, UnetGraph, VaeDecoderGraph);

/// Returns the spec without scheduler and tokenizer: every number that follows from configs and signatures.
fn assemble(
    dir: &Path,
    (class_name, family): (String, Family),
    configs: &Configs,
    graphs: Graphs,
) -> Result<ModelSpec> {
    let (text_encoder, unet, vae_decoder) = graphs;
    for key in ["latents_mean", "latents_std"] {
        if configs.vae.has(key) {
            return Err(configs.vae.bad(key, "(latents scaled by channel) is not supported yet"));
        }
    }
    let vae_scale_factor = vae_scale_factor(&configs.vae)?;
    let fixed_size = fixed_size(&unet, vae_scale_factor);
    let default_size = match fixed_size {
        Some(size) => size,
        None => default_size(configs.unet.as_ref(), vae_scale_factor)?,
    };
    Ok(ModelSpec {
        dir: dir.to_path_buf(),
        name: folder_name(dir),
        class_name,
        family,
        latent_channels: latent_channels(&unet, configs)?,
        vae_scale_factor,
        scaling_factor: scaling_factor(&configs.vae)?,
        shift_factor: configs.vae.number("shift_factor")?.unwrap_or(0.0),
        model_max_length: model_max_length(&text_encoder, configs)?,
        default_size,
        fixed_size,
        fixed_lanes: unet.sample.fixed(0),
        size_multiple: vae_scale_factor << (unet_blocks(configs.unet.as_ref())? - 1),
        attention_heads: attention_heads(configs.unet.as_ref())?,
        scheduler_config: String::new(),
        tokenizer: TokenizerFiles::default(),
        text_encoder,
        unet,
        vae_decoder,
    })
}

fn folder_name(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
}

fn vae_scale_factor(vae: &Config) -> Result<u32> {
    let blocks = vae.counts("block_out_channels")?.ok_or_else(|| vae.bad("block_out_channels", "is missing"))?;
    match blocks.len() {
        1..=8 => Ok(1 << (blocks.len() - 1)),
        _ => Err(vae.bad("block_out_channels", "must list 1 to 8 blocks")),
    }
}

/// Returns the VAE's scaling factor. Configs older than the key mean 0.18215, as diffusers' `AutoencoderKL` does.
fn scaling_factor(vae: &Config) -> Result<f64> {
    let factor = vae.number("scaling_factor")?.unwrap_or(0.18215);
    if factor > 0.0 { Ok(factor) } else { Err(vae.bad("scaling_factor", "must be above 0")) }
}

fn latent_channels(unet: &UnetGraph, configs: &Configs) -> Result<usize> {
    match unet.sample.fixed(1) {
        Some(channels) => Ok(channels),
        None => Ok(configs.vae.count("latent_channels")?.unwrap_or(4)),
    }
}

/// Returns the number of ids: the tokenizer's own limit (which some configs set to 10^30), else the graph's or the encoder's.
fn model_max_length(text_encoder: &TextEncoderGraph, configs: &Configs) -> Result<usize> {
    let limit = match &configs.tokenizer {
        Some(config) => config.number("model_max_length")?.filter(|limit| (2.0..=4096.0).contains(limit)),
        None => None,
    };
    let positions = match &configs.text_encoder {
        Some(config) => config.count("max_position_embeddings")?,
        None => None,
    };
    limit.map(|limit| limit as usize).or(text_encoder.input_ids.fixed(1)).or(positions).ok_or_else(|| {
        let message = "nothing says how many token ids a text becomes";
        Error::new(ErrorKind::Model, "bad_model_config", message)
            .at(Location::file(text_encoder.file.path.with_file_name("config.json")))
            .hint("give `model_max_length` in tokenizer/tokenizer_config.json")
    })
}

fn fixed_size(unet: &UnetGraph, vae_scale_factor: u32) -> Option<(u32, u32)> {
    let pixels = |axis| u32::try_from(unet.sample.fixed(axis)?).ok()?.checked_mul(vae_scale_factor);
    Some((pixels(3)?, pixels(2)?))
}

/// Returns width and height in pixels of `sample_size`, or diffusers' 64 latent cells where no config says it.
fn default_size(unet: Option<&Config>, vae_scale_factor: u32) -> Result<(u32, u32)> {
    let Some(unet) = unet else { return Ok((64 * vae_scale_factor, 64 * vae_scale_factor)) };
    let sizes = unet.counts("sample_size")?.unwrap_or_else(|| vec![64]);
    let pixels = |cells: usize| u32::try_from(cells).ok().and_then(|cells| cells.checked_mul(vae_scale_factor));
    let size = match sizes.as_slice() {
        [side] => pixels(*side).zip(pixels(*side)),
        [height, width] => pixels(*width).zip(pixels(*height)),
        _ => None,
    };
    size.filter(|(w, h)| *w > 0 && *h > 0).ok_or_else(|| unet.bad("sample_size", "must be one or two sizes above 0"))
}

/// Returns the number of the UNet's levels (4 where no config says it): it halves the latents once less than that, and
/// exported graphs only fit together where that works out without a remainder.
fn unet_blocks(unet: Option<&Config>) -> Result<usize> {
    let Some(unet) = unet else { return Ok(4) };
    match unet.counts("block_out_channels")?.map_or(4, |blocks| blocks.len()) {
        blocks @ 1..=8 => Ok(blocks),
        _ => Err(unet.bad("block_out_channels", "must list 1 to 8 blocks")),
    }
}

/// Returns the least number of heads. In diffusers' UNets `attention_head_dim` is that number for historical reasons
/// (`UNet2DConditionModel.__init__`: `num_attention_heads = num_attention_heads or attention_head_dim`).
fn attention_heads(unet: Option<&Config>) -> Result<Option<usize>> {
    let Some(unet) = unet else { return Ok(None) };
    let heads = match unet.counts("num_attention_heads")? {
        Some(heads) => Some(heads),
        None => unet.counts("attention_head_dim")?,
    };
    Ok(heads.and_then(|heads| heads.into_iter().min()))
}

/// One size as one file or graph gives it.
struct Side {
    what: String,
    size: Option<usize>,
}

fn side(what: impl Into<String>, size: Option<usize>) -> Side {
    Side { what: what.into(), size }
}

/// Checks what two parts of the model must agree on.
fn check_fit(spec: &ModelSpec, configs: &Configs) -> Result<()> {
    let (text, unet, vae) = (&spec.text_encoder, &spec.unet, &spec.vae_decoder);
    let length = spec.model_max_length;
    let text_config = configs.text_encoder.as_ref();
    let hidden_size = text_config.map_or(Ok(None), |config| config.count("hidden_size"))?;
    let cross = configs.unet.as_ref().map_or(Ok(None), |config| config.counts("cross_attention_dim"))?;
    let cross = cross.and_then(|dims| dims.into_iter().max());
    let embeds =
        side(format!("the text encoder's {}", text.last_hidden_state), text.last_hidden_state.fixed(2).or(hidden_size));
    let states =
        side(format!("the UNet's {}", unet.encoder_hidden_states), unet.encoder_hidden_states.fixed(2).or(cross));
    equal(spec, "width", &embeds, &states)?;
    let latents = side(format!("the UNet's {}", unet.sample), Some(spec.latent_channels));
    let out = side(format!("the UNet's {}", unet.out_sample), unet.out_sample.fixed(1));
    equal(spec, "number of channels", &latents, &out)?;
    let decoded = side(format!("the VAE decoder's {}", vae.latent_sample), vae.latent_sample.fixed(1));
    equal(spec, "number of channels", &latents, &decoded)?;
    let rgb = side("an RGB image", Some(3));
    equal(spec, "number of channels", &rgb, &side(format!("the VAE decoder's {}", vae.sample), vae.sample.fixed(1)))?;
    let tokens = side("the tokenizer's `model_max_length`", Some(length));
    for (graph, tensor) in [
        ("text encoder", &text.input_ids),
        ("text encoder", &text.last_hidden_state),
        ("UNet", &unet.encoder_hidden_states),
    ] {
        equal(spec, "number of token ids", &tokens, &side(format!("the {graph}'s {tensor}"), tensor.fixed(1)))?;
    }
    let positions = text_config.map_or(Ok(None), |config| config.count("max_position_embeddings"))?;
    match positions {
        Some(positions) if positions < length => {
            let positions = side("`max_position_embeddings` of text_encoder/config.json", Some(positions));
            Err(unlike(spec, "number of token ids", (&tokens, length), (&positions, positions.size.unwrap_or(0))))
        }
        _ => Ok(()),
    }
}

/// Fails if both sides say a size and it is not the same.
fn equal(spec: &ModelSpec, what: &str, a: &Side, b: &Side) -> Result<()> {
    match (a.size, b.size) {
        (Some(x), Some(y)) if x != y => Err(unlike(spec, what, (a, x), (b, y))),
        _ => Ok(()),
    }
}

fn unlike(spec: &ModelSpec, what: &str, (a, x): (&Side, usize), (b, y): (&Side, usize)) -> Error {
    let message = format!("{what}: {} has {x}, {} has {y}", a.what, b.what);
    Error::new(ErrorKind::Model, "parts_do_not_fit", message)
        .at(Location::file(&spec.dir))
        .hint("the parts come from different models; copy all of them from one export")
}
