# SPDX-License-Identifier: Apache-2.0
"""evoformer_attention as PyTorch users meet it: opcheck, compile, checkpoint, autocast, bad input."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import axial
from axial import evoformer_attention


def plain(q, k, v, biases, scale=None):
    """Softmax in the dtype that comes in."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = torch.einsum("...ihd,...jhd->...hij", q, k) * scale
    for bias in biases:
        if bias is not None:
            logits = logits + bias
    return torch.einsum("...hij,...jhd->...ihd", logits.softmax(-1), v)


def tensors(B, N, L, H, D, dtype=torch.float32, grad=True, mask=True, seed=0):  # noqa: N803
    gen = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, N, L, H, D, generator=gen).to(dtype).requires_grad_(grad) for _ in range(3))
    bias1 = 1e9 * ((torch.rand(B, N, 1, 1, L, generator=gen) > 0.5).double() - 1)
    bias1 = (
        bias1.clamp_min(torch.finfo(dtype).min).to(dtype) if mask else torch.zeros(B, N, 1, 1, L, dtype=dtype)
    )
    bias2 = torch.randn(B, 1, H, L, L, generator=gen).to(dtype).requires_grad_(grad)
    return q, k, v, bias1, bias2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_registration_is_what_torch_expects(dtype):
    q, k, v, bias1, bias2 = tensors(1, 2, 5, 2, 4, dtype)
    op = torch.ops.axial.attention
    torch.library.opcheck(op, (q, k, v, bias1.requires_grad_(), bias2))
    torch.library.opcheck(op, (q, k, v), {"causal": True, "scale": 0.3})
    torch.library.opcheck(op, (q, k, v), {"segments": torch.tensor([0, 2, 5])})
    torch.library.opcheck(torch.ops.axial.evoformer_attention, (q, k, v, None, bias2))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole_forward_and_backward(dynamic):
    compiled = torch.compile(evoformer_attention, fullgraph=True, dynamic=dynamic)
    for length in (5, 7):
        q, k, v, bias1, bias2 = tensors(1, 2, length, 2, 4, mask=False)
        inputs = (q, k, v, bias2)
        expected = evoformer_attention(q, k, v, [bias1, bias2])
        actual = compiled(q, k, v, [bias1, bias2])
        assert torch.equal(actual, expected)
        for a, e in zip(torch.autograd.grad(actual.sin().sum(), inputs),
                        torch.autograd.grad(expected.sin().sum(), inputs), strict=True):  # fmt: skip
            torch.testing.assert_close(a, e)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_recomputes_the_same_bits(reentrant):
    q, k, v, bias1, bias2 = tensors(1, 3, 20, 2, 8)
    expected = torch.autograd.grad(
        evoformer_attention(q, k, v, [bias1, bias2]).square().sum(), (q, k, v, bias2)
    )
    out = checkpoint(
        lambda *t: evoformer_attention(*t[:3], [bias1, t[3]]), q, k, v, bias2, use_reentrant=reentrant
    )
    out.square().sum().backward()
    for leaf, gradient in zip((q, k, v, bias2), expected, strict=True):
        assert torch.equal(leaf.grad, gradient)


def test_one_bias_in_both_places_sums_its_gradients():
    q, k, v, _, bias = tensors(1, 2, 9, 2, 4, torch.float64)
    ours = torch.autograd.grad(evoformer_attention(q, k, v, [bias, bias]).sum(), bias)[0]
    theirs = torch.autograd.grad(plain(q, k, v, [bias, bias]).sum(), bias)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_autocast_lowers_what_torch_lowers():
    q, k, v, bias1, bias2 = tensors(1, 2, 20, 2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = evoformer_attention(q, k, v, [bias1, bias2])
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert q.grad.dtype == torch.float32 and bias2.grad.dtype == torch.float32
    expected = plain(q, k, v, [bias1, bias2])
    assert (out.float() - expected).abs().max() < 0.05


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_autocast_keeps_what_a_mask_hides(low, dtype):
    q, k, v, _, _ = tensors(1, 2, 20, 2, 8)
    mask = torch.zeros(20, 20, dtype=dtype)
    mask[3] = torch.finfo(dtype).min  # in another dtype a number like others
    mask[:, 5] = torch.finfo(dtype).min
    mask.requires_grad_()
    with torch.autocast("cpu", dtype=low):
        out = evoformer_attention(q, k, v, [mask])
    assert out.dtype == low and (out[:, :, 3] == 0).all() and (out[:, :, 4] != 0).any()
    out.float().sum().backward()
    assert mask.grad.dtype == dtype and mask.grad.isfinite().all()
    assert (v.grad[:, :, 5] == 0).all() and (v.grad[:, :, 6] != 0).any()


def test_modes_without_gradient_save_nothing():
    q, k, v, bias1, bias2 = tensors(1, 2, 20, 2, 8)
    expected = evoformer_attention(q, k, v, [bias1, bias2]).detach()
    with torch.no_grad():
        out = evoformer_attention(q, k, v, [bias1, bias2])
    assert out.grad_fn is None and torch.equal(out, expected)
    with torch.inference_mode():
        assert torch.equal(evoformer_attention(q, k, v, [bias1, bias2]), expected)


def test_second_order_is_refused():
    q, k, v, bias1, bias2 = tensors(1, 1, 4, 1, 4, torch.float64)
    with pytest.raises(NotImplementedError, match="first order only"):
        torch.autograd.grad(evoformer_attention(q, k, v, [bias1, bias2]).sum(), q, create_graph=True)


def test_gradcheck_with_every_bias():
    q, k, v, _, bias2 = tensors(2, 2, 4, 2, 3, torch.float64)
    bias1 = torch.randn(2, 2, 1, 1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: evoformer_attention(*t[:3], t[3:]), (q, k, v, bias1, bias2))


def test_what_would_be_silently_wrong_is_refused():
    q, k, v, _, bias2 = tensors(1, 1, 4, 1, 4)
    with pytest.raises(ValueError, match="expected a list of tensors"):
        evoformer_attention(q, k, v, bias2)
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.jvp(lambda t: evoformer_attention(t, k.detach(), v.detach()), (q.detach(),), (q.detach(),))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q.detach(), q.detach())
        with pytest.raises(RuntimeError, match="jvp"):
            evoformer_attention(dual, k.detach(), v.detach())
    slopes = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="alibi_slopes; expected no gradient"):
        torch.ops.axial.attention(q, k, v, alibi_slopes=slopes)


def test_three_biases_are_refused():
    q, k, v, bias1, bias2 = tensors(1, 1, 4, 1, 4)
    with pytest.raises(ValueError, match="at most 2, got 3"):
        evoformer_attention(q, k, v, [bias1, bias2, bias2])
    assert "evoformer_attention" in axial.operators()


class RowAttention(torch.nn.Module):
    """Projections around the attention, and a pair bias that is a parameter."""

    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(8, 3 * 2 * 4)
        self.pair = torch.nn.Parameter(torch.zeros(2, 5, 5))

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).unbind(-3)
        return evoformer_attention(q, k, v, [self.pair])


def rows_of(rank, ranks):
    rows = torch.randn(8, 5, 8, generator=torch.Generator().manual_seed(3))
    return rows[rank * 8 // ranks : (rank + 1) * 8 // ranks]


def ddp_rank(rank, ranks, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks
    )
    torch.manual_seed(1)
    model = torch.nn.parallel.DistributedDataParallel(RowAttention())
    model(rows_of(rank, ranks)).square().mean().backward()
    torch.save([p.grad for p in model.parameters()], f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


def test_ddp_averages_as_one_process_sums(tmp_path):
    torch.multiprocessing.spawn(ddp_rank, (2, str(tmp_path)), nprocs=2)
    torch.manual_seed(1)
    model = RowAttention()
    model(rows_of(0, 1)).square().mean().backward()
    for rank in range(2):
        for found, expected in zip(torch.load(tmp_path / str(rank)), model.parameters(), strict=True):
            torch.testing.assert_close(found, expected.grad)
