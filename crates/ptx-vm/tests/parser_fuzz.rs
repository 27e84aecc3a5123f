//! Damaged PTX and damaged launch cases must be refused with a message or run to an end, never panic, hang or leave their memory.
//!
//! The corpus is the PTX of the launch cases beside this file and of the repository's own kernels. Mutations work on bytes, lines, tokens
//! and pieces of other files; what still decodes is launched with a small budget. Other kernels are made from the instruction table.

mod fuzz;

use proptest::prelude::*;
use ptx_vm::case::run_case;
use ptx_vm::{Coverage, FaultKind, Kernel, Launch, Module, Vm, VmConfig, coverage};
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
                let last = text[..end].rfind("\n.visible .entry")?;
                text.truncate(last + 1);
                if !text.contains(".entry") {
                    return None;
                }
            }
            Some(text)
        };
        let texts: Vec<String> = files.iter().filter_map(|f| shorten(std::fs::read_to_string(f).ok()?)).collect();
        assert!(texts.len() >= 6, "the launch cases beside this test hold PTX");
        texts
    })
}

/// A small device that stops soon.
fn config(checked: bool) -> VmConfig {
    VmConfig {
        threads: 1,
        checked,
        counters: checked,
        instruction_budget: Some(2000),
        memory_limit: Some(64 << 20),
        ..VmConfig::default()
    }
}

/// Launches a kernel on a full and a partial warp: pointers where parameters have 8 bytes, small numbers where they have fewer.
fn launch(kernel: &Kernel, checked: bool) -> Result<(), FaultKind> {
    let vm = Vm::new(config(checked));
    let mut params = vec![0u8; kernel.param_bytes()];
    for param in kernel.params() {
        let at = param.offset..param.offset + param.size;
        if param.size == 8 {
            let buffer = vm.alloc(4096).unwrap_or_else(|e| panic!("{e}"));
            vm.fill(buffer, 0x3c, 4096).unwrap_or_else(|e| panic!("{e}"));
            params[at].copy_from_slice(&buffer.to_le_bytes());
        } else if let Some(first) = params[at].first_mut() {
            *first = 7;
        }
    }
    let launched = vm.launch(kernel, &Launch::new([2, 1, 1], [45, 1, 1]).dynamic_shared(2048), &params);
    launched.map(|_| ()).map_err(|fault| {
        assert!(!fault.to_string().is_empty());
        fault.kind
    })
}

/// Parses, and decodes and launches up to three entries; errors must say something.
fn digest(ptx: &str) {
    match Module::parse("fuzz.ptx", ptx) {
        Err(e) => assert!(!e.to_string().is_empty()),
        Ok(module) => {
            let entries: Vec<String> = module.entries().take(3).map(str::to_owned).collect();
            for (i, entry) in entries.iter().enumerate() {
                match module.kernel(entry) {
                    Err(e) => assert!(!e.to_string().is_empty()),
                    // What comes of it is open: the kernel is damaged and its arguments are arbitrary.
                    Ok(kernel) => drop(launch(&kernel, (ptx.len() + i).is_multiple_of(2))),
                }
            }
            if let Ok(printed) = module.to_ptx() {
                assert!(Module::parse("printed.ptx", &printed).is_ok(), "{printed}");
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
    match kind % 10 {
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
            let new = if kind % 10 == 6 {
                text[token(position(text, b))].to_owned()
            } else {
                NASTY[c % NASTY.len()].to_owned()
            };
            text.replace_range(target, &new);
        }
        // Some lines replaced by lines of another file.
        8 => {
            let (mut l, other) = (lines(text), lines(&corpus()[c % corpus().len()]));
            if !l.is_empty() && !other.is_empty() {
                let (to, from) = (a % l.len(), b % other.len());
                let (replaced, taken) = ((c >> 16) % 8, 1 + (c >> 24) % 8);
                l.splice(to..(to + replaced).min(l.len()), other.into_iter().skip(from).take(taken));
                *text = l.concat();
            }
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

/// Registers of each width, a pointer to global memory (`%d0`, `%d1`), one to shared memory (`%r0`), some values.
const PROLOGUE: &str = "\n{ .reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<6>; .reg .b64 %d<6>; .shared .align 16 .b8 tile[1024]; \
    .local .align 16 .b8 stack[64];\n ld.param.u64 %d0, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 16; add.s64 %d1, %d0, %d2;\n \
    mov.u32 %r0, tile; mov.u32 %r2, 7; mov.u32 %r3, -1; mov.b64 %d3, {%r1, %r2}; mov.u16 %h1, 3; setp.lt.u32 %p1, %r1, 20; \
    setp.ne.u32 %p2, %r2, 0;\n mov.b64 %d4, %d0; mov.b32 %r4, 4; mov.b32 %r5, 0; mov.u16 %h2, 1; setp.eq.u32 %p3, %r1, 0;\n";

fn kernel_of(body: &str) -> String {
    format!(".version 8.0\n.target sm_90a\n.address_size 64\n.entry k(.param .u64 p){PROLOGUE}{body}ret;\n}}\n")
}

/// A random instruction of a row, with registers, constants and addresses as its operands.
fn instruction(row: &Coverage, pick: &mut dyn FnMut(usize) -> usize) -> String {
    let mut parts = vec![row.name];
    for group in row.modifiers.split_whitespace().filter(|g| *g != "type") {
        let all: Vec<&str> = group.trim_end_matches('!').split('|').collect();
        if group.ends_with('!') || pick(3) == 0 {
            parts.push(all[pick(all.len())]);
        }
    }
    for column in row.types.split(',').filter(|c| !c.is_empty()) {
        let all: Vec<&str> = column.split('|').collect();
        parts.push(all[pick(all.len())]);
    }
    let (optional, mut depth, mut operands) = (pick(2) == 0, 0, String::new());
    for c in row.operands.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ if depth == 0 || optional => operands.push(c),
            _ => {}
        }
    }
    let widths = [["%h1", "%h2", "%h3"], ["%r1", "%r2", "%r3"], ["%d1", "%d2", "%d3"], ["%p1", "%p2", "%p3"]];
    let (to, from) = (pick(4), pick(4));
    let operands =
        operands.split(',').enumerate().filter(|(_, o)| !o.is_empty()).map(|(i, o)| match (o.as_bytes()[0], i) {
            (b'[', _) => {
                let global = [format!("[%d1+{}]", 8 * pick(600)), format!("[%d{}+{}]", pick(4), pick(9) as i64 - 4)];
                let shared = [format!("[%r0+{}]", 16 * pick(70)), "[tile+32]".to_owned(), "[stack+8]".to_owned()];
                [&global[..], &shared].concat()[pick(5)].clone()
            }
            (b'p' | b'q', _) => ["%p1", "%p2", "%p1|%p2", "!%p3"][pick(4)].to_owned(),
            (b'n', _) => ["0", "1", "4", "16", "0x96"][pick(5)].to_owned(),
            (_, 0) if o.contains('|') => format!("{}|%p2", widths[to][pick(3)]),
            (_, 0) => [widths[to][pick(3)], "{%r1, %r2}", "{%r1, %r2, %r3, %r4}", "{%d2, %d3}", widths[to][0]][pick(5)]
                .to_owned(),
            _ => [
                widths[from][pick(3)],
                widths[from][0],
                "%r3",
                "%p2",
                "{%r1, %r2}",
                "{%r1, %r2, %r3, %r4}",
                "5",
                "-1",
                "0x1f",
                "1.5",
            ][pick(10)]
            .to_owned(),
        });
    let operands: Vec<String> = operands.collect();
    // Any number of columns.
    let opcode = parts.join(".").replace("m64nN", "m64n8");
    format!("{opcode} {};\n", operands.join(", "))
}

/// Instructions of every row that load.
fn loadable() -> &'static [Vec<String>] {
    static ALL: OnceLock<Vec<Vec<String>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut state = 1u64;
        let mut pick = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        let rows = coverage();
        // Where control goes, the labels of a random program do not stand.
        let rows = rows.iter().filter(|r| !matches!(r.name, "bra" | "brx" | "call"));
        let loadable = |row: &Coverage| {
            let tries = (0..60).map(|_| instruction(row, &mut pick)).collect::<Vec<_>>().into_iter();
            let loads = |body: &String| Module::parse("k.ptx", &kernel_of(body)).and_then(|m| m.kernel("k")).is_ok();
            tries.filter(loads).take(8).collect::<Vec<String>>()
        };
        rows.map(loadable).filter(|of_row| !of_row.is_empty()).collect()
    })
}

/// A copy of a launch case that goes away with it.
struct Copy(PathBuf);

impl Copy {
    fn new(case: &str) -> Copy {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let to = std::env::temp_dir().join(format!("ptx-vm-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&to).unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(case);
        for file in std::fs::read_dir(from).unwrap().flatten() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        Copy(to)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What stays behind is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

proptest! {
    #![proptest_config(fuzz::config(400))]

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

    #[test]
    fn kernels_of_random_instructions_end(seeds in prop::collection::vec(any::<u64>(), 1..24), checked in any::<bool>()) {
        let rows = loadable();
        let mut body = String::new();
        for (i, seed) in seeds.iter().enumerate() {
            let of_row = &rows[*seed as usize % rows.len()];
            let line = &of_row[(seed >> 16) as usize % of_row.len()];
            let guard = ["", "", "@%p1 ", "@!%p3 "][(seed >> 32) as usize % 4];
            body += &format!("L{i}:\n{guard}{line}");
            // Some branches, backward ones too.
            if seed >> 40 & 31 == 0 {
                body += &format!("@%p{} bra L{};\n", 1 + (seed >> 44) % 3, (seed >> 48) as usize % (i + 1));
            }
        }
        let text = kernel_of(&body);
        match Module::parse("k.ptx", &text).and_then(|m| m.kernel("k")) {
            Ok(kernel) => drop(launch(&kernel, checked)),
            Err(e) => prop_assert!(!e.to_string().is_empty()),
        }
    }

    #[test]
    fn damaged_cases_never_panic(
        which in 0..3usize,
        mutations in prop::collection::vec((any::<u8>(), any::<usize>(), any::<usize>(), any::<usize>()), 1..4),
        in_ptx in any::<bool>(),
        checked in any::<bool>(),
    ) {
        let copy = Copy::new(["triton_vector_add_odd", "nv_shfl_modes", "fault_race_missing_sync"][which]);
        let path = copy.0.join(if in_ptx { "kernel.ptx" } else { "case.json" });
        let mut text = std::fs::read_to_string(&path).unwrap();
        for (kind, a, b, c) in mutations {
            // Digits among others: sizes, values, grids.
            let number = text.match_indices(|ch: char| ch.is_ascii_digit()).nth(a % 64).map(|(at, _)| at);
            match number {
                Some(at) if kind > 128 => text.replace_range(at..at + 1, ["0", "-1", "999999999999", "1e30", "4294967295", "9"][b % 6]),
                _ => mutate(&mut text, kind, a, b, c),
            }
        }
        std::fs::write(&path, text).unwrap();
        match run_case(&copy.0, &config(checked)) {
            Ok(outcome) => prop_assert!(outcome.ok || outcome.message.is_some() || outcome.fault.is_some()),
            Err(e) => prop_assert!(!e.to_string().is_empty()),
        }
    }
}
