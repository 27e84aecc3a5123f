"""Writes a small random checkpoint in Open-Sora 1.2's published layout: transformer, video autoencoder, T5 encoder and tokenizer.

    python tools/tiny_opensora.py DIR                  # DIR/{OpenSora-STDiT-v3,OpenSora-VAE-v1.2,t5-v1_1-xxl}
    python tools/tiny_opensora.py DIR --text bin       # the text encoder as .bin shards, as its repository has it
    python tools/tiny_opensora.py tests/goldens/opensora_tiny --without-vae
    python tools/tiny_opensora.py DIR --full           # the transformer alone, in its published size: 2.2 GB; needs Python only

`adacache pull opensora-v1.2 --from DIR` takes it from there. Beside the text encoder lie reference.json and reference.safetensors:
prompts, their tokens, and the hidden states that the `transformers` implementation gives for them, padded and masked.
Needs torch, transformers, tokenizers, safetensors (pip install torch transformers tokenizers safetensors), which --full does without.
Takes about ten seconds on a CPU, most of them for imports; --full half a minute where the disk keeps up.
"""

import argparse
import json
import math
import random
import struct
from importlib.util import find_spec
from pathlib import Path

try:
    import torch
    from safetensors.torch import save as to_bytes
except ImportError:
    torch = None

# STDiT3-XL/2 as published.
FULL = dict(
    depth=28, hidden_size=1152, num_heads=16, in_channels=4, caption_channels=4096, model_max_length=300, patch_size=[1, 2, 2],
    mlp_ratio=4.0, pred_sigma=True, qk_norm=True, input_sq_size=512,
)
TRANSFORMER = dict(
    depth=2, hidden_size=32, num_heads=1, in_channels=4, caption_channels=32, model_max_length=300, patch_size=[1, 2, 2],
    mlp_ratio=4.0, pred_sigma=True, qk_norm=True, input_sq_size=512,
)
SPATIAL = dict(
    in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[32, 32, 64, 64], layers_per_block=1, latent_channels=4, norm_num_groups=32,
)
TEMPORAL = dict(
    in_out_channels=4, latent_embed_dim=4, embed_dim=4, filters=32, num_res_blocks=1, channel_multipliers=[1, 2, 2, 2],
    temporal_downsample=[False, True, True],
)
TEXT = dict(
    architectures=["T5EncoderModel"], model_type="t5", vocab_size=160, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2,
    num_heads=4, relative_attention_num_buckets=32, relative_attention_max_distance=128, dropout_rate=0.1, layer_norm_epsilon=1e-06,
    initializer_factor=1.0, feed_forward_proj="gated-gelu", tie_word_embeddings=False, is_encoder_decoder=True, use_cache=True,
    pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
)
# What the tokenizer is trained on, and the prompts of the reference.
CORPUS = [
    "a white cat walking through tall grass at sunset. aesthetic score: 6.5.",
    "a drone flies over a river between snowy mountains, motion score: 3.0. camera motion: pan left.",
    "two red boats on the sea in the morning light; a gull flies over the water.",
    "a street of the city at night with cars, people and rain on the window",
]
PROMPTS = [
    "a white cat walking through tall grass at sunset. aesthetic score: 6.5.",
    "rain",
    "a gull flies over the snowy mountains and over two red boats, zebra quartz jinx 42!",
    "",
]


def full_tensors():
    """Published names of STDiT3-XL/2 with their shapes and the size of their values: ("around", mean, spread) or ("rope",)."""
    c, d, cap = FULL["hidden_size"], FULL["hidden_size"] // FULL["num_heads"], FULL["caption_channels"]
    hidden = int(c * FULL["mlp_ratio"])

    def linear(name, out, *inputs):
        yield f"{name}.weight", (out, *inputs), ("around", 0.0, 0.7 / math.sqrt(math.prod(inputs)))
        yield f"{name}.bias", (out,), ("around", 0.0, 0.05)

    yield from linear("x_embedder.proj", c, 4, 1, 2, 2)
    for name in ["t_embedder", "fps_embedder"]:
        yield from linear(f"{name}.mlp.0", c, 256)
        yield from linear(f"{name}.mlp.2", c, c)
    yield from linear("t_block.1", 6 * c, c)
    yield from linear("y_embedder.y_proj.fc1", c, cap)
    yield from linear("y_embedder.y_proj.fc2", c, c)
    yield "y_embedder.y_embedding", (FULL["model_max_length"], cap), ("around", 0.0, 0.2)
    yield "rope.freqs", (d // 2,), ("rope",)
    for i in range(FULL["depth"]):
        for block in [f"spatial_blocks.{i}", f"temporal_blocks.{i}"]:
            yield f"{block}.scale_shift_table", (6, c), ("around", 0.0, 1 / math.sqrt(c))
            yield from linear(f"{block}.attn.qkv", 3 * c, c)
            yield from linear(f"{block}.attn.proj", c, c)
            for norm in ["q_norm", "k_norm"]:
                yield f"{block}.attn.{norm}.weight", (d,), ("around", 1.0, 0.0)
            yield from linear(f"{block}.cross_attn.q_linear", c, c)
            yield from linear(f"{block}.cross_attn.kv_linear", 2 * c, c)
            yield from linear(f"{block}.cross_attn.proj", c, c)
            yield from linear(f"{block}.mlp.fc1", hidden, c)
            yield from linear(f"{block}.mlp.fc2", c, hidden)
    yield "final_layer.scale_shift_table", (2, c), ("around", 0.0, 1 / math.sqrt(c))
    yield from linear("final_layer.linear", 32, c)


def spread_table(std):
    """High bytes of bf16 by a random byte, so that with random low bytes the values are symmetric around 0 with this deviation.

    A low byte has the exponent's last bit and the mantissa: magnitudes of one high byte are 2^e (1 + m), m in [0, 1), and twice that, with
    root mean square 2^e sqrt((1 + 4) / 2 * 7 / 3), e odd. Two neighbouring high bytes are mixed.
    """
    unit = math.sqrt(2.5 * 7 / 3)
    e = math.ceil(math.log2(std / unit))
    e += 1 - e % 2
    high, low = (unit * 2.0**e) ** 2, (unit * 2.0 ** (e - 2)) ** 2
    share = round(128 * (std**2 - low) / (high - low))
    return bytes(sign << 7 | (e + 127 >> 1) - (i >= share) for sign in (0, 1) for i in range(128))


def write_random(path, tensors, seed):
    """Streams a checkpoint of `(name, shape, values)` to `path`, a slice of a tensor at a time; renamed when it is whole."""
    header, end = {}, 0
    for name, shape, _ in tensors:
        bytes_of = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + bytes_of]}
        end += bytes_of
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    generator = random.Random(seed)
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape, (kind, *values) in tensors:
            count = math.prod(shape)
            if kind == "rope":
                # bf16 is the upper half of f32.
                freqs = [10000.0 ** (-2 * k / (2 * count)) for k in range(count)]
                file.write(b"".join(struct.pack("<f", f)[2:] for f in freqs))
            elif values[1] == 0.0:
                file.write(struct.pack("<f", values[0])[2:] * count)
            else:
                table = spread_table(values[1])
                for start in range(0, count, 1 << 20):
                    n = min(1 << 20, count - start)
                    data = bytearray(2 * n)
                    data[0::2] = generator.randbytes(n)
                    data[1::2] = generator.randbytes(n).translate(table)
                    file.write(data)
    partial.rename(path)


def normal(shape, std, generator):
    return (torch.randn(shape, generator=generator) * std).to(torch.bfloat16)


def linear(tensors, name, out, inputs, generator, bias=True):
    tensors[f"{name}.weight"] = normal((out, inputs), 0.7 / math.sqrt(inputs), generator)
    if bias:
        tensors[f"{name}.bias"] = normal((out,), 0.05, generator)


def transformer(generator):
    """Published tensor names of STDiT3."""
    c, t = TRANSFORMER["hidden_size"], {}
    d, cap, hidden = c // TRANSFORMER["num_heads"], TRANSFORMER["caption_channels"], int(c * TRANSFORMER["mlp_ratio"])
    t["x_embedder.proj.weight"] = normal((c, 4, 1, 2, 2), 0.25, generator)
    t["x_embedder.proj.bias"] = normal((c,), 0.05, generator)
    for name in ["t_embedder", "fps_embedder"]:
        linear(t, f"{name}.mlp.0", c, 256, generator)
        linear(t, f"{name}.mlp.2", c, c, generator)
    linear(t, "t_block.1", 6 * c, c, generator)
    linear(t, "y_embedder.y_proj.fc1", c, cap, generator)
    linear(t, "y_embedder.y_proj.fc2", c, c, generator)
    t["y_embedder.y_embedding"] = normal((TRANSFORMER["model_max_length"], cap), 0.2, generator)
    t["rope.freqs"] = 1.0 / 10000.0 ** (torch.arange(0, d, 2).float() / d)
    for i in range(TRANSFORMER["depth"]):
        for kind in ["spatial", "temporal"]:
            block = f"{kind}_blocks.{i}"
            t[f"{block}.scale_shift_table"] = normal((6, c), 1 / math.sqrt(c), generator)
            linear(t, f"{block}.attn.qkv", 3 * c, c, generator)
            linear(t, f"{block}.attn.proj", c, c, generator)
            for norm in ["q_norm", "k_norm"]:
                t[f"{block}.attn.{norm}.weight"] = 1 + normal((d,), 0.05, generator)
            linear(t, f"{block}.cross_attn.q_linear", c, c, generator)
            linear(t, f"{block}.cross_attn.kv_linear", 2 * c, c, generator)
            linear(t, f"{block}.cross_attn.proj", c, c, generator)
            linear(t, f"{block}.mlp.fc1", hidden, c, generator)
            linear(t, f"{block}.mlp.fc2", c, hidden, generator)
    t["final_layer.scale_shift_table"] = normal((2, c), 1 / math.sqrt(c), generator)
    linear(t, "final_layer.linear", 4 * 8, c, generator)
    return t


def vae(generator):
    """Published tensor names of OpenSoraVAE_V1_2: diffusers' AutoencoderKL frame by frame, then the temporal VAE."""
    t = {}

    def conv(name, out, inputs, kernel, bias=True):
        fan = inputs * math.prod(kernel)
        t[f"{name}.weight"] = normal((out, inputs, *kernel), 0.9 / math.sqrt(fan), generator)
        if bias:
            t[f"{name}.bias"] = normal((out,), 0.02, generator)

    def norm(name, channels):
        t[f"{name}.weight"] = 1 + normal((channels,), 0.05, generator)
        t[f"{name}.bias"] = normal((channels,), 0.05, generator)

    # Spatial.
    s, k3 = "spatial_vae.module", (3, 3)
    widths, layers, z = SPATIAL["block_out_channels"], SPATIAL["layers_per_block"], SPATIAL["latent_channels"]

    def resnet2d(name, inputs, out):
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", out, inputs, k3)
        norm(f"{name}.norm2", out)
        conv(f"{name}.conv2", out, out, k3)
        if inputs != out:
            conv(f"{name}.conv_shortcut", out, inputs, (1, 1))

    def middle(name, channels):
        resnet2d(f"{name}.resnets.0", channels, channels)
        norm(f"{name}.attentions.0.group_norm", channels)
        for part in ["to_q", "to_k", "to_v", "to_out.0"]:
            linear(t, f"{name}.attentions.0.{part}", channels, channels, generator)
        resnet2d(f"{name}.resnets.1", channels, channels)

    conv(f"{s}.encoder.conv_in", widths[0], 3, k3)
    before = widths[0]
    for i, width in enumerate(widths):
        for j in range(layers):
            resnet2d(f"{s}.encoder.down_blocks.{i}.resnets.{j}", before if j == 0 else width, width)
        if i + 1 < len(widths):
            conv(f"{s}.encoder.down_blocks.{i}.downsamplers.0.conv", width, width, k3)
        before = width
    middle(f"{s}.encoder.mid_block", before)
    norm(f"{s}.encoder.conv_norm_out", before)
    conv(f"{s}.encoder.conv_out", 2 * z, before, k3)
    conv(f"{s}.quant_conv", 2 * z, 2 * z, (1, 1))
    conv(f"{s}.post_quant_conv", z, z, (1, 1))
    conv(f"{s}.decoder.conv_in", before, z, k3)
    middle(f"{s}.decoder.mid_block", before)
    for i, width in enumerate(reversed(widths)):
        for j in range(layers + 1):
            resnet2d(f"{s}.decoder.up_blocks.{i}.resnets.{j}", before if j == 0 else width, width)
        if i + 1 < len(widths):
            conv(f"{s}.decoder.up_blocks.{i}.upsamplers.0.conv", width, width, k3)
        before = width
    norm(f"{s}.decoder.conv_norm_out", before)
    conv(f"{s}.decoder.conv_out", 3, before, k3)

    # Temporal.
    f, blocks, k333 = TEMPORAL["filters"], TEMPORAL["num_res_blocks"], (3, 3, 3)
    mults, down = TEMPORAL["channel_multipliers"], TEMPORAL["temporal_downsample"]
    channels = [f * m for m in mults]
    io, embed, latent = TEMPORAL["in_out_channels"], TEMPORAL["embed_dim"], TEMPORAL["latent_embed_dim"]

    def resnet3d(name, inputs, out):
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1.conv", out, inputs, k333, bias=False)
        norm(f"{name}.norm2", out)
        conv(f"{name}.conv2.conv", out, out, k333, bias=False)
        if inputs != out:
            conv(f"{name}.conv3.conv", out, inputs, (1, 1, 1), bias=False)

    e = "temporal_vae.encoder"
    conv(f"{e}.conv_in.conv", f, io, k333, bias=False)
    before = f
    for i, width in enumerate(channels):
        for j in range(blocks):
            resnet3d(f"{e}.block_res_blocks.{i}.{j}", before, width)
            before = width
        if i + 1 < len(channels) and down[i]:
            conv(f"{e}.conv_blocks.{i}.conv", before, before, k333)
    for j in range(blocks):
        resnet3d(f"{e}.res_blocks.{j}", before, before)
    norm(f"{e}.norm1", before)
    conv(f"{e}.conv2.conv", 2 * embed, before, (1, 1, 1))
    conv("temporal_vae.quant_conv.conv", 2 * latent, 2 * embed, (1, 1, 1))
    conv("temporal_vae.post_quant_conv.conv", embed, latent, (1, 1, 1))
    d = "temporal_vae.decoder"
    conv(f"{d}.conv1.conv", channels[-1], embed, k333)
    before = channels[-1]
    for j in range(blocks):
        resnet3d(f"{d}.res_blocks.{j}", before, before)
    for i in reversed(range(len(channels))):
        for j in range(blocks):
            resnet3d(f"{d}.block_res_blocks.{i}.{j}", before, channels[i])
            before = channels[i]
        if i > 0 and down[i - 1]:
            conv(f"{d}.conv_blocks.{i - 1}.conv", 2 * before, before, k333)
    norm(f"{d}.norm1", before)
    conv(f"{d}.conv_out.conv", io, before, k333)
    t["scale"] = torch.tensor([3.85, 2.32, 2.33, 3.06]).view(1, 4, 1, 1, 1)
    t["shift"] = torch.tensor([-0.10, 0.34, 0.27, 0.98]).view(1, 4, 1, 1, 1)
    return t


def text_encoder(generator):
    """A T5 v1.1 encoder of the `transformers` library with random weights, large enough for its attention to matter."""
    from transformers import T5Config, T5EncoderModel

    model = T5EncoderModel(T5Config(**{k: v for k, v in TEXT.items() if k != "architectures"})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                value = 1 + 0.1 * torch.randn(parameter.shape, generator=generator)
            elif "relative_attention_bias" in name or "shared" in name:
                value = torch.randn(parameter.shape, generator=generator)
            else:
                value = torch.randn(parameter.shape, generator=generator) * 0.9 / math.sqrt(parameter.shape[1])
            parameter.copy_(value.to(torch.bfloat16).float())
    return model


def tokenizer():
    """A unigram tokenizer as T5 has it: pieces with ▁, pad 0, EOS 1, unknown 2, EOS appended."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=TEXT["vocab_size"], special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    t.train_from_iterator(CORPUS * 8, trainer)
    t.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return t


def write_text(folder, form, generator):
    folder.mkdir(parents=True, exist_ok=True)
    model, words = text_encoder(generator), tokenizer()
    (folder / "config.json").write_text(json.dumps(TEXT, indent=1) + "\n")
    words.save(str(folder / "tokenizer.json"))
    tensors = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k != "encoder.embed_tokens.weight"}
    if form == "safetensors":
        save(folder / "model.safetensors", tensors)
    else:
        # As torch saves them, in float32; the embedding under both its names.
        names = sorted(tensors)
        shards = [names[: len(names) // 2], names[len(names) // 2 :]]
        files = [f"pytorch_model-0000{i + 1}-of-00002.bin" for i in range(2)]
        for file, shard in zip(files, shards):
            torch.save({name: tensors[name].float() for name in shard}, folder / file)
        index = {name: file for file, shard in zip(files, shards) for name in shard}
        total = sum(t.numel() * 4 for t in tensors.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1)
        (folder / "pytorch_model.bin.index.json").write_text(text + "\n")
    return model, words


def reference(folder, model, words):
    """What the text encoder makes of PROMPTS: padded to one length, with an attention mask."""
    ids = [words.encode(prompt).ids for prompt in PROMPTS]
    length = max(map(len, ids)) + 3
    padded = torch.tensor([row + [0] * (length - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids])
    with torch.no_grad():
        hidden = model(input_ids=padded, attention_mask=mask).last_hidden_state
    save(folder / "reference.safetensors", {"hidden": hidden.contiguous()})
    case = [{"prompt": prompt, "ids": row} for prompt, row in zip(PROMPTS, ids)]
    (folder / "reference.json").write_text(json.dumps(case) + "\n")


def save(path, tensors):
    """Readable by everyone, unlike what save_file writes."""
    path.write_bytes(to_bytes(tensors))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--text", choices=["safetensors", "bin"], default="safetensors", help="how the text encoder's weights are kept")
    parser.add_argument("--without-vae", action="store_true", help="leave the video autoencoder out: it is most of the bytes")
    parser.add_argument("--full", action="store_true", help="write STDiT3-XL/2 in its published size, and nothing else")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.full:
        folder = args.folder / "OpenSora-STDiT-v3"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "STDiT3", **FULL}, indent=1) + "\n")
        write_random(folder / "model.safetensors", list(full_tensors()), args.seed)
        return
    if missing := [name for name in ("torch", "transformers", "tokenizers", "safetensors") if find_spec(name) is None]:
        parser.error(f"this needs {', '.join(missing)}: pip install {' '.join(missing)}; --full needs Python alone")
    parts = [("OpenSora-STDiT-v3", {"model_type": "STDiT3", **TRANSFORMER}, transformer)]
    if not args.without_vae:
        config = {"model_type": "OpenSoraVAE_V1_2", "spatial": SPATIAL, "temporal": TEMPORAL, "micro_frame_size": 17}
        parts.append(("OpenSora-VAE-v1.2", config, vae))
    for name, config, make in parts:
        folder = args.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        save(folder / "model.safetensors", make(torch.Generator().manual_seed(args.seed)))
    folder = args.folder / "t5-v1_1-xxl"
    reference(folder, *write_text(folder, args.text, torch.Generator().manual_seed(args.seed)))


if __name__ == "__main__":
    main()
