# SPDX-License-Identifier: Apache-2.0
"""Exact softmax attention with biases, for PyTorch models.

Letters: ``*`` any leading dims, Lq queries, Lk keys, H heads, D width of a head.
"""

from collections.abc import Sequence

import torch

__all__ = ["evoformer_attention"]


def evoformer_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor | None] = (),
    *,
    scale: float | None = None,
) -> torch.Tensor:
    """Return softmax(scale * q k^T + sum of biases) v without storing the logits.

    The attention of Evoformer and of AlphaFold 3 (Jumper et al., 2021): MSA rows and columns, triangles, pair bias.

    Args:
        q: [*, Lq, H, D], float64, float32, bfloat16 or float16, any strides.
        k, v: [*, Lk, H, D] (or fewer heads that divide H), dtype of ``q``.
        biases: at most two tensors or None, each broadcastable to [*, H, Lq, Lk], dtype of ``q`` or float32. Minus
            infinity, or the dtype's lowest value, hides a key.
        scale: multiplies q k^T; None for 1 / sqrt(D).

    Returns:
        [*, Lq, H, D] in the dtype of ``q``; zero for a query whose every key is hidden.

    Gradients flow to q, k, v and each bias (summed over the dims that it is broadcast over), of first order, with the
    same bits from run to run and for any number of threads. Saved for backward: the inputs, the output and two
    floats per query and head. Raises ValueError naming the argument, with found and expected shapes.
    """
    if isinstance(biases, torch.Tensor):
        raise ValueError("[evoformer_attention] biases; expected a list of tensors, got a tensor")
    if len(biases) > 2:
        raise ValueError(f"[evoformer_attention] biases; expected at most 2, got {len(biases)}")
    bias1, bias2 = (*biases, None, None)[:2]
    return torch.ops.axial.evoformer_attention(q, k, v, bias1, bias2, scale=scale)
