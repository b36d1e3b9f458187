# SPDX-License-Identifier: Apache-2.0
"""Tests import the package of the build tree unless one is installed."""

import importlib.util
import pathlib
import sys

# The folder of the C++ sources, when the tests start beside it, is found as an empty namespace package.
found = importlib.util.find_spec("axial")
if found is None or found.origin is None:
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "build" / "python"))
