//! The scheduler's config, or what may be assumed where a layout has none.

use std::path::Path;

use super::config::Config;
use super::layout::Layout;
use super::unet_graph::UnetGraph;
use crate::error::Result;

/// How Stable Diffusion 1 was trained; PNDM is the scheduler of its published pipeline.
const STABLE_DIFFUSION_1: &str = r#"{"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "prediction_type": "epsilon", "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "clip_sample": false}"#;

/// Width of the embeddings of Stable Diffusion 2, some of whose models predict `v`: nothing in a graph says which.
const WIDTH_OF_STABLE_DIFFUSION_2: usize = 1024;

/// Returns the text of `scheduler/scheduler_config.json`. pyke's layout never has it: Stable Diffusion 1 is then put into
/// `assumed`, unless the UNet is one of Stable Diffusion 2.
///
/// # Errors
/// The file is broken, or is not there and nothing can be assumed.
pub(super) fn scheduler_config(
    dir: &Path,
    layout: &Layout,
    unet: &UnetGraph,
    assumed: &mut Vec<String>,
) -> Result<String> {
    let path = dir.join("scheduler").join("scheduler_config.json");
    let first = unet.encoder_hidden_states.fixed(2) != Some(WIDTH_OF_STABLE_DIFFUSION_2);
    if layout.pyke().is_some() && first && !path.is_file() {
        assumed.push(
            "no scheduler/scheduler_config.json: PNDM and the betas of Stable Diffusion 1 assumed, epsilon".into(),
        );
        return Ok(STABLE_DIFFUSION_1.to_string());
    }
    let hint = "it says how noise was added in training; copy it from the original model";
    Ok(Config::read(path, hint)?.text)
}
