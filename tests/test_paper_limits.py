# SPDX-License-Identifier: Apache-2.0
"""tools/paper_limits: terms by hand, the search, and that the committed table is what the tool computes."""

import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from paper_designs import DESIGNS, PUBLISHED, Fitted, Mesh, Planned, Step, mesh_of  # noqa: E402
from paper_plans import CELLS, UNIT, Cell, Planner  # noqa: E402

PAGE = (ROOT / "docs" / "paper_limits.md").read_text()
ROW = re.compile(
    r"^\| (25B|33B) \| ([\w -]+) \| (\d+) \| (\d+) \| ([\d,]+) \| ([+-][\d.]+) % \|", re.MULTILINE
)
KEYS = {"old Megatron-DeepSpeed": "old", "Megatron-LM": "megatron_lm", "new Megatron-DeepSpeed": "new"}


def committed() -> dict[Cell, int]:
    """Planned limits of the page."""
    rows = ROW.findall(PAGE)
    return {
        Cell(KEYS[name], model, int(n)): int(tokens.replace(",", "")) for model, name, n, _, tokens, _ in rows
    }


def constants() -> Fitted:
    """Of the page."""
    found = re.search(r"w = ([\d.]+) bytes per parameter, g = ([\d.]+) buffers", PAGE)
    return Fitted(float(found[1]), float(found[2]))


def step(tensors=0, before=0, parameters=0, **more) -> Step:
    """Rows of 10 tokens, width 3, 4 heads, tensor 2."""
    return Step(
        Planned(tensors, before, parameters, outside=0), Mesh(2), length=10, hidden=3, heads=4, **more
    )


def test_terms_by_hand():
    (old,) = DESIGNS["old"].moments
    assert old.bytes_of(step(tensors=1000)) == 1000 - 4 * 30
    attention, feed_forward, mask = DESIGNS["megatron_lm"].moments
    assert attention.bytes_of(step(tensors=1000)) == 1000 - 12 * 30 + 100 + 9 * 100 * 4 / 2
    assert (
        feed_forward.bytes_of(step(1000, fitted=Fitted(0, 4))) == 1000 + (8 - 14) * 30 + 100 + 7 * 100 * 4 / 2
    )
    assert mask.bytes_of(step(tensors=1000, before=50)) == 50 + 800
    (new,) = DESIGNS["new"].moments
    assert new.bytes_of(step(1000, fitted=Fitted(0, 3))) == 1000 - 8 * 30 + 14 * 30 / 2


def test_the_workspace_is_shared_as_the_states_are():
    fitted = Fitted(workspace=8.0)
    planned = Planned(tensors=0, before=0, parameters=6, outside=0)
    shared = Step(planned, Mesh(2, data=2, zero=1), length=10, fitted=fitted)
    assert DESIGNS["new"].workspace_of(shared) == 24
    assert DESIGNS["new"].workspace_of(Step(planned, Mesh(2, data=2), length=10, fitted=fitted)) == 48
    assert DESIGNS["old"].workspace_of(shared) == 0


def test_meshes_and_vocabularies():
    assert mesh_of("new", 32) == Mesh(32) and mesh_of("old", 128) == Mesh(64, 2)
    assert mesh_of("megatron_lm", 128) == Mesh(64, 2, zero=1)
    assert (Mesh(32).vocabulary, Mesh(64).vocabulary) == (53248, 57344)


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 8, 9, 1000])
@pytest.mark.parametrize("guess", [1, 8, 500])
def test_the_search_finds_the_last_that_fits(limit, guess):
    class Known(Planner):
        def __init__(self):
            self.asked = []

        def fits(self, cell, length, fitted):
            self.asked.append(length)
            return length <= limit * UNIT

    known = Known()
    assert known.longest(CELLS[0], Fitted(), guess * UNIT) == limit * UNIT
    assert len(known.asked) <= 24 and all(length % UNIT == 0 and length > 0 for length in known.asked)


def test_the_page_has_every_published_number_and_counts_well():
    table = committed()
    assert list(table) == CELLS and len(table) == 18
    for model, name, devices, published, tokens, off in ROW.findall(PAGE):
        key = KEYS[name], model
        assert int(published) in PUBLISHED[key], devices
        assert float(off) == pytest.approx(
            100 * (int(tokens.replace(",", "")) / int(published) / 1000 - 1), abs=0.05
        )
    close = sum(abs(length / cell.published - 1) <= 0.1 for cell, length in table.items())
    assert f"Within 10 %: {close} of 18" in PAGE and close >= 15
    misses = PAGE.split("<!-- misses")[1].split("<!-- end of misses")[0]
    assert misses.count("\n- ") == 18 - close


@pytest.mark.parametrize("cell", [Cell("old", "25B", 64), Cell("new", "33B", 32)])
def test_the_committed_limit_is_the_planned_one(axial_program, cell):
    planner, length = Planner(axial_program), committed()[cell]
    assert planner.fits(cell, length, constants())
    assert not planner.fits(cell, length + UNIT, constants())
