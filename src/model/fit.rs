//! What two parts of a model must agree on, checked before the first of them is loaded.

use super::config::Config;
use super::recipes::TextUse;
use super::signature::TensorInfo;
use super::spec::ModelSpec;
use crate::error::{Error, ErrorKind, Location, Result};
use crate::recipe::{HiddenUse, ImageChannels};

/// One size as one file or graph gives it.
struct Side {
    what: String,
    size: Option<usize>,
}

fn side(what: impl Into<String>, size: Option<usize>) -> Side {
    Side { what: what.into(), size }
}

fn of(graph: &str, tensor: &TensorInfo, axis: usize) -> Side {
    side(format!("the {graph}'s {tensor}"), tensor.fixed(axis))
}

/// Checks what the parts of `spec` must agree on.
///
/// # Errors
/// Two of them differ; the error names both sides.
pub(super) fn check(spec: &ModelSpec, unet_config: Option<&Config>) -> Result<()> {
    check_texts(spec)?;
    check_widths(spec, unet_config)?;
    check_channels(spec)
}

/// Every tokenizer's limit against its encoder's.
fn check_texts(spec: &ModelSpec) -> Result<()> {
    for text in &spec.texts {
        let length = text.model_max_length;
        let tokens = side("the tokenizer's `model_max_length`", Some(length));
        equal(spec, "number of token ids", &tokens, &of("text encoder", &text.graph.input_ids, 1))?;
        if let Some(states) = &text.graph.hidden_states {
            equal(spec, "number of token ids", &tokens, &of("text encoder", states, 1))?;
        }
        if let Some(positions) = text.max_positions.filter(|positions| *positions < length) {
            let config = text.graph.file.config_path();
            let part = config.parent().and_then(|folder| folder.file_name()).unwrap_or_default().to_string_lossy();
            let said = side(format!("`max_position_embeddings` of {part}/config.json"), Some(positions));
            return Err(unlike(spec, "number of token ids", (&tokens, length), (&said, positions)));
        }
    }
    let [only] = spec.texts.as_slice() else { return Ok(()) };
    let tokens = side("the tokenizer's `model_max_length`", Some(only.model_max_length));
    equal(spec, "number of token ids", &tokens, &of("UNet", &spec.unet.encoder_hidden_states, 1))
}

/// The joined width of the encoders against the UNet's.
fn check_widths(spec: &ModelSpec, unet_config: Option<&Config>) -> Result<()> {
    let states = &spec.unet.encoder_hidden_states;
    let counts = |key| unet_config.map_or(Ok(None), |config| config.counts(key));
    let cross = counts("cross_attention_dim")?.or(counts("joint_attention_dim")?);
    let cross = cross.and_then(|dims| dims.into_iter().max());
    let wanted = side(format!("the UNet's {states}"), states.fixed(2).or(cross));
    equal(spec, "width", &hidden_width(spec), &wanted)?;
    if let Some(pooled) = &spec.unet.pooled {
        equal(spec, "width", &pooled_width(spec), &of("UNet", pooled, 1))?;
    }
    Ok(())
}

/// Hidden states stand side by side, unless one that is as wide as all goes below them.
fn hidden_width(spec: &ModelSpec) -> Side {
    let with = |wanted: HiddenUse| {
        let role = move |text_use: &TextUse| text_use.role.hidden == wanted;
        spec.texts.iter().filter(move |text| role(&text.text_use))
    };
    if let Some(below) = with(HiddenUse::Sequence).next() {
        return side("the last text encoder", below.width);
    }
    if let Some((_, width)) = spec.recipe.absent_sequence {
        return side("the text encoder that is left out", Some(width));
    }
    let all: Option<usize> = with(HiddenUse::Features).map(|text| text.width).sum();
    let mut names = with(HiddenUse::Features).filter_map(|text| text.graph.hidden_states.as_ref());
    match (names.next(), names.next()) {
        (Some(only), None) => side(format!("the text encoder's {only}"), all),
        _ => side("the hidden states of all text encoders", all),
    }
}

fn pooled_width(spec: &ModelSpec) -> Side {
    let pooled = spec.texts.iter().filter_map(|text| text.graph.pooled.as_ref());
    side("the pooled output of the text encoders", pooled.map(|pooled| pooled.fixed(1)).sum())
}

/// The channels of UNet and VAE.
fn check_channels(spec: &ModelSpec) -> Result<()> {
    let (unet, vae) = (&spec.unet, &spec.vae_decoder);
    let what = "number of channels";
    let channels = spec.recipe.latents.channels;
    let decoded = side(format!("the VAE decoder's {}", vae.latent_sample), Some(channels));
    let per_token = if unet.packed() { 4 } else { 1 };
    let axis = if unet.packed() { 2 } else { 1 };
    let sample = unet.sample.fixed(axis).map(|size| size / per_token);
    if spec.recipe.image_channels == ImageChannels::None {
        equal(spec, what, &side(format!("the UNet's {}", unet.sample), sample), &decoded)?;
    }
    let out = unet.out_sample.fixed(axis).map(|size| size / per_token);
    equal(spec, what, &side(format!("the UNet's {}", unet.out_sample), out), &decoded)?;
    if let Some(fine) = &spec.vae_decoder_fp32 {
        equal(spec, what, &of("float32 VAE decoder", &fine.latent_sample, 1), &decoded)?;
    }
    if let Some(encoder) = &spec.vae_encoder {
        let latents = encoder.latents.fixed(1).filter(|size| *size != 2 * channels);
        equal(spec, what, &side(format!("the VAE encoder's {}", encoder.latents), latents), &decoded)?;
    }
    equal(spec, what, &side("an RGB image", Some(3)), &of("VAE decoder", &vae.sample, 1))
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
