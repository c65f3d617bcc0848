//! A text encoder and its tokenizer.

use std::path::{Path, PathBuf};

use super::config::{Config, missing, read_bytes_if_there, read_text_if_there};
use super::family::Family;
use super::graph_file::GraphFile;
use super::layout::{Layout, Part};
use super::pyke::Pyke;
use super::recipes::{TextUse, text_uses};
use super::text_graph::{Layer, TextEncoderGraph};
use super::unet_graph::UnetGraph;
use crate::error::{Location, Result};
use crate::prompt::{PromptTokenizer, TokenizerFiles};

/// One of a model's text encoders.
#[derive(Debug, Clone, PartialEq)]
pub struct TextPart {
    /// The graph.
    pub graph: TextEncoderGraph,
    /// The tokenizer's folder.
    pub tokenizer_dir: PathBuf,
    /// The tokenizer's files.
    pub tokenizer: TokenizerFiles,
    /// Number of token ids that every text becomes.
    pub model_max_length: usize,
    /// Positions that the encoder knows, if its config says it.
    pub max_positions: Option<usize>,
    /// Width of the hidden states, if graph or config say it.
    pub width: Option<usize>,
    /// What the model does with it.
    pub(super) text_use: TextUse,
}

pub(super) const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];

const CLIP_TOKENS: usize = 77;

const PARTS: [(Part, &str); 3] =
    [(Part::TextEncoder, "tokenizer"), (Part::TextEncoder2, "tokenizer_2"), (Part::TextEncoder3, "tokenizer_3")];

impl TextPart {
    /// Reads the text encoders of the model folder `dir`, for its UNet or transformer; what nothing there says is put into `assumed`.
    ///
    /// # Errors
    /// One that the family needs is not there, or one of its files is broken.
    pub(super) fn open_all(
        dir: &Path,
        layout: &Layout,
        (family, unet): (Family, &UnetGraph),
        assumed: &mut Vec<String>,
    ) -> Result<Vec<TextPart>> {
        let mut there = [false; 3];
        for (there, (part, _)) in there.iter_mut().zip(PARTS) {
            *there = layout.has(part)?;
        }
        let uses = text_uses(family, there, unet).into_iter().zip(PARTS);
        let uses = uses.filter_map(|(text_use, (part, tokenizer))| Some((text_use?, part, tokenizer)));
        let pyke = layout.pyke();
        let said = pyke.and_then(Pyke::model_max_length);
        uses.map(|(text_use, part, tokenizer)| {
            let tokenizer = dir.join(pyke.map_or(Path::new(tokenizer), Pyke::tokenizer_folder));
            TextPart::open(layout.graph(part)?, tokenizer, text_use, said, assumed)
        })
        .collect()
    }

    fn open(
        file: GraphFile,
        tokenizer_dir: PathBuf,
        text_use: TextUse,
        said: Option<usize>,
        assumed: &mut Vec<String>,
    ) -> Result<TextPart> {
        let config = Config::read_if_there(&file.config_path())?;
        let count = |keys: &[&str]| -> Result<Option<usize>> {
            let Some(config) = &config else { return Ok(None) };
            keys.iter().try_fold(None, |found: Option<usize>, key| Ok(found.or(config.count(key)?)))
        };
        let layers = count(&["num_hidden_layers", "num_layers"])?;
        let graph = TextEncoderGraph::bind(file, text_use.layer, text_use.role.pooled, layers)?;
        let tokenizer = read_tokenizer(&tokenizer_dir)?;
        let max_positions = count(&["max_position_embeddings"])?;
        let width = graph.hidden_states.as_ref().and_then(|states| states.fixed(2));
        let width = width.or(count(&["hidden_size", "d_model"])?);
        let limit = match text_use.max_sequence_length {
            Some(limit) => Some(graph.input_ids.fixed(1).map_or(limit, |fixed| fixed.min(limit))),
            None => token_limit(&tokenizer_dir)?.or(said).or(graph.input_ids.fixed(1)).or(max_positions),
        };
        let model_max_length = limit.unwrap_or_else(|| clip_limit(&graph.file, assumed));
        Ok(TextPart { graph, tokenizer_dir, tokenizer, model_max_length, max_positions, width, text_use })
    }

    /// Returns the layer that the model takes.
    pub fn layer(&self) -> Layer {
        self.text_use.layer
    }

    /// Returns whether `clip_skip` means this encoder: CLIP's, whose states the model takes.
    pub fn has_layers_to_skip(&self) -> bool {
        self.text_use.has_layers_to_skip()
    }

    /// Returns the tokenizer.
    ///
    /// # Errors
    /// Its files are broken, or lack a special token.
    pub fn prompt_tokenizer(&self) -> Result<PromptTokenizer> {
        let tokenizer = PromptTokenizer::new(&self.tokenizer, self.model_max_length);
        tokenizer.map_err(|error| error.at(Location::file(&self.tokenizer_dir)))
    }

    /// Returns the files that a tokenizer may have.
    pub(super) fn tokenizer_files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        TOKENIZER_FILES.iter().map(|name| self.tokenizer_dir.join(name))
    }
}

/// Returns the tokenizer's own limit, which some configs set to 10^30.
pub(super) fn token_limit(tokenizer_dir: &Path) -> Result<Option<usize>> {
    let Some(config) = Config::read_if_there(&tokenizer_dir.join("tokenizer_config.json"))? else { return Ok(None) };
    let limit = config.number("model_max_length")?.filter(|limit| (2.0..=4096.0).contains(limit));
    Ok(limit.map(|limit| limit as usize))
}

/// Returns the positions of every published CLIP, where neither tokenizer nor encoder says how many there are.
fn clip_limit(graph: &GraphFile, assumed: &mut Vec<String>) -> usize {
    let path = graph.path.display();
    assumed.push(format!("nothing says how many token ids {path} takes: {CLIP_TOKENS} assumed"));
    CLIP_TOKENS
}

pub(super) fn read_tokenizer(folder: &Path) -> Result<TokenizerFiles> {
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
