# SPDX-License-Identifier: Apache-2.0
"""Plans of recipes/paper by `axial plan`, the longest rows that fit under a published design, and the fit of the one
constant that the designs leave open. Called by tools/paper_limits and its tests.
"""

import dataclasses
import functools
import json
import math
import pathlib
import subprocess
import tempfile
from collections.abc import Callable

from paper_designs import (
    DESIGNS,
    DEVICES,
    HEADS,
    HIDDEN,
    MODELS,
    PUBLISHED,
    THOUSAND,
    Fitted,
    Mesh,
    Planned,
    Step,
    mesh_of,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEVICE = "a100-40gb"
UNIT = 64  # tokens: tensor must divide rows there
FITTED_ON = (32, 64)  # devices; 128 are predicted
WORKSPACES = [half / 2 for half in range(61)]  # tried in the fit, bytes per parameter
BUFFERS = [3 + quarter / 4 for quarter in range(17)]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One of the published numbers."""

    design: str
    model: str
    devices: int

    @property
    def mesh(self) -> Mesh:
        """Of its devices."""
        return mesh_of(self.design, self.devices)

    @property
    def published(self) -> int:
        """Tokens."""
        return PUBLISHED[self.design, self.model][DEVICES.index(self.devices)] * THOUSAND


CELLS = [Cell(design, model, devices) for model in MODELS for design in DESIGNS for devices in DEVICES]


class Planner:
    """Runs `axial plan`, each plan once, for a device of DEVICE's properties without an end of its memory."""

    def __init__(self, program: pathlib.Path, on_plan: Callable[[], None] = lambda: None):
        self.program = program
        self.on_plan = on_plan
        self.folder = tempfile.TemporaryDirectory()
        self.device = self._run(ROOT / "recipes" / "genome_test.yaml", 1, DEVICE, ())["device"]
        self.memory = self.device["memory"]
        self.endless = pathlib.Path(self.folder.name) / "endless.yaml"
        properties = {key: self.device[key] for key in ("context", "communicator")}
        self.endless.write_text(json.dumps({"name": "endless", "memory": 1 << 50, **properties}))

    def _run(self, recipe: pathlib.Path, world: int, device, settings: tuple[str, ...]) -> dict:
        out = pathlib.Path(self.folder.name) / "plan.json"
        command = [self.program, "plan", recipe, "--world", world, "--device", device, "--json", out]
        for setting in settings:
            command += ["--set", setting]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(
                f"[paper_limits] {' '.join(map(str, command))}; expected a plan, got {done.stderr}"
            )
        return json.loads(out.read_text())

    @functools.cache  # noqa: B019 lives as long as the program
    def plan(self, recipe: str, mesh: Mesh, length: int, more: tuple[str, ...] = ()) -> dict:
        """The plan of recipes/paper/`recipe` on a mesh with rows of `length` tokens."""
        settings = (
            f"data.sequence_length={length}",
            f"model.max_positions={length}",
            f"model.vocab_size={mesh.vocabulary}",
            f"parallel.tensor={mesh.tensor}",
            f"parallel.data={mesh.data}",
            f"parallel.zero={mesh.zero}",
            f"train.batch={mesh.data}",
            *more,
        )
        made = self._run(ROOT / "recipes" / "paper" / recipe, mesh.tensor * mesh.data, self.endless, settings)
        self.on_plan()
        return made

    def step(
        self,
        recipe: str,
        mesh: Mesh,
        length: int,
        more: tuple[str, ...] = (),
        hidden: int = HIDDEN,
        heads: int = HEADS,
    ) -> Step:
        """The same as what terms take: of the rank that needs most."""
        made = self.plan(recipe, mesh, length, more)
        gradients = made["uses"].index("gradients")
        roles = made["roles"]
        planned = Planned(
            tensors=max(int(sum(now) - now[gradients] / 2) for role in roles for now in role["timeline"]),
            before=max(role["resident_bytes"] for role in roles),
            parameters=max(role["parameters"] for role in roles),
            outside=max(role["outside_bytes"] for role in roles),
        )
        return Step(planned, mesh, length, hidden, heads)

    def step_of(self, cell: Cell, length: int, fitted: Fitted) -> Step:
        """Of a published number's design."""
        step = self.step(DESIGNS[cell.design].recipe(cell.model), cell.mesh, length)
        return dataclasses.replace(step, fitted=fitted)

    def fits(self, cell: Cell, length: int, fitted: Fitted) -> bool:
        """Whether rows of `length` tokens would."""
        return DESIGNS[cell.design].needs(self.step_of(cell, length, fitted)) <= self.memory

    def longest(self, cell: Cell, fitted: Fitted, guess: int | None = None) -> int:
        """The largest multiple of UNIT that fits, by bisection around a guess; 0: none does."""
        low, high = 0, None  # in units: fits, does not
        middle, stride = max((guess or cell.published) // UNIT, 1), 1
        while high is None or high - low > 1:
            if self.fits(cell, middle * UNIT, fitted):
                low = middle
                middle = middle + stride if high is None else (low + high) // 2
            else:
                high = middle
                middle = max(middle - stride, 1) if low == 0 else (low + high) // 2
                if high == 1:
                    return 0
            stride *= 2
        return low * UNIT


class Curve:
    """What a cell needs over lengths, straight between planned ones: to try constants without planning each."""

    def __init__(self, planner: Planner, cell: Cell):
        self.cell = cell
        around = sorted(
            {max(round(cell.published * share / UNIT), 1) * UNIT for share in (0.5, 0.8, 1.0, 1.25, 2.0)}
        )
        self.steps = [planner.step_of(cell, length, Fitted()) for length in around]

    def step(self, length: int, fitted: Fitted) -> Step:
        """Beyond the ends as at the ends."""
        after = next((i for i, step in enumerate(self.steps) if step.length >= length), len(self.steps) - 1)
        low, high = self.steps[max(after, 1) - 1], self.steps[max(after, 1)]
        share = (length - low.length) / (high.length - low.length)
        planned = Planned(
            *(
                a + share * (b - a)
                for a, b in zip(
                    dataclasses.astuple(low.planned), dataclasses.astuple(high.planned), strict=True
                )
            )
        )
        return Step(planned, low.mesh, length, fitted=fitted)

    def longest(self, memory: int, fitted: Fitted) -> int:
        """About what Planner.longest says."""
        low, high = 0, 4 * self.cell.published // UNIT
        design = DESIGNS[self.cell.design]
        while high - low > 1:
            middle = (low + high) // 2
            fits = design.needs(self.step(middle * UNIT, fitted)) <= memory
            low, high = (middle, high) if fits else (low, middle)
        return low * UNIT


def fit(planner: Planner, curves: dict[Cell, Curve]) -> Fitted:
    """The constants with the smallest sum of |log(planned / published)| over the cells of FITTED_ON: a sum of
    absolute values, so that one number that is far from all others does not pull the rest."""
    concerned = {
        c: curve for c, curve in curves.items() if c.devices in FITTED_ON and DESIGNS[c.design].workspace
    }

    def off(fitted: Fitted) -> float:
        longest = {
            cell: max(curve.longest(planner.memory, fitted), UNIT) for cell, curve in concerned.items()
        }
        return sum(abs(math.log(length / cell.published)) for cell, length in longest.items())

    return min((Fitted(w, g) for w in WORKSPACES for g in BUFFERS), key=off)
