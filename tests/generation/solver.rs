//! Solvers against the published ones, step by step: tests/goldens/samplers. The predictions are given there, no model runs.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use adacache::cache::ComputeAll;
use adacache::model::{Geometry, ResidualRoom, StDiT3, StDiT3Config, Transformer, Walk, Weights};
use adacache::ops::sampler::{Step, step as step_on_device};
use adacache::sampler::{
    Alphas, Coefficients, Ddim, DpmPp, Euler, FlowGrid, FrameConditioning, HISTORY, Kept, Member, Pndm, Row, Sampler,
    SamplerOptions, Schedule, ScheduleError, Solver, SolverError, UniPc,
};
use adacache::tensor::{DType, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;

/// How far latents after a step may be from Wan's published ones, ‖ours − theirs‖ / ‖theirs‖: both are rounded to f32 at every step.
const WAN: f64 = 2.2e-6;

/// The same for Latte and Open-Sora-Plan: there the predictions are not those of the published f32 model but of one in f64.
const LATTE: f64 = 1e-5;

struct Golden {
    name: String,
    case: Value,
    data: Vec<u8>,
}

impl Golden {
    fn all(family: &str) -> Vec<Golden> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/samplers").join(family);
        let mut cases: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        cases.sort();
        let golden = |path: PathBuf| Golden {
            name: path.file_name().unwrap().to_str().unwrap().to_owned(),
            case: serde_json::from_slice(&fs::read(path.join("case.json")).unwrap()).unwrap(),
            data: fs::read(path.join("io.safetensors")).unwrap(),
        };
        cases.into_iter().map(golden).collect()
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.data).unwrap();
        file.tensor(name).unwrap().data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn steps(&self) -> usize {
        self.case["steps"].as_u64().unwrap() as usize
    }

    fn shift(&self) -> f64 {
        self.case["shift"].as_f64().unwrap()
    }

    fn sampler(&self) -> &str {
        self.case["sampler"].as_str().unwrap()
    }

    /// The largest relative error of the latents, after every step or after those in `latent_steps` (from 1).
    fn error_of(&self, solver: &dyn Solver) -> f64 {
        let z = self.tensor("z");
        let (v, latents) = (self.tensor("v"), self.tensor("latents"));
        let after = run(solver, &z, |i, _, _| v[i * z.len()..][..z.len()].to_vec());
        let compared: Vec<usize> = match self.case["latent_steps"].as_array() {
            Some(steps) => steps.iter().map(|step| step.as_u64().unwrap() as usize - 1).collect(),
            None => (0..after.len()).collect(),
        };
        assert_eq!(latents.len(), compared.len() * z.len(), "{}", self.name);
        let errors = compared.iter().zip(latents.chunks(z.len())).map(|(&i, theirs)| distance(&after[i], theirs));
        largest(errors)
    }
}

/// The latents after every step; `predict(i, time, latents)` is the model.
fn run(solver: &dyn Solver, z: &[f32], predict: impl Fn(usize, f32, &[f32]) -> Vec<f32>) -> Vec<Vec<f32>> {
    let mut latents = z.to_vec();
    // Poison: a slot may not be read before it is written.
    let mut history = vec![vec![f32::NAN; z.len()]; solver.history()];
    let step = |(i, row): (usize, &Row)| {
        let prediction = predict(i, row.time, &latents);
        row.apply(&mut latents, &prediction, &mut history).unwrap();
        latents.clone()
    };
    solver.rows().iter().enumerate().map(step).collect()
}

fn distance(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(theirs).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut theirs.iter().map(|b| f64::from(*b)))
}

fn times(solver: &dyn Solver) -> Vec<f32> {
    solver.rows().iter().map(|row| row.time).collect()
}

/// The largest, or NaN.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |largest, value| if value <= largest || largest.is_nan() { largest } else { value })
}

fn largest_difference(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    largest(ours.iter().zip(theirs).map(|(a, b)| f64::from((a - b).abs())))
}

/// Wan's samplers; of Euler's, diffusers shifts times and levels in f32.
#[test]
fn flow_solvers_agree_with_the_published_ones() {
    let mut seen = vec![];
    for golden in Golden::all("wan") {
        let (name, steps, shift) = (&golden.name, golden.steps(), golden.shift());
        let grid: Grid = match golden.sampler() {
            "unipc" => FlowGrid::unipc,
            "unipc-diffusers" => FlowGrid::unipc_diffusers,
            "dpm++" => FlowGrid::dpmpp,
            "euler" => FlowGrid::euler,
            "euler-diffusers" => FlowGrid::euler_diffusers,
            other => panic!("{name}: {other}"),
        };
        let grid = grid(steps, shift).unwrap();
        let [euler, dpmpp, unipc] = flow_solvers(grid.clone());
        let solver = match golden.sampler() {
            "dpm++" => dpmpp,
            sampler if sampler.starts_with("unipc") => unipc,
            _ => euler,
        };
        let shifted_in_f32 = golden.sampler().starts_with("euler");
        let (time_bound, sigma_bound) = if shifted_in_f32 { (2e-4, 2e-7) } else { (0.0, 0.0) };
        let (time, sigma) = (
            largest_difference(grid.times(), &golden.tensor("timesteps")),
            largest_difference(grid.sigmas(), &golden.tensor("sigmas")),
        );
        assert_eq!(times(&*solver), grid.times());
        let error = golden.error_of(&*solver);
        println!("{name}: times {time:.1e}, sigmas {sigma:.1e}, latents {error:.1e}");
        assert!(time <= time_bound && sigma <= sigma_bound, "{name}: times {time:.1e}, sigmas {sigma:.1e}");
        assert!(error <= WAN, "{name}: {error:.1e}");
        seen.push(golden.sampler().to_owned());
    }
    seen.dedup();
    assert_eq!(seen, ["dpm++", "euler-diffusers", "euler", "unipc-diffusers", "unipc"]);
}

/// 1000·σ comes to lie beside whole numbers, and NumPy's order of operations says on which side.
#[test]
fn whole_times_are_those_of_numpy() {
    let published: [(usize, f64, &[f32]); 2] = [
        (
            20,
            1.0,
            &[
                1000., 950., 900., 850., 800., 750., 700., 649., 600., 550., 500., 449., 399., 350., 299., 250., 199.,
                149., 99., 49.,
            ],
        ),
        (12, 5.0, &[1000., 982., 961., 937., 909., 875., 833., 781., 714., 625., 500., 312.]),
    ];
    for (steps, shift, times) in published {
        assert_eq!(FlowGrid::dpmpp(steps, shift).unwrap().times(), times, "{steps} steps, shift {shift}");
    }
}

fn latte(to_one: bool) -> Alphas {
    Alphas::linear(1e-4, 0.02, to_one).unwrap()
}

/// Latte's DDIM and Open-Sora-Plan's PNDM.
#[test]
fn diffusion_solvers_agree_with_the_published_ones() {
    let goldens = Golden::all("latte");
    assert_eq!(goldens.len(), 7);
    for golden in goldens {
        let alphas = latte(golden.case["set_alpha_to_one"].as_bool().unwrap());
        let solver: Box<dyn Solver> = match golden.sampler() {
            "ddim" => Box::new(Ddim::new(alphas, golden.steps()).unwrap()),
            "pndm" => Box::new(Pndm::new(alphas, golden.steps()).unwrap()),
            other => panic!("{other}"),
        };
        assert_eq!(times(&*solver), golden.tensor("timesteps"), "{}", golden.name);
        let error = golden.error_of(&*solver);
        println!("{}: latents {error:.1e}", golden.name);
        assert!(error <= LATTE, "{}: {error:.1e}", golden.name);
    }
}

/// Some latents, a negative zero among them; other ones for another seed.
fn noise(seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::once(-0.0).chain((1..37).map(|_| next())).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn the_rectified_flow_keeps_its_bits() {
    let schedules = [
        Schedule::shifted(30, 3.0).unwrap(),
        Schedule::opensora(7, 720.0, 1280.0, 51).unwrap(),
        Schedule::from_timesteps(vec![999.5, 333.25, 0.125]).unwrap(),
    ];
    for schedule in schedules {
        assert_eq!((times(&schedule), schedule.history()), (schedule.timesteps().to_vec(), 0));
        let mut z = noise(1);
        let after = run(&schedule, &z, |i, _, _| noise(2 + i as u32));
        for (i, after) in after.iter().enumerate() {
            let (dt, v) = (schedule.delta(i + 1), noise(2 + i as u32));
            z = z.iter().zip(&v).map(|(z, v)| dt.mul_add(*v, *z)).collect();
            assert_eq!(bits(after), bits(&z), "step {}", i + 1);
        }
    }
}

/// The kernel gives the bits of the rows, of the latents and of the history: every solver, step by step.
#[test]
fn the_kernel_gives_the_bits_of_the_rows() {
    let mut solvers: Vec<Box<dyn Solver>> = vec![Box::new(Schedule::shifted(5, 3.0).unwrap())];
    solvers.extend(flow_solvers(FlowGrid::unipc(6, 5.0).unwrap()));
    solvers.extend(diffusion_solvers(20, false));
    for device in crate::common::devices() {
        for (n, solver) in solvers.iter().enumerate() {
            let (mut z, slots) = (noise(1), solver.history());
            let shape = [1, 1, 1, 1, z.len()];
            let tensor =
                |shape: &[usize], values: &[f32]| Tensor::from_f32(&device, shape, values, DType::F32).unwrap();
            let latents = tensor(&shape, &z);
            // A slot that is read before it was written shows.
            let history = tensor(&[&[slots.max(1)], &shape[..]].concat(), &vec![f32::NAN; slots.max(1) * z.len()]);
            let mut kept = vec![vec![f32::NAN; z.len()]; slots];
            for (i, row) in solver.rows().iter().enumerate() {
                let v = noise(2 + i as u32);
                row.apply(&mut z, &v, &mut kept).unwrap();
                let words = tensor(&[row.words().len()], &row.words());
                let history = (slots > 0).then_some(&history);
                let step = Step { cfg_scale: None, row: &words, history, frame_mask: None, x0: None };
                step_on_device(&latents, &tensor(&shape, &v), &step).unwrap();
                assert_eq!(bits(&latents.to_f32().unwrap()), bits(&z), "solver {n}, step {}", i + 1);
                if let Some(history) = history {
                    assert_eq!(bits(&history.to_f32().unwrap()), bits(&kept.concat()), "solver {n}, step {}", i + 1);
                }
            }
        }
    }
}

/// Steps and shift make a grid.
type Grid = fn(usize, f64) -> Result<FlowGrid, SolverError>;

const GRIDS: [Grid; 5] =
    [FlowGrid::unipc, FlowGrid::unipc_diffusers, FlowGrid::dpmpp, FlowGrid::euler, FlowGrid::euler_diffusers];

fn flow_solvers(grid: FlowGrid) -> [Box<dyn Solver>; 3] {
    [Box::new(Euler(grid.clone())), Box::new(DpmPp(grid.clone())), Box::new(UniPc(grid))]
}

fn diffusion_solvers(steps: usize, to_one: bool) -> [Box<dyn Solver>; 2] {
    [Box::new(Ddim::new(latte(to_one), steps).unwrap()), Box::new(Pndm::new(latte(to_one), steps).unwrap())]
}

/// A straight line is followed exactly, on every grid by every flow solver.
#[test]
fn a_constant_velocity_is_integrated_exactly() {
    let (z, v) = (noise(1), noise(2));
    for (steps, shift) in [(1, 5.0), (2, 0.3), (3, 1.0), (50, 8.0)] {
        for grid in GRIDS {
            let grid = grid(steps, shift).unwrap();
            let end: Vec<f32> = z.iter().zip(&v).map(|(z, v)| z - grid.sigmas()[0] * v).collect();
            for solver in flow_solvers(grid) {
                assert_eq!(solver.rows().len(), steps);
                let after = run(&*solver, &z, |_, _, _| v.clone());
                assert!(distance(&after[steps - 1], &end) < 3e-6, "{steps} steps, shift {shift}");
            }
        }
    }
}

/// Where the model always says the same noise, clean latents and noise stay what they are: only their shares change.
#[test]
fn a_constant_noise_is_removed_exactly() {
    let (z, e) = (noise(1), noise(2));
    for steps in [4, 7, 75, 1000] {
        for to_one in [false, true] {
            // ā at the first time seen, and behind the last step.
            let product = |t: usize| (0..=t).map(|t| 1.0 - (1e-4 + (0.02 - 1e-4) * t as f64 / 999.0)).product::<f64>();
            let (first, last) = (product((steps - 1) * (1000 / steps)), if to_one { 1.0 } else { product(0) });
            let end = |(z, e): (&f32, &f32)| {
                let clean = (f64::from(*z) - (1.0 - first).sqrt() * f64::from(*e)) / first.sqrt();
                (last.sqrt() * clean + (1.0 - last).sqrt() * f64::from(*e)) as f32
            };
            let end: Vec<f32> = z.iter().zip(&e).map(end).collect();
            for (solver, rows) in diffusion_solvers(steps, to_one).iter().zip([steps, steps + 9]) {
                assert_eq!(solver.rows().len(), rows);
                let after = run(&**solver, &z, |_, _, _| e.clone());
                let error = distance(&after[rows - 1], &end);
                assert!(error < 5e-5, "{steps} steps: {error:.1e}");
            }
        }
    }
}

/// Error of the latents at the end for normally distributed clean latents of variance ¼, of which velocity and path are known:
/// x(σ) = x(1)·√((1 − σ)²/4 + σ²).
fn error_at_the_end(solver: &dyn Solver, grid: &FlowGrid) -> f64 {
    let spread = |sigma: f64| ((1.0 - sigma).powi(2) / 4.0 + sigma * sigma).sqrt();
    let z = noise(1);
    let velocity = |i: usize, _: f32, x: &[f32]| {
        let sigma = f64::from(grid.sigmas()[i]);
        let factor = (sigma - (1.0 - sigma) / 4.0) / spread(sigma).powi(2);
        x.iter().map(|x| (f64::from(*x) * factor) as f32).collect()
    };
    let factor = spread(0.0) / spread(grid.sigmas()[0].into());
    let end: Vec<f32> = z.iter().map(|z| (f64::from(*z) * factor) as f32).collect();
    distance(run(solver, &z, velocity).last().unwrap(), &end)
}

#[test]
fn the_error_falls_with_the_order() {
    let errors = |steps: usize| {
        let grid = FlowGrid::unipc(steps, 3.0).unwrap();
        flow_solvers(grid.clone()).map(|solver| error_at_the_end(&*solver, &grid))
    };
    let (few, many) = (errors(16), errors(64));
    println!("16 steps {few:?}, 64 steps {many:?}");
    // Four times as many steps: a quarter of the error by Euler; those of second order lose some of a sixteenth in their last step.
    for ((few, many), least) in few.into_iter().zip(many).zip([3.5, 7.0, 12.0]) {
        assert!(few / many > least, "{few} to {many}, expected {least} times less");
    }
}

/// Coefficients are numbers for every number of steps and any shift, and no slot is read that was not written (`run` poisons them).
#[test]
fn extreme_settings_give_numbers() {
    let mut solvers: Vec<Box<dyn Solver>> = vec![];
    for shift in [1e-9, 0.1, 1.0, 12.0, 100.0] {
        for steps in [1, 2, 3, 5, 144, 1000] {
            // Where integer times coincide the published UniPC fails; ours need not.
            solvers.extend(GRIDS.iter().filter_map(|grid| grid(steps, shift).ok()).flat_map(flow_solvers));
        }
    }
    assert!(solvers.len() > 400, "{}", solvers.len());
    for steps in [4, 5, 499, 501, 1000] {
        solvers.extend([false, true].into_iter().flat_map(|to_one| diffusion_solvers(steps, to_one)));
    }
    for solver in solvers {
        let rows = solver.rows();
        assert!(rows.iter().all(|row| (0.0..=1000.0).contains(&row.time)));
        assert!(rows.windows(2).all(|pair| pair[1].time <= pair[0].time));
        let after = run(&*solver, &noise(1), |i, _, _| noise(2 + i as u32));
        assert!(after.iter().flatten().all(|x| x.is_finite()), "{} steps", rows.len());
    }
}

#[test]
fn bad_settings_are_refused() {
    for grid in GRIDS {
        for steps in [0, 10_001, usize::MAX] {
            assert_eq!(grid(steps, 1.0), Err(SolverError::Steps { steps, least: 1, most: 10_000 }));
        }
        for shift in [0.0, -1.0, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(grid(4, shift), Err(SolverError::Shift(shift)));
        }
        assert!(matches!(grid(4, f64::NAN), Err(SolverError::Shift(shift)) if shift.is_nan()));
        assert!(matches!(grid(50, 1e300), Err(SolverError::Levels { index: 1, .. })));
        assert!(matches!(grid(10, f64::MIN_POSITIVE * f64::EPSILON), Err(SolverError::Levels { .. })));
    }
    for (start, end) in [(0.0, 0.02), (-0.1, 0.02), (1e-4, 1.0), (f64::NAN, 0.02), (1e-4, f64::INFINITY), (0.9, 0.9)] {
        assert!(matches!(Alphas::linear(start, end, true), Err(SolverError::Betas { .. })), "{start} to {end}");
    }
    for steps in [0, 1001] {
        assert_eq!(Ddim::new(latte(true), steps), Err(SolverError::Steps { steps, least: 1, most: 1000 }));
    }
    for steps in [0, 3, 1001] {
        assert_eq!(Pndm::new(latte(false), steps), Err(SolverError::Steps { steps, least: 4, most: 1000 }));
    }
    assert_eq!(Schedule::shifted(0, 1.0), Err(ScheduleError::Steps(0)));
}

#[test]
fn rows_are_applied_to_what_fits_only() {
    let row = UniPc(FlowGrid::unipc(4, 5.0).unwrap()).rows()[2];
    let mut latents = noise(1);
    let slot = || vec![0.0; latents.len()];
    let mut history = vec![slot(), slot()];
    let expected = latents.len();
    let short = noise(2)[1..].to_vec();
    let mut apply = |prediction: &[f32], history: &mut [Vec<f32>]| row.apply(&mut latents, prediction, history);
    let refused = |what| Err(SolverError::Length { what, found: expected - 1, expected });
    assert_eq!(apply(&short, &mut history), refused("the prediction"));
    assert_eq!(apply(&noise(2), &mut [history[0].clone(), short]), refused("a history slot"));
    assert_eq!(apply(&noise(2), &mut history[..1]), Err(SolverError::History { found: 1, needed: 2 }));
    assert_eq!(bits(&latents), bits(&noise(1)), "nothing changed");
    let kept = Coefficients::default();
    let beyond = Row { kept: Some(Kept { slot: HISTORY, value: kept }), ..row };
    assert_eq!(
        beyond.apply(&mut latents, &noise(2), &mut history),
        Err(SolverError::History { found: 2, needed: HISTORY + 1 })
    );
}

/// The sampler's loop with a solver that keeps a history, whose steps are recorded once and replayed: the same bits as forwards one by one
/// with the rows applied on the host.
#[test]
fn a_generation_with_a_history_is_its_rows_one_by_one() {
    let file = |name: &str| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sprites").join(name)).unwrap();
    let config: StDiT3Config = serde_json::from_slice(&file("config.json")).unwrap();
    let bytes = file("model.gguf");
    let geometry = Geometry::guided(1, [2, 4, 4], 32.0, 8.0);
    let shape = [1, config.in_channels, 2, 4, 4];
    let count: usize = shape.iter().product();
    let z: Vec<f32> = (0..count).map(|i| (1.0 + 0.7 * (i as f64).powf(1.3)).sin() as f32).collect();
    let scale = 5.0f32;
    for device in crate::common::devices() {
        let weights = Weights::from_bytes("model.gguf", &bytes).unwrap();
        let model = StDiT3::load(&device, config.clone(), weights, DType::F32).unwrap();
        let y: Vec<f32> = (0..2 * 3 * config.caption_channels).map(|i| (0.3 * i as f32).cos()).collect();
        let caption = model.caption(&y, 2, None).unwrap();
        let solvers: [Box<dyn Solver>; 2] =
            [Box::new(UniPc(FlowGrid::unipc(6, 5.0).unwrap())), Box::new(Pndm::new(latte(false), 4).unwrap())];
        for solver in solvers {
            let rows = solver.rows();
            let ws = model.workspace(geometry, &ResidualRoom::default()).unwrap();
            let walk = Walk { model: &model, ws: &ws, caption: &caption };
            let (mut by_hand, mut kept) = (z.clone(), vec![vec![0.0; count]; solver.history()]);
            let mut after = vec![];
            for row in &rows {
                walk.set_time(&[row.time; 2], None).unwrap();
                walk.forward(&Tensor::from_f32(&device, &shape, &by_hand, DType::F32).unwrap(), None).unwrap();
                let prediction = ws.prediction().to_f32().unwrap();
                let (conditional, unconditional) = prediction.split_at(prediction.len() / 2);
                let guided: Vec<f32> =
                    conditional.iter().zip(unconditional).map(|(c, u)| scale.mul_add(c - u, *u)).collect();
                row.apply(&mut by_hand, &guided[..count], &mut kept).unwrap();
                after.push(by_hand.clone());
            }
            let options = SamplerOptions {
                snapshots: (1..=rows.len()).collect(),
                rows,
                cfg_scale: scale,
                packed_cache: false,
                compare_folds: false,
                rank: None,
            };
            let member = || vec![Member { caption: &caption, policy: Box::new(ComputeAll::default()) }];
            let sampler = Sampler::new(&model, member(), geometry, &z, None, options.clone()).unwrap();
            let output = sampler.run(&mut |_| ControlFlow::Continue(())).unwrap();
            for (step, (ours, by_hand)) in (1..).zip(output.snapshots.iter().zip(&after)) {
                assert_eq!(bits(ours), bits(by_hand), "step {step}");
            }
            // A frame that begins to move has a history of no step; one that is held needs none.
            let with = |mask: [f32; 2]| {
                let given = FrameConditioning { mask: mask.into(), noise: z.clone() };
                Sampler::new(&model, member(), geometry, &z, Some(given), options.clone())
            };
            let refused = with([0.5, 1.0]).err().unwrap();
            assert!(refused.to_string().contains("keeps a history"), "{refused}");
            let output = with([0.0, 1.0]).unwrap().run(&mut |_| ControlFlow::Continue(())).unwrap();
            let frame = geometry.height * geometry.width;
            for (i, (latents, z)) in output.latents.chunks(frame).zip(z.chunks(frame)).enumerate() {
                assert_eq!(latents == z, i % 2 == 0, "frame {}", i % 2);
            }
        }
    }
}
