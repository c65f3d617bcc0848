//! The page of a trace: a slider over the frames, their numbers, and a chart of how large noise estimate and guidance are.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;
use serde_json::{Value, json};

use super::frames::{Frame, Phase, level, short};
use crate::error::Result;
use crate::job::Job;
use crate::output::png;
use crate::run::report_page::in_script;

const PAGE: &str = include_str!("page.html");

/// Returns the numbers of the frames as JSON.
pub fn numbers(frames: &[Frame]) -> Vec<u8> {
    let all: Vec<Value> = frames.iter().map(frame_numbers).collect();
    let mut text = serde_json::to_vec_pretty(&all).expect("numbers are valid JSON");
    text.push(b'\n');
    text
}

fn frame_numbers(frame: &Frame) -> Value {
    json!({
        "phase": if frame.phase == Phase::Forward { "forward" } else { "backward" },
        "timestep": frame.timestep,
        "picture": frame.picture,
        "noise": frame.noise,
        "sigma": frame.sigma,
        "noise_percent": frame.noise_percent(),
        "noise_size": frame.noise_size,
        "guidance_size": frame.guidance_size,
    })
}

/// Returns the page, which carries all pictures itself.
///
/// # Errors
/// A picture cannot be encoded.
pub fn page(frames: &[Frame], job: &Job) -> Result<Vec<u8>> {
    let picture = |image: &RgbImage| Ok(STANDARD.encode(png::encode_plain(image)?));
    let frame = |frame: &Frame| -> Result<Value> {
        let mut value = frame_numbers(frame);
        value["sample"] = picture(&frame.sample)?.into();
        value["pred_original_sample"] = frame.pred_original_sample.as_ref().map(picture).transpose()?.into();
        value["name"] = frame.timestep.map_or("the picture".to_string(), |it| format!("timestep {}", short(it))).into();
        value["level"] = level(frame.sigma).into();
        Ok(value)
    };
    let data = json!({
        "prompt": &*job.prompt,
        "about": format!("{} · {} steps · guidance {} · seed {}", job.scheduler, job.num_inference_steps, job.guidance_scale,
            job.seed.map_or("derived".to_string(), |seed| seed.to_string())),
        "frames": frames.iter().map(frame).collect::<Result<Vec<_>>>()?,
    });
    Ok(PAGE.replacen("{{data}}", &in_script(&data), 1).into_bytes())
}
