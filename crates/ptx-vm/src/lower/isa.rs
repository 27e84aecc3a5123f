//! How an instruction is found in the table; decoding, printing and the coverage list all go by it.

use super::builder::Lower;
use super::form::{Form, R};
use super::table::{Row, TABLE};
use crate::ir::Class;
use crate::parse::{Inst, Operand, Ty};
use std::collections::HashMap;
use std::sync::OnceLock;

/// An entry of the coverage list.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Coverage {
    /// Instruction.
    pub name: &'static str,
    /// Modifier groups in order; `!` marks those that must be present, `type` the place of the types when it is not the end.
    pub modifiers: &'static str,
    /// Types, one column for each type of the opcode.
    pub types: &'static str,
    /// Operands: `d` is written, `p` and `q` are predicates, `[a]` an address, `n` a constant, `{,c}` may be missing.
    pub operands: &'static str,
    /// What it does, in a few words.
    pub meaning: &'static str,
    /// Class for the counters.
    pub class: Class,
}

/// Everything the decoder accepts, from the table it decodes by.
pub fn coverage() -> Vec<Coverage> {
    let entry = |r: &Row| Coverage {
        name: r.name,
        modifiers: r.mods,
        types: r.types,
        operands: r.operands,
        meaning: r.meaning,
        class: r.class,
    };
    TABLE.iter().map(entry).collect()
}

/// How many modifiers of an instruction a row took before it failed, and why.
type Miss = (usize, String);

/// A row taken apart for matching.
struct Pattern {
    row: &'static Row,
    groups: Vec<(Vec<&'static str>, bool)>,
    /// How many groups stand before the types.
    before: usize,
    /// The group that has a shape with any number of columns, and what stands behind the number.
    columns_of: Option<(usize, &'static str)>,
    columns: Vec<Vec<&'static str>>,
    /// Number of operands, least and most.
    operands: (usize, usize),
    /// Which operands are addresses, and which of those have coordinates.
    addresses: Vec<Option<bool>>,
    /// Lanes wait for each other there.
    waits: bool,
}

impl Pattern {
    fn new(row: &'static Row) -> Pattern {
        let group = |g: &'static str| (g.trim_end_matches('!').split('|').collect(), g.ends_with('!'));
        let (mut depth, mut required, mut most) =
            (0, usize::from(!row.operands.is_empty()), usize::from(!row.operands.is_empty()));
        for c in row.operands.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' => {
                    most += 1;
                    required += usize::from(depth == 0);
                }
                _ => {}
            }
        }
        Pattern {
            row,
            groups: row.mods.split_whitespace().filter(|g| *g != "type").map(group).collect(),
            before: row.mods.split_whitespace().take_while(|g| *g != "type").count(),
            columns_of: row.mods.split_whitespace().enumerate().find_map(|(i, group)| {
                let behind = group.strip_prefix(ANY)?.trim_end_matches('!');
                Some((i, behind))
            }),
            columns: row.types.split(',').filter(|c| !c.is_empty()).map(|c| c.split('|').collect()).collect(),
            operands: (required, most),
            addresses: row.operands.split(',').map(|o| o.contains('[').then(|| o.contains(';'))).collect(),
            waits: row.class == Class::Barrier || row.mods.split_whitespace().any(|g| g == "sync!"),
        }
    }

    /// The group whose shape with any number of columns a modifier is.
    fn shape(&self, part: &str) -> Option<usize> {
        let (group, behind) = self.columns_of?;
        let columns = part.strip_prefix(ANY.trim_end_matches('N'))?.strip_suffix(behind)?;
        columns.bytes().all(|c| c.is_ascii_digit()).then_some(group)
    }

    /// Matches an instruction's modifiers and operands; the error says what stood in the way.
    fn accept<'a>(&self, parts: &[&'a str], operands: &[Operand<'a>]) -> Result<Match<'a>, Miss> {
        // How far it came, and what it missed.
        let fail = |mods: &[Option<&str>], message| Err((mods.iter().flatten().count(), message));
        let mut types = Vec::new();
        let mut columns = self.columns.iter();
        let mut mods = vec![None; self.groups.len()];
        let mut last_space = 0;
        for &part in parts {
            let shape = || self.shape(part).filter(|i| mods[*i].is_none());
            let listed = |i: &usize| mods[*i].is_none() && self.groups[*i].0.contains(&part);
            if let Some(i) = (0..mods.len()).find(listed).or_else(shape) {
                mods[i] = Some(part);
                // From where to where a copy goes.
                if is_space(part) {
                    if i < last_space {
                        return fail(&mods, format!("`.{part}` stands in another place"));
                    }
                    last_space = i;
                }
                continue;
            }
            let Some(ty) = Ty::parse(part) else { return fail(&mods, format!("modifier `.{part}` is not supported")) };
            match columns.next() {
                Some(column) if column.contains(&part) => types.push(ty),
                _ => return fail(&mods, format!("type `.{part}` is not supported")),
            }
        }
        if columns.next().is_some() {
            return fail(&mods, "a type is missing".to_owned());
        }
        if let Some(((group, _), _)) = self.groups.iter().zip(&mods).find(|((_, must), m)| *must && m.is_none()) {
            return fail(&mods, format!("one of `.{}` is missing", group.join(" .")));
        }
        let (mut least, mut most) = self.operands;
        // A cache policy stands last if, and only if, `.L2::cache_hint` says so.
        if self.groups.iter().any(|(group, _)| group[0] == HINT) && !mods.contains(&Some("cas")) {
            (least, most) = if mods.contains(&Some(HINT)) { (least + 1, most) } else { (least, most - 1) };
        }
        if !(least..=most).contains(&operands.len()) {
            return fail(&mods, format!("{} operands, {least} expected", operands.len()));
        }
        for (operand, address) in operands.iter().zip(&self.addresses) {
            if matches!(operand, Operand::Address(..)) != (*address == Some(false))
                || *address == Some(true) && !matches!(operand, Operand::List(..))
            {
                return fail(&mods, format!("the operands are `{}`", self.row.operands));
            }
        }
        Ok(Match { mods, types })
    }
}

/// What shapes with any number of columns begin with in the table.
const ANY: &str = "m64nN";

pub(super) const HINT: &str = "L2::cache_hint";

pub(super) fn is_space(modifier: &str) -> bool {
    modifier == "global" || modifier.starts_with("shared")
}

/// What of an opcode belongs to which group and column of its row.
struct Match<'a> {
    mods: Vec<Option<&'a str>>,
    types: Vec<Ty>,
}

fn index() -> &'static HashMap<&'static str, Vec<Pattern>> {
    static INDEX: OnceLock<HashMap<&'static str, Vec<Pattern>>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index: HashMap<&'static str, Vec<Pattern>> = HashMap::new();
        for row in TABLE {
            index.entry(row.name).or_default().push(Pattern::new(row));
        }
        index
    })
}

/// The feature an instruction belongs to, if it is one that is left out as a whole.
fn missing(name: &str, parts: &[&str]) -> Option<&'static str> {
    let any = |list: &[&str]| parts.iter().any(|p| list.contains(p));
    Some(match name {
        "wgmma" if any(&["sp"]) => "sparse wgmma (wgmma.mma_async.sp) is",
        "wgmma" if any(&["b1"]) => "single-bit wgmma is",
        "tcgen05" => "tensor memory instructions (tcgen05) are",
        "tensormap" => "changes of tensor maps (tensormap.replace) are",
        "cp" if any(&["im2col", "im2col_no_offs", "im2col::w", "im2col::w::128"]) => "tensor maps of im2col are",
        "clusterlaunchcontrol" => "launches cancelled by kernels (clusterlaunchcontrol) are",
        "multimem" => "multicast memory (multimem) is",
        "tex" | "tld4" | "txq" | "suld" | "sust" | "sured" | "suq" | "istypep" => "textures and surfaces are",
        "mma" if any(&["sp", "sp::ordered_metadata"]) => "sparse mma (mma.sp) is",
        "mma" if any(&["block_scale"]) => "block-scaled mma is",
        "mma" | "wmma" if any(&["s4", "u4"]) => "4-bit integer mma is",
        "mma" | "wmma" if any(&["b1"]) => "single-bit mma is",
        "mma" if any(&["kind::f8f6f4", "e3m2", "e2m3", "e2m1"]) => "4-, 6- and 8-bit floating-point mma is",
        _ => return None,
    })
}

/// The row an instruction belongs to; the error says why it belongs to none.
fn find<'a>(inst: &Inst<'a>) -> Result<(&'static Pattern, Match<'a>), String> {
    let mut parts = inst.opcode.split('.');
    let name = parts.next().unwrap_or("");
    let parts: Vec<&str> = parts.collect();
    let unsupported = |what| format!("{what} not supported");
    let Some(patterns) = index().get(name) else {
        return Err(missing(name, &parts).map_or_else(|| format!("unknown instruction `{name}`"), unsupported));
    };
    // Of all rows, the one that came furthest says best what is missing.
    let mut why = None;
    for pattern in patterns {
        match pattern.accept(&parts, &inst.operands) {
            Ok(found) => return Ok((pattern, found)),
            Err((far, message)) if why.as_ref().is_none_or(|(most, _)| far > *most) => why = Some((far, message)),
            Err(_) => {}
        }
    }
    let form = || format!("unsupported form of `{name}`: {}", why.map_or_else(String::new, |(_, text)| text));
    Err(missing(name, &parts).map_or_else(form, unsupported))
}

/// The opcode of an instruction with its modifiers in the manual's order; none when the table does not have it.
pub(crate) fn canonical(inst: &Inst<'_>) -> Option<String> {
    let (pattern, found) = find(inst).ok()?;
    let (before, after) = found.mods.split_at(pattern.before);
    let types = found.types.iter().map(|ty| ty.name());
    let parts = before.iter().flatten().copied().chain(types).chain(after.iter().flatten().copied());
    Some(parts.fold(pattern.row.name.to_owned(), |opcode, part| opcode + "." + part))
}

/// Emits the code of one instruction.
pub(crate) fn lower<'a>(l: &mut Lower<'a>, inst: &Inst<'a>) -> R {
    match find(inst) {
        Ok((pattern, Match { mods, types })) => {
            let row = pattern.row;
            let mods = mods.into_iter().flatten().collect();
            let form = Form { name: row.name, mods, types, ops: &inst.operands };
            let emit = |l: &mut Lower<'a>| {
                l.class = row.class;
                let start = l.raw.len();
                if let (true, Some(policy)) = (form.has(HINT), form.ops.last()) {
                    l.src(policy, Ty::B64)?;
                }
                (row.emit)(l, &form)?;
                l.lead(start, row.class, flops(row, form.ty()));
                l.raw[start..].iter_mut().for_each(|raw| raw.meta.aligned = form.aligned());
                Ok(())
            };
            if pattern.waits { l.around(emit) } else { emit(l) }
        }
        Err(message) => l.unknown(message),
    }
}

/// Floating-point operations of one lane, as the counters know them.
fn flops(row: &Row, ty: Ty) -> u32 {
    let each = match row.name {
        _ if !matches!(row.class, Class::Float | Class::Double | Class::Half) => 0,
        "add" | "sub" | "mul" | "div" => 1,
        "fma" | "mad" => 2,
        _ => 0,
    };
    each * if matches!(ty, Ty::F16x2 | Ty::Bf16x2) { 2 } else { 1 }
}
