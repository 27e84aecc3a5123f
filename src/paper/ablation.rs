//! The paper's third table: AdaCache's fast codebook with one setting changed at a time.

use serde::Serialize;

use crate::cache::{AdaCacheConfig, Anatomy, CacheConfig, Codebook, Metric, Presets, ResidualKind};

/// AdaCache with a setting changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Variant {
    /// The setting: metric, probe, place or codebook.
    pub changes: &'static str,
    /// Its name, which a folder can have.
    pub name: String,
    /// All settings.
    pub settings: AdaCacheConfig,
}

impl Variant {
    /// Its policy.
    pub fn cache(&self) -> CacheConfig {
        CacheConfig::AdaCache(self.settings.clone())
    }
}

/// AdaCache as the presets have it (the first variant), and its variants for a model of this anatomy in a run of `steps` steps: metrics,
/// probed residuals, places of the probe, codebooks.
pub fn ablation(presets: &Presets, anatomy: &Anatomy, steps: usize) -> Vec<Variant> {
    let usual = AdaCacheConfig {
        metric: Metric::L1,
        residual: ResidualKind::of(anatomy),
        blocks: presets.probed_blocks(anatomy),
        codebook: presets.fast.clone(),
        moreg: None,
    };
    let mut variants = vec![Variant { changes: "", name: "fast".into(), settings: usual.clone() }];
    let mut add = |changes, name: String, settings: AdaCacheConfig| {
        if settings != usual && !variants.iter().any(|known| known.settings == settings) {
            variants.push(Variant { changes, name, settings });
        }
    };
    for (name, metric) in [("l2", Metric::L2), ("cosine", Metric::Cosine)] {
        add("metric", format!("metric-{name}"), AdaCacheConfig { metric, ..usual.clone() });
    }
    let kinds = [ResidualKind::TAttn, ResidualKind::SAttn, ResidualKind::Attn, ResidualKind::CaMlp];
    for residual in kinds.into_iter().filter(|kind| kind.is_of(anatomy)) {
        add("probe", format!("probe-{}", residual.name()), AdaCacheConfig { residual, ..usual.clone() });
    }
    let last = anatomy.layers().saturating_sub(1);
    let places = [vec![0], vec![last / 4], vec![last / 2], vec![3 * last / 4], vec![last]];
    let thrice = vec![last / 4, last / 2, 3 * last / 4];
    for mut blocks in places.into_iter().chain([thrice]) {
        blocks.dedup();
        let names: Vec<String> = blocks.iter().map(|block| format!("{block:02}")).collect();
        add("place", format!("block-{}", names.join("-")), AdaCacheConfig { blocks, ..usual.clone() });
    }
    let moreg = Some(presets.moreg_for(steps));
    let always = |rate| Codebook::new(vec![(1.0, rate)]).expect("one entry is a codebook");
    let codebooks = [
        ("fast+moreg", presets.fast.clone(), moreg.clone()),
        ("slow", presets.slow.clone(), None),
        ("slow+moreg", presets.slow.clone(), moreg),
        ("rate-2", always(2), None),
        ("rate-3", always(3), None),
    ];
    for (name, codebook, moreg) in codebooks {
        add("codebook", name.into(), AdaCacheConfig { codebook, moreg, ..usual.clone() });
    }
    variants
}
