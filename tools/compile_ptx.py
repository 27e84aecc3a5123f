"""Compiles kernels/*.cu to ptx/sm_80/*.ptx and kernels/sm_90a/*.cu to ptx/sm_90a/*.ptx with NVRTC, and writes ptx/manifest.json. Run it through
tools/compile_ptx.sh. A kernel's name is its path in kernels/ without the ending: `linear`, `sm_90a/linear`.

Only the standard library is used; the compilers come from the wheels of tools/ptx-requirements.txt.

The source hash
---------------
`source_hash` in the manifest lets anybody find out without a compiler whether ptx/ belongs to kernels/. It is the SHA-256
(lower-case hex) over all files in kernels/ and its folders whose names end in .cu, .cuh or .h, in ascending order of the bytes of their paths
in kernels/; each file contributes

    path bytes, one zero byte, content length as decimal ASCII, one zero byte, content bytes

`files.NAME.inputs_hash` has the same form over NAME.cu and the headers of kernels/ it includes, directly or not; it
decides what an incremental run compiles again.
"""

import argparse
import collections
import concurrent.futures
import ctypes
import difflib
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from importlib import metadata

import sass

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
PTX = ROOT / "ptx"
# --device-as-default-execution-space: generic lambdas count as host functions otherwise.
FLAGS = ["--std=c++17", "--device-as-default-execution-space"]
# What a folder of ptx/ is compiled for: the figures are those of {target: what ptxas calls it}. Kernels of sm_80 run on every newer GPU, those of
# sm_90a on Hopper alone.
ARCHITECTURES = {
    "sm_80": {t: t for t in ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]},
    "sm_90a": {"sm_90": "sm_90a"},
}
NEWEST_PTX_ISA = (8, 0)


class CompileError(Exception):
    """Something the author of a kernel has to mend; printed without a traceback."""


def hash_files(paths):
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(KERNELS).as_posix().encode(), path) for path in paths):
        content = path.read_bytes()
        digest.update(name + b"\0" + str(len(content)).encode() + b"\0" + content)
    return digest.hexdigest()


def all_sources():
    return [p for p in KERNELS.rglob("*") if p.suffix in (".cu", ".cuh", ".h")]


def kernel_names():
    return sorted(p.relative_to(KERNELS).with_suffix("").as_posix() for p in KERNELS.rglob("*.cu"))


def architecture_of(name):
    """The folder of ptx/ that a kernel is compiled into."""
    return name.rpartition("/")[0] or "sm_80"


def compiled(name):
    return PTX / architecture_of(name) / f"{name.rpartition('/')[2]}.ptx"


def compiled_files():
    return sorted(p for folder in ARCHITECTURES for p in (PTX / folder).glob("*.ptx"))


def inputs_of(source):
    """The file and every header of kernels/ it includes."""
    found, queue = set(), [source]
    while queue:
        path = queue.pop()
        if path in found:
            continue
        found.add(path)
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', path.read_text(), re.M):
            if (KERNELS / name).exists():
                queue.append(KERNELS / name)
    return found


def wheel_file(package, ending):
    """A file of an installed wheel, by the end of its path."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise CompileError(f"{package} is not installed: run tools/compile_ptx.sh, which installs it") from None
    for file in files:
        if str(file).endswith(ending):
            return pathlib.Path(file.locate()).resolve()
    raise CompileError(f"{package} has no {ending}: delete the virtual environment and run tools/compile_ptx.sh again")


def compiler_versions():
    return {
        "nvrtc": metadata.version("nvidia-cuda-nvrtc-cu12"),
        "headers": metadata.version("nvidia-cuda-runtime-cu12"),
        "ptxas": metadata.version("nvidia-cuda-nvcc"),
        "nvdisasm": metadata.version("nvidia-cuda-nvdisasm"),
    }


class Nvrtc:
    """The few functions of NVRTC's C interface that turn CUDA C++ into PTX."""

    def __init__(self):
        library = wheel_file("nvidia-cuda-nvrtc-cu12", "libnvrtc.so.12")
        # The built-ins are found by name when already loaded, so that LD_LIBRARY_PATH needs no change.
        ctypes.CDLL(str(wheel_file("nvidia-cuda-nvrtc-cu12", "libnvrtc-builtins.so.12.0")), mode=ctypes.RTLD_GLOBAL)
        self.lib = ctypes.CDLL(str(library))
        self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p
        self.include = wheel_file("nvidia-cuda-runtime-cu12", "include/cuda_fp16.h").parent

    def _check(self, code, what):
        if code:
            raise CompileError(f"NVRTC: {what}: {self.lib.nvrtcGetErrorString(code).decode()}")

    def _text(self, program, size_function, get_function):
        size = ctypes.c_size_t()
        self._check(size_function(program, ctypes.byref(size)), "reading a result's size")
        text = ctypes.create_string_buffer(size.value)
        self._check(get_function(program, text), "reading a result")
        return text.value.decode()

    def compile(self, source, architecture):
        """(ptx, compiler log); raises with the log when the source does not compile."""
        program = ctypes.c_void_p()
        # Sources and headers travel in memory under their names in kernels/: no path of this machine can reach the PTX.
        headers = sorted(inputs_of(source) - {source})
        names = (ctypes.c_char_p * len(headers))(*[h.relative_to(KERNELS).as_posix().encode() for h in headers])
        texts = (ctypes.c_char_p * len(headers))(*[h.read_bytes() for h in headers])
        self._check(
            self.lib.nvrtcCreateProgram(
                ctypes.byref(program), source.read_bytes(), source.name.encode(), len(headers), texts, names
            ),
            "creating a program",
        )
        try:
            flags = [f.encode() for f in [f"--gpu-architecture={architecture}", *FLAGS, f"--include-path={self.include}"]]
            code = self.lib.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
            log = self._text(program, self.lib.nvrtcGetProgramLogSize, self.lib.nvrtcGetProgramLog)
            log = log.replace(str(self.include), "cuda").strip()
            if code:
                raise CompileError(f"{source.name} does not compile:\n{log}")
            return self._text(program, self.lib.nvrtcGetPTXSize, self.lib.nvrtcGetPTX), log
        finally:
            self.lib.nvrtcDestroyProgram(ctypes.byref(program))


def compile_one(name):
    """Runs in a worker process: NVRTC holds a lock of its own, so threads would take turns."""
    ptx, log = Nvrtc().compile(KERNELS / f"{name}.cu", architecture_of(name).replace("sm_", "compute_"))
    return name, tidy(ptx), log


def tidy(ptx):
    """Drops what nothing reads: constants (a class's, and those of NVRTC's <nv/target>), and the comments around inline assembly (a fifth of the
    text)."""
    ptx = re.sub(r"^\s*// (?:begin|end) inline asm\n", "", ptx, flags=re.M)
    constant = re.compile(r"^\.global \.align \d+ \.\w+ (_ZN\w+)(?:\[\d+\])?(?: = .*)?;\n", re.M)
    uses = collections.Counter(re.findall(r"\b_ZN\w+", ptx))
    unused = {name for name in constant.findall(ptx) if uses[name] == 1}
    return constant.sub(lambda found: "" if found[1] in unused else found[0], ptx).rstrip("\n") + "\n"


def ptx_facts(name, ptx):
    version = re.search(r"^\.version (\d+)\.(\d+)", ptx, re.M)
    version = (int(version[1]), int(version[2]))
    if version > NEWEST_PTX_ISA:
        raise CompileError(f"{name}.ptx has ISA {version[0]}.{version[1]}; drivers of CUDA 12.0 load at most 8.0")
    if str(ROOT) in ptx or str(pathlib.Path.home()) in ptx:
        raise CompileError(f"{name}.ptx holds a path of this machine")
    entries = re.findall(r"^(?:\.visible )?\.entry (\w+)\(", ptx, re.M)
    if not entries:
        raise CompileError(f'{name}.cu has no entry: declare kernels extern "C" __global__')
    return version, entries


def ptxas_figures(ptxas, nvdisasm, name, ptx_path, target):
    """{entry: {registers, spill_stores, spill_loads, stack, shared, loop}}: what `ptxas -v` says, and sass.py of the main loop.
    """
    try:
        binary, report = sass.cubin(ptxas, target, ptx_path)
        loops = sass.main_loops(nvdisasm, binary)
    except subprocess.CalledProcessError as error:
        message = error.stderr.replace(str(ptx_path), name + ".ptx")
        raise CompileError(f"{name}.ptx for {target}: {message}") from None
    # Zeros are left out: the record has hundreds of lines.
    figures = {entry: {k: v for k, v in record.items() if v} for entry, record in sass.resources(report).items()}
    for entry in figures:
        figures[entry]["loop"] = loops[entry]
    return figures


def run_ptxas(ptx_by_name, errors):
    """{name: {entry: {target: figures}}}, every (file, target) pair a job of its own. Files that spill are left out."""
    ptxas, nvdisasm = wheel_file("nvidia-cuda-nvcc", "bin/ptxas"), wheel_file("nvidia-cuda-nvdisasm", "bin/nvdisasm")
    result = {name: {} for name in ptx_by_name}
    spills = {}
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {}
        for name, ptx in ptx_by_name.items():
            path = pathlib.Path(folder) / f"{name.replace('/', '-')}.ptx"
            path.write_text(ptx)
            for target, gpu in ARCHITECTURES[architecture_of(name)].items():
                jobs[pool.submit(ptxas_figures, ptxas, nvdisasm, name, path, gpu)] = (name, target)
        for job in concurrent.futures.as_completed(jobs):
            name, target = jobs[job]
            try:
                report = job.result()
            except CompileError as error:
                errors.append(str(error))
                result.pop(name, None)
                continue
            for entry, figures in report.items():
                if name in result:
                    result[name].setdefault(entry, {})[target] = figures
                if "spill_stores" in figures or "spill_loads" in figures:
                    spills.setdefault(name, []).append(
                        f"  {entry} on {target}: {figures.get('spill_stores', 0)} bytes of spill stores, "
                        f"{figures.get('spill_loads', 0)} of spill loads at {figures['registers']} registers"
                    )
    if spills:
        errors.append(
            "registers spill to memory; make the tile smaller or the launch bounds looser:\n" + "\n".join(sorted(sum(spills.values(), [])))
        )
    order = {target: i for i, target in enumerate(ARCHITECTURES["sm_80"])}
    return {
        name: {e: dict(sorted(per.items(), key=lambda p: order[p[0]])) for e, per in sorted(entries.items())}
        for name, entries in result.items()
        if name not in spills
    }


def compile_all(names, want_ptxas, known, keep=lambda name, ptx: None):
    """Compiles the named files; returns ({name: (ptx, manifest record)}, error messages). One file's failure does not
    stop the others. `known` are the manifest's records: PTX that came out the same keeps its figures. `keep` gets every PTX
    as soon as it is made."""
    made, ptx_by_name, errors = {}, {}, []
    workers = min(len(names), os.cpu_count() or 1)
    # The slowest first, so that the processors end together.
    names = sorted(names, key=lambda n: -(KERNELS / f"{n}.cu").stat().st_size)
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        # Hashed now: a source edited while NVRTC runs then counts as changed at the next run.
        inputs = {n: hash_files(inputs_of(KERNELS / f"{n}.cu")) for n in names}
        for job in concurrent.futures.as_completed([pool.submit(compile_one, n) for n in names]):
            try:
                name, ptx, log = job.result()
                if log:
                    print(f"{name}.cu: {log}", file=sys.stderr)
                version, entries = ptx_facts(name, ptx)
            except CompileError as error:
                errors.append(str(error))
                continue
            print(f"{name}.ptx: {len(entries)} entries, {len(ptx) // 1024} KiB", file=sys.stderr)
            ptx_by_name[name] = ptx
            keep(name, ptx)
            made[name] = (
                ptx,
                {
                    "ptx": compiled(name).relative_to(PTX).as_posix(),
                    "sha256": hashlib.sha256(ptx.encode()).hexdigest(),
                    "inputs_hash": inputs[name],
                    "ptx_isa": f"{version[0]}.{version[1]}",
                    "entries": {entry: {} for entry in sorted(entries)},
                },
            )
    for name, (_, record) in made.items():
        if known.get(name, {}).get("sha256") == record["sha256"]:
            record["entries"] = known[name]["entries"]
            if all(record["entries"].values()):
                del ptx_by_name[name]
    if want_ptxas:
        figures = run_ptxas(ptx_by_name, errors)
        for name in ptx_by_name:
            if name in figures:
                made[name][1]["entries"] = figures[name]
            else:
                del made[name]
    return made, errors


def manifest_text(manifest):
    """JSON, a line for each entry and target."""
    lines, figures = json.dumps(manifest, indent=1), []
    for record in manifest["files"].values():
        for per_target in record["entries"].values():
            figures += [(json.dumps(f, indent=1), json.dumps(f, separators=(",", ":"))) for f in per_target.values()]
    # The same figures stand at one depth: what is indented there is put on a line.
    for wide, narrow in figures:
        lines = lines.replace(wide.replace("\n", "\n" + " " * 5), narrow, 1)
    return lines + "\n"


def write_whole(path, text):
    """Never leaves half a file behind."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def read_manifest():
    try:
        manifest = json.loads((PTX / "manifest.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    # Other compilers or flags: nothing that is there counts.
    return manifest if manifest.get("compiler") == compiler_versions() and manifest.get("flags") == FLAGS else {}


def is_fresh(name, record, need_figures):
    if not record or record.get("inputs_hash") != hash_files(inputs_of(KERNELS / f"{name}.cu")):
        return False
    path = compiled(name)
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != record["sha256"]:
        return False
    return not need_figures or all(record["entries"].values())


def update(names, arguments):
    for folder in ARCHITECTURES:
        (PTX / folder).mkdir(parents=True, exist_ok=True)
    known = read_manifest().get("files", {})
    wanted = arguments.only or names
    stale = [n for n in wanted if arguments.force or not is_fresh(n, known.get(n), not arguments.no_ptxas)]
    made, errors = {}, []
    if stale:
        made, errors = compile_all(stale, not arguments.no_ptxas, {} if arguments.force else known, lambda name, ptx: write_whole(compiled(name), ptx))
    # Another run may have written its own records meanwhile.
    manifest = read_manifest()
    files = {n: r for n, r in manifest.get("files", {}).items() if n in names}
    files.update({name: record for name, (_, record) in made.items()})
    complete = all(is_fresh(n, files.get(n), False) for n in names)
    if complete:
        for path in set(compiled_files()) - {compiled(name) for name in names}:
            path.unlink()
    write_whole(
        PTX / "manifest.json",
        manifest_text(
            {
                # With --only, other files may be stale: then the old hash stays and build.rs goes on complaining.
                "source_hash": hash_files(all_sources()) if complete else manifest.get("source_hash", ""),
                "source_hash_algorithm": "sha256 over kernels/**/*.{cu,cuh,h} in order of the path's bytes: "
                "path, NUL, length in decimal ASCII, NUL, content",
                "compiler": compiler_versions(),
                "flags": FLAGS,
                "ptx_isa": max((r["ptx_isa"] for r in files.values()), default="8.0"),
                "targets": list(ARCHITECTURES["sm_80"]),
                "files": dict(sorted(files.items())),
            }
        ),
    )
    print(f"compiled {', '.join(sorted(made))}" if made else "nothing to do", file=sys.stderr)
    if not complete:
        others = [n for n in names if not is_fresh(n, files.get(n), False)]
        print(f"still stale: {', '.join(others)}", file=sys.stderr)
    if errors:
        raise CompileError("\n\nerror: ".join(errors))


def check(names, arguments):
    """Compiles everything afresh and compares with what is checked in."""
    differences = []
    manifest = read_manifest()
    if not manifest:
        differences.append("manifest.json is missing or of another compiler or flags")
    if manifest.get("source_hash") != hash_files(all_sources()):
        differences.append("manifest.json: source_hash is not that of kernels/")
    fresh, errors = compile_all(arguments.only or names, not arguments.no_ptxas, {})
    differences += errors
    for name, (ptx, record) in sorted(fresh.items()):
        path = compiled(name)
        there = path.read_text() if path.exists() else ""
        if there != ptx:
            lines = list(difflib.unified_diff(there.splitlines(), ptx.splitlines(), "ptx/", "fresh", lineterm="", n=0))
            differences.append(f"{name}.ptx differs:\n    " + "\n    ".join(lines[:8]))
        if not arguments.no_ptxas and manifest.get("files", {}).get(name) != record:
            differences.append(f"manifest.json: the record of {name} differs")
    if not arguments.only:
        differences += [f"{p.relative_to(PTX)} has no source" for p in compiled_files() if p not in set(map(compiled, names))]
    if differences:
        raise CompileError("ptx/ is stale; run tools/compile_ptx.sh and commit ptx/:\n  " + "\n  ".join(differences))
    print("ptx/ is what kernels/ compile to", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(
        description="Compile kernels/**/*.cu to ptx/ and write ptx/manifest.json. Without options: what changed, with ptxas figures."
    )
    parser.add_argument("--check", action="store_true", help="compile into memory, compare with ptx/, exit 1 on a difference")
    parser.add_argument("--only", metavar="NAME", nargs="+", help="only kernels/NAME.cu")
    parser.add_argument("--no-ptxas", action="store_true", help="skip the per-GPU figures (and the spill check): fast iteration")
    parser.add_argument("--force", action="store_true", help="compile also what has not changed")
    arguments = parser.parse_args()
    try:
        names = kernel_names()
        if arguments.only:
            arguments.only = [name.removeprefix("kernels/").removesuffix(".cu") for name in arguments.only]
            for name in set(arguments.only) - set(names):
                raise CompileError(f"kernels/{name}.cu does not exist; there are: {', '.join(names)}")
        if arguments.check:
            check(names, arguments)
        else:
            update(names, arguments)
    except CompileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
