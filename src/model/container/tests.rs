//! The readers on files of the published programs, on small ones made here, and on damaged ones.

use std::path::PathBuf;

use super::*;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(path)
}

fn floats(container: &Container<'_>, name: &str) -> Vec<f32> {
    let tensor = &container.tensors[name];
    tensor.encoding.floats(&container.data(tensor)).unwrap()
}

/// The reason why a file is refused.
#[track_caller]
fn refused(bytes: &[u8]) -> String {
    Container::embedded("x".into(), bytes).err().expect("it is refused").to_string()
}

/// No byte of a file, changed or missing, makes a reader panic.
fn torture(bytes: &[u8], header: usize) {
    for cut in 0..header {
        assert!(Container::embedded("x".into(), &bytes[..cut]).is_err(), "cut after {cut}");
    }
    let mut changed = bytes.to_vec();
    for i in 0..header {
        for value in [0, 1, 0x7f, 0xff, changed[i] ^ 0x80, changed[i].wrapping_add(1)] {
            changed[i] = value;
            if let Ok(container) = Container::embedded("x".into(), &changed) {
                container.tensors.values().for_each(|tensor| drop(container.data(tensor)));
            }
        }
        changed[i] = bytes[i];
    }
}

/// What llama.cpp's own package reads of every type (tools/gguf_goldens.py).
#[test]
fn every_type_is_read_as_ggml_reads_it() {
    let ours = Container::open(&golden("gguf/every_type.gguf")).unwrap();
    let theirs = Container::open(&golden("gguf/every_type.safetensors")).unwrap();
    assert_eq!(theirs.tensors.len(), 13);
    assert!(ours.tensors.keys().eq(theirs.tensors.keys()));
    for (name, tensor) in &theirs.tensors {
        assert_eq!(ours.tensors[name].shape, tensor.shape, "{name}");
        let (got, expected) = (floats(&ours, name), floats(&theirs, name));
        assert_eq!(got.len(), expected.len(), "{name}");
        for (i, (a, b)) in got.iter().zip(&expected).enumerate() {
            assert!((a - b).abs() <= 1e-6 * (1.0 + b.abs()), "{name} {i}: {a}, expected {b}");
        }
    }
    let bytes = std::fs::read(golden("gguf/every_type.gguf")).unwrap();
    let first = ours.tensors.values().map(|tensor| tensor.bytes.start).min().unwrap();
    torture(&bytes, first);
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A GGUF file: tensors by name, axes (the innermost first), type and offset, and `data` bytes of zeros.
fn gguf(tensors: &[(&str, &[u64], u32, u64)], data: usize) -> Vec<u8> {
    let mut bytes = [&b"GGUF\x03\0\0\0"[..], &(tensors.len() as u64).to_le_bytes(), &2u64.to_le_bytes()].concat();
    bytes.extend(
        [string("a.list"), vec![9, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], string("x"), string("")].concat(),
    );
    let shape = [&[9, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0][..], &[16, 0, 0, 0, 4, 0, 0, 0]].concat();
    bytes.extend([string("comfy.gguf.orig_shape.reshaped"), shape].concat());
    for (name, axes, kind, offset) in tensors {
        bytes.extend([&string(name)[..], &(axes.len() as u32).to_le_bytes()].concat());
        axes.iter().for_each(|axis| bytes.extend(axis.to_le_bytes()));
        bytes.extend([&kind.to_le_bytes()[..], &offset.to_le_bytes()].concat());
    }
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

#[test]
fn gguf_files_that_cannot_be_are_named() {
    let good = gguf(&[("a", &[32, 2], 8, 0), ("b", &[4], 0, 96)], 112);
    let container = Container::embedded("x".into(), &good).unwrap();
    assert_eq!((floats(&container, "a").len(), container.tensors["a"].shape.clone()), (64, vec![2, 32]));
    let reshaped = gguf(&[("reshaped", &[32, 2], 8, 0)], 68);
    assert_eq!(Container::embedded("x".into(), &reshaped).unwrap().tensors["reshaped"].shape, [16, 4]);
    torture(&reshaped, reshaped.len() - 68);
    let mut negative = reshaped.clone();
    let axis = negative.windows(4).position(|bytes| bytes == [16, 0, 0, 0]).unwrap();
    negative[axis + 3] = 0x80;
    assert!(refused(&negative).contains("orig_shape.reshaped` is no shape"), "{}", refused(&negative));
    let big = 1 << 40;
    for (tensors, words) in [
        (&[("a", &[32, 2][..], 8, 0), ("b", &[4], 0, 64)][..], "`a` and `b` overlap"),
        (&[("a", &[4], 0, 0), ("a", &[4], 0, 32)], "two tensors `a`"),
        (&[("a", &[33], 8, 0)], "rows of 33 elements, in blocks of 32"),
        (&[("a", &[32], 8, 8)], "no multiple of 32"),
        (&[("a", &[32], 23, 0)], "`a` has type 23 (IQ4_XS); take a file of F32"),
        (&[("a", &[32], 99, 0)], "`a` has type 99 (unknown)"),
        (&[("a", &[1, 1, 1, 1, 1, 1], 0, 0)], "6 axes"),
        (&[("a", &[big, big], 0, 0)], "impossible shape"),
        (&[("a", &[big], 0, 0)], "the file ends after"),
        (&[("a", &[4], 0, !31)], "`a` lies beyond every file"),
        (&[("reshaped", &[32], 8, 0)], "`reshaped` of [32] has the shape [16, 4] in the metadata"),
    ] {
        let found = refused(&gguf(tensors, 112));
        assert!(found.contains(words) && found.contains("GGUF"), "{words}: {found}");
    }
    assert!(refused(&good[..good.len() - 1]).contains(&format!("ends after {} of {}", good.len() - 1, good.len())));
    for (version, words) in [([1, 0, 0, 0], "version 1"), ([0, 0, 0, 3], "big-endian"), ([9, 0, 0, 0], "version 9")] {
        let other = [b"GGUF", &version[..], &good[8..]].concat();
        assert!(refused(&other).contains(words), "{}", refused(&other));
    }
    // More than there is, by their numbers.
    for at in [8, 16] {
        let mut many = good.clone();
        many[at..at + 8].fill(0xff);
        assert!(refused(&many).contains("GGUF"), "{}", refused(&many));
    }
    torture(&good, good.len() - 112);
}

/// A zip archive of entries that are not compressed; with `wide`, its sizes are where 64 bits fit.
fn zip(entries: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
    let (mut file, mut directory) = (vec![], vec![]);
    for (name, content) in entries {
        let (size, offset) = (content.len() as u64, file.len() as u64);
        let extra = [&[1, 0, 24, 0][..], &size.to_le_bytes(), &size.to_le_bytes(), &offset.to_le_bytes()].concat();
        let (extra, size, offset) =
            if wide { (extra, u32::MAX, u32::MAX) } else { (vec![], size as u32, offset as u32) };
        let length = (name.len() as u16).to_le_bytes();
        // What comes first has no sizes, as torch.save writes it.
        file.extend([b"PK\x03\x04", &[0; 22][..], &length, &[3, 0], name.as_bytes(), b"???", content].concat());
        let sizes = [size.to_le_bytes(), size.to_le_bytes()].concat();
        let lengths = [length, (extra.len() as u16).to_le_bytes(), [0, 0]].concat();
        let places = [&[0; 8][..], &offset.to_le_bytes()].concat();
        directory.extend([b"PK\x01\x02", &[0; 16][..], &sizes, &lengths, &places, name.as_bytes(), &extra].concat());
    }
    let (count, size, start) = (entries.len() as u64, directory.len() as u64, file.len() as u64);
    file.extend(directory);
    if wide {
        let end = file.len() as u64;
        let counts = [count, count, size, start].map(u64::to_le_bytes).concat();
        file.extend([b"PK\x06\x06", &44u64.to_le_bytes()[..], &[0; 12], &counts].concat());
        file.extend([b"PK\x06\x07", &[0; 4][..], &end.to_le_bytes(), &1u32.to_le_bytes()].concat());
    }
    let count = if wide { [0xff; 2] } else { (count as u16).to_le_bytes() };
    let start = if wide { u32::MAX } else { start as u32 };
    file.extend(
        [b"PK\x05\x06", &[0; 4][..], &count, &count, &(size as u32).to_le_bytes(), &start.to_le_bytes()].concat(),
    );
    file.extend([0, 0]);
    file
}

/// A short text in a pickle.
fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A tuple of small numbers.
fn numbers(numbers: &[u8]) -> Vec<u8> {
    [&b"("[..], &numbers.iter().flat_map(|number| [b'K', *number]).collect::<Vec<_>>(), b"t"].concat()
}

/// A tensor of storage `0`, which has `elements` elements.
fn tensor(elements: u8, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let storage =
        [&b"("[..], &text("storage"), b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), &[b'K', elements], b"tQ"];
    let arguments = [&b"("[..], &storage.concat(), &[b'K', offset], &numbers(shape), &numbers(strides), b"\x89"];
    let hooks = b"ccollections\nOrderedDict\n)Rt";
    [&b"ctorch._utils\n_rebuild_tensor_v2\n"[..], &arguments.concat(), hooks, b"R"].concat()
}

/// A file of torch.save with the pickle `code` and a storage of the numbers 0 to 5.
fn saved(code: &[u8], wide: bool) -> Vec<u8> {
    let storage: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let code = [b"\x80\x02", code, b"."].concat();
    zip(&[("m/data.pkl", &code), ("m/byteorder", b"little"), ("m/data/0", &storage)], wide)
}

/// An ordered dictionary of `items`, as modules save theirs.
fn dictionary(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    let state = [&b"}"[..], &text("_metadata"), b"}sb"].concat();
    [&b"ccollections\nOrderedDict\n)Rq\0("[..], &items, b"u", &state].concat()
}

#[test]
fn files_of_torch_are_read() {
    let parameter = [&b"ctorch._utils\n_rebuild_parameter\n("[..], &tensor(6, 2, &[2], &[1]), b"\x88}tR"].concat();
    let inner = dictionary(&[
        ("whole", tensor(6, 0, &[2, 3], &[3, 1])),
        ("turned", tensor(6, 0, &[3, 2], &[1, 3])),
        ("column", tensor(6, 1, &[2, 1], &[3, 9])),
        ("one", tensor(6, 5, &[], &[])),
        ("none", tensor(6, 0, &[0, 3], &[3, 1])),
        ("parameter", parameter),
    ]);
    let list = [&b"](K\x01"[..], &tensor(6, 0, &[1], &[1]), b"e"].concat();
    let outer = dictionary(&[
        ("ema", inner),
        ("epoch", b"K\x07".to_vec()),
        ("list", list),
        ("rate", b"G\0\0\0\0\0\0\0\0".to_vec()),
    ]);
    for wide in [false, true] {
        let file = saved(&outer, wide);
        let container = Container::embedded("x".into(), &file).unwrap();
        for (name, shape, values) in [
            ("ema.whole", &[2, 3][..], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0][..]),
            ("ema.turned", &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
            ("ema.column", &[2, 1], &[1.0, 4.0]),
            ("ema.one", &[], &[5.0]),
            ("ema.none", &[0, 3], &[]),
            ("ema.parameter", &[2], &[2.0, 3.0]),
        ] {
            assert_eq!((&container.tensors[name].shape[..], &floats(&container, name)[..]), (shape, values), "{name}");
        }
        assert_eq!(container.tensors.len(), 6);
        torture(&file, file.len());
    }
}

#[test]
fn shards_of_pytorch_hold_what_safetensors_hold() {
    let whole = Container::open(&golden("opensora_tiny/t5-v1_1-xxl/model.safetensors")).unwrap();
    for shard in [1, 2] {
        let shard =
            Container::open(&golden(&format!("opensora_tiny/t5-bin/pytorch_model-0000{shard}-of-00002.bin"))).unwrap();
        assert!(shard.tensors.len() > 5);
        for (name, tensor) in &shard.tensors {
            let known = if name == "encoder.embed_tokens.weight" { "shared.weight" } else { name };
            assert_eq!(tensor.shape, whole.tensors[known].shape, "{name}");
            assert!(floats(&shard, name) == floats(&whole, known), "{name}");
        }
    }
}

#[test]
fn what_torch_does_not_save_of_a_model_is_named() {
    let call = |name: &str| [name.as_bytes(), &b"("[..], &text("rm -rf /"), b"tR"].concat();
    for (code, words) in [
        (call("cos\nsystem\n"), "calls `os.system`"),
        (dictionary(&[("a", call("c__builtin__\neval\n"))]), "calls `__builtin__.eval`"),
        (b"cargparse\nNamespace\n)\x81}b".to_vec(), "calls `argparse.Namespace`"),
        (b"(cos\nsystem\no".to_vec(), "instruction 0x6f"),
        (tensor(6, 0, &[1], &[1]), "no dictionary"),
        (
            dictionary(&[("a", tensor(6, 4, &[3], &[1]))]),
            "`a` of shape [3], strides [1] and offset 4 leaves its storage",
        ),
        (dictionary(&[("a", tensor(6, 0, &[200, 200], &[0, 0]))]), "leaves its storage of 6"),
        (dictionary(&[("a", tensor(7, 0, &[7], &[1]))]), "a storage of 7 elements, and data/0 holds 6"),
        (dictionary(&[("a", b"h\x09".to_vec())]), "damaged"),
        (dictionary(&[("a", b"h\0".to_vec())]), "dictionaries in dictionaries"),
        (vec![b'('; 40], "damaged"),
        (vec![b'X', 0xff, 0xff, 0xff, 0x7f], "cut"),
    ] {
        let found = refused(&saved(&code, false));
        assert!(found.contains(words) && found.contains("torch.save"), "{words}: {found}");
    }
    let mut packed = saved(&dictionary(&[]), false);
    let entry = packed.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    packed[entry + 10] = 8;
    assert!(refused(&packed).contains("`m/data.pkl` in it is compressed"), "{}", refused(&packed));
    packed[entry + 8] = 1;
    assert!(refused(&packed).contains("encrypted"));
    assert!(refused(&zip(&[("readme", b"")], false)).contains("another zip archive"));
    assert!(refused(&zip(&[("m/data.pkl", b"}."), ("m/byteorder", b"big")], false)).contains("big-endian"));
    let file = saved(&dictionary(&[("a", tensor(6, 0, &[6], &[1]))]), false);
    assert!(refused(&file[..file.len() - 1]).contains("the file is cut"));
    assert!(refused(torch::OLD_MAGIC).contains("before PyTorch 1.6"));
}
