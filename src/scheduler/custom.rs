//! Timesteps and noise levels that are given and not computed: as numbers, or by the name of a table of Align Your Steps
//! (Sabour, Fidler and Kreis 2024, arXiv 2404.14507; diffusers 0.42.1 `AysSchedules`, for 10 steps).

use super::betas;
use super::fields::{Fields, written};
use super::sigmas::TrainingSigmas;
use crate::error::{Error, ErrorKind, Result};

/// A schedule that was optimised for one model.
struct Table {
    name: &'static str,
    /// The model was trained with Stable Diffusion's betas and their timesteps, of which these are the best ten.
    timesteps: Option<[f64; 10]>,
    /// The levels at these and, at last, that of timestep 0.
    sigmas: [f64; 11],
}

static TABLES: [Table; 3] = [
    Table {
        name: "AYS-SD15",
        timesteps: Some([999.0, 850.0, 736.0, 645.0, 545.0, 455.0, 343.0, 233.0, 124.0, 24.0]),
        sigmas: [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
    },
    Table {
        name: "AYS-SDXL",
        timesteps: Some([999.0, 845.0, 730.0, 587.0, 443.0, 310.0, 193.0, 116.0, 53.0, 13.0]),
        sigmas: [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029],
    },
    Table {
        name: "AYS-SVD",
        timesteps: None,
        sigmas: [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002],
    },
];

/// Reads timesteps for [`super::ScheduleRequest::timesteps`]: numbers with commas between them, such as `999,749,499,249`,
/// or the name of a table, `AYS-SD15` or `AYS-SDXL`.
///
/// A table has 10 steps. For another number of `steps` these are the timesteps (of Stable Diffusion's training, rounded) at
/// the levels that [`custom_sigmas`] gives. Numbers stay as they are, whatever `steps` says.
///
/// # Errors
/// `timesteps` (usage) when the text is neither, when the table has only levels, or for more steps than it can be stretched
/// to.
pub fn custom_timesteps(text: &str, steps: Option<u32>) -> Result<Vec<f64>> {
    let Some(table) = find(text) else { return numbers("timesteps", text) };
    let Some(timesteps) = table.timesteps else {
        let message = format!("`{}` has no timesteps, only sigmas", table.name);
        return Err(Error::new(ErrorKind::Usage, "timesteps", message).hint("give it as sigmas"));
    };
    let n = count("timesteps", table, steps)?;
    if n == timesteps.len() {
        return Ok(timesteps.to_vec());
    }
    let training = TrainingSigmas::new(&betas::alphas_cumprod(&stable_diffusion())?)?;
    let told: Vec<f64> = stretched(&table.sigmas, n)[..n].iter().map(|s| training.timestep_of(*s).round()).collect();
    if told.windows(2).all(|pair| pair[1] < pair[0]) {
        return Ok(told);
    }
    Err(too_many("timesteps", table, n))
}

/// Reads noise levels for [`super::ScheduleRequest::sigmas`]: numbers with commas between them, or the name of a table,
/// `AYS-SD15`, `AYS-SDXL` or `AYS-SVD`.
///
/// A table has 10 steps and ends in 0. For another number of `steps` its levels are interpolated log-linearly, as its
/// authors say: evenly in the number of the level, linearly in the logarithm, the level of timestep 0 standing in for the
/// final 0. Numbers stay as they are, whatever `steps` says.
///
/// # Errors
/// `sigmas` (usage) when the text is neither, and for a table with 0 steps or more than 1000.
pub fn custom_sigmas(text: &str, steps: Option<u32>) -> Result<Vec<f64>> {
    let Some(table) = find(text) else { return numbers("sigmas", text) };
    let n = count("sigmas", table, steps)?;
    let mut sigmas = stretched(&table.sigmas, n);
    sigmas[n] = 0.0;
    Ok(sigmas)
}

fn find(text: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name.eq_ignore_ascii_case(text.trim()))
}

fn numbers(what: &'static str, text: &str) -> Result<Vec<f64>> {
    let number = |word: &str| {
        word.trim().parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| {
            let names: Vec<_> = TABLES.iter().map(|table| format!("`{}`", table.name)).collect();
            Error::new(ErrorKind::Usage, what, format!("`{}` is neither a number nor a table of {what}", word.trim()))
                .hint(format!("give numbers with commas between them, or one of {}", names.join(", ")))
        })
    };
    text.split(',').map(number).collect()
}

/// Returns how many steps `table` shall have.
fn count(what: &'static str, table: &Table, steps: Option<u32>) -> Result<usize> {
    match steps {
        None => Ok(table.sigmas.len() - 1),
        Some(n @ 1..=1000) => Ok(n as usize),
        Some(n) => Err(too_many(what, table, n as usize)),
    }
}

fn too_many(what: &'static str, table: &Table, n: usize) -> Error {
    Error::new(ErrorKind::Usage, what, format!("`{}` cannot have {n} steps", table.name))
        .hint("it was made for 10, and about 5 to 50 make sense")
}

/// Returns `n` + 1 levels on the curve through `levels`.
fn stretched(levels: &[f64], n: usize) -> Vec<f64> {
    let last = levels.len() - 1;
    let at = |i: usize| {
        let place = i as f64 * last as f64 / n as f64;
        let low = (place as usize).min(last - 1);
        let (from, to) = (levels[low].ln(), levels[low + 1].ln());
        (from + (to - from) * (place - low as f64)).exp()
    };
    // The table itself, not its logarithms' powers, where nothing is to be interpolated.
    (0..=n).map(|i| if (i * last).is_multiple_of(n) { levels[i * last / n] } else { at(i) }).collect()
}

/// The betas of Stable Diffusion 1.x and XL.
fn stable_diffusion() -> Fields {
    let fields = [("beta_start", "0.00085"), ("beta_end", "0.012"), ("beta_schedule", "\"scaled_linear\"")];
    Fields(fields.into_iter().map(|(key, json)| (key.to_string(), written(json))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_read() {
        assert_eq!(custom_timesteps("999, 500,0.5", Some(50)).expect("numbers"), [999.0, 500.0, 0.5]);
        assert_eq!(custom_timesteps("ays-sdxl", None).expect("a table")[1], 845.0);
        let sigmas = custom_sigmas("AYS-SVD", None).expect("a table");
        assert_eq!((sigmas[0], sigmas[9], sigmas[10], sigmas.len()), (700.0, 0.034, 0.0, 11));
        let error = custom_timesteps("999,AYS", None).expect_err("a word");
        assert_eq!(error.to_string(), "`AYS` is neither a number nor a table of timesteps");
        assert!(error.how_to_fix().is_some_and(|hint| hint.contains("`AYS-SD15`")));
        assert_eq!(custom_timesteps("AYS-SVD", None).expect_err("levels only").code(), "timesteps");
        assert_eq!(custom_sigmas("", None).expect_err("nothing").code(), "sigmas");
        assert_eq!(custom_sigmas("NaN", None).expect_err("no number").code(), "sigmas");
    }

    #[test]
    fn tables_are_stretched_log_linearly() {
        // `loglinear_interp` of the authors with 21 levels.
        let sigmas = custom_sigmas("AYS-SD15", Some(20)).expect("a table");
        assert_eq!((sigmas.len(), sigmas[0], sigmas[2], sigmas[20]), (21, 14.615, 6.475, 0.0));
        assert!((sigmas[1] - (14.615f64 * 6.475).sqrt()).abs() < 1e-9);
        assert!((sigmas[19] - (0.152f64 * 0.029).sqrt()).abs() < 1e-9);
        for n in [1, 7, 33, 1000] {
            let sigmas = custom_sigmas("AYS-SDXL", Some(n)).expect("a table");
            assert!(sigmas.windows(2).all(|pair| pair[1] < pair[0]), "{n}");
        }
        assert_eq!(custom_sigmas("AYS-SDXL", Some(0)).expect_err("no steps").code(), "sigmas");
    }

    #[test]
    fn timesteps_of_a_stretched_table_lie_where_its_levels_do() {
        let own = custom_timesteps("AYS-SD15", None).expect("a table");
        let twice = custom_timesteps("AYS-SD15", Some(20)).expect("a table");
        assert!(own.iter().zip(twice.iter().step_by(2)).all(|(a, b)| (a - b).abs() <= 1.0), "{own:?} {twice:?}");
        assert_eq!(custom_timesteps("AYS-SD15", Some(1000)).expect_err("too many").code(), "timesteps");
    }
}
