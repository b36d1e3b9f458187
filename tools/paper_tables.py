# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/paper_limits.md that are not the limits themselves: the terms, which lengths of the published
table 1 fit, and what one switch after the other does at 25B and 100K. Called by tools/paper_limits.
"""

import dataclasses

from paper_designs import DESIGNS, NAMES, Fitted, Mesh, Step, Term
from paper_plans import Planner

TABLE_1 = Mesh(tensor=32)
WIDE = (
    "model.hidden_size=6144",
    "model.ffn_size=24576",
    "train.batch=2",
)  # 30B: 64 layers, 2 micro-batches of 1
WIDE_HIDDEN = 6144
OLD_LONGEST, NEW_LONGEST = 4, 256  # K tokens that ran in table 1
LENGTHS = [2**power for power in range(1, 10)]  # K of 1024 tokens
LAYERS = 64
EFFECTS_LENGTH = 100_000


def gigabytes(count: float) -> str:
    """10^9 bytes."""
    return f"{count / 1e9:.1f}"


def terms_table() -> str:
    """Every term of every design."""
    lines = ["| term | of | bytes | source and meaning |", "|---|---|---|---|"]
    known: dict[Term, list[str]] = {}
    for design in DESIGNS.values():
        for moment in design.moments:
            for term in moment.terms:
                where = NAMES[design.key] + (f" ({moment.name})" if len(design.moments) > 1 else "")
                known.setdefault(term, []).append(where)
    for term, where in known.items():
        lines.append(f"| {term.name} | {', '.join(where)} | `{term.formula}` | {term.source} |")
    lines.append(
        "| workspace | Megatron-LM, new Megatron-DeepSpeed | `w P / d` | fitted; P: elements that the rank computes with |"
    )
    return "\n".join(lines)


def _verdict(needed: float, memory: int) -> str:
    return f"{gigabytes(needed)}, {'fits' if needed <= memory else 'does not fit'}"


def lengths_table(planner: Planner, fitted: Fitted) -> str:
    """Table 1: 30B on 32 devices, lengths that fit."""
    lines = [
        "| K tokens | old, published | old, as above | old, nothing recomputed | new, published | new, as above | "
        "new, without w |",
        "|---|---|---|---|---|---|---|",
    ]
    for thousand in LENGTHS:
        length = thousand * 1024

        def step(recipe: str, *more: str, constants: Fitted = fitted, tokens: int = length) -> Step:
            made = planner.step(recipe, TABLE_1, tokens, (*WIDE, *more), WIDE_HIDDEN)
            return dataclasses.replace(made, fitted=constants)

        old, new = DESIGNS["old"], DESIGNS["new"]
        kept = "" if thousand > 32 else _verdict(_nothing_recomputed(step), planner.memory)
        without_w = dataclasses.replace(fitted, workspace=0.0)
        lines.append(
            f"| {thousand} | {'runs' if thousand <= OLD_LONGEST else 'out of memory'} | "
            f"{_verdict(old.needs(step('old_25b.yaml')), planner.memory)} | {kept} | "
            f"{'runs' if thousand <= NEW_LONGEST else ''} | "
            f"{_verdict(new.needs(step('new_25b.yaml')), planner.memory)} | "
            f"{_verdict(new.needs(step('new_25b.yaml', constants=without_w)), planner.memory)} |"
        )
    return "\n".join(lines)


def _nothing_recomputed(step) -> float:
    """The old design keeping all of a layer, with unfused attention's softmax, dropout mask and dropped softmax."""
    made = step("old_25b.yaml", "train.recompute_group=0")
    scores = 5 * made.square * made.heads / made.mesh.tensor * LAYERS
    return DESIGNS["old"].needs(made) + scores


def effects_table(planner: Planner, fitted: Fitted) -> str:
    """One row per switch."""
    lines = ["| what | switch | tensor 8 | tensor 32 | tensor 64 | published |", "|---|---|---|---|---|---|"]
    for row in (*_activation_rows(planner), *_mask_rows(planner, fitted), *_position_rows(planner)):
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _meshes() -> list[tuple[Mesh, int]]:
    """With rows of about EFFECTS_LENGTH that tensor divides."""
    return [(Mesh(tensor), EFFECTS_LENGTH // tensor * tensor) for tensor in (8, 32, 64)]


def _activations(made: dict) -> int:
    """The most at any moment, gathered and sent buffers included."""
    uses = [made["uses"].index(use) for use in ("activations", "logits", "communication")]
    return max(sum(now[use] for use in uses) for role in made["roles"] for now in role["timeline"])


def _activation_rows(planner: Planner):
    for switch, settings, published in (
        ("nothing recomputed, stream whole", ("train.recompute_group=0",), "480"),
        ("sequence regions", ("train.recompute_group=0", "parallel.sequence_regions=true"), ""),
        ("layers recomputed", ("parallel.sequence_regions=true",), "12"),
    ):
        cells = []
        for mesh, length in _meshes():
            made = planner.plan("old_25b.yaml", mesh, length, ("model.position=alibi", *settings))
            cells.append(gigabytes(_activations(made)))
        yield "activations, the most", switch, *cells, published


def _mask_rows(planner: Planner, fitted: Fitted):
    """Of the new design otherwise, the mask added to it, without w."""
    new, fitted = DESIGNS["new"], dataclasses.replace(fitted, workspace=0.0)
    steps = [
        dataclasses.replace(planner.step("new_25b.yaml", mesh, length), fitted=fitted)
        for mesh, length in _meshes()
    ]
    for switch, building, kept, published in (
        ("built on the device: ones, lower triangle", 8, 1, ""),
        ("the same, one fp32 copy and its bool", 5, 1, "54"),
        ("built on the host, bool moved", 0, 1, "39"),
        ("never made", 0, 0, ""),
    ):
        cells = []
        for step in steps:
            before = step.planned.before + step.planned.outside + building * step.square
            cells.append(gigabytes(max(before, new.needs(step) + kept * step.square)))
        yield "device's peak with the mask", switch, *cells, published


def _position_rows(planner: Planner):
    """Weights, fp32 copies and moments by the plan; the gradient by its size."""
    for switch, cut in (("learned, whole on every rank", False), ("learned, cut over tensor", True)):
        cells = []
        for mesh, length in _meshes():
            with_table, without = (
                planner.step("old_25b.yaml", mesh, length, (f"model.position={kind}",)).planned.before
                for kind in ("learned", "alibi")
            )
            table = with_table - without + 4 * length * 5760
            cells.append(gigabytes(table / mesh.tensor if cut else table))
        yield "positions, gradient included", switch, *cells, "" if cut else "above 10"
    yield "positions, gradient included", "rotary or ALiBi", "0.0", "0.0", "0.0", ""
