//! The transformer of Latte and Open-Sora-Plan beyond the published cases: configurations, streamed weights, and what is added between its
//! blocks where steps are reused.

use std::ops::ControlFlow;
use std::path::Path;

use adacache::cache::{
    AdaCacheConfig, Anatomy, CacheConfig, Codebook, DeltaDitConfig, FbCacheConfig, IntervalConfig, Metric, PabConfig,
    ResidualKind, computed_steps,
};
use adacache::device::{Device, Rank, VmConfig};
use adacache::model::{Geometry, Latte, LatteConfig, LatteKind, ModelError, ResidualRoom, Transformer, Walk, Weights};
use adacache::sampler::{Member, Row, SampleOutput, Sampler, SamplerOptions};
use adacache::tensor::{DType, Tensor};

use crate::common::{device, vm};

const FOLDER: &str = "tests/goldens/osp_a";

fn config() -> LatteConfig {
    let text = std::fs::read_to_string(Path::new(FOLDER).join("config.json")).unwrap();
    LatteConfig::from_json(&text, "config.json", LatteKind::OpenSoraPlan).unwrap()
}

fn load(device: &Device, streamed: usize) -> Latte {
    let bytes = std::fs::read(Path::new(FOLDER).join("model.safetensors")).unwrap();
    let weights = Weights::from_bytes("model.safetensors", &bytes).unwrap();
    Latte::load_streaming(device, config(), weights, DType::F32, streamed).unwrap()
}

/// Values without a pattern.
fn waves(count: usize, step: f64) -> Vec<f32> {
    (0..count).map(|i| (1.0 + step * (i as f64).powf(1.3)).sin() as f32).collect()
}

fn geometry() -> Geometry {
    Geometry::guided(1, [config().frames, 4, 6], 1.0, 1.0)
}

fn noise() -> Vec<f32> {
    let Geometry { frames, height, width, .. } = geometry();
    waves(config().in_channels * frames * height * width, 0.3)
}

fn off(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b))) / norm(&mut b.iter().map(|b| f64::from(*b)))
}

/// Temporal blocks are smaller than spatial ones, and any of them may be the ones that do not stay on the device.
#[test]
fn streamed_weights_change_no_bit() {
    let device = device();
    let forward = |model: &Latte| {
        let y = waves(2 * 5 * model.config().caption_channels, 0.7);
        let caption = model.caption(&y, 2, None).unwrap();
        let ws = model.workspace(geometry(), &ResidualRoom::default()).unwrap();
        let Geometry { frames, height, width, .. } = geometry();
        let shape = [1, model.config().in_channels, frames, height, width];
        let z = Tensor::from_f32(&device, &shape, &noise(), DType::F32).unwrap();
        let walk = Walk { model, ws: &ws, caption: &caption };
        walk.set_time(&[500.0; 2], None).unwrap();
        walk.forward(&z, None).unwrap();
        ws.prediction().to_f32().unwrap()
    };
    let whole = load(&device, 0);
    let (expected, resident) = (forward(&whole), whole.weight_bytes());
    assert_eq!(resident.resident, resident.ends + resident.blocks);
    let blocks = whole.anatomy().blocks();
    for streamed in 1..=blocks {
        let model = load(&device, streamed);
        let bytes = model.weight_bytes();
        let slots = 2 * bytes.block;
        assert_eq!(bytes.resident, bytes.ends + bytes.blocks - bytes.streamed + slots, "{streamed} streamed");
        assert!(forward(&model) == expected, "{streamed} streamed");
    }
    assert_eq!(load(&device, blocks).weight_bytes().streamed, resident.blocks);
    // Two temporal blocks without cross-attention: q, k with v, and the projection, whose parts begin at multiples of 256 bytes.
    let cross = 4 * 4 * 72 * 72 + 512 + 768 + 512;
    assert_eq!(resident.block * blocks - resident.blocks, 2 * cross);
}

/// Four steps that change neither time nor latents, but for the third, which takes its prediction as the new latents' change: whatever is
/// reused in it is what would be computed.
fn still(model: &Latte, cache: &CacheConfig, packed_cache: bool) -> SampleOutput {
    let rows: Vec<Row> = [0.0, 0.0, 1.0, 0.0].map(|dt| Row::euler(500.0, dt)).into();
    let times: Vec<f32> = rows.iter().map(|row| row.time).collect();
    let y = waves(2 * 5 * model.config().caption_channels, 0.7);
    let caption = model.caption(&y, 2, None).unwrap();
    cache.validate_for(model.anatomy(), geometry().frames).unwrap();
    let members = vec![Member { caption: &caption, policy: cache.policy(model.anatomy(), &times) }];
    let options =
        SamplerOptions { rows, cfg_scale: 3.0, snapshots: vec![], packed_cache, compare_folds: false, rank: None };
    let sampler = Sampler::new(model, members, geometry(), &noise(), None, options).unwrap();
    sampler.run(&mut |_| ControlFlow::Continue(())).unwrap()
}

/// The frames' positions, which no module adds, are there once in every step: where the fold is reused, where single modules are, and where
/// runs of modules are that begin before, with or behind the first temporal block.
#[test]
fn positions_of_frames_are_added_once_whatever_is_reused() {
    let device = device();
    let model = load(&device, 0);
    let expected = still(&model, &CacheConfig::None, false).latents;
    let pab = PabConfig { window: [400.0, 600.0], mlp: vec![500.0], mlp_blocks: 2, ..PabConfig::latte() };
    let delta = |boundary: f64, blocks: usize| {
        CacheConfig::DeltaDit(DeltaDitConfig { every: 4, blocks, boundary, until: None })
    };
    let caches = [
        CacheConfig::Interval(IntervalConfig { every: 4 }),
        CacheConfig::FbCache(FbCacheConfig { threshold: 0.5 }),
        CacheConfig::Pab(pab.with_ranges([4, 4, 4])),
        delta(100.0, 1),
        delta(100.0, 2),
        delta(900.0, 1),
    ];
    for cache in caches {
        for (packed, bound) in [(false, 1e-5), (true, 4e-2)] {
            let output = still(&model, &cache, packed);
            let error = off(&output.latents, &expected);
            println!("{cache:?}, packed {packed}: {error:.1e}, {:?}", output.members[0].plans);
            assert!(error <= bound, "{cache:?}, packed {packed}: {error:.1e}");
            let plans = &output.members[0].plans;
            assert!(plans[2].is_partial() || !computed_steps(plans).contains(&3), "{plans:?}");
        }
    }
}

/// Steps of a flow with a cache, alone or as a rank of two.
fn flow(device: &Device, cache: &CacheConfig, rank: Option<Rank>) -> SampleOutput {
    let model = load(device, 0);
    let rows: Vec<Row> = (0..6).map(|step| Row::euler(1000.0 - 150.0 * step as f32, -0.15)).collect();
    let times: Vec<f32> = rows.iter().map(|row| row.time).collect();
    let y = waves(2 * 5 * model.config().caption_channels, 0.7);
    let caption = model.caption(&y, 2, None).unwrap();
    let members = vec![Member { caption: &caption, policy: cache.policy(model.anatomy(), &times) }];
    let options =
        SamplerOptions { rows, cfg_scale: 3.0, snapshots: vec![], packed_cache: false, compare_folds: false, rank };
    let sampler = Sampler::new(&model, members, geometry(), &noise(), None, options).unwrap();
    sampler.run(&mut |_| ControlFlow::Continue(())).unwrap()
}

/// Each of two devices runs the blocks on its half of guidance: both end with the latents and the decisions of one.
#[test]
fn two_ranks_share_guidance() {
    let device = || vm("two devices that share guidance", VmConfig::default());
    let (Some(alone), Some(first), Some(second)) = (device(), device(), device()) else { return };
    let adacache = AdaCacheConfig {
        metric: Metric::L1,
        residual: ResidualKind::TAttn,
        blocks: vec![0],
        codebook: Codebook::new(vec![(0.05, 3), (9.0, 1)]).unwrap(),
        moreg: None,
    };
    let caches = [
        CacheConfig::None,
        CacheConfig::AdaCache(adacache),
        CacheConfig::Interval(IntervalConfig { every: 2 }),
        CacheConfig::FbCache(FbCacheConfig { threshold: 0.5 }),
    ];
    for cache in caches {
        let expected = flow(&alone, &cache, None);
        let ranks: Vec<SampleOutput> = std::thread::scope(|scope| {
            let cache = &cache;
            let ranks = Rank::group(2).into_iter().zip([&first, &second]);
            let threads: Vec<_> =
                ranks.map(|(rank, device)| scope.spawn(move || flow(device, cache, Some(rank)))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for output in &ranks {
            let error = off(&output.latents, &expected.latents);
            assert!(error <= 1e-5, "{cache:?}: {error:.1e}");
            assert_eq!(output.members[0].plans, expected.members[0].plans, "{cache:?}");
        }
        assert_eq!(ranks[0].latents, ranks[1].latents, "{cache:?}: to the bit");
        assert_eq!(ranks[0].members[0].decisions, ranks[1].members[0].decisions, "{cache:?}");
    }
}

#[test]
fn configurations_of_other_networks_are_refused() {
    let text = std::fs::read_to_string(Path::new(FOLDER).join("config.json")).unwrap();
    let read = |text: &str| LatteConfig::from_json(text, "config.json", LatteKind::OpenSoraPlan);
    assert_eq!((config().frames, config().frame_scale, config().pictures), (9, 1.0, false));
    let scale = |frames: usize| {
        let text = text.replace("\"video_length\": 9", &format!("\"video_length\": {frames}"));
        read(&text).unwrap().frame_scale
    };
    assert_eq!([16, 17, 32, 57].map(scale), [1.0, 1.0, 2.0, 3.0]);
    for (part, other, word) in [
        ("\"compress_kv_factor\": 1", "\"compress_kv_factor\": 2", "compress_kv_factor 2"),
        ("\"use_rope\": false", "\"use_rope\": true", "use_rope"),
        ("\"attention_bias\": true", "\"attention_bias\": false", "attention_bias"),
        ("\"norm_elementwise_affine\": false", "\"norm_elementwise_affine\": true", "norm_elementwise_affine"),
        ("\"patch_size\": 2", "\"patch_size\": 4", "patch_size 4"),
        ("ada_norm_single", "layer_norm", "norm_type"),
        ("gelu-approximate", "geglu", "activation_fn"),
        ("\"cross_attention_dim\": 72", "\"cross_attention_dim\": 48", "cross_attention_dim 48"),
        ("\"attention_head_dim\": 72", "\"attention_head_dim\": 20", "attention_head_dim 20"),
        ("\"out_channels\": 8", "\"out_channels\": 5", "out_channels is 5"),
        ("\"interpolation_scale_1d\": null", "\"interpolation_scale_1d\": 0", "interpolation_scale_1d"),
        ("1e-06", "1e-05", "norm_eps"),
    ] {
        let changed = text.replace(part, other);
        assert_ne!(changed, text, "{part}");
        let error = read(&changed).unwrap_err().to_string();
        assert!(error.contains(word), "{part}: {error}");
    }
    let oblong = text.replacen("\n  8\n", "\n  16\n", 1);
    assert!(read(&oblong).unwrap_err().to_string().contains("sample_size [8, 16]"));
}

#[test]
fn other_numbers_of_frames_are_refused() {
    let device = device();
    let model = load(&device, 0);
    let workspace = |frames: usize, height: usize| {
        let geometry = Geometry::guided(1, [frames, height, 6], 1.0, 1.0);
        model.workspace(geometry, &ResidualRoom::default()).map(drop)
    };
    for (frames, height, word) in [(1, 4, "1 latent frames"), (8, 4, "videos of 9"), (9, 5, "latent height is 5")] {
        let error = workspace(frames, height).unwrap_err();
        assert!(matches!(&error, ModelError::Input(reason) if reason.contains(word)), "{error}");
    }
    workspace(9, 6).unwrap();
    // The published shapes: 28 pairs of blocks, of which the temporal ones have no cross-attention.
    for kind in [LatteKind::Latte, LatteKind::OpenSoraPlan] {
        let config = LatteConfig::published(kind);
        let (anatomy, tensors): (Anatomy, _) = (config.anatomy(), Latte::tensors(&config).unwrap());
        assert_eq!((anatomy.blocks(), anatomy.modules(), config.hidden_size()), (56, 140, 1152));
        assert_eq!(tensors["transformer_blocks.27.attn2.to_k.weight"], [1152, 1152]);
        assert!(!tensors.contains_key("temporal_transformer_blocks.27.attn2.to_k.weight"));
        assert_eq!(tensors["proj_out.weight"], [32, 1152]);
    }
}
