//! One image, evaluation by evaluation, with all that is known at each: for people who want to see how it comes to be.

use ndarray::{Array3, ArrayView3, Axis, Zip};

use super::call::Call;
use super::member::Member;
use super::networks::Unet;
use super::start::Starter;
use crate::error::{Error, ErrorKind, Result};
use crate::job::ImageTask;
use crate::scheduler::SchedulerConfig;

/// What is known at one evaluation of the network; tensors are `[channels, h, w]`, in scaled latents.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The timestep handed to the network.
    pub timestep: f64,
    /// Weight of the picture in the sample.
    pub picture: f64,
    /// Weight of the noise in the sample.
    pub noise: f64,
    /// The noise level in the scheduler's own terms; see [`sigma`].
    pub sigma: f64,
    /// The latents at hand.
    pub sample: Array3<f32>,
    /// The picture that the network guesses in them (`pred_original_sample`).
    pub original: Array3<f32>,
    /// Root mean square of the noise that it estimates; the score is that, negative, divided by the noise's weight.
    pub noise_size: f64,
    /// Root mean square of what guidance has changed of it; 0 without guidance.
    pub guidance_size: f64,
}

/// How an image came to be.
#[derive(Debug, Clone)]
pub struct Traced {
    /// The evaluations, in order.
    pub moments: Vec<Moment>,
    /// The latents of the picture.
    pub latents: Array3<f32>,
}

/// Makes the image of `task` alone and tells of every evaluation. `config` is that of the scheduler that the task names.
///
/// # Errors
/// The image cannot be started, the network fails, or nothing is known of its guesses (EDM schedulers).
pub fn trace<'a>(
    starter: &mut Starter<'a>,
    unet: &mut dyn Unet,
    config: &SchedulerConfig,
    task: &'a ImageTask,
) -> Result<Traced> {
    let mut member = starter.start(task, 0).map_err(|(_, error)| error)?;
    let mut moments = Vec::new();
    while !member.is_done() {
        let predictions = predictions(&member, unet)?;
        moments.push(moment(&member, config, &predictions)?);
        for (lane, prediction) in member.lanes_now().zip(predictions) {
            member.receive(lane, prediction);
        }
    }
    Ok(Traced { moments, latents: member.latents().to_owned() })
}

/// Asks for each lane alone: prompts of different lengths cannot share a call.
fn predictions(member: &Member, unet: &mut dyn Unet) -> Result<Vec<Array3<f32>>> {
    let predict = |lane| {
        let mut call = Call::for_lanes_like(member, 1);
        call.set(0, member, lane);
        call.set_conditions(0, member, lane);
        Ok(unet.predict(call.inputs())?.index_axis_move(Axis(0), 0))
    };
    member.lanes_now().map(predict).collect()
}

fn moment(member: &Member, config: &SchedulerConfig, predictions: &[Array3<f32>]) -> Result<Moment> {
    let sample = member.latents();
    let mixing = member.mixing().expect("an image that waits for an evaluation has a noise level");
    let guess = |output: ArrayView3<'_, f32>| config.original(mixing, sample, output).ok_or_else(unknown);
    let original = guess(member.guidance().join(predictions).view())?;
    // The first lane is that without the prompt; where there is one, it is that with it.
    let plain = guess(predictions[0].view())?;
    let (picture, noise) = mixing;
    let noise_in = |original: &Array3<f32>| (&sample - &(original * picture as f32)) / noise as f32;
    let (guided, unguided) = (noise_in(&original), noise_in(&plain));
    Ok(Moment {
        timestep: member.eval().timestep,
        picture,
        noise,
        sigma: sigma(mixing, config.is_flow()),
        sample: sample.to_owned(),
        noise_size: root_mean_square(guided.view()),
        guidance_size: root_mean_square((&guided - &unguided).view()),
        original,
    })
}

/// Returns the noise level of a sample with these weights of picture and noise: the share of noise in flow matching, else noise to
/// picture, which is infinite where nothing of the picture is left.
pub fn sigma((picture, noise): (f64, f64), is_flow: bool) -> f64 {
    if is_flow { noise } else { noise / picture }
}

fn root_mean_square(values: ArrayView3<'_, f32>) -> f64 {
    let squares = Zip::from(values).fold(0.0, |sum, value| sum + f64::from(*value).powi(2));
    (squares / values.len().max(1) as f64).sqrt()
}

fn unknown() -> Error {
    let message = "this scheduler reads the network in a way that a trace cannot follow";
    Error::new(ErrorKind::Usage, "no_trace", message).hint("take another, such as `--scheduler ddim` or `euler`")
}
