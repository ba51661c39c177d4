//! The error function, which Rust's standard library lacks.
//!
//! Rational approximations of FreeBSD's `s_erf.c` (Sun Microsystems 1993, freely redistributable), with an error
//! below 1 ulp of f64. The test compares them with a power series.
#![allow(clippy::excessive_precision, reason = "coefficients stand as they were published")]

/// 2/√π ∫₀ˣ e^(−t²) dt
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let positive = if x.is_nan() {
        return x;
    } else if a < 0.84375 {
        let z = x * x;
        return x + x * (polynomial(z, &PP) / polynomial(z, &QQ));
    } else if a < 1.25 {
        let s = a - 1.0;
        ERX + polynomial(s, &PA) / polynomial(s, &QA)
    } else if a < 6.0 {
        1.0 - erfc_tail(a)
    } else {
        1.0
    };
    positive.copysign(x)
}

/// 1 − erf(a) for 1.25 ≤ a < 28.
fn erfc_tail(a: f64) -> f64 {
    let s = 1.0 / (a * a);
    let ratio = if a < 1.0 / 0.35 {
        polynomial(s, &RA) / polynomial(s, &SA)
    } else {
        polynomial(s, &RB) / polynomial(s, &SB)
    };
    // a² split so that e^(−a²) keeps all bits.
    let z = f64::from_bits(a.to_bits() & !0xffff_ffff);
    (-z * z - 0.5625).exp() * ((z - a) * (z + a) + ratio).exp() / a
}

/// Horner's scheme, lowest coefficient first.
fn polynomial(x: f64, coefficients: &[f64]) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c)
}

/// erf(1) rounded to f32.
const ERX: f64 = 8.45062911510467529297e-01;
const PP: [f64; 5] = [
    1.28379167095512558561e-01,
    -3.25042107247001499370e-01,
    -2.84817495755985104766e-02,
    -5.77027029648944159157e-03,
    -2.37630166566501626084e-05,
];
const QQ: [f64; 6] = [
    1.0,
    3.97917223959155352819e-01,
    6.50222499887672944485e-02,
    5.08130628187576562776e-03,
    1.32494738004321644526e-04,
    -3.96022827877536812320e-06,
];
const PA: [f64; 7] = [
    -2.36211856075265944077e-03,
    4.14856118683748331666e-01,
    -3.72207876035701323847e-01,
    3.18346619901161753674e-01,
    -1.10894694282396677476e-01,
    3.54783043256182359371e-02,
    -2.16637559486879084300e-03,
];
const QA: [f64; 7] = [
    1.0,
    1.06420880400844228286e-01,
    5.40397917702171048937e-01,
    7.18286544141962662868e-02,
    1.26171219808761642112e-01,
    1.36370839120290507362e-02,
    1.19844998467991074170e-02,
];
const RA: [f64; 8] = [
    -9.86494403484714822705e-03,
    -6.93858572707181764372e-01,
    -1.05586262253232909814e+01,
    -6.23753324503260060396e+01,
    -1.62396669462573470355e+02,
    -1.84605092906711035994e+02,
    -8.12874355063065934246e+01,
    -9.81432934416914548592e+00,
];
const SA: [f64; 9] = [
    1.0,
    1.96512716674392571292e+01,
    1.37657754143519042600e+02,
    4.34565877475229228821e+02,
    6.45387271733267880336e+02,
    4.29008140027567833386e+02,
    1.08635005541779435134e+02,
    6.57024977031928170135e+00,
    -6.04244152148580987438e-02,
];
const RB: [f64; 7] = [
    -9.86494292470009928597e-03,
    -7.99283237680523006574e-01,
    -1.77579549177547519889e+01,
    -1.60636384855821916062e+02,
    -6.37566443368389627722e+02,
    -1.02509513161107724954e+03,
    -4.83519191608651397019e+02,
];
const SB: [f64; 8] = [
    1.0,
    3.03380607434824582924e+01,
    3.25792512996573918826e+02,
    1.53672958608443695994e+03,
    3.19985821950859553908e+03,
    2.55305040643316442583e+03,
    4.74528541206955367215e+02,
    -2.24409524465858183362e+01,
];

#[cfg(test)]
mod tests {
    /// erf(x) = 2/√π · e^(−x²) · Σ 2ⁿx²ⁿ⁺¹/(1·3·…·(2n+1)): all terms have one sign.
    fn series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..400 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
    }

    #[test]
    fn agrees_with_the_power_series() {
        for i in -7000..=7000 {
            let x = f64::from(i) / 1000.0 + 1e-5;
            let (ours, exact) = (super::erf(x), series(x));
            assert!(
                (ours - exact).abs() <= 3e-15 * exact.abs().max(1e-3),
                "erf({x}) = {ours}, series {exact}"
            );
        }
        assert_eq!((super::erf(0.0), super::erf(f64::INFINITY), super::erf(-30.0)), (0.0, 1.0, -1.0));
        assert!(super::erf(f64::NAN).is_nan());
    }
}
