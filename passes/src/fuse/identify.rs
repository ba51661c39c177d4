//! Finds the chain of functions that a [`Poly`] is.
//!
//! Every pattern allows a scaled argument and a scaled result: x·sigmoid(a·x) = silu(a·x)/a, so the
//! quick-GELU x·sigmoid(1.702·x) is Affine, Silu, Affine.
use super::algebra::{Call, GELU_CUBIC, Poly, Term, UNIT_CLIP, close, gelu_linear};
use super::chain::composed;
use goshawk_ir::op::float::{Clamp, UnaryFn};
use std::f64::consts::SQRT_2;

/// The functions of x whose composition is `p`, if it is one.
pub(super) fn identify(p: &Poly) -> Option<Vec<UnaryFn>> {
    if let Some((a, b)) = p.as_affine() {
        return Some(composed(&[affine(a, b)]));
    }
    let (shift, rest) = p.split_constant();
    let (mut chain, factor) = match &rest.terms[..] {
        [t] if t.power == 0 => single_call(t)?,
        [t] if t.power == 1 => gated(t)?,
        [s, t] => gelu(s, t).or_else(|| gelu(t, s)).or_else(|| two_relus(s, t))?,
        _ => return None,
    };
    chain.push(affine(factor, shift));
    let finite =
        chain.iter().all(|f| !matches!(f, UnaryFn::Affine(a, b) if !a.is_finite() || !b.is_finite()));
    finite.then(|| composed(&chain))
}

/// a·x + b with what is 1 or 0 up to rounding made exactly so.
fn affine(a: f64, b: f64) -> UnaryFn {
    UnaryFn::Affine(if close(a, 1.0) { 1.0 } else { a as f32 }, b as f32)
}

fn only_call(t: &Term) -> Option<&Call> {
    match &t.calls[..] {
        [call] => Some(call),
        _ => None,
    }
}

/// The factor a if the polynomial is a·x.
fn multiple(p: &Poly) -> Option<f64> {
    p.as_affine().filter(|(_, b)| *b == 0.0).map(|(a, _)| a)
}

/// c·f(u) with u a chain itself.
fn single_call(t: &Term) -> Option<(Vec<UnaryFn>, f64)> {
    let call = only_call(t)?;
    let mut chain = identify(&call.argument)?;
    chain.push(call.function);
    Some((chain, t.coefficient))
}

/// c·x·gate(x): Silu, Mish, HardSwish.
fn gated(t: &Term) -> Option<(Vec<UnaryFn>, f64)> {
    let call = only_call(t)?;
    // The function of s·x that equals s·x·gate.
    let (function, s) = match call.function {
        UnaryFn::Sigmoid => (UnaryFn::Silu, multiple(&call.argument)?),
        UnaryFn::Tanh => {
            let [inner] = &call.argument.terms[..] else { return None };
            let softplus = only_call(inner).filter(|c| c.function == UnaryFn::Softplus)?;
            if inner.power != 0 || !close(inner.coefficient, 1.0) {
                return None;
            }
            (UnaryFn::Mish, multiple(&softplus.argument)?)
        }
        f if f == UNIT_CLIP => {
            let (a, b) = call.argument.as_affine()?;
            if !close(b, 0.5) {
                return None;
            }
            (UnaryFn::HardSwish, 6.0 * a)
        }
        _ => return None,
    };
    Some((vec![affine(s, 0.0), function], t.coefficient / s))
}

/// c·x + c·x·erf(a·x), or with the tanh approximation.
fn gelu(plain: &Term, gate: &Term) -> Option<(Vec<UnaryFn>, f64)> {
    let linear = plain.power == 1 && plain.calls.is_empty() && gate.power == 1;
    if !linear || !close(plain.coefficient, gate.coefficient) {
        return None;
    }
    let call = only_call(gate)?;
    let (function, s) = match call.function {
        UnaryFn::Erf => (UnaryFn::Gelu, multiple(&call.argument)? * SQRT_2),
        UnaryFn::Tanh => {
            let of_power = |power| {
                call.argument
                    .terms
                    .iter()
                    .find(|t| t.power == power && t.calls.is_empty())
                    .map(|t| t.coefficient)
            };
            let s = of_power(1)? / gelu_linear();
            let cubic = gelu_linear() * GELU_CUBIC * s.powi(3);
            if call.argument.terms.len() != 2 || !close(of_power(3)?, cubic) {
                return None;
            }
            (UnaryFn::GeluTanh, s)
        }
        _ => return None,
    };
    Some((vec![affine(s, 0.0), function], 2.0 * plain.coefficient / s))
}

/// p·relu(a·x) + q·relu(−b·x), a leaky Relu as some exporters write it.
fn two_relus(s: &Term, t: &Term) -> Option<(Vec<UnaryFn>, f64)> {
    // Slope on the side where the Relu is not 0, with the sign of that side.
    let slope = |t: &Term| {
        let call = only_call(t).filter(|c| t.power == 0 && c.function == UnaryFn::Clip(Clamp::RELU))?;
        let a = multiple(&call.argument)?;
        Some((a > 0.0, t.coefficient * a))
    };
    let (above, below) = match (slope(s)?, slope(t)?) {
        ((true, p), (false, n)) | ((false, n), (true, p)) => (p, n),
        ((true, _), (true, _)) | ((false, _), (false, _)) => return None,
    };
    Some((vec![UnaryFn::LeakyRelu((below / above) as f32)], above))
}
