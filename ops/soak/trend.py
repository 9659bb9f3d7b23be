"""Whether a noisy series grows: a straight line through it, and how sure its slope is.

Neighbouring samples of a process's memory are nearly the same number, and counting each as
news would make any drift look certain. So the line is fitted to the means of 20 blocks, and
its standard error is widened by what correlation is left between neighbouring residuals,
sqrt((1 + r) / (1 - r)) for a first-order autoregression with coefficient r.

Of 3,000 series of 400 without a trend 4.4 % were said to have one; 8.9 % where each sample
keeps 0.9 of the last one's deviation, and 17 % with 0.98, which 20 blocks cannot tell from a
slope. A longer run has longer blocks, and is right more often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Final, TypeAlias

import msgspec

Point: TypeAlias = tuple[float, float]

BLOCKS: Final = 20
# Twenty residuals give r to about 0.2; nearer to 1 than this they are all one step.
_R_MAX: Final = 0.95
_Z: Final = 1.959964  # the normal distribution's 97.5 % quantile


class Trend(msgspec.Struct, frozen=True):
    """A slope in units of y per unit of x, and its 95 % confidence interval."""

    slope: float
    low: float
    high: float

    def times(self, factor: float) -> Trend:
        """Return the same trend in other units; `factor` is positive."""
        return Trend(self.slope * factor, self.low * factor, self.high * factor)


def trend(points: Sequence[Point]) -> Trend:
    """Fit a line by least squares to block means.

    Raises `ValueError` for fewer than `BLOCKS` points, which would say nothing.
    """
    if len(points) < BLOCKS:
        raise ValueError(f"{len(points)} samples, a trend needs {BLOCKS}")
    xs, ys = zip(*_means(points), strict=True)
    middle, level = fmean(xs), fmean(ys)
    spread = sum((x - middle) ** 2 for x in xs)
    slope = sum((x - middle) * (y - level) for x, y in zip(xs, ys, strict=True)) / spread
    residuals = [y - level - slope * (x - middle) for x, y in zip(xs, ys, strict=True)]
    freedom = len(xs) - 2
    error = math.sqrt(sum(r * r for r in residuals) / freedom / spread)
    reach = student(freedom) * error * _widening(residuals)
    return Trend(slope, slope - reach, slope + reach)


def student(freedom: int) -> float:
    """Return Student's t, two-sided at 95 %; good to 5e-5 from 18 degrees of freedom on.

    Abramowitz and Stegun, 26.7.5.
    """
    z = _Z
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / float(freedom) ** power for power, term in enumerate(terms))


def _means(points: Sequence[Point]) -> list[Point]:
    bounds = [len(points) * i // BLOCKS for i in range(BLOCKS + 1)]
    blocks = [points[start:end] for start, end in pairwise(bounds)]
    return [(fmean(x for x, _ in block), fmean(y for _, y in block)) for block in blocks]


def _widening(residuals: list[float]) -> float:
    power = sum(r * r for r in residuals)
    together = sum(a * b for a, b in pairwise(residuals))
    r = min(max(together / power, 0.0), _R_MAX) if power else 0.0
    return math.sqrt((1 + r) / (1 - r))
