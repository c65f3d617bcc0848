//! What a sample of each evaluation is made of: so much picture, so much noise (diffusers: `add_noise`, `scale_noise`).

/// Returns the weights of picture and noise in a sample of a level.
pub(super) type Mixing = fn(f64) -> (f64, f64);

/// Returns the length in lambda = ln(alpha / sigma) of a step from level `from` to the lower level `to`.
pub(super) fn lambda_step(mixing: Mixing, from: f64, to: f64) -> f64 {
    let lambda = |(alpha, sigma): (f64, f64)| (alpha / sigma).ln();
    lambda(mixing(to)) - lambda(mixing(from))
}

/// Returns the weights of picture and noise at an `alphas_cumprod` of `alpha`.
pub(super) fn of_alpha(alpha: f64) -> (f64, f64) {
    (alpha.sqrt(), (1.0 - alpha).sqrt())
}

/// Returns them for every level of `sigmas` but the final one, with the weights that `form` gives of a level.
pub(super) fn of_levels(sigmas: &[f64], form: Mixing) -> Vec<(f64, f64)> {
    sigmas[..sigmas.len() - 1].iter().map(|sigma| form(*sigma)).collect()
}

/// A sample that is picture + sigma noise.
pub(super) fn exploding(sigma: f64) -> (f64, f64) {
    (1.0, sigma)
}

/// A sample that is (1 - sigma) picture + sigma noise.
pub(super) fn flow(sigma: f64) -> (f64, f64) {
    (1.0 - sigma, sigma)
}
