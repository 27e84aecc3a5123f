//! PTX text from what was parsed, in canonical form: one statement a line, modifiers in the manual's order, numbers in one notation.
//!
//! What is printed is what the VM reads. Hints it passes over (`.maxnreg`, `.pragma`, debug sections, prototypes) are left out.

use super::isa;
use crate::error::LoadError;
use crate::parse::{Function, Init, Inst, Loc, Operand, ParamDecl, Stmt, Top, Ty, Var, parse_body};
use std::fmt::{self, Display, Formatter, Write};

impl Display for Operand<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let list = |f: &mut Formatter<'_>, open, items: &[Operand<'_>], close| {
            write!(f, "{open}{}{close}", Separated(items, ", "))
        };
        match self {
            Operand::Name(name) => f.write_str(name),
            Operand::NameOffset(name, offset) | Operand::Address(Some(name), offset) if *offset != 0 => {
                let bracket = matches!(self, Operand::Address(..));
                let (open, close) = if bracket { ("[", "]") } else { ("", "") };
                write!(f, "{open}{name}+{offset}{close}")
            }
            Operand::NameOffset(name, _) => write!(f, "{name}+0"),
            Operand::Element(name, index) => write!(f, "{name}[{index}]"),
            Operand::Address(Some(name), _) => write!(f, "[{name}]"),
            Operand::Address(None, at) => write!(f, "[{at}]"),
            Operand::Int(v) => write!(f, "{v}"),
            Operand::F32(bits) => write!(f, "0f{bits:08X}"),
            Operand::F64(bits) => write!(f, "0d{bits:016X}"),
            Operand::Vector(items) => list(f, '{', items, '}'),
            // `[tensor, {coordinates}]`
            Operand::List(items) if matches!(items.first(), Some(Operand::Address(..))) => {
                let address = items[0].to_string();
                write!(f, "{}, {}]", address.trim_end_matches(']'), Separated(&items[1..], ", "))
            }
            Operand::List(items) => list(f, '(', items, ')'),
            Operand::Pair(a, b) => write!(f, "{a}|{b}"),
            Operand::Not(name) => write!(f, "!{name}"),
            Operand::Negated(name) => write!(f, "-{name}"),
        }
    }
}

/// Items with something between them.
struct Separated<'t, T>(&'t [T], &'static str);

impl<T: Display> Display for Separated<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if i > 0 { self.1 } else { "" })?;
        }
        Ok(())
    }
}

impl Display for Inst<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some((name, negated)) = self.guard {
            write!(f, "@{}{name} ", if negated { "!" } else { "" })?;
        }
        match isa::canonical(self) {
            Some(opcode) => f.write_str(&opcode)?,
            None => f.write_str(self.opcode)?,
        }
        let gap = if self.operands.is_empty() { "" } else { " " };
        write!(f, "{gap}{};", Separated(&self.operands, ", "))
    }
}

impl Display for Var<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let space = self.space.name();
        if !self.linkage.is_empty() {
            write!(f, "{} ", self.linkage)?;
        }
        write!(f, ".{space} .align {} .{} {}", self.align, self.ty.name(), self.name)?;
        let count = self.size / self.ty.bytes();
        match count {
            0 => f.write_str("[]")?,
            1 => {}
            _ => write!(f, "[{count}]")?,
        }
        let values: Vec<String> = self.init.iter().map(|v| initial(*v, self.ty)).collect();
        match (values.as_slice(), count) {
            ([], _) => f.write_str(";"),
            ([one], 1) => write!(f, " = {one};"),
            (many, _) => write!(f, " = {{{}}};", Separated(many, ", ")),
        }
    }
}

fn initial(value: Init<'_>, ty: Ty) -> String {
    match value {
        Init::Address(name, 0) => name.to_owned(),
        Init::Address(name, offset) => format!("{name}+{offset}"),
        Init::Bits(bits) if ty == Ty::F64 => format!("0d{bits:016X}"),
        Init::Bits(bits) if ty.float() => format!("0f{bits:08X}"),
        Init::Bits(bits) => {
            let unused = 64 - 8 * ty.bytes().min(8) as u32;
            if ty.signed() {
                ((bits << unused) as i64 >> unused).to_string()
            } else {
                (bits << unused >> unused).to_string()
            }
        }
    }
}

impl Display for ParamDecl<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.register {
            return write!(f, ".reg .{} {}", self.ty.name(), self.name);
        }
        f.write_str(".param")?;
        if self.align != self.ty.bytes() {
            write!(f, " .align {}", self.align)?;
        }
        write!(f, " .{} {}", self.ty.name(), self.name)?;
        if self.size == self.ty.bytes() { Ok(()) } else { write!(f, "[{}]", self.size / self.ty.bytes()) }
    }
}

impl Display for Stmt<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Stmt::Open => f.write_str("{"),
            Stmt::Close => f.write_str("}"),
            Stmt::Reg(name, Some(n), ty, _) => write!(f, ".reg .{} {name}<{n}>;", ty.name()),
            Stmt::Reg(name, None, ty, _) => write!(f, ".reg .{} {name};", ty.name()),
            Stmt::Var(var) => var.fmt(f),
            Stmt::Label(name, _) => write!(f, "{name}:"),
            Stmt::Inst(inst) => inst.fmt(f),
            Stmt::Loc(Loc { place: [file, line, column], inlined_at }) => {
                write!(f, ".loc {file} {line} {column}")?;
                inlined_at.map_or(Ok(()), |[file, line, column]| write!(f, ", inlined_at {file} {line} {column}"))
            }
            Stmt::Targets(name, targets) => write!(f, "{name}: .branchtargets {};", Separated(targets, ", ")),
        }
    }
}

impl Display for Function<'_> {
    /// The header, without the body.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.linkage.is_empty() {
            write!(f, "{} ", self.linkage)?;
        }
        f.write_str(if self.entry { ".entry " } else { ".func " })?;
        if !self.returns.is_empty() {
            write!(f, "({}) ", Separated(&self.returns, ", "))?;
        }
        write!(f, "{}({})", self.name, Separated(&self.params, ", "))?;
        if let Some([x, y, z]) = self.reqntid {
            write!(f, "\n.reqntid {x}, {y}, {z}")?;
        }
        if let Some(n) = self.maxntid {
            write!(f, "\n.maxntid {n}")?;
        }
        if let Some([x, y, z]) = self.cluster {
            write!(f, "\n.reqnctapercluster {x}, {y}, {z}")?;
        }
        if let Some(n) = self.max_cluster {
            write!(f, "\n.maxclusterrank {n}")?;
        }
        if self.explicit_cluster {
            f.write_str("\n.explicitcluster")?;
        }
        if self.blocks_are_clusters {
            f.write_str("\n.blocksareclusters")?;
        }
        Ok(())
    }
}

/// A module in canonical form.
pub(crate) fn module(file: &str, text: &str, top: &Top<'_>) -> Result<String, LoadError> {
    let target = if top.target.is_empty() { String::new() } else { format!(".target {}\n", top.target) };
    let mut out = format!(".version {}.{}\n{target}.address_size 64\n", top.version.0, top.version.1);
    // Writing to a string cannot fail.
    for (number, name) in &top.files {
        let _ = writeln!(out, ".file {number} \"{name}\"");
    }
    for var in &top.variables {
        let _ = writeln!(out, "{var}");
    }
    for function in &top.functions {
        let Some((at, line)) = function.body else {
            let _ = writeln!(out, "\n{function};");
            continue;
        };
        let _ = writeln!(out, "\n{function}\n{{");
        let mut indent = 1;
        for statement in parse_body(file, text, at, line)? {
            indent -= usize::from(matches!(statement, Stmt::Close));
            let margin = if matches!(statement, Stmt::Label(..) | Stmt::Targets(..)) { 0 } else { indent };
            // Beyond that nobody sees the margin for blanks.
            let _ = writeln!(out, "{:1$}{statement}", "", 4 * margin.min(32));
            indent += usize::from(matches!(statement, Stmt::Open));
        }
        out += "}\n";
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GLOBAL_BASE;
    use crate::parse::parse_top;
    use crate::{Kernel, Module, coverage};
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use std::path::Path;

    /// A body with what printing may change made the same: places and the order of modifiers.
    fn plain(file: &str, text: &str, f: &Function<'_>) -> String {
        let Some((at, line)) = f.body else { return String::new() };
        let mut body = parse_body(file, text, at, line).unwrap_or_else(|e| panic!("{e}"));
        let opcodes: Vec<Option<String>> = body
            .iter_mut()
            .map(|statement| match statement {
                Stmt::Inst(inst) => {
                    let opcode = isa::canonical(inst);
                    (inst.line, inst.text) = (0, "");
                    inst.opcode = if opcode.is_some() { "" } else { inst.opcode };
                    opcode
                }
                Stmt::Reg(_, _, _, line) | Stmt::Label(_, line) => {
                    *line = 0;
                    None
                }
                Stmt::Var(var) => {
                    var.line = 0;
                    None
                }
                _ => None,
            })
            .collect();
        format!("{body:?} {opcodes:?}")
    }

    /// Everything of a module but line numbers.
    fn tree(name: &str, text: &str) -> Vec<String> {
        let mut top = parse_top(name, text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let mut out = vec![format!("{:?} {} {:?}", top.version, top.target, top.files)];
        for f in &mut top.functions {
            let body = plain(name, text, f);
            (f.line, f.body) = (0, f.body.map(|_| (0, 0)));
            out.push(format!("{f:?} {body}"));
        }
        for var in &mut top.variables {
            var.line = 0;
            out.push(format!("{var:?}"));
        }
        out
    }

    /// What a kernel executes. Module-level variables lie elsewhere in another module, at multiples of 256: of their addresses only the rest.
    fn code(k: &Kernel) -> String {
        let variables = GLOBAL_BASE as i64..GLOBAL_BASE as i64 + (1 << 36);
        let rest = |imm: i64| if variables.contains(&imm) { imm % 256 } else { imm };
        let ops: Vec<_> = k.code.iter().map(|op| (op.run as usize, op.r, rest(op.imm), op.x, op.aux)).collect();
        format!("{ops:?} {:?} {:?} {:?} {:?}", k.lists, k.launch_consts, k.warp_consts, k.static_shared)
    }

    /// Parsing what was printed gives what was parsed, and the same code.
    #[track_caller]
    fn round_trip(name: &str, text: &str) -> String {
        let module = Module::parse(name, text).unwrap_or_else(|e| panic!("{e}"));
        let printed = module.to_ptx().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(tree(name, text), tree(name, &printed), "{printed}");
        let again = Module::parse(name, &printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.to_ptx().as_ref(), Ok(&printed));
        for entry in module.entries() {
            match (module.kernel(entry), again.kernel(entry)) {
                (Ok(a), Ok(b)) => assert_eq!(code(&a), code(&b), "{name} {entry}"),
                (Err(a), Err(b)) => assert_eq!(a.message, b.message, "{name} {entry}"),
                (a, b) => panic!("{name} {entry}: {:?} and {:?}", a.map(|_| ()), b.map(|_| ())),
            }
        }
        printed
    }

    fn ptx_files(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
        for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
            if path.is_dir() {
                ptx_files(&path, out);
            } else if path.extension().is_some_and(|e| e == "ptx") {
                out.push(path);
            }
        }
    }

    #[test]
    fn every_ptx_file_prints_as_it_parses() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        ptx_files(&here.join("tests"), &mut files);
        ptx_files(&here.join("../../ptx"), &mut files);
        assert!(files.len() > 5);
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            round_trip(&file.display().to_string(), &text);
        }
    }

    #[test]
    fn the_canonical_form() {
        let printed = round_trip(
            "t.ptx",
            ".version 8.0 .target sm_80, debug .address_size 64\n.file 1 \"a.cu\", 1, 2\n\
             .visible .global .align 4 .b8 t[2][3] = {1, -1}; .const .f32 h = 0.5; .extern .shared .align 16 .b8 dyn[];\n\
             .global .u64 p[2] = {t, generic(t)+2};\n.extern .func (.param .b32 r) f (.param .b64 a, .param .align 8 .b8 b[16]);\n\
             .visible .entry k(.param .u64 .ptr .global .align 1 q) .maxntid 32, 2, 1 .minnctapersm 2 {\n\
             .reg .pred %p<3>; .reg .b32 a, b; .local .align 4 .b8 stack[8]; .pragma \"nounroll\"; .loc 1 7 3, function_name $f+2, inlined_at 1 9 0\n\
             L: { setp.ftz.lt.and.f32 %p1|%p2, 0f3f800000, b, !%p1; }\n\
             @!%p1 ld.v2.global.ca.b32 {a, _}, [q + 8 - 4]; prmt.rc8.b32 a, a, -0x1, b; bra.uni L; f [a + 4, {b, 1}], [q]; ret; }",
        );
        let want = ".version 8.0\n.target sm_80\n.address_size 64\n.file 1 \"a.cu\"\n\
            .visible .global .align 4 .b8 t[6] = {1, 255};\n.const .align 4 .f32 h = 0f3F000000;\n\
            .extern .shared .align 16 .b8 dyn[];\n.global .align 8 .u64 p[2] = {t, t+2};\n\n\
            .extern .func (.param .b32 r) f(.param .b64 a, .param .align 8 .b8 b[16]);\n\n\
            .visible .entry k(.param .u64 q)\n.maxntid 64\n{\n    .reg .pred %p<3>;\n    .reg .b32 a;\n    .reg .b32 b;\n    \
            .local .align 4 .b8 stack[8];\n    .loc 1 7 3, inlined_at 1 9 0\nL:\n    {\n        \
            setp.lt.and.ftz.f32 %p1|%p2, 0f3F800000, b, !%p1;\n    }\n    @!%p1 ld.global.ca.v2.b32 {a, _}, [q+4];\n    \
            prmt.b32.rc8 a, a, -1, b;\n    bra.uni L;\n    f [a+4, {b, 1}], [q];\n    ret;\n}\n";
        assert_eq!(printed, want);
    }

    /// A random instruction of a row, its modifiers in random order. The operands need not make sense.
    fn instruction(row: &crate::Coverage, mut seed: u64) -> String {
        let mut pick = |n: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % n
        };
        let mut parts: Vec<&str> = Vec::new();
        for group in row.modifiers.split_whitespace().filter(|g| *g != "type") {
            let all: Vec<&str> = group.trim_end_matches('!').split('|').collect();
            if group.ends_with('!') || pick(2) == 0 {
                let part = all[pick(all.len())];
                // Spaces keep their order: from where to where.
                let last = parts.iter().rposition(|p| isa::is_space(p)).filter(|_| isa::is_space(part));
                let first = last.map_or(0, |at| at + 1);
                let at = first + pick(parts.len() - first + 1);
                parts.insert(at, part);
            }
        }
        let mut at = 0;
        for column in row.types.split(',').filter(|c| !c.is_empty()) {
            let all: Vec<&str> = column.split('|').collect();
            at += pick(parts.len() - at + 1);
            parts.insert(at, all[pick(all.len())]);
            at += 1;
        }
        // Optional operands come in full or not at all; a cache policy comes with its modifier.
        let hinted = row.modifiers.contains(isa::HINT) && !parts.contains(&"cas");
        let optional = if hinted { parts.contains(&isa::HINT) } else { pick(2) == 0 };
        let (mut operands, mut depth) = (String::new(), 0);
        for c in row.operands.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if depth == 0 || optional => operands.push(c),
                _ => {}
            }
        }
        let operand = |pattern: &str, pick: &mut dyn FnMut(usize) -> usize| {
            if pattern.is_empty() {
                return String::new();
            }
            if pattern.contains(';') {
                return ["[%rd1, {%r1, 7}]", "[%rd2 + 64, {-1, %r1, %r2}]", "[sym, {0}]"][pick(3)].to_owned();
            }
            if pattern.starts_with('[') {
                return ["[%rd1]", "[%rd2 + 8 - 24]", "[16]", "[sym+4]", "[-8]"][pick(5)].to_owned();
            }
            let simple = [
                "%r1",
                "_",
                "-7",
                "0x7fffffff",
                "0b101",
                "017",
                "1.5",
                "0f3f80000A",
                "0dC000000000000000",
                "!%p1",
                "sym+-4",
                "{%r1, %r2}",
                "-0f00000001",
                "18446744073709551615U",
            ];
            let one = simple[pick(simple.len())];
            if pattern.contains('|') { format!("{one}|%p2") } else { one.to_owned() }
        };
        let operands: Vec<String> = operands.split(',').map(|p| operand(p, &mut pick)).collect();
        let guard = ["", "@%p1 ", "@!%p2 "][pick(3)];
        format!("{guard}{}.{} {};", row.name, parts.join("."), operands.join(", ")).replace(". ", " ")
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(300) })]
        #[test]
        fn instructions_of_the_table_print_as_they_parse(seeds in prop::collection::vec(any::<u64>(), 1..40)) {
            let table = coverage();
            let mut text = String::from(".version 8.0\n.target sm_80\n.address_size 64\n.global .b32 sym;\n.entry k(.param .u64 sym2) {\n");
            for seed in &seeds {
                text += &instruction(&table[*seed as usize % table.len()], *seed);
                text += "\n";
            }
            let printed = round_trip("random.ptx", &(text + "}\n"));
            // Every one of them belongs to the table.
            for line in printed.lines().skip(8).filter(|l| l.ends_with(';')) {
                let inst = crate::parse::parse_instruction(line, 0).map_err(|e| TestCaseError::fail(e.to_string()))?;
                prop_assert!(isa::canonical(&inst).is_some(), "{line}");
            }
        }
    }
}
