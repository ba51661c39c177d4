//! Operator attributes as a small tree that the text form prints and parses. Operators declare their attributes
//! once, with [`attributes!`](crate::attributes), and get both directions from it.
use crate::{Dyadic, Requant, Result, bail};

/// An attribute value in the text form.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// `7`, `-1`
    Int(i64),
    /// `0.5`, `1e-5`: always printed with the shortest digits that read back exactly.
    Float(f32),
    /// `true`, `floor`
    Word(String),
    /// `[1, 2]`
    List(Vec<Attr>),
    /// `clip(0.0, 6.0)`
    Call(String, Vec<Attr>),
}

/// A Rust value that can stand in an attribute.
pub trait AttrValue: Sized {
    /// As a tree.
    fn to_attr(&self) -> Attr;
    /// From a tree.
    ///
    /// # Errors
    /// The tree has another form.
    fn from_attr(attr: &Attr) -> Result<Self>;
}

/// The attributes of one operator: ordered name–value pairs.
pub trait Attributes: Sized {
    /// In declaration order.
    fn to_attrs(&self) -> Vec<(&'static str, Attr)>;
    /// From pairs in any order.
    ///
    /// # Errors
    /// A name is missing, unknown or has a value of another form.
    fn from_attrs(attrs: &[(String, Attr)]) -> Result<Self>;
}

macro_rules! int_attr {
    ($($t:ty),*) => {$(
        impl AttrValue for $t {
            fn to_attr(&self) -> Attr {
                Attr::Int(*self as i64)
            }
            fn from_attr(attr: &Attr) -> Result<Self> {
                match attr {
                    Attr::Int(v) => <$t>::try_from(*v).map_err(|_| crate::IrError::new(format!("{v} is out of range"))),
                    _ => bail!("expected an integer, got {attr:?}"),
                }
            }
        }
    )*};
}
int_attr!(u8, i32, u32, i64, usize);

impl AttrValue for f32 {
    fn to_attr(&self) -> Attr {
        Attr::Float(*self)
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        match attr {
            Attr::Float(v) => Ok(*v),
            _ => bail!("expected a float, got {attr:?}"),
        }
    }
}

impl AttrValue for bool {
    fn to_attr(&self) -> Attr {
        Attr::Word(self.to_string())
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        match attr {
            Attr::Word(w) if w == "true" => Ok(true),
            Attr::Word(w) if w == "false" => Ok(false),
            _ => bail!("expected true or false, got {attr:?}"),
        }
    }
}

impl<T: AttrValue> AttrValue for Vec<T> {
    fn to_attr(&self) -> Attr {
        Attr::List(self.iter().map(AttrValue::to_attr).collect())
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        match attr {
            Attr::List(items) => items.iter().map(T::from_attr).collect(),
            _ => bail!("expected a list, got {attr:?}"),
        }
    }
}

impl<T: AttrValue, const N: usize> AttrValue for [T; N] {
    fn to_attr(&self) -> Attr {
        Attr::List(self.iter().map(AttrValue::to_attr).collect())
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        let items = Vec::<T>::from_attr(attr)?;
        let count = items.len();
        items.try_into().map_err(|_| crate::IrError::new(format!("expected {N} items, got {count}")))
    }
}

impl<T: AttrValue> AttrValue for Option<T> {
    fn to_attr(&self) -> Attr {
        self.as_ref().map_or_else(|| Attr::Word("none".into()), AttrValue::to_attr)
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        match attr {
            Attr::Word(w) if w == "none" => Ok(None),
            _ => T::from_attr(attr).map(Some),
        }
    }
}

impl AttrValue for Dyadic {
    fn to_attr(&self) -> Attr {
        Attr::Call("dyadic".into(), vec![self.mult.to_attr(), self.shift.to_attr()])
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        match attr {
            Attr::Call(name, args) if name == "dyadic" && args.len() == 2 => {
                Ok(Self { mult: i32::from_attr(&args[0])?, shift: u8::from_attr(&args[1])? })
            }
            _ => bail!("expected dyadic(mult, shift), got {attr:?}"),
        }
    }
}

impl AttrValue for Requant {
    fn to_attr(&self) -> Attr {
        let args = vec![self.mult.to_attr(), self.zero_point.to_attr(), self.lo.to_attr(), self.hi.to_attr()];
        Attr::Call("requant".into(), args)
    }
    fn from_attr(attr: &Attr) -> Result<Self> {
        match attr {
            Attr::Call(name, args) if name == "requant" && args.len() == 4 => Ok(Self {
                mult: Vec::from_attr(&args[0])?,
                zero_point: i32::from_attr(&args[1])?,
                lo: i32::from_attr(&args[2])?,
                hi: i32::from_attr(&args[3])?,
            }),
            _ => bail!("expected requant([dyadic...], zero_point, lo, hi), got {attr:?}"),
        }
    }
}

/// Checks that the names given are exactly those declared, and looks one up.
///
/// # Errors
/// The name is missing.
pub fn lookup<'a>(attrs: &'a [(String, Attr)], name: &str) -> Result<&'a Attr> {
    match attrs.iter().find(|(n, _)| n == name) {
        Some((_, value)) => Ok(value),
        None => bail!("attribute {name} is missing"),
    }
}

/// Refuses names that the operator does not have.
///
/// # Errors
/// A name is not in `known`, or is given twice.
pub fn refuse_unknown(attrs: &[(String, Attr)], known: &[&str]) -> Result<()> {
    for (i, (name, _)) in attrs.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            bail!("unknown attribute {name}, expected one of {known:?}");
        }
        if attrs[..i].iter().any(|(n, _)| n == name) {
            bail!("attribute {name} is given twice");
        }
    }
    Ok(())
}

/// Declares a struct of attributes with its text form.
#[macro_export]
macro_rules! attributes {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $t:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name { $($(#[$fmeta])* pub $field: $t,)* }

        impl $crate::attr::Attributes for $name {
            fn to_attrs(&self) -> Vec<(&'static str, $crate::attr::Attr)> {
                vec![$((stringify!($field), $crate::attr::AttrValue::to_attr(&self.$field)),)*]
            }
            fn from_attrs(attrs: &[(String, $crate::attr::Attr)]) -> $crate::Result<Self> {
                $crate::attr::refuse_unknown(attrs, &[$(stringify!($field)),*])?;
                Ok(Self { $($field: $crate::attr::AttrValue::from_attr(
                    $crate::attr::lookup(attrs, stringify!($field))?)?,)* })
            }
        }
    };
}

/// Declares an enum of plain words with its text form.
#[macro_export]
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }

        impl $crate::attr::AttrValue for $name {
            fn to_attr(&self) -> $crate::attr::Attr {
                $crate::attr::Attr::Word(match self { $(Self::$variant => $word,)* }.into())
            }
            fn from_attr(attr: &$crate::attr::Attr) -> $crate::Result<Self> {
                match attr {
                    $($crate::attr::Attr::Word(w) if w == $word => Ok(Self::$variant),)*
                    _ => $crate::bail!("expected one of {:?}, got {attr:?}", [$($word),*]),
                }
            }
        }
    };
}

/// Declares the operator enum of a graph. `Input` and `Const` are common to all graphs; every other operator has a
/// name in the text form and a struct of attributes. The literal after the enum's name is [`Operator::KIND`](crate::Operator::KIND).
#[macro_export]
macro_rules! operators {
    ($(#[$meta:meta])* pub enum $name:ident($kind:literal) {
        $($(#[$vmeta:meta])* $variant:ident($attrs:ty) = $word:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            /// A network input; takes no operands.
            Input,
            /// A constant; takes no operands.
            Const($crate::Tensor),
            $($(#[$vmeta])* $variant($attrs),)*
        }

        impl $crate::graph::Operator for $name {
            const KIND: &'static str = $kind;
            const NAMES: &'static [&'static str] = &[$($word),*];
            fn name(&self) -> &'static str {
                match self {
                    Self::Input => "input",
                    Self::Const(_) => "const",
                    $(Self::$variant(_) => $word,)*
                }
            }
            fn to_attrs(&self) -> Vec<(&'static str, $crate::attr::Attr)> {
                match self {
                    Self::Input | Self::Const(_) => Vec::new(),
                    $(Self::$variant(a) => $crate::attr::Attributes::to_attrs(a),)*
                }
            }
            fn from_attrs(name: &str, attrs: &[(String, $crate::attr::Attr)]) -> $crate::Result<Self> {
                match name {
                    $($word => Ok(Self::$variant($crate::attr::Attributes::from_attrs(attrs)?)),)*
                    _ => $crate::bail!("unknown operator {name}, expected one of {:?}", Self::NAMES),
                }
            }
            fn input() -> Self {
                Self::Input
            }
            fn constant(value: $crate::Tensor) -> Self {
                Self::Const(value)
            }
            fn as_const(&self) -> Option<&$crate::Tensor> {
                if let Self::Const(t) = self { Some(t) } else { None }
            }
            fn is_input(&self) -> bool {
                matches!(self, Self::Input)
            }
        }
    };
}
