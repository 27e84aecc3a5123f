"""Makes tests/goldens/gguf: a GGUF file with a tensor of every type that is read, and what ggml's own Python package reads from it.

    python tools/gguf_goldens.py tests/goldens/gguf

`every_type.gguf` is written by the package `gguf` of llama.cpp; `every_type.safetensors` holds the same tensors as float32, dequantised by it.
The blocks are random bytes with finite scales, so that every bit of them counts. Needs gguf, numpy and safetensors.
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFWriter, quants
from safetensors.numpy import save_file

ROWS, BLOCKS = 3, 2
# Where the scales of a block are: bytes of its 16-bit floats.
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82], Type.Q3_K: [108],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}


def main(folder):
    random = np.random.default_rng(7)
    writer = GGUFWriter(folder / "every_type.gguf", "t5")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", ""])
    writer.add_array("scores", [1.0, -2.5])
    writer.add_custom_alignment(64)
    values = {}
    for kind, places in SCALES.items():
        elements, size = GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (ROWS * BLOCKS, size), dtype=np.uint8)
        for place in places:
            scales = random.normal(0, 0.1, (ROWS * BLOCKS, 1)).astype("<f2")
            blocks[:, place:place + 2] = scales.view(np.uint8)
        data = blocks.reshape(ROWS, BLOCKS * size)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        values[kind.name] = quants.dequantize(data, kind).reshape(ROWS, BLOCKS * elements)
    plain = random.normal(0, 1, (ROWS, 5)).astype(np.float32)
    for kind in (Type.F32, Type.F16, Type.BF16):
        data = quants.quantize(plain, kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        values[kind.name] = quants.dequantize(data, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file({name: np.ascontiguousarray(value, np.float32) for name, value in values.items()}, folder / "every_type.safetensors")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    main(folder)
