//! Damaged PTX must be refused with a message or decoded, never panic and never hang.
//!
//! The corpus is the PTX of the launch cases beside this file and of the repository's own kernels. Mutations work on bytes, lines and tokens; what
//! still parses is decoded, entry by entry.

use proptest::prelude::*;
use ptx_vm::Module;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Fragments that parsers stumble over.
const NASTY: &[&str] = &[
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "<",
    ">",
    ";",
    ",",
    ":",
    "|",
    "@",
    "!",
    "%",
    "$",
    "\"",
    "'",
    "\\",
    "/*",
    "*/",
    "//",
    "0x",
    "0f",
    "0d",
    "0b",
    "-",
    "+",
    ".",
    "..",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "0xffffffffffffffffffff",
    "0f3F80000",
    "1e999",
    "4294967295",
    "99999999999999999999999999999999",
    "%r<4294967295>",
    "%r<-1>",
    ".reg .b32 %r<99999999999>;",
    ".shared .b8 x[18446744073709551615];",
    ".local .align 3 .b8 y[7];",
    ".shared .align 4294967295 .b32 z[4294967295][4294967295];",
    ".param .b8 p[0]",
    ".visible .entry",
    ".func",
    ".version 99.99",
    ".target sm_9999",
    "_",
    "ret",
    "bra",
    "@%p1",
    "@!%p1",
    "bra $L__BB0_1;",
    "call",
    "é",
    "\u{0}",
    "\u{feff}",
    "{%r1, %r2, %r3, %r4, %r5}",
    "mma.sync",
    "ld.global.v4.f32",
    "cvt.rn.f16x2.f32",
    "wmma",
    ".loc 1 2 3, function_name $L, inlined_at 4 5 6",
    ".file 1 \"x",
    ".section .debug_str {",
    "barrier.sync 99;",
    "setp.eq.and.u32 %p1|%p2, %r1, %r2, !%p3;",
    "lop3.b32 %r1, %r1, %r1, %r1, 999;",
];

fn ptx_files(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() {
            ptx_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "ptx") {
            out.push(path);
        }
    }
}

/// Texts of at most 100 kB: of larger files the header and the first kernels; files that begin with a larger kernel are left out.
fn corpus() -> &'static [String] {
    static CORPUS: OnceLock<Vec<String>> = OnceLock::new();
    CORPUS.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        ptx_files(&here.join("tests/cases"), &mut files);
        ptx_files(&here.join("../../ptx"), &mut files);
        files.sort();
        let shorten = |mut text: String| {
            if text.len() > 100_000 {
                let mut end = 100_000;
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                text.truncate(text[..end].rfind("\n}")? + 3);
            }
            Some(text)
        };
        let texts: Vec<String> = files.iter().filter_map(|f| shorten(std::fs::read_to_string(f).ok()?)).collect();
        assert!(texts.len() >= 6, "the launch cases beside this test hold PTX");
        texts
    })
}

/// Parses, and decodes up to three entries; errors must say something.
fn digest(ptx: &str) {
    match Module::parse("fuzz.ptx", ptx) {
        Err(e) => assert!(!e.to_string().is_empty()),
        Ok(module) => {
            let entries: Vec<String> = module.entries().take(3).map(str::to_owned).collect();
            for entry in entries {
                if let Err(e) = module.kernel(&entry) {
                    assert!(!e.to_string().is_empty());
                }
            }
        }
    }
}

/// Applies one mutation; `a`, `b` and `c` choose what and where.
fn mutate(text: &mut String, kind: u8, a: usize, b: usize, c: usize) {
    let position = |text: &str, at: usize| {
        let mut at = at % (text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let lines = |text: &str| text.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>();
    match kind % 9 {
        0 => text.truncate(position(text, a)),
        1 => {
            let at = position(text, a);
            text.insert_str(at, NASTY[b % NASTY.len()]);
        }
        2 => {
            let (from, len) = (position(text, a), b % 40);
            let to = position(text, (from + len).min(text.len()));
            text.replace_range(from..to.max(from), "");
        }
        3 => {
            let mut l = lines(text);
            if !l.is_empty() {
                let n = l.len();
                l.swap(a % n, b % n);
                *text = l.concat();
            }
        }
        4 => {
            let mut l = lines(text);
            if !l.is_empty() {
                let (from, to) = (a % l.len(), b % l.len());
                let line = l[from].clone();
                l.insert(to, line);
                *text = l.concat();
            }
        }
        5 => {
            let mut l = lines(text);
            if !l.is_empty() {
                l.remove(a % l.len());
                *text = l.concat();
            }
        }
        // A token replaced by another one of the text, or by something nasty.
        6 | 7 => {
            let token = |at: usize| {
                let word = |ch: char| ch.is_alphanumeric() || "%$_.".contains(ch);
                let start = text[..at]
                    .rfind(|ch| !word(ch))
                    .map_or(0, |i| i + text[i..].chars().next().map_or(1, char::len_utf8));
                let end = text[at..].find(|ch| !word(ch)).map_or(text.len(), |i| at + i);
                start..end.max(start)
            };
            let target = token(position(text, a));
            let new = if kind % 9 == 6 {
                text[token(position(text, b))].to_owned()
            } else {
                NASTY[c % NASTY.len()].to_owned()
            };
            text.replace_range(target, &new);
        }
        _ => {
            let at = position(text, a);
            if let Some(ch) = text[at..].chars().next() {
                let new = char::from((ch as u32 as u8) ^ 1 << (b % 7));
                text.replace_range(at..at + ch.len_utf8(), new.encode_utf8(&mut [0; 4]));
            }
        }
    }
}

#[test]
fn the_corpus_decodes() {
    for text in corpus() {
        let module = Module::parse("corpus.ptx", text).unwrap_or_else(|e| panic!("{e}"));
        assert!(module.entries().count() > 0);
    }
}

/// Random cases of a test: `PTX_VM_FUZZ_CASES` for a long run.
fn cases() -> u32 {
    std::env::var("PTX_VM_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn damaged_ptx_never_panics(
        which in any::<usize>(),
        mutations in prop::collection::vec((any::<u8>(), any::<usize>(), any::<usize>(), any::<usize>()), 1..6),
    ) {
        let mut text = corpus()[which % corpus().len()].clone();
        for (kind, a, b, c) in mutations {
            mutate(&mut text, kind, a, b, c);
        }
        digest(&text);
    }

    #[test]
    fn noise_never_panics(pieces in prop::collection::vec(any::<u16>(), 0..60)) {
        let mut text = String::from(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n");
        for piece in pieces {
            text += NASTY[piece as usize % NASTY.len()];
            text += if piece & 0x8000 != 0 { " " } else { "\n" };
        }
        digest(&text);
    }
}
