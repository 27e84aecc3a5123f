"""Says without any compiler whether ptx/ belongs to kernels/: source hash, every file's hash and its recorded inputs.

Run by CI. `build.rs` checks the source hash too; this also notices a PTX file edited by hand, left over or missing.
"""

import hashlib
import json
import sys

from compile_ptx import KERNELS, PTX, all_sources, compiled, compiled_files, hash_files, inputs_of, kernel_names


def problems():
    manifest = json.loads((PTX / "manifest.json").read_text())
    if manifest["source_hash"] != hash_files(all_sources()):
        yield "source_hash is not that of kernels/"
    sources = {name: KERNELS / f"{name}.cu" for name in kernel_names()}
    for name in sorted(sources.keys() | manifest["files"].keys()):
        record, path = manifest["files"].get(name), compiled(name)
        if name not in sources or record is None or not path.exists():
            yield f"{name}: kernels/{name}.cu, {path.relative_to(PTX.parent)} and its record in manifest.json do not all exist"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != record["sha256"]:
            yield f"{name}.ptx is not the file the compiler wrote"
        elif record["inputs_hash"] != hash_files(inputs_of(sources[name])):
            yield f"{name}.ptx was compiled from other sources"
    for path in sorted(set(compiled_files()) - set(map(compiled, sources))):
        yield f"{path.relative_to(PTX)} has no source"


if __name__ == "__main__":
    found = list(problems())
    for problem in found:
        print(f"ptx/ is stale: {problem}; run tools/compile_ptx.sh and commit ptx/", file=sys.stderr)
    sys.exit(bool(found))
