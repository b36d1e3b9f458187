# SPDX-License-Identifier: Apache-2.0
"""The GenSLM converter on files made in the published layouts: what it writes equals the model, bad files are named."""

import importlib.util
import json
import os
import pathlib
import subprocess

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")

ROOT = pathlib.Path(__file__).resolve().parents[2]
ORACLE = (
    pathlib.Path(os.environ.get("AXIAL_TEST_PROGRAMS", ROOT / "build/release/bin")) / "axial_decoder_oracle"
)

# By path: importing the package would need its compiled half, which the converter does not use.
spec = importlib.util.spec_from_file_location("convert_genslm", ROOT / "python/axial/tools/convert_genslm.py")
genslm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(genslm)

# The fields of a published architecture file, in a small size.
CONFIG = {
    "architectures": ["GPTNeoXForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 32,
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu_fast",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-05,
    "model_type": "gpt_neox",
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.21.1",
    "use_cache": True,
    "vocab_size": 69,
}


@pytest.fixture
def release(tmp_path):
    """A model, its architecture file, and its state dict under the names of that time, with their buffers."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(3)
    model = transformers.GPTNeoXForCausalLM(transformers.AutoConfig.from_pretrained(tmp_path)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    state = {
        name.replace("lm_head.", "embed_out."): t.detach().clone() for name, t in model.named_parameters()
    }
    for layer in range(2):
        attention = f"gpt_neox.layers.{layer}.attention."
        state[attention + "bias"] = torch.ones(1, 1, 32, 32).tril().bool()
        state[attention + "masked_bias"] = torch.tensor(-1e9)
        state[attention + "rotary_emb.inv_freq"] = torch.ones(2)
    return model, tmp_path / "config.json", state


def save(path, state):
    torch.save(state, path)
    return path


@pytest.mark.parametrize("layout", ["bare", "state_dict", "lightning", "deepspeed", "buffers_removed"])
def test_converts_every_layout(layout, release, tmp_path):
    model, config, state = release
    prefix = {"lightning": "model.", "deepspeed": "_forward_module.model."}.get(layout, "")
    if layout == "buffers_removed":
        state = {n: t for n, t in state.items() if not genslm.BUFFER.search(n)}
    saved = {prefix + name: tensor for name, tensor in state.items()}
    if layout != "bare":
        saved = {"state_dict": saved, "epoch": 1, "hyper_parameters": {"lr": 5e-5}}
    out = tmp_path / "out"
    line = genslm.convert(save(tmp_path / "model.pt", saved), config, out)
    assert f"dropped {0 if layout == 'buffers_removed' else 6} buffers" in line

    read, loading = transformers.AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading.values()), loading
    tokens = torch.randint(69, (2, 16))
    assert torch.equal(read.eval()(tokens).logits, model(tokens).logits)


@pytest.mark.skipif(
    not ORACLE.parent.exists(), reason=f"{ORACLE.parent} is not built (or set AXIAL_TEST_PROGRAMS)"
)
def test_axial_reads_the_folder(release, tmp_path):
    model, config, state = release
    out = tmp_path / "out"
    genslm.convert(save(tmp_path / "model.pt", {"state_dict": state}), config, out)
    tokens = torch.randint(69, (2, 16))
    save_file = genslm.save_file
    save_file({"tokens": tokens, "labels": tokens.clone()}, out / "inputs.safetensors")
    subprocess.run([ORACLE, "import", out], check=True)
    from safetensors.torch import load_file

    logits = model(tokens).logits
    error = (load_file(out / "outputs.safetensors")["logits"] - logits).abs().max() / logits.abs().max()
    assert error < 1e-5
    # The description of the tokenizer is the one that this build's codon tokenizer gives.
    done = subprocess.run([ORACLE, "tokenizer", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "".join(done.stdout.split()) == "GGCATGTAG"


def test_half_precision_and_shards(release, tmp_path):
    _, config, state = release
    state = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    weights, _ = genslm.select_weights(state, json.loads(config.read_text()))
    out = tmp_path / "out"
    out.mkdir()
    genslm.write_weights(out, weights, shard_bytes=20_000)
    (out / "config.json").write_text(config.read_text())
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 2
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float16, output_loading_info=True
    )
    assert not any(loading.values()), loading
    assert torch.equal(
        model.gpt_neox.layers[1].mlp.dense_4h_to_h.weight, state["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"]
    )


def test_names_what_is_wrong(release, tmp_path, capsys):
    _, config, state = release
    path = tmp_path / "model.pt"

    def error_of(saved, config_path=config, folder=tmp_path / "out"):
        save(path, saved)
        assert genslm.main([str(path), str(config_path), str(folder)]) == 1
        assert not folder.exists() or folder == tmp_path
        return capsys.readouterr().err

    name = "gpt_neox.layers.1.attention.dense.weight"
    without = {n: t for n, t in state.items() if n != name}
    assert f"1 tensors are missing, the first '{name}'" in error_of(without)
    assert "1 tensors are unexpected, the first 'gpt_neox.adapter.weight'" in error_of(
        {**state, "gpt_neox.adapter.weight": torch.ones(1)}
    )
    assert "expected shape [64, 64], got [64, 63]" in error_of({**state, name: torch.ones(64, 63)})
    assert "expected floating point" in error_of({**state, name: torch.ones(64, 64, dtype=torch.int8)})
    assert "'optimizer_step'" in error_of({**state, "optimizer_step": torch.ones(1)})
    assert "holds no state dict" in error_of({"state_dict": {}})
    assert "cannot be read as a checkpoint" in error_of({"state_dict": state, "callback": pathlib.Path("/")})
    assert "is not empty" in error_of(state, folder=tmp_path)
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps({**CONFIG, "hidden_size": 66}))
    assert "8196 where 8192 is meant" in error_of(state, odd)
    odd.write_text(json.dumps(CONFIG).replace("true", "True"))
    assert "is not valid JSON" in error_of(state, odd)
