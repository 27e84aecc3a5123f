"""Writes what is known of the exports of NVIDIA's libraries: crates/vcuda/symbols.txt and crates/vcuda/nvml/src/unsupported.rs.

    python3 tools/driver_symbols.py            # write both again; needs pip and nothing else
    python3 tools/driver_symbols.py --check    # compare them with what is there; exit 1 on a difference

The headers come from wheels of PyPI. What is taken from them are facts: names and the versions that introduced them.

symbols.txt: every function that libcuda.so.1 exports by the headers of CUDA 11.8, 12.9 and 13.5. The typedefs say which versions
a function has (PFN_cuMemAlloc_v2000, PFN_cuMemAlloc_v3020; PFN_cuMemcpyHtoD_v7000_ptds is the form for the per-thread default stream).
The n-th version is exported as NAME, NAME_v2, NAME_v3 …; that every name which the headers declare or define is found by this
rule, and no other name, is checked.

unsupported.rs: every function of nvml.h that crates/vcuda/nvml/src/lib.rs does not have.
"""

import argparse
import collections
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

WHEELS = ["nvidia-cuda-runtime-cu11==11.8.89", "nvidia-cuda-runtime-cu12==12.9.79", "nvidia-cuda-runtime==13.5.37"]
NVML_WHEELS = ["nvidia-nvml-dev-cu12==12.9.79", "nvidia-nvml-dev==13.5.37"]
CRATES = pathlib.Path(__file__).resolve().parent.parent / "crates/vcuda"
LIST = CRATES / "symbols.txt"
NVML = CRATES / "nvml/src/lib.rs"
UNSUPPORTED = CRATES / "nvml/src/unsupported.rs"
# Headers of the driver API, each with its typedefs. cudaD3D*.h are for Windows.
HEADERS = ["cuda", "cudaEGL", "cudaGL", "cudaProfiler", "cudaVDPAU"]

HEAD = """\
# Every function that libcuda.so.1 exports, by the headers of CUDA {versions}.
# From: cuda.h, cudaTypedefs.h and their relatives in the wheels {wheels} of PyPI.
# Made by: python3 tools/driver_symbols.py
# A line: exported name, base name (that cuGetProcAddress is asked for), CUDA version that introduced it, variant
# (`legacy` default stream or `per-thread` default stream). An exported name has a second line where it serves a second base name.
"""

NVML_HEAD = """\
//! The functions of nvml.h ({wheels} of PyPI) that are not in lib.rs.
//!
//! Made by: python3 tools/driver_symbols.py

not_supported! {{
"""

TYPEDEF = re.compile(r"typedef\s+CUresult\s*\(\s*CUDAAPI\s*\*\s*PFN_(cu\w+?)_v(\d+)(_ptsz|_ptds)?\s*\)")
DECLARED = re.compile(r"\bCUresult\s+CUDAAPI\s+(cu\w+)\s*\(")
DEFINED = re.compile(r"^[ \t]*#define[ \t]+(cu\w+)[ \t]+(?:__CUDA_API_(PTSZ|PTDS)\((cu\w+)\)|(cu\w+))[ \t]*$", re.MULTILINE)
NAME = re.compile(r"\bcu[A-Z]\w*")
NVML_DECLARED = re.compile(r"\bDECLDIR\s+(?:char\s*\*\s*)?(nvml\w+)\s*\(")
NVML_DONE = re.compile(r"\bfn (nvml\w+)\(")
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
# Defined in the header itself, for code that is compiled for the per-thread default stream: not exported.
INLINE = re.compile(r"static\s+inline\s+CUresult\s+(cu\w+)\s*\(")


def headers(wheel, names):
    """The text of the headers of these names in a wheel, without comments."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, wheel]
        subprocess.run([*command, "--platform", "manylinux2014_x86_64"], check=True)
        (file,) = pathlib.Path(folder).glob("*.whl")
        with zipfile.ZipFile(file) as archive:
            found = [name for name in sorted(archive.namelist()) if name.rsplit("/", 1)[-1] in names]
            return COMMENT.sub(" ", "\n".join(archive.read(name).decode("utf-8", "replace") for name in found))


def driver():
    """The text of symbols.txt."""
    texts = {}
    for wheel in WHEELS:
        text = headers(wheel, {f"{name}{kind}.h" for name in HEADERS for kind in ("", "Typedefs")})
        texts[int(re.search(r"#define\s+CUDA_VERSION\s+(\d+)", text)[1])] = text
    shown = ", ".join(f"{version // 1000}.{version % 1000 // 10}" for version in sorted(texts))
    lines = symbols(texts)
    print(f"{LIST.name}: {len({name for name, *_ in lines})} exported names of {len({line[1] for line in lines})} functions")
    return HEAD.format(versions=shown, wheels=", ".join(WHEELS)) + "".join(f"{' '.join(map(str, line))}\n" for line in lines)


def nvml():
    """The text of unsupported.rs."""
    declared = {name for wheel in NVML_WHEELS for name in NVML_DECLARED.findall(headers(wheel, {"nvml.h"}))}
    done = set(NVML_DONE.findall(NVML.read_text()))
    if invented := sorted(done - declared):
        sys.exit(f"in {NVML.name}, but in no header: {invented}")
    print(f"{UNSUPPORTED.name}: {len(declared - done)} functions of {len(declared)}")
    return NVML_HEAD.format(wheels=", ".join(NVML_WHEELS)) + "".join(f"    {name}\n" for name in sorted(declared - done)) + "}\n"


def symbols(texts):
    """The lines of the list, as tuples, from {CUDA version: headers}."""
    versions = collections.defaultdict(set)
    threaded = collections.defaultdict(set)
    stated = set()
    # Bases that a define gives to another function; the header that did it first says since when.
    given = {}
    for version, text in sorted(texts.items()):
        for base, introduced, suffix in TYPEDEF.findall(text):
            (threaded if suffix else versions)[base].add((int(introduced), suffix))
        stated |= set(DECLARED.findall(text))
        inline = set(INLINE.findall(text))
        for base, kind, wrapped, plain in DEFINED.findall(text):
            target = wrapped or plain
            if target in inline:
                continue
            stated |= {target, f"{target}_{kind.lower()}"} if kind else {target}
            if re.sub(r"_v\d+$", "", target) != re.sub(r"_v\d+$", "", base):
                given.setdefault((base, target), version // 1000 * 1000)
    unknown = sorted(set(threaded) - set(versions))
    if unknown:
        sys.exit(f"per-thread forms of functions that have no other: {unknown}")

    lines = []
    for base in sorted(versions):
        legacy = sorted(introduced for introduced, _ in versions[base])
        names = [base if n == 0 else f"{base}_v{n + 1}" for n in range(len(legacy))]
        lines += [(name, base, introduced, "legacy") for name, introduced in zip(names, legacy)]
        for introduced, suffix in sorted(threaded[base]):
            # The per-thread form of the newest version of its time.
            newest = max(n for n, of in enumerate(legacy) if of <= introduced)
            lines.append((names[newest] + suffix, base, introduced, "per-thread"))
    made = {name for name, *_ in lines}
    for (base, target), introduced in given.items():
        if target in made:
            lines.append((target, base, introduced, "legacy"))
    if missed := sorted(stated - made):
        sys.exit(f"in a header, but no typedef leads to them: {missed}")
    # The wheels have no cudaProfiler.h, only its typedefs: a plain name needs no header.
    known = {name for text in texts.values() for name in NAME.findall(text)} | stated | set(versions)
    if invented := sorted(name for name in made if name not in known):
        sys.exit(f"made by the rule, but in no header: {invented}")
    return sorted(lines, key=lambda line: (line[1], line[3], line[2]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the list that is there")
    arguments = parser.parse_args()
    for path, text in [(LIST, driver()), (UNSUPPORTED, nvml())]:
        if not arguments.check:
            path.write_text(text)
        elif path.read_text() != text:
            sys.exit(f"{path.name} is not what the headers say: run tools/driver_symbols.py")


if __name__ == "__main__":
    main()
