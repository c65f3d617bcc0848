//! The space of a model's latents: from the VAE's config, or what its family has where there is none.

use super::config::Config;
use super::family::Family;
use super::vae_graphs::VaeDecoderGraph;
use crate::error::Result;
use crate::recipe::LatentSpace;

/// Returns the latent space; what no config says is put into `assumed`. `said` is the scaling factor of pyke's file.
///
/// # Errors
/// The config holds something that no VAE has.
pub(super) fn space(
    family: Family,
    vae: Option<&Config>,
    said: Option<f64>,
    decoder: &VaeDecoderGraph,
    assumed: &mut Vec<String>,
) -> Result<LatentSpace> {
    let default = defaults(family);
    let Some(vae) = vae else {
        let scaling_factor = said.unwrap_or(default.scaling_factor);
        let vae_scale_factor = scale_of_graph(decoder).unwrap_or(default.vae_scale_factor);
        let channels = decoder.latent_sample.fixed(1).unwrap_or(default.channels);
        let factor = if said.is_none() { format!("scaling_factor {scaling_factor}, ") } else { String::new() };
        assumed.push(format!(
            "no config.json beside the VAE decoder: {vae_scale_factor} pixels a latent cell, {factor}shift_factor {} assumed",
            default.shift_factor
        ));
        return Ok(LatentSpace { channels, vae_scale_factor, scaling_factor, ..default });
    };
    let said = vae.count("latent_channels")?;
    Ok(LatentSpace {
        channels: decoder.latent_sample.fixed(1).or(said).unwrap_or(default.channels),
        vae_scale_factor: vae_scale_factor(vae)?,
        scaling_factor: scaling_factor(vae)?,
        shift_factor: vae.number("shift_factor")?.unwrap_or(0.0),
        statistics: statistics(vae)?,
    })
}

/// Returns the pixels of a latent cell, where the decoder's graph fixes both heights.
fn scale_of_graph(decoder: &VaeDecoderGraph) -> Option<u32> {
    let (cells, pixels) = (decoder.latent_sample.fixed(2)?, decoder.sample.fixed(2)?);
    let scale = u32::try_from(pixels.checked_div(cells)?).ok()?;
    (scale > 0 && scale as usize * cells == pixels).then_some(scale)
}

/// What the families' published VAEs have.
fn defaults(family: Family) -> LatentSpace {
    let (channels, scaling_factor, shift_factor) = match family {
        Family::StableDiffusion => (4, 0.18215, 0.0),
        Family::StableDiffusionXl => (4, 0.13025, 0.0),
        Family::StableDiffusion3 => (16, 1.5305, 0.0609),
        Family::Flux => (16, 0.3611, 0.1159),
    };
    LatentSpace { channels, vae_scale_factor: 8, scaling_factor, shift_factor, statistics: None }
}

/// Returns 2^(blocks − 1).
fn vae_scale_factor(vae: &Config) -> Result<u32> {
    match vae.counts("block_out_channels")?.map(|blocks| blocks.len()) {
        Some(blocks @ 1..=8) => Ok(1 << (blocks - 1)),
        Some(_) => Err(vae.bad("block_out_channels", "must list 1 to 8 blocks")),
        None => Err(vae.bad("block_out_channels", "is missing")),
    }
}

/// Returns the VAE's scaling factor. Configs older than the key mean 0.18215, as diffusers' `AutoencoderKL` does.
fn scaling_factor(vae: &Config) -> Result<f64> {
    let factor = vae.number("scaling_factor")?.unwrap_or(0.18215);
    if factor > 0.0 { Ok(factor) } else { Err(vae.bad("scaling_factor", "must be above 0")) }
}

/// Returns mean and standard deviation of each channel, where the config gives both.
fn statistics(vae: &Config) -> Result<Option<Vec<(f64, f64)>>> {
    let (Some(means), Some(stds)) = (vae.numbers("latents_mean")?, vae.numbers("latents_std")?) else {
        return Ok(None);
    };
    if means.len() != stds.len() || stds.iter().any(|std| *std <= 0.0) {
        return Err(vae.bad("latents_std", "must be above 0 and as many as `latents_mean`"));
    }
    Ok(Some(means.into_iter().zip(stds).collect()))
}
