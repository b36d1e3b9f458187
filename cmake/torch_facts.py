# SPDX-License-Identifier: Apache-2.0
"""Print root;version;abi of the installed torch, for CMake.

pip builds wheels in an isolated environment whose Python hides the installed packages; torch is then
found in the folder it is installed in, because the wheel must fit that torch and no other.
"""

import os
import sys
import sysconfig

try:
    import torch
except ImportError:
    sys.path.append(os.environ.get("AXIAL_SITE_PACKAGES", sysconfig.get_path("purelib")))
    import torch

print(
    os.path.dirname(torch.__file__),
    torch.__version__,
    int(torch._C._GLIBCXX_USE_CXX11_ABI),
    sep=";",
)
