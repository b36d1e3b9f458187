# SPDX-License-Identifier: Apache-2.0
"""Logits and gradients of the decoder equal transformers', in both directions, for every family.

A small C++ program (tests/hugging_face/decoder_oracle.cpp) reads or writes the folder; transformers does the other
half. Weights are random everywhere, biases and norms included, so that a swapped or lost tensor shows.
"""

import json
import os
import pathlib
import subprocess

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
ORACLE = (
    pathlib.Path(os.environ.get("AXIAL_TEST_PROGRAMS", ROOT / "build/release/bin")) / "axial_decoder_oracle"
)

pytestmark = pytest.mark.skipif(
    not ORACLE.parent.exists(), reason=f"{ORACLE.parent} is not built (or set AXIAL_TEST_PROGRAMS)"
)

# Largest difference over the largest value. fp32 has 6e-8; sums here have up to a few hundred terms.
TOLERANCE = 1e-5

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# name -> (config class, its arguments)
FOREIGN = {
    "gpt2": ("GPT2Config", {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32}),
    "gpt2_inner_relu_untied": (
        "GPT2Config",
        {
            "n_embd": 48,
            "n_layer": 2,
            "n_head": 3,
            "n_positions": 32,
            "n_inner": 40,
            "activation_function": "relu",
            "tie_word_embeddings": False,
        },
    ),
    "neox": (
        "GPTNeoXConfig",
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96},
    ),
    "neox_genslm": (
        "GPTNeoXConfig",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "hidden_act": "gelu_fast",
        },
    ),
    "neox_sequential_tied": (
        "GPTNeoXConfig",
        {
            "hidden_size": 60,
            "num_hidden_layers": 2,
            "num_attention_heads": 5,
            "intermediate_size": 96,
            "use_parallel_residual": False,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 3000.0, "partial_rotary_factor": 0.5},
        },
    ),
    "neox_linear_rope": (
        "GPTNeoXConfig",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "rope_parameters": {
                "rope_type": "linear",
                "factor": 4.0,
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
            },
        },
    ),
    "bloom": ("BloomConfig", {"hidden_size": 64, "n_layer": 2, "n_head": 8}),
    "bloom_odd_heads": ("BloomConfig", {"hidden_size": 60, "n_layer": 2, "n_head": 5}),
    "bloom_six_heads_untied": (
        "BloomConfig",
        {"hidden_size": 48, "n_layer": 2, "n_head": 6, "tie_word_embeddings": False},
    ),
    "llama": (
        "LlamaConfig",
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80},
    ),
    "llama_grouped_tied": (
        "LlamaConfig",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "intermediate_size": 80,
            "tie_word_embeddings": True,
        },
    ),
    "llama_biases_llama3_rope": (
        "LlamaConfig",
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 16,
            "intermediate_size": 80,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": LLAMA3,
        },
    ),
    "llama_gelu_linear_rope": (
        "LlamaConfig",
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "intermediate_size": 80,
            "hidden_act": "gelu_pytorch_tanh",
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
        },
    ),
}

# name -> (family, our settings)
OURS = {
    "gpt2": ("gpt2", {"position": "learned", "activation": "gelu_tanh", "tied_embeddings": True}),
    "gpt2_untied": ("gpt2", {"position": "learned", "activation": "silu", "ffn_size": 52}),
    "neox": (
        "gpt_neox",
        {"parallel_residual": True, "rotary": {"fraction": 0.25}, "activation": "gelu_tanh"},
    ),
    "neox_linear": (
        "gpt_neox",
        {
            "activation": "gelu",
            "qkv_bias": False,
            "out_bias": False,
            "rotary": {"fraction": 0.5, "base": 500.0, "scaling": "linear", "factor": 2.0},
        },
    ),
    "bloom": (
        "bloom",
        {"position": "alibi", "embedding_norm": True, "activation": "gelu_tanh", "tied_embeddings": True},
    ),
    "bloom_seven_heads": (
        "bloom",
        {
            "position": "alibi",
            "embedding_norm": True,
            "activation": "gelu_tanh",
            "hidden_size": 56,
            "num_heads": 7,
        },
    ),
    "llama": (
        "llama",
        {
            "norm": "rms_norm",
            "activation": "swiglu",
            "num_kv_heads": 1,
            "qkv_bias": False,
            "out_bias": False,
            "ffn_bias": False,
            "head_dim": 20,
        },
    ),
    "llama_llama3": (
        "llama",
        {
            "norm": "rms_norm",
            "activation": "geglu",
            "num_kv_heads": 2,
            "tied_embeddings": True,
            "rotary": {"scaling": "llama3", "factor": 8.0, "original_max_positions": 64},
        },
    ),
}


def write_inputs(folder, vocab):
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(vocab, (2, 24), generator=generator)
    labels = torch.randint(vocab, (2, 24), generator=generator)
    labels[:, -1] = -100
    labels[1, 3:7] = -100
    save_file({"tokens": tokens, "labels": labels}, folder / "inputs.safetensors")
    return tokens, labels


def run_oracle(*arguments):
    done = subprocess.run([ORACLE, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run_transformers(model, tokens, labels):
    logits = model(input_ids=tokens).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    on_disk = {"lm_head.weight": "embed_out.weight"} if model.config.model_type == "gpt_neox" else {}
    return logits.detach(), {on_disk.get(name, name): p.grad for name, p in model.named_parameters()}


def assert_close(name, ours, theirs):
    assert ours.shape == theirs.shape, name
    error = (ours - theirs).abs().max().item() / max(theirs.abs().max().item(), 1e-30)
    assert error < TOLERANCE, f"{name}: relative error {error:.2e}"


def compare(folder, model, tokens, labels):
    """Returns nothing; every gradient of transformers must have its counterpart."""
    logits, gradients = run_transformers(model, tokens, labels)
    ours = load_file(folder / "outputs.safetensors")
    assert_close("logits", ours.pop("logits"), logits)
    ours.pop("loss_sum")
    ours = {name.removeprefix("grad."): value for name, value in ours.items()}
    assert set(ours) == set(gradients)
    for name, gradient in gradients.items():
        assert_close(name, ours[name], gradient)


def randomize(model):
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if ("norm" in name and name.endswith("weight")) or ".ln_" in name else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("case", FOREIGN)
def test_imports_from_transformers(case, tmp_path):
    class_name, arguments = FOREIGN[case]
    config = getattr(transformers, class_name)(
        vocab_size=53, attn_implementation="eager", bos_token_id=0, eos_token_id=1, **arguments
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomize(model)
    model.save_pretrained(tmp_path)
    tokens, labels = write_inputs(tmp_path, 53)
    run_oracle("import", tmp_path)
    compare(tmp_path, model, tokens, labels)


@pytest.mark.parametrize("case", OURS)
def test_exports_to_transformers(case, tmp_path):
    family, settings = OURS[case]
    settings = {
        "vocab_size": 53,
        "hidden_size": 48,
        "num_layers": 2,
        "num_heads": 4,
        "max_positions": 32,
        **settings,
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    tokens, labels = write_inputs(tmp_path, 53)
    run_oracle("export", tmp_path, family)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading.values()), loading
    compare(tmp_path, model.eval(), tokens, labels)


def test_legacy_fields_of_gpt_neox_mean_the_same(tmp_path):
    """Files written before transformers 5 spell rotary settings and the head differently."""
    config = transformers.GPTNeoXConfig(
        vocab_size=53,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        rope_parameters={"rope_type": "default", "rope_theta": 2000.0, "partial_rotary_factor": 0.5},
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomize(model)
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["rope_parameters"]
    stored.update(rotary_pct=0.5, rotary_emb_base=2000)
    (tmp_path / "config.json").write_text(json.dumps(stored))
    weights = load_file(tmp_path / "model.safetensors")
    weights["embed_out.weight"] = weights.pop(
        "embed_out.weight" if "embed_out.weight" in weights else "lm_head.weight"
    )
    weights["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    tokens, labels = write_inputs(tmp_path, 53)
    run_oracle("import", tmp_path)
    compare(tmp_path, model, tokens, labels)
