# SPDX-License-Identifier: Apache-2.0
"""torch.ops.axial.rotary: registration as torch checks it, and agreement with transformers' GPT-NeoX."""

import pytest
import torch

import axial  # noqa: F401  loads the operators


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_registration_is_what_torch_expects(dtype):
    inv_freq = 10000.0 ** -(torch.arange(3, dtype=torch.float64) / 3)
    for shape in [(5, 2, 8), (2, 3, 2, 6)]:
        x = torch.randn(shape).to(dtype).requires_grad_()
        positions = torch.arange(x[..., 0, 0].numel()).reshape(shape[:-2])
        torch.library.opcheck(torch.ops.axial.rotary, (x, positions, inv_freq))
        torch.library.opcheck(torch.ops.axial.rotary, (x, positions, inv_freq, True))


def test_agrees_with_transformers():
    neox = pytest.importorskip("transformers.models.gpt_neox.modeling_gpt_neox")
    tokens, heads, width, rotated = 33, 4, 64, 16
    q = torch.randn(1, heads, tokens, width, dtype=torch.float64)
    inv_freq = 10000.0 ** -(torch.arange(0, rotated, 2, dtype=torch.float64) / rotated)
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * inv_freq
    angles = torch.cat([angles, angles], -1)[None]
    expected, _ = neox.apply_rotary_pos_emb(q, q, angles.cos(), angles.sin())
    actual = torch.ops.axial.rotary(q[0].transpose(0, 1), torch.arange(tokens), inv_freq)
    torch.testing.assert_close(actual.transpose(0, 1)[None], expected, rtol=0, atol=1e-14)


def test_a_wrong_shape_is_a_value_error():
    with pytest.raises(ValueError, match=r"\[rotary\] positions do not match x \[5, 2, 8\]"):
        torch.ops.axial.rotary(torch.randn(5, 2, 8), torch.arange(4), torch.ones(2, dtype=torch.float64))
