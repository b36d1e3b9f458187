# SPDX-License-Identifier: Apache-2.0
"""tools/check_layers accepts this tree and refuses each violation that it exists for."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SPDX = "// SPDX-License-Identifier: Apache-2.0\n"


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "layers.json", tmp_path / "tools")

    def write(path: str, text: str, spdx: str = SPDX) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        pragma = "#pragma once\n" if path.endswith(".h") and spdx else ""
        (tmp_path / path).write_text(spdx + pragma + text)

    write("axial/core/check/check.h", "")
    write("axial/ops/norm/norm.cpp", '#include "axial/core/check/check.h"\n#include <ATen/ATen.h>\n')
    write("axial/ops/norm/norm_test.cpp", '#include "axial/testing/cases/cases.h"\n')
    write("axial/parallel/step/step.cpp", '#include "axial/parallel/block/block.h"\n')
    return tmp_path, write


def check(root: pathlib.Path) -> tuple[int, str]:
    command = [sys.executable, ROOT / "tools" / "check_layers", root]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_this_repository_keeps_its_own_rules():
    code, out = check(ROOT)
    assert code == 0, out


def test_a_lawful_tree_passes(tree):
    code, out = check(tree[0])
    assert code == 0, out


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("axial/kernels/a/a.cpp", '#include "axial/ops/norm/norm.h"', "a layer that stands above it"),
        ("axial/kernels/a/a.h", "#include <ATen/ATen.h>", "kernels is free of torch, but includes ATen"),
        ("axial/core/a/a.cpp", "  #  include <c10/core/Device.h>", "core is free of torch"),
        ("axial/data/a/a.cpp", '#include "axial/models/gpt/gpt.h"', "these two layers never meet"),
        ("axial/models/a/a.cpp", '#include "axial/data/fasta/fasta.h"', "models includes axial/data/fasta/"),
        ("axial/ops/a/a.cpp", '#include "axial/testing/cases/cases.h"', "serves tests of torch layers only"),
        ("axial/kernels/a/a_test.cpp", '#include "axial/testing/c/c.h"', "serves tests of torch layers only"),
        ("axial/ops/a/a.cpp", '#include "axial/ops/norm/norm.h"', "ops/a uses its peer ops/norm"),
        ("axial/train/a/a.cpp", '#include "axial/cli/common/registry.h"', "a layer that stands above it"),
        ("axial/ops/a/a.cpp", "#include <axial/core/check/check.h>", "with quotes"),
        ("axial/ops/a/a.cpp", '#include "axial/utils/a.h"', "is in no known layer"),
        ("axial/utils/a/a.cpp", "", "axial/utils is not a layer"),
        ("axial/ops/a/a.cpp", "// caf\u00e9", "not ASCII"),
        ("axial/ops/a/a.cpp", "\n" * 900, "lines; split it"),
    ],
)
def test_a_violation_is_named(tree, path, text, fault):
    root, write = tree
    write(path, text + "\n")
    code, out = check(root)
    assert code == 1
    assert fault in out and path in out


def test_cycles_between_units_are_named(tree):
    root, write = tree
    write("axial/parallel/block/block.h", '#include "axial/parallel/mesh/mesh.h"\n')
    write("axial/parallel/mesh/mesh.h", '#include "axial/parallel/step/step.h"\n')
    code, out = check(root)
    assert code == 1
    assert "units of parallel in a cycle: block -> mesh -> step -> block" in out


def test_a_missing_spdx_line_and_pragma_are_named(tree):
    root, write = tree
    write("axial/ops/a/a.h", "int x;\n", spdx="")
    write("tools/new.py", "x = 1\n", spdx="")
    _, out = check(root)
    assert "axial/ops/a/a.h:1: the SPDX line is missing" in out
    assert "axial/ops/a/a.h: #pragma once is missing" in out
    assert "tools/new.py:1: the SPDX line is missing" in out


def test_long_files_warn_before_they_fail(tree):
    root, write = tree
    write("axial/ops/a/a.cpp", "int x;\n" * 600)
    code, out = check(root)
    assert code == 0
    assert "warning: axial/ops/a/a.cpp: 601 lines" in out
