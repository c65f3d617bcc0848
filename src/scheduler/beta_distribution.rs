//! Quantiles of the beta distribution with both parameters 0.6, which spaces noise levels (`use_beta_sigmas`; diffusers
//! takes them from `scipy.stats.beta.ppf`).

/// Both parameters of the distribution.
const A: f64 = 0.6;

/// B(0.6, 0.6) = gamma(0.6)² / gamma(1.2).
const COMPLETE: f64 = 1.489_192_248_812_817 * 1.489_192_248_812_817 / 0.918_168_742_399_760_7;

/// Returns the x in [0, 1] below which the share `p` of the distribution lies, to about 1e-15.
pub(super) fn quantile(p: f64) -> f64 {
    if p <= 0.0 {
        return 0.0;
    }
    if p > 0.5 {
        // The distribution is symmetric; the lower half is the one that is computed well.
        return 1.0 - quantile(1.0 - p);
    }
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if share_below(middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Returns the share of the distribution below `x` in [0, 0.5]: the power series of the incomplete beta function
/// (Abramowitz and Stegun, 26.5.4 with b = a), whose terms shrink at least by half.
fn share_below(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0 / A, 1.0);
    for n in 1..200 {
        let n = f64::from(n);
        term *= (n - A) / n * x;
        let more = term / (A + n);
        sum += more;
        if more < 1e-17 * sum {
            break;
        }
    }
    x.powf(A) * sum / COMPLETE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_scipy() {
        // scipy.stats.beta.ppf(p, 0.6, 0.6), scipy 1.17.1.
        for (p, x) in SCIPY {
            assert!((quantile(p) - x).abs() < 1e-12, "{p}: {} is not {x}", quantile(p));
        }
        assert_eq!((quantile(0.0), quantile(1.0)), (0.0, 1.0));
    }

    const SCIPY: [(f64, f64); 5] = [
        (0.001, 1.855873851745199e-05),
        (0.1, 0.03958440558878085),
        (0.37, 0.3227940020973615),
        (0.5, 0.5000000000000001),
        (0.9, 0.9604155944112192),
    ];
}
