"""What can be done to a run, how often, and when; plain values in, plain values out."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "worker killed",
    "node replaced",
    "node away",
    "driver killed",
    "driver told to go",
    "lane killed",
    "board killed",
]

SHARES: dict[Kind, float] = {
    "worker killed": 0.60,
    "node replaced": 0.10,
    "node away": 0.06,
    "driver killed": 0.08,
    "driver told to go": 0.06,
    "lane killed": 0.06,
    "board killed": 0.04,
}
"""Of all blows. `node replaced`: killed, and another one comes at once. `node away`: killed, and one comes when the run
has had to do without. `driver told to go`: SIGTERM. `lane killed`: the process that runs a lane's graph.
`board killed`: the actor that the others report to."""

KINDS: tuple[Kind, ...] = get_args(Kind)

_LAST_BLOW = 0.85
"""Share of the clips that are made when the last blow falls; after the last clip nothing is left to strike."""


@dataclass(frozen=True)
class Blow:
    """One blow.

    Attributes:
        kind: what is done.
        after_clips: how many clips must be made before.
    """

    kind: Kind
    after_clips: int


def draw_blows(num_blows: int, num_clips: int, seed: int) -> list[Blow]:
    """Blows in the order they fall: kinds in their shares, shuffled, at even distances.

    Args:
        num_blows: how many, at least one.
        num_clips: that the run makes.
        seed: of the order.

    Raises:
        ValueError: there are no blows.
    """
    if num_blows < 1:
        raise ValueError(f"num_blows must be at least 1, got {num_blows}")
    wanted = {kind: share * num_blows for kind, share in SHARES.items()}
    numbers = {kind: int(number) for kind, number in wanted.items()}
    largest_rest = sorted(KINDS, key=lambda kind: numbers[kind] - wanted[kind])
    for kind in largest_rest[: num_blows - sum(numbers.values())]:
        numbers[kind] += 1
    kinds = [kind for kind in KINDS for _ in range(numbers[kind])]
    random.Random(seed).shuffle(kinds)
    distance = _LAST_BLOW * num_clips / num_blows
    return [Blow(kind, int(place * distance)) for place, kind in enumerate(kinds)]
