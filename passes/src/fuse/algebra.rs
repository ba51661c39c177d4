//! A small computer algebra for functions of one variable, so that one pattern recognises every way an exporter may
//! have written a function.
//!
//! A [`Poly`] is a sum of terms c · xᵖ · f₁(…) · f₂(…) with nested polynomials as arguments. Products distribute, so
//! ½·x·(1 + erf(x/√2)), x·½·(1 + erf(…)) and ½x + ½x·erf(…) are the same sum. Constructors normalise:
//! 1/(1 + e⁻ᵘ) is sigmoid(u), ln(1 + eᵘ) is softplus(u), clip(u, 0, h) is h·clip(u/h, 0, 1), and the compound
//! activations are their definitions.
use goshawk_ir::op::float::{BinaryFn, Clamp, UnaryFn};

/// Sums beyond this are no activation function.
const MAX_TERMS: usize = 12;
/// Products beyond this power are none either.
const MAX_POWER: u32 = 6;
/// Relative difference up to which two coefficients are the same: exporters round constants such as √2 to f32, twice.
const TOLERANCE: f64 = 1e-5;

/// Whether two coefficients are the same up to rounding.
pub(super) fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

/// clip(u, 0, 1).
pub(super) const UNIT_CLIP: UnaryFn = UnaryFn::Clip(Clamp { lo: 0.0, hi: 1.0 });

/// f(argument); f is never Affine.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The function.
    pub function: UnaryFn,
    /// What it is applied to.
    pub argument: Poly,
}

/// coefficient · x^power · calls.
#[derive(Clone, Debug)]
pub(super) struct Term {
    /// Factor.
    pub coefficient: f64,
    /// Power of the variable.
    pub power: u32,
    /// Further factors.
    pub calls: Vec<Call>,
}

/// A sum of terms, no two of which differ in the coefficient only.
#[derive(Clone, Debug)]
pub(super) struct Poly {
    /// Summands.
    pub terms: Vec<Term>,
}

impl Poly {
    /// The variable.
    pub fn x() -> Self {
        Self { terms: vec![Term { coefficient: 1.0, power: 1, calls: Vec::new() }] }
    }

    /// A constant.
    pub fn constant(c: f64) -> Self {
        let term = Term { coefficient: c, power: 0, calls: Vec::new() };
        Self { terms: if c == 0.0 { Vec::new() } else { vec![term] } }
    }

    fn call(function: UnaryFn, argument: Self) -> Self {
        let call = Call { function, argument };
        Self { terms: vec![Term { coefficient: 1.0, power: 0, calls: vec![call] }] }
    }

    /// The constant that the sum is, if it is one.
    pub fn as_constant(&self) -> Option<f64> {
        match &self.terms[..] {
            [] => Some(0.0),
            [t] if t.power == 0 && t.calls.is_empty() => Some(t.coefficient),
            _ => None,
        }
    }

    /// The constant summand, and the sum without it.
    pub fn split_constant(&self) -> (f64, Self) {
        let (constant, rest): (Vec<_>, Vec<_>) =
            self.terms.iter().cloned().partition(|t| t.power == 0 && t.calls.is_empty());
        (constant.first().map_or(0.0, |t| t.coefficient), Self { terms: rest })
    }

    /// (a, b) if the sum is a·x + b.
    pub fn as_affine(&self) -> Option<(f64, f64)> {
        let (b, rest) = self.split_constant();
        match &rest.terms[..] {
            [t] if t.power == 1 && t.calls.is_empty() => Some((t.coefficient, b)),
            _ => None,
        }
    }

    /// factor · self.
    pub fn scaled(&self, factor: f64) -> Self {
        let mut terms = self.terms.clone();
        terms.iter_mut().for_each(|t| t.coefficient *= factor);
        terms.retain(|t| t.coefficient != 0.0);
        Self { terms }
    }

    fn plus(&self, other: &Self) -> Option<Self> {
        let mut terms = self.terms.clone();
        for new in &other.terms {
            match terms.iter_mut().find(|t| same_product(t, new)) {
                Some(t) => t.coefficient += new.coefficient,
                None => terms.push(new.clone()),
            }
        }
        terms.retain(|t| t.coefficient != 0.0);
        (terms.len() <= MAX_TERMS).then_some(Self { terms })
    }

    fn times(&self, other: &Self) -> Option<Self> {
        let mut sum = Self { terms: Vec::new() };
        for a in &self.terms {
            for b in &other.terms {
                let product = Term {
                    coefficient: a.coefficient * b.coefficient,
                    power: a.power + b.power,
                    calls: a.calls.iter().chain(&b.calls).cloned().collect(),
                };
                if product.power > MAX_POWER || product.calls.len() > 3 {
                    return None;
                }
                sum = sum.plus(&Self { terms: vec![product] })?;
            }
        }
        Some(sum)
    }

    /// r with other = r · self, up to rounding.
    fn ratio(&self, other: &Self) -> Option<f64> {
        let (first, matching) = (self.terms.first()?, &other.terms);
        let r = matching.iter().find(|t| same_product(first, t))?.coefficient / first.coefficient;
        self.scaled(r).same(other).then_some(r)
    }

    /// Equality up to rounding of coefficients and order.
    pub fn same(&self, other: &Self) -> bool {
        self.terms.len() == other.terms.len()
            && self.terms.iter().all(|a| {
                other.terms.iter().any(|b| same_product(a, b) && close(a.coefficient, b.coefficient))
            })
    }
}

/// Equality of terms but for the coefficient.
fn same_product(a: &Term, b: &Term) -> bool {
    let same_call = |a: &Call, b: &Call| a.function == b.function && a.argument.same(&b.argument);
    if a.power != b.power || a.calls.len() != b.calls.len() {
        return false;
    }
    let mut left: Vec<&Call> = b.calls.iter().collect();
    a.calls.iter().all(|call| match left.iter().position(|other| same_call(call, other)) {
        Some(i) => {
            left.remove(i);
            true
        }
        None => false,
    })
}

/// f(u); `None` when the sum grows beyond what activation functions need.
pub(super) fn apply(f: UnaryFn, u: &Poly) -> Option<Poly> {
    let half = |p: Poly| p.scaled(0.5);
    Some(match f {
        UnaryFn::Affine(a, b) => u.scaled(f64::from(a)).plus(&Poly::constant(f64::from(b)))?,
        UnaryFn::Clip(c) => clip(c, u),
        UnaryFn::HardSigmoid(a, b) => apply(UNIT_CLIP, &apply(UnaryFn::Affine(a, b), u)?)?,
        UnaryFn::HardSwish => {
            let gate = clip(Clamp { lo: 0.0, hi: 1.0 }, &u.scaled(1.0 / 6.0).plus(&Poly::constant(0.5))?);
            u.times(&gate)?
        }
        UnaryFn::Silu => u.times(&Poly::call(UnaryFn::Sigmoid, u.clone()))?,
        UnaryFn::Mish => u.times(&Poly::call(UnaryFn::Tanh, Poly::call(UnaryFn::Softplus, u.clone())))?,
        UnaryFn::Gelu => {
            let erf = Poly::call(UnaryFn::Erf, u.scaled(std::f64::consts::FRAC_1_SQRT_2));
            half(u.plus(&u.times(&erf)?)?)
        }
        UnaryFn::GeluTanh => {
            let cube = u.times(u)?.times(u)?.scaled(GELU_CUBIC);
            let tanh = Poly::call(UnaryFn::Tanh, u.plus(&cube)?.scaled(gelu_linear()));
            half(u.plus(&u.times(&tanh)?)?)
        }
        UnaryFn::Reciprocal(a) => reciprocal(u)?.scaled(f64::from(a)),
        UnaryFn::Log => match log_of_one_plus(u) {
            Some(exponent) => Poly::call(UnaryFn::Softplus, exponent),
            None => Poly::call(f, u.clone()),
        },
        UnaryFn::Pow(p) => match p {
            -1.0 => reciprocal(u)?,
            0.5 => Poly::call(UnaryFn::Sqrt, u.clone()),
            1.0 => u.clone(),
            2.0 => u.times(u)?,
            3.0 => u.times(u)?.times(u)?,
            _ => Poly::call(f, u.clone()),
        },
        UnaryFn::LeakyRelu(_)
        | UnaryFn::Elu(_)
        | UnaryFn::Sigmoid
        | UnaryFn::Tanh
        | UnaryFn::Erf
        | UnaryFn::Softplus
        | UnaryFn::Exp
        | UnaryFn::Sqrt
        | UnaryFn::Abs => Poly::call(f, u.clone()),
    })
}

/// f(a, b).
pub(super) fn combine(f: BinaryFn, a: &Poly, b: &Poly) -> Option<Poly> {
    match f {
        BinaryFn::Add => a.plus(b),
        BinaryFn::Sub => a.plus(&b.scaled(-1.0)),
        BinaryFn::Mul => a.times(b),
        BinaryFn::Div => a.times(&reciprocal(b)?),
        BinaryFn::Max => maximum(a, b),
        BinaryFn::Min => Some(maximum(&a.scaled(-1.0), &b.scaled(-1.0))?.scaled(-1.0)),
        BinaryFn::Pow => apply(UnaryFn::Pow(b.as_constant()? as f32), a),
    }
}

/// Coefficient of u³ inside the tanh of GELU's approximation (Hendrycks and Gimpel, arXiv 1606.08415).
pub(super) const GELU_CUBIC: f64 = 0.044715;

/// √(2/π), the coefficient of u there.
pub(super) fn gelu_linear() -> f64 {
    (2.0 / std::f64::consts::PI).sqrt()
}

fn clip(c: Clamp, u: &Poly) -> Poly {
    let hi = f64::from(c.hi);
    if c.lo == 0.0 && hi.is_finite() && hi > 0.0 {
        Poly::call(UNIT_CLIP, u.scaled(1.0 / hi)).scaled(hi)
    } else {
        Poly::call(UnaryFn::Clip(c), u.clone())
    }
}

/// 1/u.
fn reciprocal(u: &Poly) -> Option<Poly> {
    if let Some(c) = u.as_constant() {
        return (c != 0.0).then(|| Poly::constant(1.0 / c));
    }
    Some(match log_of_one_plus(u) {
        Some(exponent) => Poly::call(UnaryFn::Sigmoid, exponent.scaled(-1.0)),
        None => Poly::call(UnaryFn::Reciprocal(1.0), u.clone()),
    })
}

/// v if u is 1 + eᵛ.
fn log_of_one_plus(u: &Poly) -> Option<Poly> {
    let (one, rest) = u.split_constant();
    match &rest.terms[..] {
        [t] if close(one, 1.0) && close(t.coefficient, 1.0) && t.power == 0 => match &t.calls[..] {
            [call] if call.function == UnaryFn::Exp => Some(call.argument.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// max(u, r·u) is u above 0 and r·u below for r ≤ 1: a leaky Relu, or |u| for r = −1.
fn maximum(a: &Poly, b: &Poly) -> Option<Poly> {
    let (u, r) = match a.ratio(b)? {
        r if r.abs() <= 1.0 => (a, r),
        r => (b, 1.0 / r),
    };
    let function = if close(r, -1.0) { UnaryFn::Abs } else { UnaryFn::LeakyRelu(r as f32) };
    Some(Poly::call(function, u.clone()))
}
