# SPDX-License-Identifier: Apache-2.0
"""torch.ops.axial from Python: norms, activations, the loss and linear pass torch's own operator checks."""

import pytest
import torch

axial = pytest.importorskip("axial", reason="the package is neither installed nor built: run `make build`")

OPS = torch.ops.axial
KINDS = ["gelu", "gelu_tanh", "silu", "relu"]


def leaf(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def labels():
    return torch.tensor([[3, -100, 0, 16, 5], [1, 2, -100, 4, 9]])


def statistic(*shape):
    return leaf(*shape).detach().abs() + 0.5


def differentiable():
    """(name, arguments) of every op that users call, with gradients wanted."""
    x, w, b = leaf(2, 5, 17), leaf(17), leaf(17)
    yield "layer_norm", (x, w, b, 1e-5)
    yield "layer_norm", (x.detach().transpose(0, 1).requires_grad_(), w, None, 1e-5)
    yield "rms_norm", (x, w, 1e-6)
    for kind in KINDS:
        yield "activation", (x, b, kind)
        yield "gated_activation", (leaf(3, 34), kind)
    yield "activation", (leaf(2, 5, 17, dtype=torch.bfloat16), None, "silu")
    yield "cross_entropy", (x, labels())


def twice_differentiable():
    """Those whose backward has a gradient of its own."""
    yield "linear", (leaf(2, 5, 17), leaf(4, 17), leaf(4), leaf(2, 5, 4))
    yield "linear", (leaf(200, 120), leaf(130, 120), None, None)


def internal():
    """(name, arguments) of the forward and backward ops that autograd calls."""
    x, g, w = leaf(3, 17).detach(), leaf(3, 17).detach(), leaf(17).detach()
    m, r = leaf(3).detach(), statistic(3)
    yield "layer_norm_forward", (x, w, w, 1e-5)
    yield "layer_norm_backward", (g, x, w, m, r, [True, True, True])
    yield "layer_norm_backward", (g, x, w, m, r, [True, False, False])
    yield "rms_norm_forward", (x, w, 1e-6)
    yield "rms_norm_backward", (g, x, w, r, [True, True])
    yield "activation_backward", (g, x, w, "gelu", [True, True])
    yield "activation_backward", (g, x, None, "silu", [True, False])
    yield "gated_activation_backward", (leaf(3, 8).detach(), leaf(3, 16).detach(), "silu")
    yield "cross_entropy_backward", (torch.tensor(2.0), leaf(2, 5, 17).detach(), labels(), statistic(2, 5))
    yield "token_log_likelihood", (leaf(2, 5, 17).detach(), labels())


@pytest.mark.parametrize(("name", "args"), [*differentiable(), *twice_differentiable(), *internal()])
def test_opcheck(name, args):
    """Schema, autograd registration, fake tensors and tracing with symbolic shapes."""
    torch.library.opcheck(getattr(OPS, name).default, args)


@pytest.mark.parametrize(("name", "args"), [c for c in differentiable() if c[1][0].dtype == torch.float32])
def test_double_backward_is_refused(name, args):
    out = getattr(OPS, name)(*args)
    out = out if isinstance(out, torch.Tensor) else out[0]
    with pytest.raises(NotImplementedError, match=rf"\[{name}\] is of first order only"):
        torch.autograd.grad(out.sum(), args[0], create_graph=True)


def test_gradients_equal_torch():
    x, w, b = leaf(33, 64), leaf(64), leaf(64)
    ours = torch.autograd.grad(OPS.layer_norm(x, w, b, 1e-5).square().sum(), (x, w, b))
    theirs = torch.autograd.grad(
        torch.nn.functional.layer_norm(x, (64,), w, b, 1e-5).square().sum(), (x, w, b)
    )
    for a, e in zip(ours, theirs):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)
    (ours,) = torch.autograd.grad(OPS.activation(x, b, "gelu").square().sum(), x)
    (theirs,) = torch.autograd.grad(torch.nn.functional.gelu(x + b).square().sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_wrong_arguments_are_value_errors():
    with pytest.raises(ValueError, match=r"\[layer_norm\] .*expected \[4\], got \[3\]"):
        OPS.layer_norm(torch.ones(2, 4), torch.ones(3), None, 1e-5)
    with pytest.raises(
        ValueError, match=r"unknown function 'swish'; expected one of gelu, gelu_tanh, silu, relu"
    ):
        OPS.activation(torch.ones(2, 4), None, "swish")
