#!/usr/bin/env python3
"""Which file of a crate uses which: circles among files, and arrows from a lower layer to an upper one, are errors.

An arrow goes from a file to the file that defines what it names by `use`, or by a path from `crate`, `super` or `self`. Re-exports are seen
through; `*` is a use of the module it names. A module that only declares and re-exports its children does not use them. Tests are left
out, and so are methods, which are called without a path.
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The top-level modules of each crate from the lowest up; what is not listed stands on top.
CRATES = {
    "crates/ptx-vm": ["arch", "math", "error", "memory", "parse", "ir", "step", "lower", "counters", "check", "run", "case"],
    "crates/vcuda": ["code", "spec", "settings", "symbols", "made", "thread", "host", "image", "object", "work", "world", "driver",
                     "memory", "module", "schedule", "graph", "report", "enter", "stubs", "api"],
    ".": ["json", "messages", "device", "chips", "tensor", "ops", "shapes", "cache", "model", "sampler", "media", "hub", "text", "profile", "pipeline", "family", "plan",
          "quality", "compare", "study", "paper", "calibrate", "check", "bench", "evidence"],
}

TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\'\\])\'', re.S)
USE = re.compile(r"(?:(pub(?:\([^)]*\))?)\s+)?\buse\s+([^;]+);")
PATH = r"(?<!in )(?<![\w:$])((?:crate|super|self{})(?:::\w+)+)"
TESTS = re.compile(r"#\[cfg\((?:test|doctest)\)\]\s*mod \w+ \{.*?^\}", re.S | re.M)
TEST_FILE = re.compile(r"#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))?\s+)?mod (\w+);")
DEFINES = r"\b(?:fn|struct|enum|union|trait|type|const|static|macro_rules!)\s+{}\b"


def blank(match):
    return re.sub(r"[^\n]", " ", match.group())


def leaves(tree):
    """The paths of a `use` tree, with the names they get."""
    tree = tree.strip()
    if "{" not in tree:
        path, _, alias = tree.partition(" as ")
        parts = [p.strip() for p in path.split("::") if p.strip()]
        if len(parts) > 1 and parts[-1] == "self":
            parts.pop()
        return [(parts, alias.strip() or parts[-1])] if parts else []
    head, inner = tree[:tree.rindex("}")].split("{", 1)
    depth, items = 0, [""]
    for c in inner:
        depth += {"{": 1, "}": -1}.get(c, 0)
        if c == "," and depth == 0:
            items.append("")
        else:
            items[-1] += c
    return [leaf for item in items if item.strip() for leaf in leaves(head + item)]


class Crate:
    def __init__(self, root):
        self.files, self.uses = {}, {}
        for path in sorted((root / "src").rglob("*.rs")):
            parts = path.relative_to(root / "src").with_suffix("").parts
            module = parts[:-1] if parts[-1] in ("mod", "lib") else parts
            self.files[module] = (path, TESTS.sub(blank, TOKEN.sub(blank, path.read_text())))
        tests = {m + (name,) for m, (_, text) in self.files.items() for name in TEST_FILE.findall(text)}
        self.files = {m: file for m, file in self.files.items() if not any(m[:len(t)] == t for t in tests)}
        for module, (_, text) in self.files.items():
            self.uses[module] = [
                (bool(match[1]), parts, name, text.count("\n", 0, match.start(2)) + 1)
                for match in USE.finditer(text) for parts, name in leaves(match[2])
            ]

    def start(self, module, parts):
        """The module a path starts in and the rest of it; none for other crates."""
        parts, at = list(parts), module
        if parts[0] == "crate":
            return (), parts[1:]
        if parts[0] not in ("self", "super") and module + (parts[0],) not in self.files:
            return None, parts
        while parts and parts[0] in ("self", "super"):
            at = at[:-1] if parts.pop(0) == "super" else at
        return at, parts

    def define(self, module, parts, seen=()):
        """The file that defines what a path names."""
        at, parts = self.start(module, parts)
        while at is not None and parts and at + (parts[0],) in self.files:
            at, parts = at + (parts[0],), parts[1:]
        if at is None or not parts or parts[0] == "*" or at not in self.files or (at, parts[0]) in seen:
            return at if at in self.files else None
        if re.search(DEFINES.format(re.escape(parts[0])), self.files[at][1]):
            return at
        for _, path, name, _ in self.uses[at]:
            if name == parts[0] and (found := self.define(at, path + parts[1:], (*seen, (at, parts[0])))) is not None:
                return found
        for _, path, name, _ in self.uses[at]:
            target = self.define(at, path[:-1], seen) if name == "*" else None
            if target and target != at and re.search(DEFINES.format(re.escape(parts[0])), self.files[target][1]):
                return target
        return at

    def arrows(self):
        """{(from, to): line of the first use}"""
        found = {}
        for module, (_, text) in self.files.items():
            code = USE.sub(blank, text)
            for public, parts, name, line in self.uses[module]:
                target = self.define(module, parts)
                child = target is not None and target[:len(module)] == module
                names = re.findall(DEFINES.format(r"(\w+)"), self.files[target][1]) if name == "*" and child else [name]
                if not (public and child) or re.search(rf"\b(?:{'|'.join(names)})\b", code):
                    found.setdefault((module, target), line)
            children = "".join(f"|{m[-1]}" for m in self.files if m[:-1] == module and m)
            for match in re.finditer(PATH.format(children), code):
                found.setdefault((module, self.define(module, match[1].split("::"))), code.count("\n", 0, match.start()) + 1)
        return {(a, b): line for (a, b), line in found.items() if b is not None and a != b}


def circles(arrows):
    """A shortest circle through each file that is in one, unless another one shows it already, as lists of arrows."""
    shown = set()
    for start in sorted({a for a, _ in arrows}):
        ways, queue = {start: []}, [start]
        for at in queue:
            for arrow in sorted(arrow for arrow in arrows if arrow[0] == at):
                if arrow[1] == start and start not in shown:
                    shown |= {a for a, _ in ways[at] + [arrow]}
                    yield ways[at] + [arrow]
                elif arrow[1] not in ways:
                    ways[arrow[1]] = ways[at] + [arrow]
                    queue.append(arrow[1])


def main():
    failed = False
    for name, layers in CRATES.items():
        crate = Crate(ROOT / name)
        arrows = crate.arrows()
        heights = {layer: i for i, layer in enumerate(layers)}
        height = {module: heights.get(module[0] if module else "", len(layers)) for module in crate.files}
        found = list(circles(arrows))
        upward = [(a, b) for a, b in arrows if height[a] < height[b]]
        for wrong in found + [[arrow] for arrow in upward]:
            print("a circle:" if len(wrong) > 1 else "upward:")
            for a, b in wrong:
                print(f"  {crate.files[a][0].relative_to(ROOT)}:{arrows[a, b]} uses {'::'.join(b) or 'the root'}")
        failed |= bool(found or upward)
        print(f"{name}: {len(crate.files)} files, {len(arrows)} arrows, {len(found)} circles, {len(upward)} upward")
    sys.exit(failed)


main()
