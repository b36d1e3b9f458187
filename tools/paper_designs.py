# SPDX-License-Identifier: Apache-2.0
"""What was published about long rows on A100-40GB, and the designs that reached them: recipes of recipes/paper,
and, as labelled terms with a formula in bytes and a source, what those designs have and the recipes' step has not.
Read by tools/paper_limits. s: tokens of a row, h: width of the stream, a: heads, t: tensor ranks, d: data ranks.
"""

import dataclasses
from collections.abc import Callable

THOUSAND = 1000  # their K: the example of their README trains on SEQ_LEN=128000
DEVICES = (32, 64, 128)
MODELS = {"25B": 64, "33B": 80}  # layers of 5760
HIDDEN, HEADS = 5760, 64
GPT2_TOKENS = 50257

# Longest rows in thousands of tokens, by design and model, on 32, 64 and 128 devices. The README of GenSLM's
# long-sequences example plots them with the keys 25B and 33B swapped: the announcement's 12x and 14x over the
# old design, and its 42K -> 512K for 25B, are those of the order here.
PUBLISHED = {
    ("old", "25B"): (36, 42, 42),
    ("megatron_lm", "25B"): (26, 48, 52),
    ("new", "25B"): (192, 448, 512),
    ("old", "33B"): (28, 32, 32),
    ("megatron_lm", "33B"): (14, 46, 52),
    ("new", "33B"): (128, 384, 448),
}
NAMES = {"old": "old Megatron-DeepSpeed", "megatron_lm": "Megatron-LM", "new": "new Megatron-DeepSpeed"}


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How so many devices were used: tensor at most 64, which divides the heads; beyond that two data ranks."""

    tensor: int
    data: int = 1
    zero: int = 0

    @property
    def sharers(self) -> int:
        """Ranks that share an optimizer state."""
        return self.data if self.zero else 1

    @property
    def vocabulary(self) -> int:
        """GPT-2's tokens, padded as Megatron does."""
        step = 128 * self.tensor
        return -(-GPT2_TOKENS // step) * step


def mesh_of(design: str, devices: int) -> Mesh:
    """The old design gained nothing from 64 to 128 devices: plain data parallel. The others did: ZeRO 1."""
    if devices <= 64:
        return Mesh(devices)
    return Mesh(64, devices // 64, 0 if design == "old" else 1)


@dataclasses.dataclass(frozen=True)
class Planned:
    """Bytes of the rank that needs most, from the plan of a recipe: tensors only."""

    tensors: int  # at the peak, gradients counted with 2 bytes each instead of the step's 4
    before: int  # before the step: weights, moments, fp32 copies
    parameters: int  # elements that the rank computes with
    outside: int  # context and communicators, of the table of devices


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The two constants that no source gives, of both designs whose stream is cut along the sequence."""

    workspace: float = 0.0  # w: bytes per parameter beyond weights, moments and fp32 copies
    buffers: float = 3.0  # g: tensors of 2 s h, whole rows on every rank, at once


@dataclasses.dataclass(frozen=True)
class Step:
    """A planned step with what terms depend on."""

    planned: Planned
    mesh: Mesh
    length: int
    hidden: int = HIDDEN
    heads: int = HEADS
    fitted: "Fitted" = dataclasses.field(default_factory=lambda: Fitted())

    @property
    def stream(self) -> int:
        """s h"""
        return self.length * self.hidden

    @property
    def square(self) -> int:
        """s s"""
        return self.length**2


@dataclasses.dataclass(frozen=True)
class Term:
    """Bytes that a design has beyond the planned step, or, negative, has not."""

    name: str
    formula: str
    source: str
    bytes_of: Callable[[Step], float]


SUMS_IN_16_BITS = Term(
    "sums over ranks in 16 bits",
    "-4 s h",
    "megatron/mpu/mappings.py reduces the stream in place; this trainer sums in fp32, in a converted copy",
    lambda step: -4 * step.stream,
)
WHOLE_ROWS = Term(
    "whole rows on every rank",
    "(2 g - 14) s h",
    "megatron/core/tensor_parallel/layers.py LinearWithGradAccumulationAndAsyncCommunication: gathered input, "
    "gathered gradient and gradient of the input, 2 s h each, are the 3 that one sees; g is fitted. The planned step "
    "has 14 s h of them: those three, and the last one's fp32 copy (4) and buffer to send (4)",
    lambda step: (2 * step.fitted.buffers - 14) * step.stream,
)
NO_FEED_FORWARD = Term(
    "no feed-forward at the same moment",
    "-12 s h",
    "at the planned peak, the backward of the feed-forward's first product: its gradient (2 s h), that in fp32 "
    "(4), the buffer sent (4), a gathered gradient (2); none is there while attention runs",
    lambda step: -12 * step.stream,
)
MASK = Term(
    "mask",
    "s s",
    "megatron/utils.py get_ltor_masks_and_position_ids: one bool per pair, for the whole step",
    lambda step: step.square,
)
MASK_BUILDING = Term(
    "building the mask",
    "8 s s",
    "the same: torch.tril(torch.ones(s, s)), both fp32, on the device",
    lambda step: 8 * step.square,
)
SCORES_AT_WORK = Term(
    "scores while attention runs",
    "9 s s a / t",
    "megatron/model/transformer.py CoreAttention, per head: buffer of the product (2, kept for good), scores (2), "
    "softmax (2), dropped softmax (2), dropout mask (1)",
    lambda step: 9 * step.square * step.heads / step.mesh.tensor,
)
SCORES_KEPT = Term(
    "scores kept for attention's backward",
    "7 s s a / t",
    "the same without the scores themselves",
    lambda step: 7 * step.square * step.heads / step.mesh.tensor,
)
POSITIONS_CUT = Term(
    "learned positions, cut over tensor",
    "(2 + 12 / d) s h / t",
    "megatron/core/tensor_parallel/layers.py SequenceParallelPositionEmbedding: s / t rows of fp16, fp32 copy and "
    "two moments (with ZeRO 1 over d)",
    lambda step: (2 + 12 / step.mesh.sharers) * step.stream / step.mesh.tensor,
)


@dataclasses.dataclass(frozen=True)
class Moment:
    """A moment of the step at which memory may be highest."""

    name: str
    terms: tuple[Term, ...]
    before_step: bool = False

    def bytes_of(self, step: Step) -> float:
        """Tensors of the device."""
        planned = step.planned.before if self.before_step else step.planned.tensors
        return planned + sum(term.bytes_of(step) for term in self.terms)


@dataclasses.dataclass(frozen=True)
class Design:
    """A published design: its recipes, its moments, and whether the fitted workspace is there."""

    key: str
    moments: tuple[Moment, ...]
    workspace: bool

    def recipe(self, model: str) -> str:
        """Below recipes/paper."""
        return f"{self.key}_{model.lower()}.yaml"

    def workspace_of(self, step: Step) -> float:
        """What w comes to, shared over data ranks as the states are."""
        return step.fitted.workspace * step.planned.parameters / step.mesh.sharers if self.workspace else 0.0

    def highest(self, step: Step) -> Moment:
        """The moment that decides."""
        return max(self.moments, key=lambda moment: moment.bytes_of(step))

    def needs(self, step: Step) -> float:
        """Bytes of the device at the highest moment, everything included."""
        return self.highest(step).bytes_of(step) + self.workspace_of(step) + step.planned.outside


DESIGNS = {
    "old": Design("old", (Moment("feed-forward", (SUMS_IN_16_BITS,)),), workspace=False),
    "megatron_lm": Design(
        "megatron_lm",
        (
            Moment("attention", (NO_FEED_FORWARD, MASK, SCORES_AT_WORK)),
            Moment("feed-forward", (WHOLE_ROWS, MASK, SCORES_KEPT)),
            Moment("mask", (MASK_BUILDING,), before_step=True),
        ),
        workspace=True,
    ),
    "new": Design("new", (Moment("feed-forward", (WHOLE_ROWS, POSITIONS_CUT)),), workspace=True),
}
