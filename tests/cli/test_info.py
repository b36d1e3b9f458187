# SPDX-License-Identifier: Apache-2.0
"""axial info: parameters, step and configuration, as text and as JSON."""

import json
import math
import re
import struct


def num_parameters(path) -> int:
    """Elements of all tensors, from the header of a safetensors file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def test_text_and_json_agree_with_the_weights(axial, trained, exported):
    expected = num_parameters(exported / "model.safetensors")
    text = axial("info", trained[0], "--checkpoint", "last", "--parameters").stdout
    assert f"{expected:,} parameters" in text
    assert re.search(r"^step: 20$", text, re.MULTILINE), text
    assert re.search(r"^  hidden_size: 32$", text, re.MULTILINE), text
    rows = re.findall(r"^\S+ +\[[\d, ]+\] +([\d,]+)$", text, re.MULTILINE)
    assert sum(int(row.replace(",", "")) for row in rows) == expected

    summary = json.loads(axial("info", trained[0], "--checkpoint", "last", "--json").stdout)
    assert summary["num_parameters"] == expected and summary["step"] == 20
    assert summary["config"]["num_layers"] == 2 and summary["tokenizer"]["kind"] == "codon"


def test_a_hugging_face_folder_has_no_step(axial, exported):
    summary = json.loads(axial("info", exported, "--json").stdout)
    assert "step" not in summary
    assert summary["num_parameters"] == num_parameters(exported / "model.safetensors")
