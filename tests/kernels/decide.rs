//! decide.cu: the step table and the decision. That decisions are the host policy's, to the bit.

use super::harness::{Random, devices, poisoned};
use adacache::cache::{
    AdaCache, AdaCacheConfig, Codebook, Measurement, Metric, MotionRegularization, Plan, Policy, ResidualKind,
};
use adacache::ops::decide::{DECISION_VALUES, Decider, StepClock, StepRow};
use adacache::ops::params::{MOTION_SUMS, PROBE_SUMS};
use adacache::tensor::{DType, Tensor};

#[test]
fn the_clock_walks_its_table() {
    for device in devices() {
        let table: [StepRow; 5] =
            std::array::from_fn(|i| std::array::from_fn(|word| 1000.0 - 7.5 * i as f32 + 0.1 * word as f32));
        let clock = StepClock::new(device, &table).unwrap();
        for (conditions, variants) in [(2, 1), (4, 2), (130, 2)] {
            let clock = StepClock::new(device, &table).unwrap();
            for (step, row) in table.iter().enumerate() {
                let time = poisoned(device, &[conditions], DType::F32);
                clock.begin(&time, variants, step % 2 == 0).unwrap();
                let expected: Vec<f32> =
                    (0..conditions).map(|i| if i % variants == 0 { row[0] } else { 0.0 }).collect();
                assert_eq!(time.to_f32().unwrap(), expected);
                assert_eq!(clock.row().to_f32().unwrap(), row);
                assert_eq!(clock.cursor().to_vec::<i32>().unwrap(), [step as i32 + 1]);
            }
        }
        assert_eq!(clock.steps(), 5);
        assert!(StepClock::new(device, &[]).is_err());
        assert!(clock.begin(&poisoned(device, &[2], DType::F32), 0, true).is_err());
    }
}

fn policies() -> Vec<AdaCacheConfig> {
    let book = |pairs: &[(f64, usize)]| Codebook::new(pairs.to_vec()).unwrap();
    let mut configs = vec![];
    for metric in [Metric::L1, Metric::L2, Metric::Cosine] {
        for moreg in [None, Some((2.0, vec![1])), Some((8.0, vec![1, 3])), Some((0.0, vec![2]))] {
            configs.push(AdaCacheConfig {
                metric,
                residual: ResidualKind::CaMlp,
                blocks: vec![0, 3],
                codebook: book(&[(0.02, 7), (0.05, 5), (0.2, 3), (0.9, 2), (1.5, 1)]),
                moreg: moreg.map(|(exponent, strides)| MotionRegularization {
                    strides,
                    steps: (3, 20),
                    hyper: [0.385, exponent, 1.3],
                    gradient: 10.0,
                }),
            });
        }
    }
    configs.push(AdaCacheConfig { codebook: book(&[(0.1, 4)]), blocks: vec![1], ..configs[0].clone() });
    configs
}

/// Sums of a residual that changed by some 10^-3 to 1; now and then all zero, once not a number.
fn sums(random: &mut Random, batch: usize, count: usize, step: usize) -> Vec<f64> {
    let values = random.values(batch * count, 1.0, DType::F32);
    let size = |i: usize| if matches!(i % count, 0 | 2) { 10f64.powf(-f64::from(values[i].abs()) * 3.0) } else { 1.0 };
    let mut sums: Vec<f64> = (0..batch * count).map(|i| f64::from(values[i].abs()) * 1e5 * size(i)).collect();
    match step {
        9 => sums.fill(0.0),
        13 => sums[1] = f64::NAN,
        _ => {}
    }
    sums
}

#[test]
fn decisions_are_the_host_policys_to_the_bit() {
    const STEPS: usize = 24;
    const BATCH: usize = 2;
    for device in devices() {
        let mut random = Random::new(11);
        for config in policies() {
            let mut host = AdaCache::new(config.clone(), STEPS);
            let probes = host.probes();
            let rule = host.device_rule().expect("whole exponents can be decided on a device");
            let clock = StepClock::new(device, &[StepRow::default(); STEPS]).unwrap();
            let decider = Decider::new(device, rule, probes.points.len()).unwrap();
            let time = poisoned(device, &[2], DType::F32);
            let count = PROBE_SUMS + MOTION_SUMS * probes.strides.len();
            let (mut decided, mut rates) = (0, vec![]);
            for step in 1..=STEPS {
                let plan = host.plan(step);
                clock.begin(&time, 1, plan == Plan::Compute).unwrap();
                if plan == Plan::Reuse || step == 1 {
                    continue;
                }
                for probe in 0..probes.points.len() {
                    let values = sums(&mut random, BATCH, count, step);
                    let on_device = Tensor::from_slice(device, &[BATCH, count], &values).unwrap();
                    let decision = poisoned(device, &[DECISION_VALUES], DType::F64);
                    decider.decide(&clock, probe, &on_device, &decision).unwrap();
                    let got: Vec<f64> = decision.to_vec().unwrap();
                    let measurement = Measurement::from_sums(&values, BATCH, probes.strides.len());
                    let expected = host.observe(step, probe, &measurement).unwrap();
                    let expected =
                        [expected.distance, expected.motion, expected.motion_gradient, expected.rate.unwrap() as f64];
                    for (got, expected) in got.iter().zip(expected) {
                        // A NaN's bits are the hardware's own.
                        let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                        assert!(same, "{config:?} step {step} probe {probe}: {got:?} {expected:?}");
                    }
                    decided += 1;
                    rates.push(got[3] as usize);
                }
            }
            assert!(decided >= 6, "{decided}");
            rates.sort_unstable();
            rates.dedup();
            assert!(rates.len() > 1 || config.codebook.entries().len() == 1, "the sums reach several rates: {rates:?}");
        }
    }
}

#[test]
fn arguments_that_do_not_fit_are_errors() {
    let device = &devices()[0];
    let host = AdaCache::new(policies().remove(0), 5);
    let decider = Decider::new(device, host.device_rule().unwrap(), 4).unwrap();
    let clock = StepClock::new(device, &[StepRow::default()]).unwrap();
    let (sums, decision) = (poisoned(device, &[2, PROBE_SUMS], DType::F64), poisoned(device, &[4], DType::F64));
    decider.decide(&clock, 3, &poisoned(device, &[2, PROBE_SUMS], DType::F64), &decision).unwrap();
    assert!(decider.decide(&clock, 4, &sums, &decision).is_err(), "no such probe");
    assert!(decider.decide(&clock, 0, &poisoned(device, &[2, 7], DType::F64), &decision).is_err(), "7 sums");
    assert!(decider.decide(&clock, 0, &sums, &poisoned(device, &[3], DType::F64)).is_err(), "3 values");
}
