# SPDX-License-Identifier: Apache-2.0
"""DeepSpeed4Science's Evoformer attention, by its own name and arguments.

    from axial.compat.deepspeed import DS4Sci_EvoformerAttention

``install()`` makes ``from deepspeed.ops.deepspeed4science import DS4Sci_EvoformerAttention`` resolve to it in code
that cannot be changed, as OpenFold's, where DeepSpeed itself is not installed.
"""

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch

from axial.attention import evoformer_attention

__all__ = ["DS4Sci_EvoformerAttention", "install", "uninstall"]

# What OpenFold takes from DeepSpeed: the attention, two questions that it asks of the rest, and an import.
_NAMES = (
    "deepspeed",
    "deepspeed.ops",
    "deepspeed.ops.deepspeed4science",
    "deepspeed.comm",
    "deepspeed.comm.comm",
    "deepspeed.checkpointing",
    "deepspeed.utils",
    "deepspeed.utils.zero_to_fp32",
)
# OpenFold's train_openfold.py imports the module always and calls these for checkpoints of DeepSpeed's own.
_CONVERSIONS = (
    "convert_zero_checkpoint_to_fp32_state_dict",
    "get_fp32_state_dict_from_zero_checkpoint",
    "get_model_state_file",
    "get_optim_files",
    "load_state_dict_from_zero_checkpoint",
    "parse_optim_states",
)
# These take a module that can be imported for DeepSpeed itself. transformers and accelerate ask the packages' metadata.
_LIGHTNING = ("lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning")


def _check_bias(name: str, bias: torch.Tensor | None, expected: list[int], q: torch.Tensor) -> None:
    if bias is None:
        return
    found = list(bias.shape)
    if len(found) != len(expected) or any(f not in (1, e) for f, e in zip(found, expected, strict=True)):
        raise ValueError(
            f"[DS4Sci_EvoformerAttention] {name}; expected {expected} (or 1 where it is broadcast) for "
            f"Q {list(q.shape)}, got {found}"
        )


def DS4Sci_EvoformerAttention(  # noqa: N802  the name that others import
    Q: torch.Tensor,  # noqa: N803
    K: torch.Tensor,  # noqa: N803
    V: torch.Tensor,  # noqa: N803
    biases: Sequence[torch.Tensor | None],
) -> torch.Tensor:
    """Return the attention of Q, K and V with a mask bias and a pair bias.

    Args:
        Q: [*, Lq, H, D]; K, V: [*, Lk, H, D]; in DeepSpeed's own use * is batch B and rows N.
        biases: [bias1, bias2], either None or missing: bias1 [B, N, 1, 1, Lk], bias2 [B, 1, H, Lq, Lk]; any of these
            dims may be 1. The list is not changed.

    Returns:
        [*, Lq, H, D]. The scale is 1 / sqrt(D).

    Beyond DeepSpeed's: any length (it needs more than 16), any D, float32 and float64, Lq unlike Lk, biases broadcast
    over B, every gradient bitwise repeatable, CPU.
    """
    if isinstance(biases, torch.Tensor):
        raise ValueError("[DS4Sci_EvoformerAttention] biases; expected a list of tensors, got a tensor")
    if len(biases) > 2:
        raise ValueError(f"[DS4Sci_EvoformerAttention] biases; expected at most 2, got {len(biases)}")
    bias1, bias2 = (*biases, None, None)[:2]
    if Q.dim() >= 4 and K.dim() == Q.dim():
        *leading, queries, heads, _ = Q.shape
        keys = K.shape[-3]
        _check_bias("bias1", bias1, [*leading, 1, 1, keys], Q)
        _check_bias("bias2", bias2, [*leading[:-1], 1, heads, queries, keys], Q)
    return evoformer_attention(Q, K, V, [bias1, bias2])


class _Module(types.ModuleType):
    """One of ours under DeepSpeed's name.

    importlib.util.find_spec answers what it finds as a module's __spec__. OpenFold and its relatives ask it before they
    import, so it must be there; Lightning would take the answer for DeepSpeed whole, and is told that there is none.
    """

    __axial__ = True

    @property
    def __spec__(self) -> importlib.machinery.ModuleSpec:
        find_spec = sys._getframe(1)
        asker = find_spec.f_back
        if find_spec.f_globals.get("__name__") == "importlib.util" and asker is not None:
            root = str(asker.f_globals.get("__name__")).partition(".")[0]
            if root in _LIGHTNING:
                raise ModuleNotFoundError(
                    f"No module named {self.__name__!r}: axial.compat.deepspeed is not it"
                )
        return importlib.machinery.ModuleSpec(self.__name__, loader=None, is_package=True)


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError(
            f"[compat.deepspeed] {name} reads checkpoints that DeepSpeed wrote; expected DeepSpeed to be installed, "
            "got axial's stand-in, which has its attention alone"
        )

    return refuse


def install() -> None:
    """Let imports of DeepSpeed's Evoformer attention find this one, where DeepSpeed itself is not installed.

    Call it before the first import of the code that is to find it. Beside the attention there are the two functions
    that OpenFold asks, `deepspeed.comm.comm.is_initialized` and `deepspeed.checkpointing.is_configured`, both False,
    and the module `deepspeed.utils.zero_to_fp32`, whose functions refuse. Lightning, transformers and accelerate still
    know no DeepSpeed.
    Raises RuntimeError where DeepSpeed is installed: import from axial.compat.deepspeed there.
    """
    if getattr(sys.modules.get("deepspeed"), "__axial__", False):
        return
    if "deepspeed" in sys.modules or importlib.util.find_spec("deepspeed") is not None:
        raise RuntimeError(
            "[compat.deepspeed] DeepSpeed is installed; import DS4Sci_EvoformerAttention from axial.compat.deepspeed"
        )
    for name in _NAMES:
        module = _Module(name, "Made by axial.compat.deepspeed: Evoformer attention and little else.")
        module.__path__ = []
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    sys.modules["deepspeed.ops.deepspeed4science"].DS4Sci_EvoformerAttention = DS4Sci_EvoformerAttention
    sys.modules["deepspeed.comm.comm"].is_initialized = lambda: False
    sys.modules["deepspeed.checkpointing"].is_configured = lambda: False
    for name in _CONVERSIONS:
        setattr(sys.modules["deepspeed.utils.zero_to_fp32"], name, _refuse(name))


def uninstall() -> None:
    """Undo `install`."""
    if getattr(sys.modules.get("deepspeed"), "__axial__", False):
        for name in _NAMES:
            sys.modules.pop(name, None)
