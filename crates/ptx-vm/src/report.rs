//! What `ptx-vm run --counters` and `ptx-vm profile` print: totals in words, tables of the hottest lines.

use clap::ValueEnum;
use ptx_vm::{Counters, LineProfile, Profile, SourceProfile};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

/// What the lines are ordered by; the greatest come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// Warp instructions.
    Instructions,
    /// Floating-point operations, tensor cores included.
    Flops,
    /// Sectors of global memory.
    Sectors,
    /// Bytes read from and written to global memory.
    Bytes,
    /// Passes that shared-memory bank conflicts cost.
    Conflicts,
    /// Divergent branches.
    Divergence,
    /// Lanes that were predicated off.
    Predication,
    /// Not at all: in the order of the text.
    Line,
}

impl Sort {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
    }

    fn key(self, c: &Counters) -> u64 {
        match self {
            Sort::Instructions | Sort::Line => c.warp_instructions,
            Sort::Flops => c.flops + c.tensor_flops,
            Sort::Sectors => c.global.sectors,
            Sort::Bytes => c.global.load_bytes + c.global.store_bytes,
            Sort::Conflicts => c.shared.conflicts,
            Sort::Divergence => c.divergent_branches,
            Sort::Predication => c.predicated_off_lanes,
        }
    }

    /// The `top` lines that have any of it, in order.
    fn choose<T>(self, lines: &[T], counters: impl Fn(&T) -> &Counters, top: usize) -> Vec<&T> {
        let mut chosen: Vec<&T> = lines.iter().filter(|l| self.key(counters(l)) > 0).collect();
        if self != Sort::Line {
            chosen.sort_by_key(|l| std::cmp::Reverse(self.key(counters(l))));
        }
        chosen.truncate(top);
        chosen
    }
}

/// A count in at most six characters.
fn short(n: u64) -> String {
    let x = n as f64;
    match n {
        0..10_000 => n.to_string(),
        _ => {
            let (unit, name) = [(1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")]
                .into_iter()
                .rfind(|(unit, _)| x >= 0.9995 * unit)
                .unwrap_or((1.0, ""));
            let x = x / unit;
            format!("{x:.*}{name}", if x < 9.995 { 2 } else { usize::from(x < 99.95) })
        }
    }
}

fn ratio(x: Option<f64>) -> String {
    x.map_or_else(|| "-".to_owned(), |x| format!("{x:.2}"))
}

/// The classes of instructions by their shares, in as many lines as they take.
fn classes(c: &Counters) -> String {
    let mut out = String::new();
    let mut classes: Vec<_> = c.by_class.iter().collect();
    classes.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let share = |n: u64| 100.0 * n as f64 / c.warp_instructions.max(1) as f64;
    let names = classes.iter().map(|(class, n)| {
        format!(
            "{} {:.1}%",
            serde_json::to_value(class).ok().as_ref().and_then(Value::as_str).unwrap_or("?"),
            share(*n)
        )
    });
    let mut line = "\nclasses      ".to_owned();
    for name in names {
        if line.len() + name.len() > 110 {
            out += &line;
            line = "\n             ".to_owned();
        }
        line += " ";
        line += &name;
    }
    out + &line
}

/// The traffic of shared memory.
fn shared(c: &Counters) -> String {
    let mut out = String::new();
    let s = c.shared;
    let _ = write!(
        out,
        "\nshared memory {}B read, {}B written; {} requests of {} passes; ",
        short(s.load_bytes),
        short(s.store_bytes),
        short(s.requests),
        ratio(c.ratios().shared_passes_per_request)
    );
    if s.remote_load_bytes + s.remote_store_bytes + s.multicast_bytes > 0 {
        let of = [s.remote_load_bytes, s.remote_store_bytes, s.multicast_bytes].map(short);
        let _ = write!(out, "of other blocks {}B read, {}B written; {}B by multicast; ", of[0], of[1], of[2]);
    }
    out += &match s.conflicts {
        0 => "no bank conflicts".to_owned(),
        n => format!("{} passes for bank conflicts, the worst {}-way", short(n), s.ways),
    };
    out
}

/// The totals in a few lines.
pub(crate) fn totals(c: &Counters) -> String {
    let mut out = String::new();
    let r = c.ratios();
    let _ = write!(
        out,
        "instructions  {} by warps, {} of 32 lanes each",
        short(c.warp_instructions),
        ratio(r.lanes_per_instruction)
    );
    if c.predicated_off_lanes > 0 {
        let _ = write!(
            out,
            "; {} lanes predicated off, {} times all of a warp",
            short(c.predicated_off_lanes),
            short(c.predicated_off)
        );
    }
    out += &classes(c);
    let _ = write!(out, "\nflops         {} in tensor cores, {} elsewhere", short(c.tensor_flops), short(c.flops));
    for (name, t, sectors) in [
        ("global memory", c.global, r.global_sectors_per_request),
        ("local memory ", c.local, r.local_sectors_per_request),
    ] {
        if t.requests > 0 {
            let _ = write!(
                out,
                "\n{name} {}B read, {}B written; {} requests of {} sectors",
                short(t.load_bytes),
                short(t.store_bytes),
                short(t.requests),
                ratio(sectors)
            );
        }
    }
    if let Some(bytes) = r.global_bytes_per_flop.filter(|_| c.global.requests > 0) {
        let _ = write!(out, "; {bytes:.3} bytes of global memory a flop");
    }
    if c.shared.requests > 0 {
        out += &shared(c);
    }
    let _ = write!(
        out,
        "\nelsewhere     {} barriers, {} divergent branches, {} atomics",
        short(c.barriers),
        short(c.divergent_branches),
        short(c.atomics)
    );
    out
}

const COLUMNS: &str = "instr       %  lanes sectors  /req conflict ways   flops";

fn columns(c: &Counters, share: f64) -> String {
    let r = c.ratios();
    let some = |n: u64| if n == 0 { "-".to_owned() } else { short(n) };
    format!(
        "{:>6} {:>6.1}% {:>6} {:>7} {:>5} {:>8} {:>4} {:>7}",
        short(c.warp_instructions),
        100.0 * share,
        r.lanes_per_instruction.map_or_else(String::new, |l| format!("{l:.1}")),
        some(c.global.sectors),
        r.global_sectors_per_request.map_or_else(|| "-".to_owned(), |s| format!("{s:.1}")),
        some(c.shared.conflicts),
        some(c.shared.ways),
        some(c.flops + c.tensor_flops)
    )
}

/// Text on one line, cut to `width`.
fn fit(text: &str, width: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width.saturating_sub(2)).collect::<String>() + ".."
}

fn base(file: &str) -> &str {
    file.rsplit(['/', '\\']).next().unwrap_or(file)
}

/// The tables, 120 columns wide. Source lines are shown as far as the files can be read, where the compiler saw them or in `dir`.
pub(crate) fn tables(profile: &Profile, total: &Counters, sort: Sort, top: usize, dir: &Path) -> String {
    let all = sort.key(total).max(1) as f64;
    let by = if sort == Sort::Line { "in order".to_owned() } else { format!("by {}", sort.name()) };
    let lines = sort.choose(&profile.lines, |l| &l.counters, top);
    let sources = profile.by_source();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "PTX lines {by}, {} of {}; % is of all {}",
        lines.len(),
        profile.lines.len(),
        match sort {
            Sort::Line => "instructions".to_owned(),
            sort => sort.name(),
        }
    );
    let _ = writeln!(out, "  line  {COLUMNS}  PTX");
    for LineProfile { line, text, source, counters, .. } in &lines {
        let place = source.first().map_or_else(String::new, |s| format!("{}:{}", base(&s.file), s.line));
        let (ptx, place) = (
            if sources.is_empty() { 52 } else { 34 },
            place.chars().skip(place.chars().count().saturating_sub(17)).collect::<String>(),
        );
        let share = sort.key(counters) as f64 / all;
        let row = format!("{line:>6} {}  {:<ptx$} {place}", columns(counters, share), fit(text, ptx));
        let _ = writeln!(out, "{}", row.trim_end());
    }
    if sources.is_empty() {
        return out;
    }
    let mut texts: HashMap<&str, Vec<String>> = HashMap::new();
    let chosen = sort.choose(&sources, |s| &s.counters, top);
    let _ = writeln!(out, "\nsource lines {by}, {} of {}", chosen.len(), sources.len());
    let _ = writeln!(out, "        {COLUMNS}  source");
    for SourceProfile { file, line, counters, .. } in chosen {
        let text = texts.entry(file).or_insert_with(|| {
            std::fs::read_to_string(file)
                .or_else(|_| std::fs::read_to_string(dir.join(base(file))))
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect()
        });
        let text = text.get(*line as usize - 1).map_or("", String::as_str);
        let share = sort.key(counters) as f64 / all;
        let row =
            format!("       {}  {}", columns(counters, share), fit(&format!("{}:{line}: {text}", base(file)), 52));
        let _ = writeln!(out, "{}", row.trim_end().trim_end_matches(':'));
    }
    out
}

/// The lines for JSON, with their quotients.
pub(crate) fn lines(profile: &Profile, sort: Sort, top: usize) -> Map<String, Value> {
    let lines = sort.choose(&profile.lines, |l| &l.counters, top);
    let sources = profile.by_source();
    let sources = sort.choose(&sources, |s| &s.counters, top);
    let with_ratios = |value: serde_json::Result<Value>, counters: &Counters| {
        let mut value = value.unwrap_or_default();
        value["ratios"] = json!(counters.ratios());
        value
    };
    let lines = lines.iter().map(|l| with_ratios(serde_json::to_value(l), &l.counters)).collect();
    let sources = sources.iter().map(|s| with_ratios(serde_json::to_value(s), &s.counters)).collect();
    [("lines".to_owned(), lines), ("source_lines".to_owned(), sources)].into_iter().collect()
}
