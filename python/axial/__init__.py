# SPDX-License-Identifier: Apache-2.0
"""Axial: training and running science models. Importing it makes torch.ops.axial.* callable.

The operators are differentiable and work on CPU and Meta tensors; their contracts (shapes, dtypes,
gradients, what they throw) are documented in the headers under axial/ops.
"""

import pathlib

import torch

from axial._build import TORCH_VERSION, VERSION

__version__: str = VERSION
__all__ = ["__version__", "evoformer_attention", "library_dir", "operators", "ops", "program_path"]

_HERE = pathlib.Path(__file__).parent


def library_dir() -> pathlib.Path:
    """Return the folder of the compiled libraries."""
    return _HERE / "lib"


def program_path() -> pathlib.Path:
    """Return the path of the program `axial` that belongs to this package.

    It finds torch's libraries beside the package, as pip installs them; `python -m axial` finds them anywhere.
    """
    return _HERE / "bin" / "axial"


def operators() -> list[str]:
    """Return the names of the operators, as in torch.ops.axial.<name>, sorted."""
    schemas = torch._C._jit_get_all_schemas()
    return sorted({s.name.split("::")[1] for s in schemas if s.name.startswith("axial::")})


def _load() -> None:
    # The libraries call torch's C++ interface, which changes between versions without notice.
    if torch.__version__ != TORCH_VERSION:
        raise ImportError(
            f"axial {VERSION} was built with torch {TORCH_VERSION}, found {torch.__version__}; "
            "install that torch, or build axial again in this environment"
        )
    torch.ops.load_library(str(library_dir() / "libaxial_ops.so"))


_load()
ops = torch.ops.axial

from axial.attention import evoformer_attention  # noqa: E402  the library first
