#!/usr/bin/env python3
"""A table of many folders that `adacache.compare` or `adacache compare` wrote: what each cache saved and changed, on which device.

    python3 tools/collect.py FOLDER…            as text
    python3 tools/collect.py --csv FOLDER…      as comma-separated values

A folder holds results.json, and device.json where it comes from a pipeline of diffusers. Needs nothing but Python.
"""
import csv
import json
import sys
from pathlib import Path

COLUMNS = ["model", "cache", "runs", "steps", "computed", "compute", "psnr", "ssim", "seconds", "speedup", "device", "dtype", "folder"]


def rows(folder):
    """One row for each cache of a folder."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{folder}: no results of a comparison: {error}")
    facts = json.loads((folder / "device.json").read_text(encoding="utf-8")) if (folder / "device.json").exists() else {}
    summaries = results["summaries"]
    original = next((s["seconds"]["mean"] for s in summaries if s["cache"] == "none"), None)
    for s in summaries:
        seconds = s["seconds"]["mean"]
        yield {
            "model": results["model"], "cache": s["cache"], "runs": s["runs"], "steps": results["steps"],
            "computed": round(s["computed_steps"]["mean"], 1), "compute": round(s["compute"]["mean"], 3), "psnr": round(s["psnr"]["mean"], 2),
            "ssim": round(s["ssim"]["mean"], 4), "seconds": round(seconds, 2),
            "speedup": round(original / seconds, 2) if original and seconds else "", "device": facts.get("device", results["device"]),
            "dtype": facts.get("dtype", results["dtype"]), "folder": folder.name,
        }


def main():
    arguments = sys.argv[1:]
    as_csv = "--csv" in arguments
    folders = [Path(argument) for argument in arguments if argument != "--csv"]
    if not folders or any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__.strip())
        return 0 if folders else 2
    table = [row for folder in folders for row in rows(folder)]
    if as_csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
        return 0
    wide = {column: max(len(column), *(len(str(row[column])) for row in table)) for column in COLUMNS}
    for line in [{column: column for column in COLUMNS}, *table]:
        print("  ".join(str(line[column]).ljust(wide[column]) for column in COLUMNS).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
