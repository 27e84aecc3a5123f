"""Checks the oldest Rust that the project promises, `rust-version` in Cargo.toml: `python3 tools/msrv.py`, a part of .ci/run.

Every package of the workspace must say the same version, and no package in Cargo.lock may ask for a newer one. Then the workspace is checked with that
Rust, if it is installed. If it is not, this says so: what is left then is clippy's lint `incompatible_msrv`, which is on by itself and knows the
standard library by versions, not the language.
"""

import json
import re
import shutil
import subprocess
import sys


def said(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def number(version):
    return tuple(int(part) for part in version.split("."))[:2]


def toolchain(wanted):
    """The argument that gives cargo Rust `wanted`; "" where it is the one at hand, None where it is not installed."""
    if number(re.search(r"\d+\.\d+", said("rustc", "--version"))[0]) == number(wanted):
        return ""
    installed = said("rustup", "toolchain", "list").split("\n") if shutil.which("rustup") else []
    names = (line.split()[0] for line in installed if re.match(rf"{re.escape(wanted)}(\.\d+)?-", line))
    return next((f"+{name}" for name in names), None)


def main():
    host = re.search(r"host: (\S+)", said("rustc", "-vV"))[1]
    metadata = json.loads(said("cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", host))
    ours = [p for p in metadata["packages"] if p["id"] in metadata["workspace_members"]]
    versions = {p["rust_version"] for p in ours}
    if len(versions) != 1 or None in versions:
        sys.exit("not one rust-version for all: " + ", ".join(f"{p['name']} {p['rust_version']}" for p in ours))
    wanted = versions.pop()
    newer = [p for p in metadata["packages"] if p["rust_version"] and number(p["rust_version"]) > number(wanted)]
    if newer:
        sys.exit(f"newer than Rust {wanted}: " + ", ".join(f"{p['name']} {p['rust_version']}" for p in newer))
    argument = toolchain(wanted)
    if argument is None:
        print(f"Rust {wanted} is not installed (rustup toolchain install {wanted}): the workspace is NOT checked with it, clippy's incompatible_msrv is all")
        return 0
    command = ["cargo", *filter(None, [argument]), "check", "--workspace", "--locked"]
    print(" ".join(command), flush=True)
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
