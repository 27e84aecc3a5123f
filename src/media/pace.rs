//! The frame rate of frames of given durations.

/// Players show a frame without a duration for this many seconds.
pub(super) const NO_DELAY: f64 = 0.1;
/// Durations are often rounded to milliseconds: differences up to this many seconds say nothing.
const ROUNDING: f64 = 0.0011;

/// Frames per second of frames with these durations in seconds: their number over their sum.
///
/// # Errors
/// This is no frame rate.
pub(super) fn rate(durations: &[f64]) -> Result<f64, String> {
    let fps = durations.len() as f64 / durations.iter().sum::<f64>();
    if (0.01..=1000.0).contains(&fps) { Ok(fps) } else { Err(format!("{fps} frames per second is not a frame rate")) }
}

/// A remark if durations, which are multiples of `tick`, differ by more than rounding.
pub(super) fn variation(durations: &[f64], tick: f64) -> Option<String> {
    let (least, most) =
        durations.iter().fold((f64::INFINITY, 0.0f64), |(least, most), d| (least.min(*d), most.max(*d)));
    (most - least > ROUNDING.max(1.1 * tick)).then(|| {
        let [least, most] = [least, most].map(|seconds| 1000.0 * seconds);
        format!("its frame rate varies, frames last {least:.0} to {most:.0} ms: every frame is read once, as if all lasted equally long")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_no_rounding_is_told() {
        let rounded = |durations: &[f64]| rate(durations).map(|fps| (fps * 100.0).round() / 100.0);
        // 8 frames a second in hundredths, 30 in milliseconds, 24 in 600ths.
        for (durations, tick, fps) in [
            (&[0.13, 0.12, 0.13, 0.12][..], 0.01, 8.0),
            (&[0.033, 0.034, 0.033], 0.001, 30.0),
            (&[0.033, 0.034, 0.033], 1.0 / 16000.0, 30.0),
            (&[1.0 / 24.0; 5], 1.0 / 600.0, 24.0),
        ] {
            assert_eq!((rounded(durations), variation(durations, tick)), (Ok(fps), None));
        }
        assert_eq!(rounded(&[0.04, 0.04, 0.16]), Ok(12.5));
        let remark = variation(&[0.04, 0.04, 0.16], 0.001).unwrap();
        assert!(remark.contains("40 to 160 ms"), "{remark}");
        for wrong in [&[0.0, 0.0][..], &[200.0], &[]] {
            assert!(rate(wrong).is_err());
        }
    }
}
