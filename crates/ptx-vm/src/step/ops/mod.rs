//! The operations on one lane, by name. Each is a type, so that [`super::alu`] can compile a loop around it.

macro_rules! un {
    (@rare @rule($r:expr) $($t:tt)*) => { un!(@ true, $r, $($t)*); };
    (@rare $($t:tt)*) => { un!(@ true, Rule::Whole, $($t)*); };
    (@rule($r:expr) $($t:tt)*) => { un!(@ false, $r, $($t)*); };
    (@ $rare:literal, $rule:expr, $($name:ident($a:ident: $at:ty) -> $d:ty = $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl Un for $name {
            const RARE: bool = $rare;
            const RULE: Rule = $rule;
            type A = $at;
            type D = $d;
            #[inline(always)]
            fn f($a: $at) -> $d { $e }
        }
    )*};
    ($($t:tt)*) => { un!(@ false, Rule::Whole, $($t)*); };
}
macro_rules! bin {
    (@rare @rule($r:expr) $($t:tt)*) => { bin!(@ true, $r, $($t)*); };
    (@rare $($t:tt)*) => { bin!(@ true, Rule::Whole, $($t)*); };
    (@rule($r:expr) $($t:tt)*) => { bin!(@ false, $r, $($t)*); };
    (@ $rare:literal, $rule:expr, $($name:ident($a:ident: $at:ty, $b:ident: $bt:ty) -> $d:ty = $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl Bin for $name {
            const RARE: bool = $rare;
            const RULE: Rule = $rule;
            type A = $at;
            type B = $bt;
            type D = $d;
            #[inline(always)]
            fn f($a: $at, $b: $bt) -> $d { $e }
        }
    )*};
    ($($t:tt)*) => { bin!(@ false, Rule::Whole, $($t)*); };
}
macro_rules! tri {
    (@rare @rule($r:expr) $($t:tt)*) => { tri!(@ true, $r, $($t)*); };
    (@rare $($t:tt)*) => { tri!(@ true, Rule::Whole, $($t)*); };
    (@rule($r:expr) $($t:tt)*) => { tri!(@ false, $r, $($t)*); };
    (@ $rare:literal, $rule:expr, $($name:ident($a:ident: $at:ty, $b:ident: $bt:ty, $c:ident: $ct:ty) -> $d:ty = $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl Tri for $name {
            const RARE: bool = $rare;
            const RULE: Rule = $rule;
            type A = $at;
            type B = $bt;
            type C = $ct;
            type D = $d;
            #[inline(always)]
            fn f($a: $at, $b: $bt, $c: $ct) -> $d { $e }
        }
    )*};
    ($($t:tt)*) => { tri!(@ false, Rule::Whole, $($t)*); };
}
macro_rules! cmp {
    (@rare $($t:tt)*) => { cmp!(@ true $($t)*); };
    (@ $rare:literal $($name:ident($a:ident, $b:ident: $t:ty) = $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl Cmp for $name {
            const RARE: bool = $rare;
            type A = $t;
            #[inline(always)]
            fn f($a: $t, $b: $t) -> bool { $e }
        }
    )*};
    ($($t:tt)*) => { cmp!(@ false $($t)*); };
}

mod compare;
mod convert;
mod float;
mod half;
mod int;

pub(crate) use compare::*;
pub(crate) use convert::*;
pub(crate) use float::*;
pub(crate) use half::*;
pub(crate) use int::*;
