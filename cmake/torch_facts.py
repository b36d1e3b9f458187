"""Print root;version;abi of the installed torch, for CMake."""

import os

import torch

print(
    os.path.dirname(torch.__file__),
    torch.__version__,
    int(torch._C._GLIBCXX_USE_CXX11_ABI),
    sep=";",
)
