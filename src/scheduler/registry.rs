//! The algorithms that exist and the names they go by.

use crate::error::{Error, ErrorKind, Result};

use super::fields::{Fields, Neutral};
use super::request::ScheduleRequest;
use super::schedule::Schedule;
use super::{
    ddim, ddpm, deis_multistep, dpmsolver_multistep, dpmsolver_sde, dpmsolver_singlestep, edm_dpmsolver_multistep,
    edm_euler, euler_ancestral_discrete, euler_discrete, flow_match_euler_discrete, flow_match_heun_discrete,
    heun_discrete, k_dpm_2_ancestral_discrete, k_dpm_2_discrete, lcm, lms_discrete, pndm, sasolver, tcd,
    unipc_multistep,
};

/// Every algorithm; the order is that of help texts.
static ALGORITHMS: &[&Algorithm] = &[
    &dpmsolver_multistep::ALGORITHM,
    &euler_discrete::ALGORITHM,
    &euler_ancestral_discrete::ALGORITHM,
    &ddim::ALGORITHM,
    &ddpm::ALGORITHM,
    &pndm::ALGORITHM,
    &unipc_multistep::ALGORITHM,
    &deis_multistep::ALGORITHM,
    &dpmsolver_singlestep::ALGORITHM,
    &dpmsolver_sde::ALGORITHM,
    &sasolver::ALGORITHM,
    &lms_discrete::ALGORITHM,
    &heun_discrete::ALGORITHM,
    &k_dpm_2_discrete::ALGORITHM,
    &k_dpm_2_ancestral_discrete::ALGORITHM,
    &lcm::ALGORITHM,
    &tcd::ALGORITHM,
    &flow_match_euler_discrete::ALGORITHM,
    &flow_match_heun_discrete::ALGORITHM,
    &edm_euler::ALGORITHM,
    &edm_dpmsolver_multistep::ALGORITHM,
];

/// An algorithm: its names, the fields of `scheduler_config.json` it knows, and how it computes a schedule.
pub(super) struct Algorithm {
    /// diffusers' class.
    pub(super) class_name: &'static str,
    /// Names of the algorithm and of its variants, the plain one first.
    pub(super) variants: &'static [Variant],
    /// Fields of the class that we honour, in groups: those of the shared files and its own.
    pub(super) honoured: &'static [&'static [&'static str]],
    /// Fields that are missing, with the value (as JSON) that this class gives them and the shared files do not.
    pub(super) defaults: &'static [(&'static str, &'static str)],
    /// Fields of the class that we do not honour, with the value that changes nothing.
    pub(super) neutral: &'static [(&'static str, Neutral)],
    /// Which values of a request of its own the class takes.
    pub(super) takes: Takes,
    /// Computes the schedule that is asked for.
    pub(super) build: fn(&Fields, &ScheduleRequest) -> Result<Schedule>,
}

/// What diffusers' `set_timesteps` of a class takes instead of a number of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Takes {
    pub(super) timesteps: bool,
    pub(super) sigmas: bool,
}

impl Takes {
    pub(super) const NEITHER: Takes = Takes { timesteps: false, sigmas: false };
    pub(super) const TIMESTEPS: Takes = Takes { timesteps: true, sigmas: false };
    pub(super) const SIGMAS: Takes = Takes { timesteps: false, sigmas: true };
    pub(super) const BOTH: Takes = Takes { timesteps: true, sigmas: true };
}

/// A named setting of an algorithm.
pub(super) struct Variant {
    pub(super) canonical: &'static str,
    pub(super) a1111: &'static str,
    /// Other spellings that differ by more than case, spaces and punctuation.
    pub(super) aliases: &'static [&'static str],
    /// Fields that the name sets, with their value as JSON.
    pub(super) overrides: &'static [(&'static str, &'static str)],
}

/// The spellings of one scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// What manifests, flags and metadata say: `dpmpp_2m_karras`.
    pub canonical: &'static str,
    /// diffusers' class: `DPMSolverMultistepScheduler`. Variants share it.
    pub class_name: &'static str,
    /// What AUTOMATIC1111's web UI calls it: `DPM++ 2M Karras`.
    pub a1111: &'static str,
}

/// Returns every scheduler with its spellings, for help texts.
pub fn names() -> impl Iterator<Item = Name> {
    variants().map(|(algorithm, variant)| Name {
        canonical: variant.canonical,
        class_name: algorithm.class_name,
        a1111: variant.a1111,
    })
}

/// Returns the canonical name of any accepted spelling: ours, diffusers' class (with or without `Scheduler`), A1111's;
/// upper and lower case, spaces and punctuation do not matter.
///
/// # Errors
/// `unknown_scheduler` (usage) when nothing is called that; it lists what exists.
pub fn resolve(name: &str) -> Result<&'static str> {
    find(name).map(|(_, variant)| variant.canonical)
}

/// Returns what A1111 calls the scheduler with this `canonical` name, for the PNG text that other tools read.
///
/// A name that is none (see [`resolve`]) comes back as it is.
pub fn a1111_name(canonical: &str) -> &str {
    names().find(|name| name.canonical == canonical).map_or(canonical, |name| name.a1111)
}

/// Returns the algorithm and the variant that `name` means; errors as [`resolve`].
pub(super) fn find(name: &str) -> Result<(&'static Algorithm, &'static Variant)> {
    let wanted = plain(name);
    variants()
        .find(|(algorithm, variant)| spellings(algorithm, variant).any(|spelling| plain(spelling) == wanted))
        .ok_or_else(|| unknown(name))
}

/// Returns the algorithm of diffusers' class `class_name`, if we have it.
pub(super) fn find_class(class_name: &str) -> Option<&'static Algorithm> {
    ALGORITHMS.iter().copied().find(|algorithm| algorithm.class_name == class_name)
}

/// Returns the names of the algorithms that `take` what is asked, the plain variant of each.
pub(super) fn which(take: impl Fn(Takes) -> bool) -> String {
    let taking = ALGORITHMS.iter().filter(|algorithm| take(algorithm.takes));
    taking.map(|algorithm| algorithm.variants[0].canonical).collect::<Vec<_>>().join(", ")
}

/// Returns the names of the algorithms for models of flow matching, the plain variant of each.
pub(super) fn which_flow() -> String {
    let flow =
        |algorithm: &&&Algorithm| algorithm.class_name.starts_with("FlowMatch") || algorithm.knows("use_flow_sigmas");
    ALGORITHMS.iter().filter(flow).map(|algorithm| algorithm.variants[0].canonical).collect::<Vec<_>>().join(", ")
}

/// Returns whether any algorithm knows a field of this name.
pub(super) fn knows_field(key: &str) -> bool {
    ALGORITHMS.iter().any(|algorithm| algorithm.knows(key))
}

impl Algorithm {
    /// Returns whether the class has a field of this name.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.honoured.iter().any(|group| group.contains(&key)) || self.neutral.iter().any(|(name, _)| *name == key)
    }
}

/// Returns the error for a name that is none, saying what exists.
pub(super) fn unknown(name: &str) -> Error {
    let message = match name {
        "" => "the config names no scheduler".to_string(),
        name => format!("`{name}` is not a scheduler"),
    };
    let list = names().map(|name| name.canonical).collect::<Vec<_>>().join(", ");
    let hint = match nearest(name) {
        Some(near) => format!("did you mean `{near}`? there are {list}"),
        None => format!("there are {list}"),
    };
    Error::new(ErrorKind::Usage, "unknown_scheduler", message).hint(hint)
}

/// Returns the canonical name of the most similar spelling, if any is similar.
fn nearest(name: &str) -> Option<&'static str> {
    let wanted = plain(name);
    variants()
        .flat_map(|(algorithm, variant)| {
            spellings(algorithm, variant).map(|spelling| (plain(spelling), variant.canonical))
        })
        .map(|(spelling, canonical)| (strsim::normalized_damerau_levenshtein(&spelling, &wanted), canonical))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, canonical)| canonical)
}

fn variants() -> impl Iterator<Item = (&'static Algorithm, &'static Variant)> {
    ALGORITHMS.iter().flat_map(|algorithm| algorithm.variants.iter().map(move |variant| (*algorithm, variant)))
}

/// Returns every spelling of a variant. The class is a spelling of the first variant only.
fn spellings(algorithm: &'static Algorithm, variant: &'static Variant) -> impl Iterator<Item = &'static str> {
    let class = std::ptr::eq(variant, &algorithm.variants[0])
        .then(|| [algorithm.class_name, algorithm.class_name.trim_end_matches("Scheduler")]);
    [variant.canonical, variant.a1111]
        .into_iter()
        .chain(variant.aliases.iter().copied())
        .chain(class.into_iter().flatten())
}

/// Returns `name` in lower case, `+` as `p`, without anything else that is no letter and no digit.
fn plain(name: &str) -> String {
    let lower = name.chars().flat_map(char::to_lowercase);
    lower.map(|c| if c == '+' { 'p' } else { c }).filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_means_one_scheduler() {
        let mut seen = std::collections::HashMap::new();
        for (algorithm, variant) in variants() {
            for spelling in spellings(algorithm, variant) {
                assert_eq!(resolve(spelling).expect("a spelling"), variant.canonical, "{spelling}");
                let before = seen.insert(plain(spelling), variant.canonical);
                assert!(before.is_none_or(|before| before == variant.canonical), "{spelling} is ambiguous");
            }
        }
    }

    #[test]
    fn names_of_other_tools_resolve() {
        for (name, canonical) in [
            ("Euler a", "euler_a"),
            ("EulerAncestralDiscreteScheduler", "euler_a"),
            ("euler_ancestral", "euler_a"),
            ("EULER", "euler"),
            ("DPM++ 2M Karras", "dpmpp_2m_karras"),
            ("dpm++_2m", "dpmpp_2m"),
            ("DPMSolverMultistep", "dpmpp_2m"),
            ("ddim", "ddim"),
        ] {
            assert_eq!(resolve(name).expect("a known name"), canonical);
        }
        assert_eq!(a1111_name("dpmpp_2m_karras"), "DPM++ 2M Karras");
    }

    #[test]
    fn a_wrong_name_gets_a_list_and_a_guess() {
        let error = resolve("dpmpp_2mm").expect_err("no such scheduler");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Usage, "unknown_scheduler"));
        assert_eq!(error.to_string(), "`dpmpp_2mm` is not a scheduler");
        let hint = error.how_to_fix().expect("a hint");
        assert!(hint.starts_with("did you mean `dpmpp_2m`? there are "), "{hint}");
        assert!(names().all(|name| hint.contains(name.canonical)), "{hint}");
        let hint = resolve("qqqqqqqq").expect_err("no such scheduler");
        assert!(hint.how_to_fix().is_some_and(|hint| hint.starts_with("there are ")));
    }
}
