//! Given frames: they stay, the others follow them, and what makes no sense is told before anything is loaded.

use std::fs;
use std::path::Path;

use adacache::media::{Frames, Latents, Media};
use adacache::model::Weights;
use adacache::model::vae::{VaeConfig, VideoVae};
use adacache::tensor::DType;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::{MODEL, PROMPT, adacache, fails, pulled, succeeds};

#[test]
fn given_frames_stay_and_the_others_follow_them() {
    let dir = pulled();
    let folder = dir.path();
    let args = [
        "generate",
        "--model",
        "opensora-v1.2",
        PROMPT,
        "--frames",
        "34",
        "--steps",
        "3",
        "--dtype",
        "f32",
        "--cache",
        "none",
    ];
    let run = |out: &str, more: &[&str]| {
        succeeds(folder, &[&args[..], &["--size", "16x24", "--out", out], more].concat());
        let bytes = fs::read(folder.join(out)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor("latents").unwrap();
        assert_eq!(view.shape(), [4, 10, 2, 3]);
        let values: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        values
    };
    // Channel 2, frame t.
    let frame = |z: &[f32], t: usize| z[(2 * 10 + t) * 6..][..6].to_vec();
    let free = run("free.safetensors", &["--seed", "5"]);
    let continued = run("next.safetensors", &["--reference", "free.safetensors", "--mask-strategy", "0,0,-5,0,5"]);
    let alone = run("alone.safetensors", &[]);
    for t in 0..5 {
        assert_eq!(frame(&continued, t), frame(&free, t + 5), "frame {t} is given");
    }
    assert_ne!(frame(&continued, 7), frame(&alone, 7), "frames see the given ones");
    // Edited frames are made anew from some time on: neither given nor free.
    let edited = run("edit.safetensors", &["--reference", "free.safetensors", "--mask-strategy", "0,0,0,0,10,0.5"]);
    assert_ne!(edited, free);
    assert_ne!(edited, alone);

    let reference = |more: &[&str], parts: &[&str]| {
        let tail = ["--size", "16x24", "--out", "x.safetensors"];
        fails(folder, &[&args[..], &tail, more].concat(), parts);
    };
    reference(&["--reference", "none.safetensors"], &["none.safetensors"]);
    reference(&["--reference", "files/OpenSora-STDiT-v3/model.safetensors"], &["`latents` is missing"]);
    reference(&["--reference", "free.safetensors", "--mask-strategy", "0,1"], &["no reference 1"]);
    fails(
        folder,
        &[&args[..], &["--size", "24x24", "--out", "x.safetensors", "--reference", "free.safetensors"]].concat(),
        &["[4, 10, 2, 3]", "[4, 10, 3, 3]"],
    );
}

/// Small videos of two chunks, in few steps.
const SMALL: [&str; 12] = [
    "generate",
    "--model",
    "opensora-v1.2",
    PROMPT,
    "--size",
    "16x24",
    "--steps",
    "2",
    "--dtype",
    "f32",
    "--cache",
    "none",
];

fn latents(path: &Path) -> Latents {
    Latents::open(path).unwrap()
}

fn frames(path: &Path) -> Frames {
    match Media::read(path).unwrap() {
        Media::Frames(frames) => frames,
        Media::Latents(_) => panic!("{} is a video", path.display()),
    }
}

/// Latent frames `from..to`.
fn cut(z: &Latents, from: usize, to: usize) -> Vec<f32> {
    let [channels, frames, height, width] = z.shape;
    let plane = height * width;
    (0..channels).flat_map(|c| z.values[(c * frames + from) * plane..(c * frames + to) * plane].to_vec()).collect()
}

/// What the autoencoder in `folder` makes of frames of whole latent positions.
fn encoded(folder: &Path, frames: &Frames) -> Latents {
    let vae = folder.join(MODEL).join("vae");
    let config = VaeConfig::from_json(&fs::read_to_string(vae.join("config.json")).unwrap(), "config.json").unwrap();
    let weights = Weights::open(&vae.join("model.safetensors")).unwrap();
    let vae = VideoVae::load(&crate::common::device(), config, weights, DType::F32).unwrap();
    let (count, plane) = (frames.count(), frames.width * frames.height);
    let pixel = |i: usize| f32::from(frames.rgb[(i % (count * plane)) * 3 + i / (count * plane)]);
    let pixels: Vec<f32> = (0..3 * count * plane).map(|i| (f64::from(pixel(i)) / 255.0 * 2.0 - 1.0) as f32).collect();
    let shape = [3, count, frames.height, frames.width];
    let values = vae.encode_within(&pixels, shape, None, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
    Latents { shape: [4, vae.config().latent_frames(count), frames.height / 8, frames.width / 8], values }
}

#[test]
fn pictures_and_videos_are_what_a_video_goes_on_from() {
    let dir = pulled();
    let folder = dir.path();
    let run = |out: &str, more: &[&str]| {
        succeeds(folder, &[&SMALL[..], &["--frames", "34", "--out", out], more].concat());
        folder.join(out)
    };
    let clip = frames(&run("clip/", &["--seed", "5"]));
    assert_eq!((clip.count(), clip.width, clip.height), (34, 24, 16));
    let picture = |t: usize| format!("clip/frame_{t:04}.png");
    let still = |t: usize| Frames { rgb: clip.iter().nth(t).unwrap().to_vec(), ..clip };

    // Image to video: the first latent frame is the picture's, to the bit.
    let first = latents(&run("image.safetensors", &["--image", &picture(3)]));
    assert_eq!(cut(&first, 0, 1), encoded(folder, &still(3)).values);
    // Two pictures: the last chunk begins with the second.
    let two = latents(&run("two.safetensors", &["--image", &picture(3), "--image", &picture(30)]));
    assert_eq!(cut(&two, 0, 1), cut(&first, 0, 1));
    assert_eq!(cut(&two, 5, 6), encoded(folder, &still(30)).values);
    assert_ne!(cut(&two, 1, 5), cut(&first, 1, 5), "frames see both");
    // A picture of another size and kind fills the video.
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/media/photo.jpg");
    assert_ne!(
        cut(&latents(&run("photo.safetensors", &["--image", photo.to_str().unwrap()])), 0, 1),
        cut(&first, 0, 1)
    );

    // What a viewer shows is what is taken: EXIF data turn this picture to what Pillow made of it.
    let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/media");
    let shown = |name: &str, out: &str| latents(&run(out, &["--image", media.join(name).to_str().unwrap()]));
    assert_eq!(shown("turned.png", "turned.safetensors"), shown("turned.png.png", "upright.safetensors"));

    // A video goes on from the last 17 frames of another, be it pixels or their latents.
    let strategy = ["--mask-strategy", "0,0,-5,0,5", "--seed", "6"];
    let next = latents(&run("next.safetensors", &[&["--reference", "clip"][..], &strategy].concat()));
    let end = Frames { rgb: clip.rgb[17 * 16 * 24 * 3..].to_vec(), ..clip };
    assert_eq!(cut(&next, 0, 5), encoded(folder, &end).values);
    let again = latents(&run(
        "again.safetensors",
        &[&["--reference", "next.safetensors"][..], &["--mask-strategy", "0,0,0,0,5", "--seed", "6"]].concat(),
    ));
    assert_eq!(again, next, "held frames are all that is given");

    // A loop does the same by itself, and has what the parts have in common once.
    let long = latents(&run("long.safetensors", &["--seed", "5", "--loop", "2", "--report", "long.json"]));
    assert_eq!(long.shape, [4, 15, 2, 3]);
    assert_eq!(cut(&long, 0, 10), latents(&run("free.safetensors", &["--seed", "5"])).values);
    assert_eq!(cut(&long, 10, 15), cut(&next, 5, 10));
    let reports: Value = serde_json::from_slice(&fs::read(folder.join("long.json")).unwrap()).unwrap();
    assert_eq!(
        (&reports[0]["seed"], &reports[1]["seed"], reports.as_array().unwrap().len()),
        (&json!(5), &json!(6), 2)
    );
    let video = frames(&run("long/", &["--seed", "5", "--loop", "2"]));
    assert_eq!(video.count(), 34 + 17);
    assert_eq!(video.rgb[..clip.rgb.len()], clip.rgb);
    // Placements by part: the end of the loop is given too.
    let ended = latents(&run(
        "ended.safetensors",
        &["--seed", "5", "--loop", "2", "--reference", &picture(0), "--mask-strategy", "1,0,0,-1,1"],
    ));
    assert_eq!(cut(&ended, 0, 10), cut(&long, 0, 10));
    assert_eq!(cut(&ended, 10, 11), encoded(folder, &still(0)).values);
}

#[test]
fn conditions_that_make_no_sense_are_told_before_anything_is_loaded() {
    let dir = pulled();
    let folder = dir.path();
    // No weights are needed to find all of these out.
    fs::write(folder.join(MODEL).join("text/config.json"), "{}").unwrap();
    let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/media");
    let [photo, clip] = ["photo.jpg", "main.mp4"].map(|name| media.join(name).to_str().unwrap().to_owned());
    let [photo, clip] = [photo.as_str(), clip.as_str()];
    let mut bytes = fs::read(clip).unwrap();
    fs::write(folder.join("cut.mp4"), &bytes[..2000]).unwrap();
    // Twice as many ticks in a second.
    let at = bytes.windows(4).position(|name| name == b"mdhd").unwrap() + 16;
    let ticks = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    bytes[at..at + 4].copy_from_slice(&(2 * ticks).to_be_bytes());
    fs::write(folder.join("fast.mp4"), bytes).unwrap();
    for (more, parts) in [
        (&["--frames", "34", "--image", clip][..], &["main.mp4 is a video of 12 frames", "--reference"][..]),
        (&["--frames", "34", "--image", photo, "--image", photo, "--image", photo], &["3 pictures", "places for 2"]),
        (&["--frames", "1", "--image", photo], &["nothing is left to generate"]),
        (&["--frames", "34", "--image", "none.png"], &["none.png", "no such file"]),
        (&["--frames", "34", "--reference", "cut.mp4"], &["cut.mp4", "ffmpeg -i"]),
        (&["--frames", "34", "--reference", photo, "--reference", clip], &["reference 1", "is not placed"]),
        (&["--frames", "34", "--reference", photo, "--mask-strategy", "1"], &["part 1 of a video of 1", "--loop"]),
        (&["--frames", "34", "--reference", clip, "--mask-strategy", "0,0,5,0,1"], &["starts 5 of 3"]),
        (
            &["--frames", "34", "--reference", "fast.mp4", "--mask-strategy", "0,0,5,0,1"],
            &["fast.mp4 has 48.00 frames a second, the video 24", "0.50 times as fast", "starts 5 of 3"],
        ),
        (&["--frames", "20", "--loop", "2"], &["20 frames", "multiple of 17"]),
        (&["--frames", "17", "--loop", "2"], &["nothing is left to generate"]),
        (&["--frames", "34", "--loop", "2", "--loop-frames", "3"], &["multiple of 5"]),
        (&["--frames", "34", "--loop", "2", "--loop-edit", "2"], &["an edit of 2"]),
    ] {
        fails(folder, &[&SMALL[..], &["--out", "x.safetensors"], more].concat(), parts);
    }
    for more in [&["--image", photo][..], &["--loop", "2"]] {
        fails(
            folder,
            &[&["generate", "large red circle bouncing fast navy"][..], more].concat(),
            &[more[0], "opensora-v1.2"],
        );
    }
    for more in [
        &["--image", photo, "--reference", photo][..],
        &["--image", photo, "--mask-strategy", "0"],
        &["--loop", "2", "--trace", "t.jsonl"],
        &["--loop-frames", "5"],
        &["--loop", "0"],
    ] {
        assert_eq!(adacache(folder, &[&SMALL[..], more].concat()).status.code(), Some(2), "{more:?}");
    }
    // Pixels need the autoencoder, also where latents are what is asked for.
    fs::remove_file(folder.join(MODEL).join("vae/model.safetensors")).unwrap();
    for more in [&["--image", photo][..], &["--loop", "2"]] {
        let args = [&SMALL[..], &["--frames", "34", "--out", "x.safetensors"], more].concat();
        fails(folder, &args, &["vae/model.safetensors", "adacache pull opensora-v1.2"]);
    }
    assert!(!folder.join("x.safetensors").exists());
}
