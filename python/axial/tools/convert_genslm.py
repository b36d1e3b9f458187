# SPDX-License-Identifier: Apache-2.0
"""Turn a published GenSLM checkpoint into a Hugging Face folder that Axial and transformers read.

    python -m axial.tools.convert_genslm CHECKPOINT.pt CONFIG.json OUT_FOLDER

CHECKPOINT.pt is what GenSLM publishes: a state dict of transformers' GPT-NeoX, bare or under "state_dict" (PyTorch
Lightning), its names with or without a wrapper's prefix ("model."). CONFIG.json is the architecture file of the same
release. The folder gets config.json, model.safetensors (shards with an index above 5 GB) and, for the 69-word codon
vocabulary, axial_tokenizer.json. Weights keep their dtype. Every expected tensor must be there with its shape and
nothing else may be; buffers that hold no weights (causal masks, rotary frequencies) are dropped and counted.
"""

import argparse
import json
import pathlib
import re
import sys
import zipfile

import torch
from safetensors.torch import save_file

SHARD_BYTES = 5 * 10**9
BUFFER = re.compile(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.\w+)$|rotary_emb\.inv_freq$")
# What axial/data's codon tokenizer says of itself without begin and end tokens, as GenSLM was trained.
CODON_TOKENIZER = {
    "kind": "codon",
    "frame": 0,
    "bos": False,
    "eos": False,
    "vocab_size": 69,
    "vocab_hash": "ceccd6daccbfe97566f73674affb1aa5",
}


class ConvertError(Exception):
    """A file that cannot be converted; the message is for the user."""


def read_config(path: pathlib.Path) -> dict:
    """Read the architecture file and check what the shapes depend on."""
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConvertError(f"'{path}' is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != "gpt_neox":
        raise ConvertError(f"'{path}': model_type; expected 'gpt_neox'")
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        if not isinstance(config.get(key), int) or config[key] <= 0:
            raise ConvertError(f"'{path}': {key}; expected a positive integer, got {config.get(key)!r}")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ConvertError(
            f"'{path}': hidden_size {config['hidden_size']} does not divide into {config['num_attention_heads']} "
            "heads (the published 25B file says 8196 where 8192 is meant)"
        )
    return config


def expected_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a GPT-NeoX causal language model."""
    width, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {"gpt_neox.embed_in.weight": (vocab, width)}
    linears = {
        "attention.query_key_value": (3 * width, width),
        "attention.dense": (width, width),
        "mlp.dense_h_to_4h": (inner, width),
        "mlp.dense_4h_to_h": (width, inner),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"gpt_neox.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{norm}.weight"] = shapes[f"{prefix}{norm}.bias"] = (width,)
        for name, shape in linears.items():
            shapes[f"{prefix}{name}.weight"] = shape
            if config.get("attention_bias", True) or not name.startswith("attention"):
                shapes[f"{prefix}{name}.bias"] = shape[:1]
    shapes["gpt_neox.final_layer_norm.weight"] = shapes["gpt_neox.final_layer_norm.bias"] = (width,)
    if not config.get("tie_word_embeddings", False):
        shapes["embed_out.weight"] = (vocab, width)
    return shapes


def load_state(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """Load the tensors of a checkpoint (no code is run) and strip the wrapper's prefix."""
    try:
        loaded = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None
        )
    except Exception as error:
        raise ConvertError(f"'{path}' cannot be read as a checkpoint: {error}") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(v, torch.Tensor) for v in state.values())
    ):
        raise ConvertError(
            f"'{path}' holds no state dict; expected tensors by name, bare or under 'state_dict'"
        )
    prefixes = {
        m.group(1) if (m := re.match(r"(.*?)(gpt_neox|embed_out|lm_head)\.", name)) else None
        for name in state
    }
    if None in prefixes or len(prefixes) != 1:
        odd = next(
            (n for n in state if not re.match(r"(.*?)(gpt_neox|embed_out|lm_head)\.", n)), next(iter(state))
        )
        raise ConvertError(
            f"'{path}': names do not share one prefix before 'gpt_neox.' and 'embed_out.', see '{odd}'"
        )
    prefix = prefixes.pop()
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if "lm_head.weight" in state:
        state.setdefault("embed_out.weight", state.pop("lm_head.weight"))
    return state


def select_weights(state: dict, config: dict) -> tuple[dict[str, torch.Tensor], int]:
    """Return the weights in order and how many buffers were dropped; raise for anything missing or left over."""
    shapes = expected_shapes(config)
    buffers = [name for name in state if name not in shapes and BUFFER.search(name)]
    left = [name for name in state if name not in shapes and name not in buffers]
    missing = [name for name in shapes if name not in state]
    if config.get("tie_word_embeddings", False) and "embed_out.weight" in left:
        if not torch.equal(state["embed_out.weight"], state["gpt_neox.embed_in.weight"]):
            raise ConvertError(
                "'embed_out.weight' differs from the embedding although the configuration ties them"
            )
        left.remove("embed_out.weight")
    for what, names in (("missing", missing), ("unexpected", left)):
        if names:
            raise ConvertError(f"{len(names)} tensors are {what}, the first '{names[0]}'")
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise ConvertError(f"'{name}'; expected shape {list(shape)}, got {list(state[name].shape)}")
        if not state[name].is_floating_point():
            raise ConvertError(f"'{name}'; expected floating point, got {state[name].dtype}")
    return {name: state[name] for name in shapes}, len(buffers)


def write_weights(folder: pathlib.Path, weights: dict[str, torch.Tensor], shard_bytes: int) -> None:
    """Write model.safetensors, or shards and their index. Tensors are copied, so none share memory."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in weights.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        index = {
            "metadata": {"total_size": sum(t.nbytes for t in weights.values())},
            "weight_map": {tensor: name for name, shard in zip(names, shards) for tensor in shard},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    for name, shard in zip(names, shards):
        copies = {key: tensor.clone().contiguous() for key, tensor in shard.items()}
        save_file(copies, folder / name, {"format": "pt"})


def convert(
    checkpoint: pathlib.Path, config_path: pathlib.Path, folder: pathlib.Path, shard_bytes: int = SHARD_BYTES
) -> str:
    """Convert and return one line about what was done."""
    config = read_config(config_path)
    weights, dropped = select_weights(load_state(checkpoint), config)
    if folder.exists() and any(folder.iterdir()):
        raise ConvertError(f"'{folder}' is not empty; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, weights, shard_bytes)
    if config["vocab_size"] == CODON_TOKENIZER["vocab_size"]:
        (folder / "axial_tokenizer.json").write_text(json.dumps(CODON_TOKENIZER, indent=2) + "\n")
    dtype = next(iter(weights.values())).dtype
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    count = sum(tensor.numel() for tensor in weights.values())
    return f"wrote {len(weights)} tensors, {count:,} parameters in {config['torch_dtype']}; dropped {dropped} buffers"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m axial.tools.convert_genslm", description=__doc__.split("\n")[0]
    )
    parser.add_argument("checkpoint", type=pathlib.Path, help="the published .pt file")
    parser.add_argument("config", type=pathlib.Path, help="the architecture's JSON file")
    parser.add_argument("folder", type=pathlib.Path, help="folder to write; must be empty or absent")
    options = parser.parse_args(arguments)
    try:
        print(convert(options.checkpoint, options.config, options.folder))
    except (ConvertError, OSError) as error:
        print(f"[convert_genslm] {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
