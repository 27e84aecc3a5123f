//! motion.cu against f64: frame differences of residuals and of latents.

use super::harness::{Random, for_each, placed};
use super::residual::{assert_sums, motion_sums};
use adacache::ops::motion::motion;
use adacache::ops::params::{MOTION_SUMS, PROBE_SUMS};
use adacache::ops::residual::{ProbeBuffers, probe};

#[test]
fn every_shape_and_axis() {
    for_each(|device, dtype| {
        // [batch, outer.., frames, inner..] and where the frames are.
        let shapes: [(&[usize], usize); 8] = [
            (&[1, 1, 1], 1),
            (&[2, 9, 7], 1),
            (&[2, 16, 16, 24], 1),
            (&[1, 3, 5], 2),
            (&[2, 4, 15, 6, 10], 2),
            (&[1, 16, 16, 8, 8], 2),
            (&[2, 3, 5, 7, 11], 2),
            (&[1, 37, 6, 64], 2),
        ];
        for (shape, axis) in shapes {
            for strides in [&[1, 2, 3, 4][..], &[5, 2, 2], &[20], &[]] {
                for misalign in [0, 1] {
                    let what = format!("motion {dtype} {shape:?} strides {strides:?} +{misalign}");
                    let count = shape.iter().product();
                    let values = Random::new(count as u64).values(count, 1.0, dtype);
                    let x = placed(device, shape, &values, dtype, misalign);
                    let buffers = ProbeBuffers::for_motion(device, shape[0], strides.len()).unwrap();
                    let run = || motion(&x, axis, strides, &buffers).unwrap().to_vec::<f64>().unwrap();
                    let sums = run();
                    assert_eq!(sums, run(), "{what}");
                    let (outer, inner) = (shape[1..axis].iter().product(), shape[axis + 1..].iter().product());
                    let sample = count / shape[0];
                    for b in 0..shape[0] {
                        let exact = motion_sums(&values[b * sample..][..sample], outer, shape[axis], inner, strides);
                        let got = &sums[b * MOTION_SUMS * strides.len()..][..MOTION_SUMS * strides.len()];
                        assert_sums(&format!("{what} sample {b}"), got, &exact, &exact);
                    }
                }
            }
        }
    });
}

/// The probe's motion sums are those of the motion kernel, to the bit: a policy sees one number whichever measured it.
#[test]
fn agrees_with_the_probe() {
    for_each(|device, dtype| {
        let (shape, strides) = ([2, 9, 1000], [1, 2, 6]);
        let x = placed(device, &shape, &Random::new(3).values(18000, 1.0, dtype), dtype, 0);
        let kept = placed(device, &shape, &Random::new(4).values(18000, 1.0, dtype), dtype, 0);
        let buffers = (ProbeBuffers::new(device, 2, 3).unwrap(), ProbeBuffers::for_motion(device, 2, 3).unwrap());
        let probed = probe(&x, &kept, false, &strides, &buffers.0).unwrap().to_vec::<f64>().unwrap();
        let alone = motion(&x, 1, &strides, &buffers.1).unwrap().to_vec::<f64>().unwrap();
        for (probed, alone) in probed.chunks_exact(PROBE_SUMS + 9).zip(alone.chunks_exact(9)) {
            assert_eq!(&probed[PROBE_SUMS..], alone, "{dtype}");
        }
    });
}
