"""What clients do, drawn from a seed: which streams, how long, and when they leave them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["whole", "cancelled", "moved", "shared"]

WEIGHTS: Final[dict[Kind, int]] = {"whole": 4, "cancelled": 2, "moved": 3, "shared": 1}
# Drawn evenly on a logarithmic scale: mostly short answers, 3,800 tokens on average.
SHORTEST: Final = 100
LONGEST: Final = 20_000


class Visit(msgspec.Struct, frozen=True):
    """One stream of `n` tokens, and what a client does with it.

    `whole`: read to the end. `cancelled`: cancelled once `until` tokens are taken. `moved`:
    detached then, and attached on another connection. `shared`: read to the end by two.
    """

    kind: Kind
    n: int
    seed: int
    until: int

    @property
    def model(self) -> str:
        """The replay upstream's name for the stream."""
        return f"numbered;n={self.n};pace=0;seed={self.seed}"


def visits(seed: str) -> Iterator[Visit]:
    """Draw visits without end, always the same for one seed."""
    draw = random.Random(seed)
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    while True:
        n = round(math.exp(draw.uniform(math.log(SHORTEST), math.log(LONGEST))))
        kind = draw.choices(kinds, weights)[0]
        yield Visit(kind, n, draw.getrandbits(32), draw.randrange(1, n))
