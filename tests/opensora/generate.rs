//! A pulled checkpoint makes videos: alone, within a budget, and many together.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use adacache::family::{self};
use adacache::pipeline::{BudgetError, Job, OpenOptions, Pipeline, PipelineError, Request, TextOptions};
use adacache::tensor::DType;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::common::{names, text};
use crate::{MODEL, PROMPT, adacache, fails, pulled, succeeds};

/// What `adacache models --json` says of it.
fn opensora(listed: &Value) -> &Value {
    let models = listed["models"].as_array().unwrap();
    models.iter().find(|model| model["name"] == "opensora-v1.2").unwrap()
}

#[test]
fn a_pulled_checkpoint_generates() {
    let dir = pulled();
    let folder = dir.path();
    assert_eq!(names(&folder.join(MODEL)), ["text", "transformer", "vae"]);
    let listed: Value = serde_json::from_str(&succeeds(folder, &["models", "--json"])).unwrap();
    let model = opensora(&listed);
    assert_eq!(
        (&model["name"], &model["complete"], &model["missing"]),
        (&json!("opensora-v1.2"), &json!(true), &json!([]))
    );

    let size = ["--size", "32x48", "--frames", "17", "--steps", "4", "--dtype", "f32"];
    let run = |out: &str, more: &[&str]| {
        let args = ["generate", "--model", "opensora-v1.2", PROMPT, "--out", out, "--report", "r.json"];
        succeeds(folder, &[&args[..], &size, more].concat())
    };
    run("a.safetensors", &[]);
    let bytes = fs::read(folder.join("a.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let facts = header.metadata().as_ref().unwrap();
    assert_eq!((facts["prompt"].as_str(), facts["seed"].as_str(), facts["steps"].as_str()), (PROMPT, "0", "4"));
    assert!(facts.contains_key("schedule"));
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor("latents").unwrap().shape(), [4, 5, 4, 6]);

    // The embedding was kept: the encoder is not needed again, and what it gave is what --embeddings takes.
    let kept = folder.join(MODEL).join("embeddings");
    let [name] = &names(&kept)[..] else { panic!("one embedding: {:?}", names(&kept)) };
    let embedding = kept.join(name);
    run("b.safetensors", &["--embeddings", embedding.to_str().unwrap()]);
    assert!(latents(&folder.join("b.safetensors")) == latents(&folder.join("a.safetensors")));
    // A damaged one is made again.
    let whole = fs::read(&embedding).unwrap();
    fs::write(&embedding, &whole[..whole.len() / 2]).unwrap();
    run("c.safetensors", &[]);
    assert_eq!(
        (fs::read(&embedding).unwrap(), fs::read(folder.join("c.safetensors")).unwrap()),
        (whole, bytes.clone())
    );
    // Another seed, another prompt and another score are other videos.
    for more in [&["--seed", "1"][..], &["--aesthetic", "none"], &["--motion", "3"]] {
        run("d.safetensors", &[more, &["--overwrite"]].concat());
        assert_ne!(latents(&folder.join("d.safetensors")), latents(&folder.join("a.safetensors")), "{more:?}");
    }
    // The same as a video, with what it was made of.
    run("a.mp4", &[]);
    let mp4 = fs::read(folder.join("a.mp4")).unwrap();
    assert_eq!(&mp4[4..12], b"ftypisom");
    for fact in [PROMPT, "seed 0", "schedule "] {
        assert!(mp4.windows(fact.len()).any(|bytes| bytes == fact.as_bytes()), "{fact}");
    }
    let report: Value = serde_json::from_slice(&fs::read(folder.join("r.json")).unwrap()).unwrap();
    assert_eq!(report["model"], "opensora-v1.2");
    // Latents need no autoencoder; a video without it is told how to get it.
    fs::remove_file(folder.join(MODEL).join("vae/model.safetensors")).unwrap();
    run("e.safetensors", &[]);
    fails(
        folder,
        &["generate", "--model", "opensora-v1.2", PROMPT, "--out", "x.mp4"],
        &["vae/model.safetensors", "adacache pull opensora-v1.2"],
    );
}

/// The weights of the blocks stay in the host's memory where they do not fit, and nothing else changes.
#[test]
fn a_memory_budget_streams_weights_and_changes_no_bit() {
    let dir = pulled();
    let folder = dir.path();
    let source = family::open(folder.join(MODEL).to_str().unwrap(), &OpenOptions::exactly(17, 32, 48)).unwrap();
    let prompt = source.read_prompt(PROMPT).unwrap();
    let (device, go_on) = (crate::common::device(), &mut |_, _| ControlFlow::Continue(()));
    let mut embedded = source.embed(&[prompt], &TextOptions::default(), &device, DType::Bf16, go_on).unwrap();
    let prompt = embedded.swap_remove(0);
    let request = |cache: &str| Request {
        prompt: prompt.clone(),
        steps: 4,
        cfg_scale: 7.0.into(),
        seed: 0,
        noise: None,
        cache: adacache::pipeline::cache_config(&source, cache, false, 4).unwrap(),
        packed_cache: false,
        record_all: false,
        given: None,
        decode: true,
    };
    let load = |budget: Option<usize>, request: &Request| {
        let device = crate::common::device();
        Pipeline::load_within(&Job::new(&source, DType::Bf16, request), &device, budget)
    };
    let run = |pipeline: &Pipeline, request: &Request| {
        pipeline.generate(request, &mut |_| std::ops::ControlFlow::Continue(())).unwrap()
    };
    let mut least = 0;
    for cache in ["none", "interval-2", "fbcache"] {
        let request = request(cache);
        let expected = run(&load(None, &request).unwrap(), &request);
        assert_eq!((expected.report.streamed_weight_bytes, expected.report.memory_budget), (0, None));
        let Err(PipelineError::Budget(BudgetError { needs, .. })) = load(Some(1), &request) else {
            panic!("one byte is enough")
        };
        assert_eq!(needs.blocks, 4);
        least = needs.least();
        // All four blocks streamed, three, none.
        for (budget, streamed) in [(least, 4), (least + needs.block, 3), (needs.resident(), 0)] {
            let generation = run(&load(Some(budget), &request).unwrap(), &request);
            assert!(generation.latents.values == expected.latents.values && generation.frames == expected.frames);
            let report = &generation.report;
            assert!(report.peak_device_bytes <= budget, "{} of {budget}", report.peak_device_bytes);
            assert_eq!(report.streamed_weight_bytes, streamed * needs.block, "{cache}");
        }
    }

    // The same from the command line.
    let args = ["generate", "--model", "opensora-v1.2", PROMPT, "--report", "r.json", "--cache", "fbcache"];
    let args = [&args[..], &["--size", "32x48", "--frames", "17", "--steps", "4"]].concat();
    let report = || -> Value { serde_json::from_slice(&fs::read(folder.join("r.json")).unwrap()).unwrap() };
    let run = |out: &str, budget: &[&str]| succeeds(folder, &[&args[..], &["--out", out], budget].concat());
    run("resident.gif", &[]);
    let budget = format!("{}.{:06}MB", least / 1_000_000, least % 1_000_000);
    let printed = run("streamed.gif", &["--vram-budget", &budget]);
    assert!(printed.contains("streamed from the host in every computed step"), "{printed}");
    assert_eq!(report()["memory_budget"], least);
    assert_eq!(fs::read(folder.join("streamed.gif")).unwrap(), fs::read(folder.join("resident.gif")).unwrap());
    run("ample.gif", &["--vram-budget", "1GiB"]);
    assert_eq!(report()["streamed_weight_bytes"], 0);

    // Too little: every summand, the least that does, and nothing written.
    let small = [&args[..], &["--out", "x.gif", "--vram-budget", "0.1MiB"]].concat();
    let words =
        ["102.4 KiB of device memory", "all 4 blocks", "weights of the decoder", "captions", "activations", "--size"];
    fails(folder, &small, &words);
    assert!(!folder.join("x.gif").exists());
    for bad in ["8", "8TB", "0MiB", "-1GiB", "much"] {
        let output = adacache(folder, &[&args[..], &[&format!("--vram-budget={bad}")]].concat());
        let message = text(&output.stderr);
        assert!(output.status.code() == Some(2) && message.contains("as in 8GiB"), "{bad}: {message}");
    }
}

#[test]
fn prompts_of_different_lengths_share_a_batch_and_resume() {
    let dir = pulled();
    let folder = dir.path();
    fs::write(folder.join("prompts.txt"), "rain\n# no prompt\na gull flies over the snowy mountains\n").unwrap();
    let args = [
        "generate",
        "--model",
        "opensora-v1.2",
        "--prompts",
        "prompts.txt",
        "--size",
        "16x16",
        "--frames",
        "1",
        "--steps",
        "2",
        "--dtype",
        "f32",
        "--cache",
        "none",
    ];
    succeeds(folder, &[&args[..], &["--out", "one/{}.safetensors"]].concat());
    succeeds(folder, &[&args[..], &["--out", "two/{}.safetensors", "--batch", "2", "--per-sample"]].concat());
    let videos = ["001-rain.safetensors", "003-a-gull-flies-over-the-snowy-mountains.safetensors"];
    assert_eq!(names(&folder.join("one")), videos);
    let batch = |more: &[&str]| {
        succeeds(folder, &[&args[..], &["--out", "three/{}.safetensors", "--batch", "2"], more].concat())
    };
    batch(&[]);
    for name in videos {
        let alone = latents(&folder.join("one").join(name));
        assert_eq!(alone, latents(&folder.join("two").join(name)));
        // Filling between captions is masked: a batch gives what each prompt gives alone.
        let together = latents(&folder.join("three").join(name));
        let difference: f32 = alone.iter().zip(&together).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 1e-3, "{name}: {difference}");
    }
    let first = folder.join("one").join(videos[0]);
    let before = fs::metadata(&first).unwrap().modified().unwrap();
    fs::remove_file(folder.join("one").join(videos[1])).unwrap();
    succeeds(folder, &[&args[..], &["--out", "one/{}.safetensors"]].concat());
    assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), before);
    assert!(folder.join("one").join(videos[1]).is_file());
    // What is appended to the prompts counts too, and so does each of the model's files.
    let again = [&args[..], &["--out", "one/{}.safetensors"]].concat();
    fails(folder, &[&again[..], &["--motion", "3"]].concat(), &["one/001-rain.safetensors", "scores {"]);
    let whole = |file: &str| fs::read(folder.join("files").join(file)).unwrap();
    for file in
        ["OpenSora-STDiT-v3/model.safetensors", "t5-v1_1-xxl/model.safetensors", "OpenSora-VAE-v1.2/model.safetensors"]
    {
        let good = whole(file);
        let mut other = good.clone();
        // The last bits of a number in the middle.
        *other.iter_mut().rev().nth(good.len() / 4 / 4 * 4 + 3).unwrap() ^= 1;
        fs::write(folder.join("files").join(file), &other).unwrap();
        fails(folder, &again, &["one/001-rain.safetensors", "weights ", ", now "]);
        fs::write(folder.join("files").join(file), &good).unwrap();
    }
    succeeds(folder, &again);
}

fn latents(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor("latents").unwrap().data().to_vec();
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// An embedding that was kept is not taken for that of another encoder, wherever in its files it differs.
#[test]
fn kept_embeddings_belong_to_their_encoder() {
    let dir = pulled();
    let folder = dir.path();
    let args = ["generate", "--model", "opensora-v1.2", PROMPT, "--size", "16x16", "--frames", "1", "--steps", "1"];
    let run = |out: &str| succeeds(folder, &[&args[..], &["--out", out]].concat());
    run("a.safetensors");
    let kept = || names(&folder.join(MODEL).join("embeddings")).len();
    assert_eq!(kept(), 1);
    let weights = folder.join("files/t5-v1_1-xxl/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2 / 4 * 4;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    run("b.safetensors");
    assert_eq!(kept(), 2);
}

/// Cut at the model's limit, with a warning that shows where: also where the embedding is kept from an earlier run.
#[test]
fn long_prompts_are_cut_with_a_warning() {
    let dir = pulled();
    let folder = dir.path();
    let prompt =
        format!("{}a gull flies over the last snowy mountain", "two red boats on the sea in the rain, ".repeat(40));
    let args = ["generate", "--model", "opensora-v1.2", "--size", "16x16", "--frames", "1", "--steps", "1"];
    let run = |out: &str, prompt: &str| {
        let output = adacache(folder, &[&args[..], &["--out", out, prompt]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        (fs::read(folder.join(out)).unwrap(), text(&output.stderr))
    };
    let (first, warned) = run("a.safetensors", &prompt);
    let (again, warned_again) = run("b.safetensors", &prompt);
    for warned in [warned, warned_again] {
        let line = warned.lines().find(|line| line.starts_with("warning: ")).unwrap();
        assert!(line.contains("longer than the 300 tokens that the model reads"), "{warned}");
        let (_, words) = line.split_once("from `").unwrap();
        let words = words.trim_end_matches("` on").trim_end_matches(" …");
        assert!(prompt.contains(words) && words.split(' ').count() == 8, "{words}");
    }
    let latents = |bytes: &[u8]| SafeTensors::deserialize(bytes).unwrap().tensor("latents").unwrap().data().to_vec();
    assert_eq!(latents(&first), latents(&again));
    // A byte-order mark is not part of the first word; a short prompt warns of nothing.
    let ((plain, quiet), (marked, _)) = (run("c.safetensors", "rain"), run("d.safetensors", "\u{feff}rain"));
    assert!(latents(&plain) == latents(&marked) && !quiet.contains("warning"), "{quiet}");
}

/// What is there is counted, not what was published; and what is missing is all of it.
#[test]
fn models_counts_what_is_there() {
    let dir = pulled();
    let folder = dir.path();
    let listed = || -> Value { serde_json::from_str(&succeeds(folder, &["models", "--json"])).unwrap() };
    let needs = |listed: &Value| opensora(listed)["needs"][0]["device_memory"]["resident"].as_u64().unwrap();
    let present = listed();
    assert_eq!(opensora(&present)["needs_of"], "present");
    fs::remove_file(folder.join(MODEL).join("vae/model.safetensors")).unwrap();
    let published = listed();
    assert_eq!(opensora(&published)["needs_of"], "published");
    assert!(needs(&present) < needs(&published) / 2, "{} {}", needs(&present), needs(&published));
    assert!(succeeds(folder, &["models"]).contains("as published, since transformer and autoencoder are not here"));

    let args = ["generate", "--model", "opensora-v1.2", PROMPT, "--out", "x.mp4"];
    fs::remove_file(folder.join(MODEL).join("text/tokenizer.json")).unwrap();
    fails(folder, &args, &["text/tokenizer.json", "vae/model.safetensors"]);
    fs::remove_dir_all(folder.join("cache")).unwrap();
    let all = ["transformer/config.json", "text/config.json", "vae/config.json", "vae/model.safetensors"];
    fails(folder, &args, &all);
}
