# SPDX-License-Identifier: Apache-2.0
"""torch.ops.axial.embedding and its backward: registration as torch checks it, agreement, errors."""

import pytest
import torch

import axial  # noqa: F401  loads the operators


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_registration_is_what_torch_expects(dtype):
    weight = torch.randn(7, 5).to(dtype).requires_grad_()
    for shape in [(9,), (2, 3), (0,)]:
        ids = torch.randint(0, 7, shape)
        torch.library.opcheck(torch.ops.axial.embedding, (weight, ids))
        grad = torch.randn(*shape, 5).to(dtype).requires_grad_()
        torch.library.opcheck(torch.ops.axial.embedding_backward, (grad, ids, 7))


def test_agrees_with_torch():
    weight = torch.randn(69, 33, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, 69, (4, 100))
    ours = torch.ops.axial.embedding(weight, ids)
    theirs = torch.nn.functional.embedding(ids, weight)
    assert torch.equal(ours, theirs)
    cotangent = torch.randn_like(ours)
    (ours_grad,) = torch.autograd.grad(ours, weight, cotangent)
    (theirs_grad,) = torch.autograd.grad(theirs, weight, cotangent)
    torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-13, atol=1e-13)


def test_an_id_out_of_range_is_a_value_error():
    with pytest.raises(
        ValueError, match=r"\[embedding\] id out of range at place 2; expected in \[0, 7\), got 8"
    ):
        torch.ops.axial.embedding(torch.randn(7, 5), torch.tensor([0, 1, 8]))
