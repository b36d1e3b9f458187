# SPDX-License-Identifier: Apache-2.0
"""The command `axial` of an installed package: becomes the compiled program."""

import importlib.util
import os
import pathlib
import sys


def main() -> None:
    """Replace this process by the program, with the libraries of the torch that Python finds, wherever it lies."""
    program = str(pathlib.Path(__file__).parent / "bin" / "axial")
    torch = importlib.util.find_spec("torch")
    if torch is None or not torch.submodule_search_locations:
        sys.exit("axial: expected torch among the installed packages, found none")
    folders = [str(pathlib.Path(torch.submodule_search_locations[0]) / "lib")]
    folders += filter(None, [os.environ.get("LD_LIBRARY_PATH")])
    os.execve(program, [program, *sys.argv[1:]], os.environ | {"LD_LIBRARY_PATH": ":".join(folders)})
