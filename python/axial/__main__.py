# SPDX-License-Identifier: Apache-2.0
"""`python -m axial`: the program, with the torch of this Python."""

from axial._program import main

main()
