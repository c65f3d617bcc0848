//! A schedule as a table for people.

use std::fmt;

use super::schedule::Schedule;

impl fmt::Display for Schedule {
    /// Writes the class, `init_noise_sigma`, and a line a step with timestep and, where the algorithm has it, sigma.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}  init_noise_sigma {:.6}", self.scheduler(), self.init_noise_sigma())?;
        writeln!(f, "{:>5} {:>12} {:>14}", "step", "timestep", if self.sigmas().is_some() { "sigma" } else { "" })?;
        for (step, timestep) in self.timesteps().iter().enumerate() {
            let sigma = self.sigmas().map(|sigmas| format!("{:.6}", sigmas[step])).unwrap_or_default();
            writeln!(f, "{step:>5} {timestep:>12.4} {sigma:>14}")?;
        }
        match self.sigmas().and_then(<[f64]>::last) {
            Some(last) => write!(f, "{:>5} {:>12} {last:>14.6}", "end", ""),
            None => Ok(()),
        }
    }
}
