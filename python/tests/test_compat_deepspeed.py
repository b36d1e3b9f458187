# SPDX-License-Identifier: Apache-2.0
"""DeepSpeed4Science's attention by its own name: beyond its limits, and how others find it."""

import importlib
import importlib.util
import sys

import pytest
import torch
from axial.compat import deepspeed as compat
from axial.compat.deepspeed import DS4Sci_EvoformerAttention


@pytest.fixture
def installed():
    compat.install()
    yield
    compat.uninstall()


def plain(Q, K, V, biases):  # noqa: N803
    logits = torch.einsum("...ihd,...jhd->...hij", Q, K) * Q.shape[-1] ** -0.5
    for bias in biases:
        logits = logits + bias
    return torch.einsum("...hij,...jhd->...ihd", logits.softmax(-1), V)


def test_beyond_the_limits_of_the_original():
    for length, keys, width, dtype in [
        (3, 3, 8, torch.float32),
        (16, 9, 5, torch.float64),
        (1, 40, 130, torch.float32),
    ]:
        Q = torch.randn(2, 3, length, 2, width, dtype=dtype)
        K, V = (torch.randn(2, 3, keys, 2, width, dtype=dtype) for _ in range(2))
        pair = torch.randn(1, 1, 2, length, keys, dtype=dtype)
        biases = [None, pair]
        torch.testing.assert_close(DS4Sci_EvoformerAttention(Q, K, V, biases), plain(Q, K, V, [pair]))
        assert biases == [None, pair]
    listed = []
    DS4Sci_EvoformerAttention(Q, K, V, listed)
    assert listed == []


def test_a_wrong_bias_is_told_the_right_shape():
    Q = torch.randn(1, 5, 7, 2, 8)
    with pytest.raises(ValueError, match=r"bias1; expected \[1, 5, 1, 1, 7\].*got \[1, 7, 1, 1, 5\]"):
        DS4Sci_EvoformerAttention(Q, Q, Q, [torch.zeros(1, 7, 1, 1, 5)])
    with pytest.raises(ValueError, match=r"bias2; expected \[1, 1, 2, 7, 7\].*got \[1, 5, 2, 7, 7\]"):
        DS4Sci_EvoformerAttention(Q, Q, Q, [None, torch.zeros(1, 5, 2, 7, 7)])


def test_rows_of_a_single_leading_dim():
    Q = torch.randn(5, 7, 2, 8)
    mask, pair = torch.randn(5, 1, 1, 7), torch.randn(1, 2, 7, 7)
    torch.testing.assert_close(DS4Sci_EvoformerAttention(Q, Q, Q, [mask, pair]), plain(Q, Q, Q, [mask, pair]))


def test_install_answers_openfold_and_no_one_else(installed):
    assert importlib.util.find_spec("deepspeed") is not None
    assert importlib.util.find_spec("deepspeed.ops.deepspeed4science") is not None
    import deepspeed
    from deepspeed.ops.deepspeed4science import DS4Sci_EvoformerAttention as found

    assert found is DS4Sci_EvoformerAttention
    assert deepspeed.comm.comm.is_initialized() is False
    assert deepspeed.checkpointing.is_configured() is False
    utilities = pytest.importorskip("transformers.integrations.deepspeed")
    assert not utilities.is_deepspeed_available()
    compat.install()  # again is nothing


# How lightning-utilities 0.8 to 0.15 answer RequirementCache("deepspeed"): the installed packages' metadata, then
# whether the module is there.
LIGHTNING = """
import importlib.metadata
from importlib.util import find_spec

def package_available(name):
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False

def module_available(path):
    if not package_available(path.split(".")[0]):
        return False
    try:
        importlib.import_module(path)
    except ImportError:
        return False
    return True

def requirement(name):
    try:
        importlib.metadata.version(name)
        return True
    except importlib.metadata.PackageNotFoundError:
        return module_available(name)
"""


def test_lightning_still_knows_no_deepspeed(installed):
    facts = {"__name__": "lightning_utilities.core.imports"}
    exec(LIGHTNING, facts)
    assert facts["requirement"]("deepspeed") is False
    assert facts["module_available"]("deepspeed.ops") is False
    assert facts["requirement"]("torch") is True
    elsewhere = {"__name__": "openfold.model.primitives"}
    exec(LIGHTNING, elsewhere)
    assert elsewhere["package_available"]("deepspeed") is True
    assert elsewhere["package_available"]("deepspeed.ops.deepspeed4science") is True


def test_the_real_lightning_knows_no_deepspeed(installed):
    imports = pytest.importorskip("lightning_utilities.core.imports")
    assert not imports.RequirementCache("deepspeed")
    assert not imports.RequirementCache("deepspeed>=0.16.0")


def test_the_real_accelerate_knows_no_deepspeed(installed):
    assert not pytest.importorskip("accelerate.utils").is_deepspeed_available()


def test_checkpoints_of_deepspeed_are_refused_aloud(installed):
    import deepspeed
    from deepspeed.utils import zero_to_fp32  # as train_openfold.py, always

    assert deepspeed.utils.zero_to_fp32 is zero_to_fp32
    with pytest.raises(
        RuntimeError, match=r"get_fp32_state_dict_from_zero_checkpoint.*DeepSpeed to be installed"
    ):
        zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint("checkpoint", tag="last")


def test_uninstall_leaves_no_trace():
    compat.install()
    compat.uninstall()
    assert not [name for name in sys.modules if name.split(".")[0] == "deepspeed"]
    assert importlib.util.find_spec("deepspeed") is None
