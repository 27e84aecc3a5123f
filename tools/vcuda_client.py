"""What the clients of the virtual driver share: a virtual environment with pinned packages, a run under `tools/vcuda`, and a tally.

A client is one script. Started plainly it makes its environment, then starts itself again inside it, once for each schedule.
"""

import argparse
import os
import re
import subprocess
import sys
import time
import traceback
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSIDE = "VCUDA_CLIENT_INSIDE"


def environment(folder, packages):
    """Makes the virtual environment if it does not hold exactly these packages yet; gives its interpreter."""
    python = folder / "bin" / "python"
    stamp = folder / "packages.txt"
    wanted = "\n".join(packages)
    if not (stamp.exists() and stamp.read_text() == wanted):
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
        stamp.write_text(wanted)
    return python


def outside(script, name, packages, variables, doc):
    """Runs `script` in its environment on the virtual driver under each schedule asked for; exits with the worst status."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--venv", type=Path, default=target / "clients" / name, help="virtual environment to make or use (default: %(default)s)")
    parser.add_argument("--schedules", default=os.environ.get("VCUDA_SCHEDULE", "eager"), help="comma-separated: eager, late, random:SEED (default: VCUDA_SCHEDULE, else eager)")
    parser.add_argument("--only", default="", help="regular expression: only tests whose name it finds")
    arguments = parser.parse_args()
    python = environment(arguments.venv.resolve(), packages)
    worst = 0
    for schedule in arguments.schedules.split(","):
        env = os.environ | variables(arguments.venv.resolve()) | {INSIDE: arguments.only or ".", "VCUDA_SCHEDULE": schedule}
        worst = max(worst, subprocess.run([ROOT / "tools" / "vcuda", python, script], env=env).returncode)
    sys.exit(worst)


def is_inside():
    return INSIDE in os.environ


class Tally:
    """Counts what passes. `known` says what may fail and why: a pair of regular expression for the name and reason."""

    def __init__(self, known=()):
        self.known = [(re.compile(pattern), reason) for pattern, reason in known]
        self.only = re.compile(os.environ.get(INSIDE, "."))
        self.passed = self.failed = self.unexpected = 0
        self.skipped = []
        self.began = time.monotonic()

    def run(self, name, test):
        """Runs one test; what it raises is its reason to fail."""
        if not self.only.search(name):
            return
        try:
            test()
        except Skip as skip:
            self.skip(name, str(skip))
        except Exception as error:
            words = f"{type(error).__name__}: {error}".strip().splitlines()
            self.fail(name, " ".join(word.strip() for word in words)[:400])
            if os.environ.get("VCUDA_CLIENT_TRACE"):
                traceback.print_exc()
        else:
            self.passed += 1

    def fail(self, name, reason):
        self.failed += 1
        expected = next((why for pattern, why in self.known if pattern.fullmatch(name)), None)
        self.unexpected += expected is None
        print(f"FAIL {name}: {reason}" + (f" (known: {expected})" if expected else ""), flush=True)

    def skip(self, name, reason):
        self.skipped.append(name)
        print(f"skip {name}: {reason}", flush=True)

    def end(self):
        """Prints the last line and exits."""
        seconds = time.monotonic() - self.began
        schedule = os.environ.get("VCUDA_SCHEDULE", "eager")
        print(f"{schedule}, {seconds:.0f} s: {self.passed} passed, {self.failed} failed, {len(self.skipped)} skipped", flush=True)
        sys.stdout.flush()
        sys.exit(1 if self.unexpected or not self.passed else 0)


class Skip(Exception):
    """A test that cannot run here, with the reason."""
