"""Lists the crates that the programs are made of: writes the generated half of THIRD_PARTY.md.

    python3 tools/licences.py            # write it again, after any change of Cargo.lock
    python3 tools/licences.py --check    # exit 1 where it is not what Cargo.lock gives, or a licence is not one that deny.toml allows

What is linked on x86-64 Linux counts: no build scripts, procedural macros or tests. `cargo deny` looks at those too. Needs Python 3.11.
"""

import collections
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIST = ROOT / "THIRD_PARTY.md"
MARK = "<!-- From here on written by tools/licences.py. -->\n"


def linked():
    """Name, version, licence and repository of every crate in the programs and libraries of the workspace."""
    command = ["cargo", "tree", "--workspace", "--edges", "normal,no-proc-macro", "--target", "x86_64-unknown-linux-gnu"]
    command += ["--locked", "--prefix", "none", "--no-dedupe", "--format", "{p}|{l}|{r}"]
    tree = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in sorted(set(tree.split("\n")) - {""}):
        package, licence, repository = line.split("|")
        # Packages of the workspace have their folder behind the version.
        if package.count(" ") == 1:
            name, version = package.split(" v")
            yield name, version, re.sub(" ?/ ?", " OR ", licence), repository


def allowed(licence, names):
    """Whether an SPDX expression can be met by the licences `names`."""
    known = {"AND": "and", "OR": "or"}
    terms = re.sub(r"[\w.+-]+( WITH [\w.+-]+)?", lambda term: known.get(term[0], str(term[0] in names)), licence)
    # Of words only True, False, and, or are left.
    return eval(terms)


def refused(crates):
    rules = tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]
    for name, version, licence, _ in crates:
        more = [term for exception in rules["exceptions"] if exception["crate"] == name for term in exception["allow"]]
        if not licence or not allowed(licence, rules["allow"] + more):
            yield f"{name} {version}: deny.toml does not allow `{licence}`"


def listing(crates):
    """The crates as Markdown, by licence. `MIT OR Apache-2.0` and `Apache-2.0 OR MIT` are one."""
    groups = collections.defaultdict(list)
    for name, version, licence, repository in crates:
        choice = licence if "AND" in licence else " OR ".join(sorted(licence.split(" OR ")))
        groups[choice].append(f"| {name} | {version} | {repository} |\n")
    yield f"\n{len(crates)} crates by licence, as their packages state it.\n"
    for choice, rows in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        yield f"\n### {choice}\n\n| crate | version | repository |\n|--|--|--|\n"
        yield from rows


def main():
    crates = list(linked())
    problems = list(refused(crates))
    text = LIST.read_text()
    new = text[: text.index(MARK)] + MARK + "".join(listing(crates))
    if "--check" not in sys.argv:
        LIST.write_text(new)
    elif new != text:
        problems.append("THIRD_PARTY.md is not what Cargo.lock gives: run python3 tools/licences.py")
    print("\n".join(problems or [f"{len(crates)} crates"]))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
