//! Transformers in their published sizes: what the loaders expect, and, in the long mode, random checkpoints that are loaded and run a part of.

#[path = "../common/mod.rs"]
mod common;
mod host;
mod latte;
mod opensora;
mod wan;

/// ‖ours − reference‖ / ‖reference‖
fn relative(ours: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut ours.iter().zip(reference).map(|(a, b)| f64::from(a - b)));
    (difference / square(&mut reference.iter().map(|v| f64::from(*v)))).sqrt()
}
