"""The parts of tools/gpu_first.sh that read and write files, and its report. Python's standard library alone.

    python3 tools/gpu_first.py report out/gpu_first/results.tar.gz > report.md
"""

import argparse
import array
import csv
import ctypes
import io
import json
import math
import pathlib
import random
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata

MIB = 1 << 20


# ---- what a run asks for -------------------------------------------------------------------------------------------------


def programs(_):
    """Cargo's messages to lines of a test's name and its program."""
    for line in sys.stdin:
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("executable") and message["target"]["kind"] == ["test"]:
            print(message["target"]["name"], message["executable"])


def packages(args):
    """Versions of Python packages."""
    for name in args.names:
        try:
            print(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            print(name, "is not there")


def tensor(path, name):
    """The header's shape and the values of an F32 tensor in a safetensors file."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    entry = json.loads(data[8 : 8 + length])[name]
    if entry["dtype"] != "F32":
        raise SystemExit(f"{path}: {name} is {entry['dtype']}, not F32")
    start, end = entry["data_offsets"]
    values = array.array("f", data[8 + length + start : 8 + length + end])
    if sys.byteorder == "big":
        values.byteswap()
    return entry["shape"], values


def latents(args):
    """How far latents B are from A: exit status 1 beyond the bound, or if other steps were computed."""
    (shape, a), (other, b) = tensor(args.a, "latents"), tensor(args.b, "latents")
    if shape != other:
        raise SystemExit(f"shapes {shape} and {other}")
    if not all(map(math.isfinite, b)):
        raise SystemExit("values that are no numbers")
    largest = max(map(abs, a))
    differences = [abs(x - y) for x, y in zip(a, b)]
    relative = math.sqrt(sum(d * d for d in differences) / sum(x * x for x in a))
    text = f"relative error {relative:.2e}, largest {max(differences) / largest:.2e} of the largest value, {sum(d > 0 for d in differences)} of {len(a)} values differ"
    bad = args.bound is not None and not relative <= args.bound
    if args.bound is not None:
        text += f"; bound {args.bound:g}"
    if args.reports:
        steps = [json.loads(pathlib.Path(path).read_text())["computed_steps"] for path in args.reports]
        if steps[0] != steps[1]:
            text += f"; OTHER STEPS COMPUTED: {steps[1]} in place of {steps[0]}"
            bad = True
        else:
            text += f"; the same {len(steps[0])} steps computed"
    print(text)
    return bad


def needed():
    """(least, all) MiB, from what `generate` says of an impossible --vram-budget."""
    found = re.search(r"at least --vram-budget (\d+)MiB.*from (\d+)MiB on", sys.stdin.read())
    return tuple(map(int, found.groups())) if found else None


def budget(_):
    """A budget in which some blocks stay on the device and some are streamed."""
    both = needed()
    if both:
        print(f"{both[0] + (both[1] - both[0]) // 3}MiB")


def least(_):
    """The least MiB that are needed."""
    both = needed()
    print(both[0] if both else 0)


def field(args):
    print(json.loads(pathlib.Path(args.file).read_text()).get(args.name, ""))


def embedding(args):
    """The embedding of a prompt that nobody wrote."""
    generator = random.Random(0)
    count = args.tokens * args.channels
    values = array.array("f", (generator.gauss(0, 0.2) for _ in range(count)))
    header = json.dumps({"embedding": {"dtype": "F32", "shape": [args.tokens, args.channels], "data_offsets": [0, 4 * count]}}).encode()
    header += b" " * (-len(header) % 8)
    pathlib.Path(args.path).write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())


def crowded(args):
    """Runs a command while all but some MiB of a GPU's memory are taken; its exit status, or 125."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        print(error)
        return 125
    ordinal = int(args.device.partition(":")[2] or 0)
    context, pointer, free, total = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_size_t()
    chunk = 256 * MIB
    calls = [("cuInit", 0), ("cuDevicePrimaryCtxRetain", ctypes.byref(context), ordinal), ("cuCtxSetCurrent", context)]
    calls += [("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))]
    for name, *arguments in calls:
        if code := getattr(driver, name)(*arguments):
            print(f"{name} gives {code}")
            return 125
    while free.value > args.leave * MIB + chunk:
        if code := driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(chunk)):
            print(f"cuMemAlloc gives {code} with {free.value} bytes free")
            return 125
        driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    return subprocess.run(args.command).returncode


def cases(args):
    """Lines `name, verdict, detail` of what `adacache check --json` wrote."""
    lines = [json.loads(line) for line in pathlib.Path(args.file).read_text().splitlines() if line.startswith("{")]
    for case in lines:
        name = "/".join(pathlib.Path(case["case"]).parts[-2:])
        if "error" in case:
            print(name, "FAILED", case["error"], sep="\t")
            continue
        detail = f"relative error {float(case['max_rel_err']):.1e}, {case['seconds']:.2f} s"
        if case["expected_steps"]:
            same = case["computed_steps"] == case["expected_steps"]
            detail += f", {len(case['computed_steps'])} steps computed, {'as' if same else 'NOT as'} the reference"
        print(name, "ok" if case["ok"] else "FAILED", detail, sep="\t")
    if not lines:
        print("cases", "FAILED", "nothing was checked", sep="\t")


def tests(args):
    """Lines `program, verdict, detail` of the tests that were listed and those that ran."""
    listed = [line.split() for line in pathlib.Path(args.listed).read_text().splitlines()]
    ran = pathlib.Path(args.ran)
    results = {}
    for line in ran.read_text().splitlines() if ran.exists() else []:
        program, name, verdict, status, seconds = line.split("\t")
        results[program, name] = (verdict, status, float(seconds))
    for program in dict.fromkeys(program for program, _ in listed):
        names = [name for other, name in listed if other == program]
        found = {name: results[program, name] for name in names if (program, name) in results}
        failed = [f"{name} (status {status})" for name, (verdict, status, _) in found.items() if verdict == "FAILED"]
        passed = sum(verdict == "ok" for verdict, _, _ in found.values())
        ignored = len(found) - passed - len(failed)
        detail = f"{passed} of {len(names)} passed in {sum(s for _, _, s in found.values()):.0f} s"
        detail += f", {ignored} ignored" if ignored else ""
        detail += f", {len(names) - len(found)} not run" if len(found) < len(names) else ""
        detail += f"; failed: {', '.join(failed)}" if failed else ""
        print(program, "FAILED" if failed or len(found) < len(names) else "ok", detail, sep="\t")
    if not listed:
        print("programs", "FAILED", "they list no tests", sep="\t")


# ---- the report ----------------------------------------------------------------------------------------------------------


class Results:
    """The files of a run."""

    def __init__(self, folder):
        self.folder = folder

    def text(self, name):
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def json(self, name):
        """None also for a file that was cut off."""
        try:
            return json.loads(self.text(name))
        except ValueError:
            return None

    def lines(self, name):
        found = []
        for line in self.text(name).splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                pass
        return found

    def rows(self, name):
        return [line.split("\t") for line in self.text(name).splitlines()]


def milliseconds(seconds):
    return f"{seconds * 1e3:.3g} ms"


def rates(seconds, flops, count):
    texts = []
    if flops > 1e6:
        texts.append(f"{flops / seconds / 1e12:.3g} TFLOP/s")
    if count:
        texts.append(f"{count / seconds / 1e9:.3g} GB/s")
    return ", ".join(texts)


def of_shape(shape):
    return dict((key, int(value)) for key, value in re.findall(r"(\w+)=(\d+)", shape))


class Model:
    """What was modelled before anything ran."""

    def __init__(self, results):
        self.plan = results.json("modelled/plan-none.json")
        self.interval = results.json("modelled/plan-interval.json")
        (kernels,) = (results.json("modelled/kernels.json") or {"modelled": [{"kernels": [], "operations": []}]})["modelled"]
        self.kernels = {kernel["entry"]: kernel for kernel in kernels["kernels"]}
        self.operations = kernels["operations"]

    def shares(self, result):
        """As src/profile/roofline.rs: the longer of arithmetic and traffic, at the stated shares of the peaks."""
        if not self.plan:
            return None
        gpu, efficiency, work = self.plan["gpu"], self.plan["efficiency"], result["work"]
        name = "linear" if result["op"] == "conv" else result["op"]
        if any(kernel.endswith("_wgmma") for kernel in result["kernels"]):
            name = {"linear": "wgmma", "attention": "wgmma_attention"}[name]
        rate = 1
        if any(kernel.startswith("linear_fp8") for kernel in result["kernels"]):
            name, rate = "wgmma_fp8", 2
        share = efficiency.get(name)
        arithmetic = work["flops"] / (rate * gpu["tensor_flops"] * share["value"]) if share else 0.0
        traffic = (work["bytes_read"] + work["bytes_written"]) / (gpu["bandwidth"] * efficiency["memory"]["value"])
        return max(arithmetic, traffic) + efficiency["launch_seconds"]

    def bound(self, result):
        """The kernel model's bound for the same kernel at the same size, where it has one."""
        n = of_shape(result["shape"])
        for operation in self.operations:
            kind = operation["operation"]["kind"]
            if operation["entry"] not in result["kernels"]:
                continue
            if result["op"] == "linear" and kind.get("linear", {}).get("shape") == [n["m"], n["n"], n["k"]]:
                return operation["bound"]["seconds"]
            if result["op"] == "attention" and "attention" in kind:
                b, t, s = n["batch"], n["frames"], n["tokens"]
                sizes = {"spatial": (b * t, s, s), "temporal": (b * s, t, t), "cross": (b, t * s, n.get("text")), "whole": (b, t * s, t * s)}
                sequences, queries, keys = sizes[result["shape"].split()[0]]
                wanted = {"heads": n["heads"], "kv_len": keys, "q_len": queries, "sequences": sequences}
                if kind["attention"] == wanted:
                    return operation["bound"]["seconds"]
        return None


class Table:
    """Rows of Markdown."""

    def __init__(self, measured, modelled):
        self.head = ["part", "what", "result", f"measured on {measured}", f"modelled for {modelled}", "others on the same device"]
        self.rows_ = []

    def row(self, *cells):
        cells = [str(cell).replace("|", "\\|") for cell in cells]
        self.rows_.append(cells + [""] * (len(self.head) - len(cells)))

    def __str__(self):
        lines = [self.head, ["--"] * len(self.head), *self.rows_]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def bench_rows(results, model, table):
    others = [line for line in results.lines("compare.jsonl") if "by" in line]
    for path in sorted(results.folder.glob("bench-*.json")):
        document = results.json(path.name)
        if not document:
            continue
        for result in document["results"]:
            cold, batched = result["cold"], result["batched"]
            seconds, work = batched["median_seconds"], result["work"]
            measured = f"{milliseconds(seconds)}, {rates(seconds, work['flops'], work['bytes_read'] + work['bytes_written'])}"
            if result["percent_of_peak"] is not None:
                measured += f", {result['percent_of_peak']:.0f} % of the roofline"
            measured += f"; cold {milliseconds(cold['median_seconds'])} ± {100 * cold['noise']:.0f} %"
            modelled = []
            if model.plan:
                modelled.append(f"{milliseconds(model.shares(result))} at the stated shares")
            bound = model.bound(result)
            if bound:
                modelled.append(f"at least {milliseconds(bound)} by the kernel model")
            beside = [other_text(o, seconds) for o in others if o["op"] == result["op"] and o["shape"] == result["shape"]]
            kernels = " by the kernels of all GPUs" if document["device"]["id"].endswith(":sm_80") else ""
            table.row("bench", f"{result['op']} {result['shape']} {result['dtype']}{kernels}", "", measured, "; ".join(modelled), "; ".join(beside))
    for o in others:
        if o["op"] == "ceiling":
            table.row("compare", f"{o['by']}: {o['shape']}", "", other_text(o, None))


def other_text(o, ours):
    if "error" in o:
        return f"{o['by']}: {o['error']}"
    seconds = o["batched_seconds"]
    text = f"{o['by']} {milliseconds(seconds)}, {rates(seconds, o['flops'], o['bytes'])}"
    return text + (f" (ours takes {ours / seconds:.2f} times that)" if ours else "") + (f" [{o['note']}]" if o["note"] else "")


def full_rows(results, model, table):
    for name, plan in [("resident", model.plan), ("streamed", model.plan), ("interval", model.interval)]:
        report = results.json(f"full/{name}.json")
        if not report:
            continue
        steps = report["seconds"]["per_step"]
        computed = [s for i, s in enumerate(steps, 1) if i in report["computed_steps"]]
        reused = [s for i, s in enumerate(steps, 1) if i not in report["computed_steps"]]
        # The first step waits for kernels to be loaded.
        texts = [f"computed steps {', '.join(milliseconds(s) for s in computed)}"]
        texts += [f"reused {', '.join(milliseconds(s) for s in reused)}"] if reused else []
        texts += [f"denoising {report['seconds']['denoise']:.3g} s, in all {report['seconds']['total']:.3g} s"]
        same = plan and math.isclose(report["flops"]["total"], flops_of(plan, report), rel_tol=1e-3)
        modelled = ""
        if same:
            modelled = f"computed step {milliseconds(plan['computed_step']['modelled_seconds'])}"
            modelled += f", reused {milliseconds(plan['reused_step']['modelled_seconds'])}" if plan["reused_step"] and reused else ""
            modelled += "; the copies of weights are not in it" if report["streamed_weight_bytes"] else ""
        table.row("full", f"{name}: {report['device']}, {len(steps)} steps", "", "; ".join(texts), modelled)
        planned = ""
        if same and not report["streamed_weight_bytes"]:
            planned = f"{plan['memory']['peak'] / MIB:.0f} MiB counted by the plan"
        elif report["memory_budget"]:
            planned = f"{report['memory_budget'] / MIB:.0f} MiB at most (--vram-budget)"
        table.row("full", f"{name}: memory at the most", "", f"{report['peak_device_bytes'] / MIB:.0f} MiB allocated", planned)
    used = [float(row[5]) for row in csv.reader(io.StringIO(results.text("smi.csv"))) if len(row) == 7 and row[5].strip().isdigit()]
    if used:
        table.row("run", "memory used of the GPU, as nvidia-smi samples it", "", f"{min(used):.0f} to {max(used):.0f} MiB")


def flops_of(plan, report):
    """Operations of the planned steps as the report ran them: about the same only if it was the same model and size."""
    computed = len(report["computed_steps"])
    reused = report["steps"] - computed
    return plan["computed_step"]["flops"] * computed + (plan["reused_step"]["flops"] * reused if plan["reused_step"] else 0)


# Of Nsight Compute's metrics, by name: what they are called here, unit.
METRICS = [
    (r"gpu__time_duration\.sum", "duration", ""),
    (r"sm__warps_active\.avg\.pct_of_peak_sustained_active", "warps active", " %"),
    (r"sm__maximum_warps_per_active_cycle_pct", "of that possible", " %"),
    (r"launch__registers_per_thread", "registers", ""),
    (r"(gpu__)?dram__throughput\.avg\.pct_of_peak_sustained_elapsed", "DRAM", " %"),
    (r"l1tex__throughput\.avg\.pct_of_peak_sustained_active", "L1", " %"),
    (r"lts__t?_?throughput\.avg\.pct_of_peak_sustained_elapsed", "L2", " %"),
    (r"sm__throughput\.avg\.pct_of_peak_sustained_elapsed", "SM", " %"),
    (r"sm__(inst_executed_)?pipe_tensor\w*\.avg\.pct_of_peak_sustained_active", "tensor pipe", " %"),
    (r"smsp__issue_active\.avg\.pct_of_peak_sustained_active|smsp__issue_active\.avg\.per_cycle_active", "issue", ""),
]
STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio")


def ncu_rows(results, model, table):
    for path in sorted(results.folder.glob("ncu/*.csv")):
        if path.stem.endswith("-details"):
            continue
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.startswith('"')]
        rows = list(csv.reader(lines))
        if len(rows) < 3:
            continue
        names, units = rows[0], rows[1]
        for values in rows[2:]:
            found = dict(zip(names, values))
            kernel = re.sub(r"\(.*", "", found.get("Kernel Name", "?"))
            texts = []
            for pattern, called, unit in METRICS:
                hits = [(number(v), u) for n, u, v in zip(names, units, values) if re.fullmatch(pattern, n) and number(v) is not None]
                if hits:
                    value, own = max(hits)
                    texts.append(f"{called} {value:.4g}{unit or (' ' + own if called == 'duration' else '')}")
            stalls = sorted(((number(v), STALL.fullmatch(n)[1]) for n, v in zip(names, values) if STALL.fullmatch(n) and number(v)), reverse=True)
            texts += [f"waits {', '.join(f'{what} {value:.2f}' for value, what in stalls[:3])} warps an instruction"] if stalls else []
            modelled = ""
            if kernel in model.kernels:
                entry = model.kernels[kernel]
                modelled = f"{entry['occupancy']['warps']} warps, {entry['figures']['registers']} registers"
                if entry["bound"]:
                    modelled += f", limit {entry['limit']}, tensor pipe at most {100 * entry['bound']['of_peak']:.0f} % of the peak"
            table.row("ncu", f"{path.stem}: {kernel}", "", ", ".join(texts), modelled)


def number(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def report(args):
    """The table; what did not run has no figures."""
    source = pathlib.Path(args.results)
    if source.is_dir():
        results = Results(source)
    else:
        folder = tempfile.TemporaryDirectory()
        try:
            with tarfile.open(source) as archive:
                archive.extractall(folder.name, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise SystemExit(f"cannot read {source}: {error}")
        results = Results(pathlib.Path(folder.name) / "results")
    if not results.text("run.txt"):
        raise SystemExit(f"{source} holds no results of tools/gpu_first.sh run")
    model = Model(results)
    measured = next((d["device"] for d in map(results.json, ["bench-linear.json", "bench-attention.json"]) if d), None)
    device = measured["name"] if measured else results.text("run.txt").split(",")[0]
    table = Table(device, model.plan["gpu"]["name"] if model.plan else "nothing")
    checks = results.rows("checks.tsv")
    for part, verdict, seconds in results.rows("parts.tsv"):
        ran = not verdict.startswith("not run")
        table.row(f"**{part}**", "", verdict if verdict in ("ok", "skipped") else f"**{verdict}**", f"{seconds} s" if ran else "")
        for _, name, word, detail in (check for check in checks if check[0] == part):
            table.row(part, name, word if word in ("ok", "skipped") else f"**{word}**", detail)
        if part == "bench":
            bench_rows(results, model, table)
        elif part == "full":
            full_rows(results, model, table)
        elif part == "ncu":
            ncu_rows(results, model, table)
        elif part == "extras":
            for d in (results.json("differences.json") or {"differences": []})["differences"]:
                table.row("extras", f"difference to the virtual GPU: {d['op']} {d['shape']}", "",
                          f"{d['different']} of {d['elements']} values, at most {d['max_ulp']} units in the last place, {d['max_relative']:.1e} relative")

    print("# First contact\n")
    print(f"{results.text('run.txt').strip()}.", *(f"{line}." for line in results.text("prepared.txt").splitlines()), sep="  \n")
    devices = results.text("logs/facts-devices.log") or results.text("devices.txt")
    print("\n```\n" + devices.strip() + "\n```\n")
    if measured:
        print(f"Times of operations: {measured['clock']}.", end=" ")
    if model.plan:
        print(f"Modelled figures are for {model.plan['gpu']['name']}; nobody measured them.", end=" ")
        peaks = (measured or {}).get("peaks") or {}
        if measured and peaks.get("id") != model.plan["gpu"]["id"]:
            print("**That is not the device of this run: measured and modelled figures do not belong together.**", end=" ")
    print("Parts that did not run have no figures.\n")
    print(table)
    failed = results.text("failed-tests.log")
    if failed:
        print(f"\n<details><summary>failed tests</summary>\n\n```\n{failed[-20000:]}\n```\n</details>")
    left_out = results.text("left-out.txt")
    if left_out:
        print("\n" + left_out)


def main():
    parser = argparse.ArgumentParser(description="Parts of tools/gpu_first.sh.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run, *arguments):
        sub = commands.add_parser(run.__name__, help=(run.__doc__ or "").splitlines()[0] if run.__doc__ else None)
        for name, options in arguments:
            sub.add_argument(name, **options)
        sub.set_defaults(run=run)

    command(programs)
    command(packages, ("names", {"nargs": "+"}))
    command(latents, ("a", {}), ("b", {}), ("--bound", {"type": float}), ("--reports", {"nargs": 2, "default": []}))
    command(budget)
    command(least)
    command(field, ("file", {}), ("name", {}))
    command(embedding, ("path", {}), ("tokens", {"type": int}), ("channels", {"type": int}))
    command(crowded, ("device", {}), ("leave", {"type": int}), ("command", {"nargs": argparse.REMAINDER}))
    command(cases, ("file", {}))
    command(tests, ("listed", {}), ("ran", {}))
    command(report, ("results", {"help": "results.tar.gz, or the folder in it"}))
    args = parser.parse_args()
    sys.exit(int(args.run(args) or 0))


if __name__ == "__main__":
    main()
