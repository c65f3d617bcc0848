//! A model's `scheduler_config.json`, and switching to another algorithm.

use ndarray::{Array3, ArrayView3};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};

use super::fields::{Fields, Neutral, bad, parse_python_json, written, wrong};
use super::prediction::PredictionType;
use super::registry::{self, Algorithm};
use super::request::ScheduleRequest;
use super::schedule::Schedule;

/// Fields of diffusers' other schedulers that real configs carry along. diffusers ignores what the class at hand does not
/// have, and so do we.
const FIELDS_OF_OTHERS: &[&str] = &["predict_epsilon"];

/// `scheduler_config.json` of diffusers: the fields of a model, and the algorithm that reads them.
///
/// The fields are kept as they are, also those of other classes, so that switching the algorithm loses nothing; each
/// algorithm applies its own defaults, as diffusers' classes do.
#[derive(Clone)]
pub struct SchedulerConfig {
    /// `None` where the config names a class that we do not have, or none.
    algorithm: Option<&'static Algorithm>,
    /// `_class_name` as the config gives it.
    class_name: String,
    fields: Fields,
}

/// How the names of the classes begin that are for flow matching alone.
const FLOW_CLASSES: &str = "FlowMatch";

impl SchedulerConfig {
    /// Reads a `scheduler_config.json`.
    ///
    /// Keys that start with `_` are ignored, and so are fields that only other classes of diffusers have. Neither a class
    /// that we do not have nor a value that its algorithm does not honour is an error here, but in
    /// [`SchedulerConfig::schedule`]: the model can still be used with [`SchedulerConfig::select`].
    ///
    /// # Errors
    /// `scheduler_config` (model): the text is no JSON object, or a field is unknown to all of diffusers' schedulers.
    pub fn from_json(text: &str) -> Result<Self> {
        let value = parse_python_json(text).map_err(|error| wrong(format!("not valid JSON: {error}")).source(error))?;
        let Value::Object(map) = value else { return Err(wrong("not a JSON object")) };
        let class_name = map.get("_class_name").and_then(Value::as_str).unwrap_or_default().to_string();
        let fields = Fields(map.into_iter().filter(|(key, _)| !key.starts_with('_')).collect());
        let config = SchedulerConfig { algorithm: registry::find_class(&class_name), class_name, fields };
        if config.algorithm.is_some() {
            config.refuse_unknown_fields()?;
        }
        Ok(config)
    }

    /// Returns this model's config for another algorithm, as diffusers' `Other.from_config(scheduler.config)` does, and
    /// then with what the name itself says: `dpmpp_2m_karras` sets `use_karras_sigmas`. A name that says nothing of a
    /// field leaves it as the model has it, so `euler` on a config with `use_karras_sigmas` has Karras sigmas (and
    /// [`SchedulerConfig::name`] says so).
    ///
    /// A model of flow matching stays one, which diffusers leaves to its user: algorithms that have `use_flow_sigmas` get it,
    /// with `flow_prediction` and the model's shift.
    ///
    /// # Errors
    /// `unknown_scheduler` (usage) for a name that is none; `scheduler_config` (model) when the algorithm cannot honour
    /// a field of the config, or cannot sample this kind of model (flow matching or not).
    pub fn select(&self, name: &str) -> Result<SchedulerConfig> {
        let (algorithm, variant) = registry::find(name)?;
        let mut config = SchedulerConfig {
            algorithm: Some(algorithm),
            class_name: algorithm.class_name.to_string(),
            fields: self.fields.clone(),
        };
        config.keep_flow(self)?;
        for (key, json) in variant.overrides {
            config.fields.0.insert((*key).to_string(), written(json));
        }
        // Any schedule reads every field; that an algorithm cannot make so few steps is no fault of the config. A single
        // step can neither be stretched to a `shift_terminal`.
        match config.schedule(&ScheduleRequest { image_seq_len: Some(256), ..ScheduleRequest::steps(2) }) {
            Err(error) if error.code() != "num_inference_steps" => Err(error),
            _ => Ok(config),
        }
    }

    /// Computes the schedule that `request` asks for.
    ///
    /// # Errors
    /// `unknown_scheduler` (usage) when the config's class is not ours and none was selected; `scheduler_config` (model)
    /// when a field has an impossible value, or one that we do not honour; `num_inference_steps` (usage) when the
    /// algorithm cannot make that many; `eta` (usage) outside [0, 1]; `strength` (usage) outside [0, 1], when it leaves no
    /// step, and when the algorithm cannot begin part-way; `timesteps` or `sigmas` (usage) when both are given, when the algorithm does not
    /// take them or they do not fall in its range.
    pub fn schedule(&self, request: &ScheduleRequest) -> Result<Schedule> {
        let algorithm = self.algorithm.ok_or_else(|| registry::unknown(&self.class_name))?;
        self.refuse_dishonoured_fields(algorithm)?;
        refuse_custom(algorithm, request)?;
        let fields = self.fields.of_class(|key| algorithm.knows(key), algorithm.defaults);
        (algorithm.build)(&fields, request)
    }

    /// Returns the picture that the network's guided `model_output` says is in `sample` (`pred_original_sample`), where the sample's
    /// weights of picture and noise are `mixing`; `None` for the EDM classes, which read the network in their own way.
    pub fn original(
        &self,
        mixing: (f64, f64),
        sample: ArrayView3<'_, f32>,
        model_output: ArrayView3<'_, f32>,
    ) -> Option<Array3<f32>> {
        if self.class_name.starts_with("EDM") {
            return None;
        }
        let kind = match self.is_flow() {
            true => PredictionType::Flow,
            false => self.fields.choice("prediction_type", PredictionType::Epsilon).ok()?,
        };
        Some(kind.original(mixing.0, mixing.1).of(&sample.to_owned(), model_output))
    }

    /// Returns how many timesteps the model was trained with (1000 where the config does not say).
    pub fn num_train_timesteps(&self) -> u32 {
        self.fields.count("num_train_timesteps", 1000).unwrap_or(1000)
    }

    /// Returns whether the class is one of ours, so that [`SchedulerConfig::schedule`] can work without a `select`.
    pub fn is_supported(&self) -> bool {
        self.algorithm.is_some()
    }

    /// Returns the canonical name of what the config does, such as `dpmpp_2m_karras`; for a class that is not ours, the
    /// class name.
    pub fn name(&self) -> &str {
        let Some(algorithm) = self.algorithm else { return &self.class_name };
        let fits = |overrides: &[(&str, &str)]| overrides.iter().all(|(key, json)| self.says(key, json));
        // The variant that says most of what is set; the plain one says nothing, so one always fits.
        let variants = algorithm.variants.iter().filter(|variant| fits(variant.overrides));
        variants.max_by_key(|variant| variant.overrides.len()).map_or(&self.class_name, |variant| variant.canonical)
    }

    /// Returns diffusers' class name, empty where the config names none.
    pub fn class_name(&self) -> &str {
        &self.class_name
    }

    /// Returns whether the model is one of flow matching (Stable Diffusion 3, Flux, …): it predicts noise - picture, and its
    /// samples are (1 - sigma) picture + sigma noise.
    pub fn is_flow(&self) -> bool {
        self.class_name.starts_with(FLOW_CLASSES)
            || self.says("use_flow_sigmas", "true")
            || self.says("prediction_type", r#""flow_prediction""#)
    }

    /// Returns whether the algorithm spaces the levels of flow matching itself (`use_flow_sigmas`), rather than take those that
    /// a pipeline hands it.
    pub fn has_own_flow_sigmas(&self) -> bool {
        !self.class_name.starts_with(FLOW_CLASSES) && self.says("use_flow_sigmas", "true")
    }

    /// Sets the fields with which the selected algorithm samples the kind of model that `before` was.
    fn keep_flow(&mut self, before: &SchedulerConfig) -> Result<()> {
        let for_flow = self.class_name.starts_with(FLOW_CLASSES);
        let can_flow = for_flow || self.algorithm.is_some_and(|algorithm| algorithm.knows("use_flow_sigmas"));
        match (before.is_flow(), before.is_supported()) {
            (true, _) if !can_flow => {
                Err(wrong(format!("`{}` cannot sample a model of flow matching", self.class_name))
                    .hint(format!("these schedulers can: {}", registry::which_flow())))
            }
            (false, true) if for_flow => Err(wrong(format!("`{}` needs a model of flow matching", self.class_name))
                .hint(format!("this one was trained for `{}`", before.class_name))),
            (false, _) => Ok(()),
            (true, _) => {
                let fields = &mut self.fields.0;
                let (from, to) = if for_flow { ("flow_shift", "shift") } else { ("shift", "flow_shift") };
                if let (Some(shift), false) = (fields.get(from).cloned(), fields.contains_key(to)) {
                    fields.insert(to.to_string(), shift);
                }
                fields.insert("prediction_type".to_string(), "flow_prediction".into());
                if !for_flow {
                    fields.insert("use_flow_sigmas".to_string(), true.into());
                }
                Ok(())
            }
        }
    }

    fn says(&self, key: &str, json: &str) -> bool {
        self.fields.0.get(key).is_some_and(|value| *value == written(json))
    }

    fn refuse_unknown_fields(&self) -> Result<()> {
        let known = |key: &str| FIELDS_OF_OTHERS.contains(&key) || registry::knows_field(key);
        match self.fields.0.keys().find(|key| !known(key)) {
            Some(key) => Err(wrong(format!("unknown field `{key}`"))
                .hint("remove it if it does not matter; it is no field of a scheduler that nightshift knows")),
            None => Ok(()),
        }
    }

    fn refuse_dishonoured_fields(&self, algorithm: &Algorithm) -> Result<()> {
        for (key, neutral) in algorithm.neutral {
            if let Some(value) = self.fields.0.get(*key).filter(|value| !neutral.holds(value)) {
                if let Neutral::Object(what) = neutral {
                    let message = format!("`{key}` is a Python object in diffusers, {what}: a config cannot hold it");
                    return Err(wrong(message).hint("remove the field; diffusers itself does not save it"));
                }
                let hint = "nightshift does not have it for this scheduler; choose another with `--scheduler`";
                return Err(bad(key, value, "").hint(hint));
            }
        }
        Ok(())
    }
}

/// Refuses timesteps and levels of the request's own that the class does not take.
fn refuse_custom(algorithm: &Algorithm, request: &ScheduleRequest) -> Result<()> {
    let refused = |what: &'static str, which: String| {
        let message = format!("`{}` takes no `{what}`", algorithm.class_name);
        Err(Error::new(ErrorKind::Usage, what, message).hint(format!("these schedulers do: {which}")))
    };
    if request.timesteps.is_some() && request.sigmas.is_some() {
        let error = Error::new(ErrorKind::Usage, "timesteps", "both `timesteps` and `sigmas` are given");
        return Err(error.hint("give one of them only"));
    }
    if request.timesteps.is_some() && !algorithm.takes.timesteps {
        return refused("timesteps", registry::which(|takes| takes.timesteps));
    }
    if request.sigmas.is_some() && !algorithm.takes.sigmas {
        return refused("sigmas", registry::which(|takes| takes.sigmas));
    }
    Ok(())
}

impl std::fmt::Debug for SchedulerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchedulerConfig").field("class_name", &self.class_name).field("fields", &self.fields.0).finish()
    }
}

impl PartialEq for SchedulerConfig {
    fn eq(&self, other: &Self) -> bool {
        self.class_name == other.class_name && self.fields == other.fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_objects_in_python_are_refused_and_said_to_be() {
        for (class, field) in [("UniPCMultistepScheduler", "solver_p"), ("SASolverScheduler", "tau_func")] {
            let with = |value: &str| {
                let json = format!(r#"{{"_class_name": "{class}", "{field}": {value}}}"#);
                SchedulerConfig::from_json(&json).and_then(|config| config.schedule(&ScheduleRequest::steps(4)))
            };
            assert!(with("null").is_ok(), "{field}");
            let error = with(r#"{"_class_name": "DDIMScheduler"}"#).expect_err("an object");
            assert!(error.to_string().contains(&format!("`{field}` is a Python object in diffusers")), "{error}");
            assert!(error.how_to_fix().is_some_and(|hint| hint.contains("remove the field")));
        }
    }

    #[test]
    fn a_network_that_is_told_levels_takes_no_timesteps() {
        let json =
            r#"{"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous", "prediction_type": "KIND"}"#;
        let schedule =
            |kind: &str, request| SchedulerConfig::from_json(&json.replace("KIND", kind))?.schedule(&request);
        let given = ScheduleRequest { timesteps: Some(vec![900.0, 10.0]), ..ScheduleRequest::default() };
        assert_eq!(schedule("v_prediction", given.clone()).expect_err("as in diffusers").code(), "timesteps");
        assert_eq!(schedule("epsilon", given).expect("no effect").timesteps(), [900.0, 10.0]);
        let told = schedule("v_prediction", ScheduleRequest::steps(3)).expect("a schedule");
        let sigma = told.sigmas().expect("levels")[1];
        assert!((told.timesteps()[1] - 0.25 * sigma.ln()).abs() < 1e-6);
    }

    const STABLE_DIFFUSION_1: &str = r#"{"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0",
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
        "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null,
        "clip_sample": false}"#;
    const STABLE_DIFFUSION_XL: &str = r#"{"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0",
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": false,
        "interpolation_type": "linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
        "sample_max_value": 1.0, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "timestep_spacing": "leading", "trained_betas": null, "use_karras_sigmas": false}"#;

    #[test]
    fn a_class_that_we_lack_can_be_replaced() {
        let text = STABLE_DIFFUSION_1.replace("PNDMScheduler", "CogVideoXDDIMScheduler");
        let config = SchedulerConfig::from_json(&text).expect("a config");
        assert!(!config.is_supported());
        let error = config.schedule(&ScheduleRequest::steps(10)).expect_err("no such algorithm");
        assert_eq!(
            (error.code(), error.message()),
            ("unknown_scheduler", "`CogVideoXDDIMScheduler` is not a scheduler")
        );
        let euler = config.select("Euler").expect("fits");
        assert_eq!((euler.name(), euler.class_name()), ("euler", "EulerDiscreteScheduler"));
        // linspace is the default of Euler's class; PNDM's own default does not count.
        assert_eq!(euler.schedule(&ScheduleRequest::steps(2)).expect("a schedule").timesteps(), [999.0, 0.0]);
        let ddim = config.select("ddim").expect("fits");
        assert_eq!(ddim.schedule(&ScheduleRequest::steps(2)).expect("a schedule").timesteps(), [501.0, 1.0]);
    }

    #[test]
    fn switching_there_and_back_loses_nothing() {
        let config = SchedulerConfig::from_json(STABLE_DIFFUSION_XL).expect("a config");
        assert_eq!(config.name(), "euler");
        let back = config.select("ddim").expect("fits").select("euler").expect("fits");
        assert_eq!(config, back);
    }

    #[test]
    fn names_set_what_they_say_and_no_more() {
        let config = SchedulerConfig::from_json(STABLE_DIFFUSION_XL).expect("a config");
        let karras = config.select("DPM++ 2M Karras").expect("fits");
        assert_eq!(karras.name(), "dpmpp_2m_karras");
        assert_eq!(karras.select("euler").expect("fits").name(), "euler_karras");
        assert_eq!(karras.select("euler_a").expect("fits").name(), "euler_a", "it has no Karras sigmas");
    }

    #[test]
    fn errors_name_the_field() {
        let message = |text: &str| {
            let schedule =
                SchedulerConfig::from_json(text).and_then(|config| config.schedule(&ScheduleRequest::steps(1)));
            schedule.expect_err("refused").to_string()
        };
        let ddim = |field: &str| format!(r#"{{"_class_name": "DDIMScheduler", {field}}}"#);
        assert_eq!(message(&ddim(r#""beta_strat": 1"#)), "unknown field `beta_strat`");
        assert_eq!(message(&ddim(r#""prediction_type": "flow""#)), "`prediction_type` cannot be `flow`");
        assert_eq!(message(&ddim(r#""num_train_timesteps": -4"#)), "`num_train_timesteps` cannot be `-4`");
        assert_eq!(message(&ddim(r#""num_train_timesteps": 0"#)), "`num_train_timesteps` cannot be `0`");
        let edm = r#"{"_class_name": "EDMDPMSolverMultistepScheduler", "use_lu_lambdas": true}"#;
        assert_eq!(message(edm), "`use_lu_lambdas` cannot be `true`");
        let config = SchedulerConfig::from_json(edm).expect("a config");
        assert!(config.select("euler").is_ok(), "another algorithm does not have the field");
        assert!(message("[1]").contains("not a JSON object"));
        assert!(message("{").contains("not valid JSON"));
    }

    #[test]
    fn models_of_flow_matching_stay_what_they_are() {
        let sd3 = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}"#;
        let sd3 = SchedulerConfig::from_json(sd3).expect("a config");
        let dpm = sd3.select("dpmpp_2m").expect("can flow");
        let schedule = dpm.schedule(&ScheduleRequest::steps(2)).expect("a schedule");
        assert_eq!(schedule.timesteps(), [999.0, 749.0], "the shift is kept");
        assert!(dpm.is_flow() && dpm.select("unipc").expect("can flow").is_flow());
        assert_eq!(dpm.select("flow_euler").expect("fits").name(), "flow_euler");
        let error = sd3.select("ddim").expect_err("DDIM cannot");
        assert_eq!(error.to_string(), "`DDIMScheduler` cannot sample a model of flow matching");
        assert!(error.how_to_fix().is_some_and(|hint| hint.contains("unipc") && hint.contains("flow_heun")));
        let sdxl = SchedulerConfig::from_json(STABLE_DIFFUSION_XL).expect("a config");
        assert_eq!(sdxl.select("flow_euler").expect_err("predicts noise").code(), "scheduler_config");
        let wan = r#"{"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true, "flow_shift": 5.0,
            "prediction_type": "flow_prediction"}"#;
        let euler = SchedulerConfig::from_json(wan).and_then(|wan| wan.select("flow_euler")).expect("fits");
        assert!(euler.schedule(&ScheduleRequest::steps(3)).expect("a schedule").timesteps()[1] > 800.0);
        // A shift by size can be selected, and needs the size in the end.
        let flux = SchedulerConfig::from_json(
            r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}"#,
        );
        let flux = flux.and_then(|flux| flux.select("dpmpp_2m")).expect("fits");
        assert_eq!(flux.schedule(&ScheduleRequest::steps(3)).expect_err("no size").code(), "image_seq_len");
        let half = r#"{"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": true}"#;
        let half = SchedulerConfig::from_json(half).expect("a config");
        assert_eq!(half.schedule(&ScheduleRequest::steps(3)).expect_err("predicts noise").code(), "scheduler_config");
    }

    #[test]
    fn own_timesteps_and_sigmas_are_taken_where_diffusers_takes_them() {
        let config = SchedulerConfig::from_json(STABLE_DIFFUSION_XL).expect("a config");
        let timesteps = || ScheduleRequest { timesteps: Some(vec![999.0, 500.0]), ..ScheduleRequest::default() };
        let sigmas = || ScheduleRequest { sigmas: Some(vec![14.0, 1.0, 0.0]), ..ScheduleRequest::default() };
        assert_eq!(config.schedule(&timesteps()).expect("Euler does").timesteps(), [999.0, 500.0]);
        assert_eq!(config.schedule(&sigmas()).expect("Euler does").sigmas(), Some(&[14.0, 1.0, 0.0][..]));
        let unipc = config.select("unipc").expect("fits");
        let error = unipc.schedule(&timesteps()).expect_err("UniPC does not");
        assert_eq!(error.to_string(), "`UniPCMultistepScheduler` takes no `timesteps`");
        assert!(error.how_to_fix().is_some_and(|hint| hint.contains("dpmpp_2m") && !hint.contains("unipc")));
        let code = |config: &SchedulerConfig, request| config.schedule(&request).expect_err("refused").code();
        assert_eq!(code(&config.select("ddpm").expect("fits"), sigmas()), "sigmas");
        assert_eq!(code(&config, ScheduleRequest { sigmas: sigmas().sigmas, ..timesteps() }), "timesteps");
        // A spacing of levels has its own timesteps.
        assert_eq!(code(&config.select("euler_karras").expect("fits"), timesteps()), "timesteps");
        let dpm = config.select("dpmpp_2m").expect("fits");
        for wrong in [vec![], vec![500.0, 999.0], vec![1000.0, 5.0], vec![9.0, -1.0], vec![f64::NAN], vec![9.5, 1.0]] {
            assert_eq!(code(&dpm, ScheduleRequest { timesteps: Some(wrong), ..timesteps() }), "timesteps");
        }
        for wrong in [vec![], vec![1.0], vec![0.0, 0.0], vec![1.0, 2.0, 0.0], vec![f64::INFINITY, 0.0]] {
            assert_eq!(code(&config, ScheduleRequest { sigmas: Some(wrong), ..sigmas() }), "sigmas");
        }
    }

    #[test]
    fn an_empty_config_is_the_defaults_of_whatever_is_selected() {
        let config = SchedulerConfig::from_json("{}").expect("a config");
        assert_eq!(config.schedule(&ScheduleRequest::steps(5)).expect_err("no class").code(), "unknown_scheduler");
        for name in registry::names() {
            let schedule =
                config.select(name.canonical).expect("fits").schedule(&ScheduleRequest::steps(10)).expect("a schedule");
            assert_eq!(schedule.scheduler(), name.class_name);
            assert!(schedule.evaluations() >= 10, "{}", name.canonical);
        }
    }
}
