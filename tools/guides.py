#!/usr/bin/env python3
"""Checks that the worked diffs of the guides (docs/add-a-*.md) apply to the tree as it is. CI runs it; `git apply` does the work."""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

failed = False
for guide in sorted((ROOT / "docs").glob("add-a-*.md")):
    diffs = re.findall(r"^```diff\n(.*?)^```$", guide.read_text(), re.S | re.M)
    diff = "".join(diffs)
    result = subprocess.run(["git", "apply", "--check", "-"], cwd=ROOT, input=diff, text=True, capture_output=True)
    print(f"docs/{guide.name}: {len(diffs)} diffs, {'apply' if result.returncode == 0 else 'do NOT apply:'}")
    if result.returncode or not diffs:
        print(result.stderr, file=sys.stderr)
        failed = True
sys.exit(failed)
