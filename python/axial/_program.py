# SPDX-License-Identifier: Apache-2.0
"""The command `axial` of an installed package: becomes the compiled program."""

import os
import pathlib
import sys


def main() -> None:
    """Replace this process by the program, which finds torch's libraries beside the package."""
    program = str(pathlib.Path(__file__).parent / "bin" / "axial")
    os.execv(program, [program, *sys.argv[1:]])
