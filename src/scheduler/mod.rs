//! Schedules and samplers: pure arithmetic, one algorithm a file.
//!
//! A [`SchedulerConfig`] is a model's `scheduler_config.json`; [`SchedulerConfig::select`] swaps the algorithm as
//! diffusers' `from_config` does; [`SchedulerConfig::schedule`] computes a [`Schedule`], which is immutable and shared;
//! [`Schedule::start`] (or `start_from`, part-way) makes one image's [`Sampler`], a small state machine that asks for evaluations of the network.
//! Nothing here runs a network or reads a file; noise comes from the image's own source. Numbers agree with diffusers 0.42.1
//! to 1e-5 of the largest of each array (tests/golden.rs says where less, and why); where that reference is wrong the
//! function that differs says so.
//!
//! To add an algorithm: one file with a `pub(super) static ALGORITHM: Algorithm`, its `mod` line here and its line in
//! `registry::ALGORITHMS`. Everything else (names, help, fields, errors) follows from the entry.

mod beta_distribution;
mod betas;
mod brownian;
mod clipping;
mod config;
mod custom;
mod distilled;
mod dpmsolver;
mod exploding;
mod fields;
mod flow_shift;
mod lambda_levels;
mod multistep;
mod noising;
mod prediction;
mod registry;
mod request;
mod schedule;
mod seed_sequence;
mod sigmas;
mod table;
mod timesteps;
mod unit_power;

mod ddim;
mod ddpm;
mod deis_multistep;
mod dpmsolver_multistep;
mod dpmsolver_sde;
mod dpmsolver_singlestep;
mod edm_dpmsolver_multistep;
mod edm_euler;
mod euler_ancestral_discrete;
mod euler_discrete;
mod flow_match_euler_discrete;
mod flow_match_heun_discrete;
mod heun_discrete;
mod k_dpm_2_ancestral_discrete;
mod k_dpm_2_discrete;
mod lcm;
mod lms_discrete;
mod pndm;
mod sasolver;
mod tcd;
mod unipc_multistep;

#[cfg(test)]
mod properties;

pub use config::SchedulerConfig;
pub use custom::{custom_sigmas, custom_timesteps};
pub use registry::{Name, a1111_name, names, resolve};
pub use request::ScheduleRequest;
pub use schedule::{Eval, Sampler, Schedule};
