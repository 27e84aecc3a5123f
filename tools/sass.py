"""Machine code of a cubin in figures: each kernel's main loop, counted by pipe. Used by compile_ptx.py and compare_triton.py.

The main loop is the natural loop with the most tensor instructions outside of loops nested in it (without tensor instructions:
with the most instructions). Instructions of nested loops are not counted with it but reported as `nested`: a kernel's hot
path is straight-line code, what loops in it are the paths for odd shapes. Code that a forward branch may skip counts as if
it always ran, so the figures err against the kernel. Where some warps copy by tensor maps for the others, the largest loop with such a copy is
`copying`. docs/kernel-model.md says what is made of them.
"""

import collections
import os
import pathlib
import re
import subprocess
import tempfile

FMA_PIPE = re.compile(r"FFMA|FMUL|FADD|IMAD|HFMA2|HADD2|HMUL2")
CONTROL = re.compile(r"BRA|BRX|EXIT|RET|CALL|BSSY|BSYNC|BREAK|NOP|WARPSYNC|YIELD|NANOSLEEP|DEPBAR|LDGDEPBAR|ACQBULK|CCTL|MEMBAR|ERRBAR|FENCE|ELECT")
LABELLED = re.compile(r"`\((\.L[\w.$]+)\)")


def cubin(ptxas, target, ptx_path):
    """(cubin bytes, ptxas -v report) of a PTX file; raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.cubin")
        run = subprocess.run(
            [str(ptxas), "-v", f"--gpu-name={target}", str(ptx_path), "-o", out], capture_output=True, text=True, check=True
        )
        return pathlib.Path(out).read_bytes(), run.stderr


def resources(report):
    """{entry: {registers, spill_stores, spill_loads, stack, shared}} of a `ptxas -v` report."""
    figures, entry, properties_of = {}, None, None
    for line in report.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            entry = found[1]
            figures[entry] = {"registers": 0, "spill_stores": 0, "spill_loads": 0, "stack": 0, "shared": 0}
        elif found := re.search(r"Function properties for (\S+)", line):
            properties_of = found[1]
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if properties_of == entry:
                stack, stores, loads = map(int, found.groups())
                figures[entry].update(spill_stores=stores, spill_loads=loads, stack=stack)
        elif found := re.search(r"Used (\d+) registers", line):
            figures[entry]["registers"] = int(found[1])
            shared = re.search(r"(\d+) bytes smem", line)
            figures[entry]["shared"] = int(shared[1]) if shared else 0
    return figures


def disassemble(nvdisasm, binary):
    """{kernel: [(label or None, instruction text)]}"""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([str(nvdisasm), "-c", file.name], capture_output=True, text=True, check=True).stdout
    kernels, code, labels = {}, None, []
    for line in text.splitlines():
        if found := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            code = kernels.setdefault(found[1], [])
        elif re.match(r"\s*\.section\s", line):
            code = None
        elif code is None:
            continue
        elif found := re.match(r"(\.L[\w.$]+):", line):
            labels.append(found[1])
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            code.append((tuple(labels), found[1].strip("{} ")))
            labels = []
    return kernels


def opcode(text):
    """(predicated, opcode with its modifiers)"""
    words = text.split()
    predicated = words[0].startswith("@")
    return predicated, words[1 if predicated else 0]


def successors(code):
    """For every instruction the instructions that may follow it."""
    place = {label: i for i, (labels, _) in enumerate(code) for label in labels}
    meeting = {}
    result = []
    for i, (_, text) in enumerate(code):
        predicated, name = opcode(text)
        name = name.split(".")[0]
        target = LABELLED.search(text)
        after = [i + 1] if i + 1 < len(code) else []
        if name == "BSSY" and target:
            meeting[text.split()[-2].rstrip(",")] = place.get(target[1])
        if name == "BRA" and target and target[1] in place:
            conditional = predicated or re.search(r"\bU?P\d|DIV|CONV", text.split("`")[0]) is not None
            after = [place[target[1]]] + (after if conditional else [])
        elif name in ("EXIT", "RET", "BRX") and not predicated:
            after = []
        elif name == "BSYNC":
            register = text.split()[-1]
            if meeting.get(register) is not None:
                after = [meeting[register]] + (after if predicated else [])
        result.append(after)
    return result


def blocks_of(code):
    """Basic blocks as ranges of instructions, and their edges."""
    follow = successors(code)
    starts = {0}
    for i, after in enumerate(follow):
        if after != [i + 1]:
            starts.update(after)
            starts.add(i + 1)
    starts = sorted(s for s in starts if s < len(code))
    number = {start: b for b, start in enumerate(starts)}
    ends = starts[1:] + [len(code)]
    return list(zip(starts, ends)), [sorted({number[a] for a in follow[end - 1]}) for end in ends]


def natural_loops(edges):
    """{header: set of blocks}"""
    before = collections.defaultdict(list)
    for block, after in enumerate(edges):
        for a in after:
            before[a].append(block)
    # Reverse postorder, then dominators until nothing changes.
    order, seen, stack = [], {0}, [(0, iter(edges[0]))]
    while stack:
        block, rest = stack[-1]
        following = next((a for a in rest if a not in seen), None)
        if following is None:
            order.append(block)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(edges[following])))
    order.reverse()
    at = {block: i for i, block in enumerate(order)}
    parent, changed = {0: 0}, True
    while changed:
        changed = False
        for block in order[1:]:
            known = [b for b in before[block] if b in parent]
            new = known[0]
            for other in known[1:]:
                while new != other:
                    if at[new] > at[other]:
                        new = parent[new]
                    else:
                        other = parent[other]
            if parent.get(block) != new:
                parent[block], changed = new, True

    def dominates(a, b):
        while b != a and b != 0:
            b = parent[b]
        return a == b

    loops = {}
    for block in order:
        for header in edges[block]:
            if dominates(header, block):
                body, queue = loops.setdefault(header, {header}), [block]
                while queue:
                    b = queue.pop()
                    if b not in body:
                        body.add(b)
                        queue.extend(p for p in before[b] if p in seen)
    return loops


def width(name):
    """Bytes a lane moves."""
    for bits, size in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
        if bits in name.split(".")[1:]:
            return size
    return 4


def count(instructions):
    """Figures of a run of instructions, for one warp."""
    figures = collections.Counter()
    tensor = collections.Counter()
    for text in instructions:
        name = opcode(text)[1]
        base = name.split(".")[0]
        figures["issue"] += 1
        if text.startswith("@!PT"):  # never runs: ptxas keeps its distance from a hazard
            figures["other"] += 1
        elif base in ("HMMA", "HGMMA", "QGMMA", "IMMA", "DMMA", "QMMA", "OMMA"):
            tensor[name] += 1
            if shape := re.match(r"[HQ]GMMA\.(\d+)x(\d+)x\d+", name):
                # A warp's quarter of what its group reads: 32 bytes of every row of b, and of a unless that is in registers.
                rows = int(shape[2]) + (int(shape[1]) if re.match(r"R\d+, gdesc", text.split(name)[1].strip()) else 0)
                figures["shared_bytes"] += 32 * rows // 4
        elif base == "LDSM":
            figures["ldsm"] += 1
            # 8x8 matrices of 16 bits: 128 bytes each.
            figures["shared_bytes"] += 128 * int(name.split(".")[-1] if name[-1] in "24" else 1)
        elif base in ("LDS", "STS"):
            figures[base.lower()] += 1
            figures["shared_bytes"] += 32 * max(width(name), 4)
        elif base == "LDGSTS":
            figures["ldgsts"] += 1
            figures["shared_bytes"] += 32 * width(name)
            figures["global_bytes"] += 32 * width(name)
        elif base in ("LDG", "LD", "STG", "ST"):
            figures["ldg" if base.startswith("L") else "stg"] += 1
            figures["global_bytes"] += 32 * width(name)
        elif base in ("LDL", "STL"):
            figures["local"] += 1
        elif base == "SHFL":
            figures["shfl"] += 1
            figures["shared_bytes"] += 128
        elif base == "MUFU":
            figures["mufu"] += 1
        elif base == "BAR":
            figures["bar"] += 1
        elif FMA_PIPE.match(base):
            figures["fma"] += 1
        elif CONTROL.match(base) or base.startswith("U") or base in ("R2UR", "S2UR", "S2R", "CS2R"):
            figures["other"] += 1
        else:
            figures["alu"] += 1
    return {"tensor": dict(sorted(tensor.items())), **dict(sorted(figures.items()))}


def main_loop(code):
    """Figures of the main loop, or None for straight-line code."""
    if not code:
        return None
    blocks, edges = blocks_of(code)
    loops = natural_loops(edges)
    best = copying = None
    for header, body in loops.items():
        nested = set().union(*(b for h, b in loops.items() if h != header and h in body and b < body), set())
        own = [code[i][1] for block in sorted(body - nested) for i in range(*blocks[block])]
        if len(own) == 1:  # the trap behind a kernel's end
            continue
        figures = count(own)
        inner = sum(end - start for start, end in (blocks[b] for b in nested))
        if inner:
            figures["nested"] = inner
        tensor = sum(figures["tensor"].values())
        # Of two with the same tensor instructions the smaller: the loop proper, not the one around it with a copy for the rest.
        rank = (tensor, -figures["issue"] if tensor else figures["issue"])
        if best is None or rank > best[0]:
            best = (rank, figures)
        copies = any("UTMALDG" in code[i][1] for block in body for i in range(*blocks[block]))
        if copies and not tensor and (copying is None or figures["issue"] > copying["issue"]):
            copying = figures
    if best and copying:
        best[1]["copying"] = copying
    return best and best[1]


def main_loops(nvdisasm, binary):
    """{kernel: figures of its main loop or None}"""
    return {name: main_loop(code) for name, code in disassemble(nvdisasm, binary).items()}
