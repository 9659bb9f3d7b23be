"""The soak: its judgement must find what it is there to find, and a short one must pass."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringcast.replay.numbered import numbered_tokens
from ringcast.shm.tokens import Done, StreamToken, Text
from ringcast.soak import run as soak
from ringcast.soak.gauge import Sample, Usage
from ringcast.soak.report import ALLOWANCE, Count, Growth, Report, counts, growth
from ringcast.soak.sequence import Sequence, Tally
from ringcast.soak.trend import BLOCKS, Trend, student, trend
from ringcast.soak.visit import LONGEST, SHORTEST, visits

N = 50
TOKENS: list[StreamToken] = [Text(text) for text in numbered_tokens(N, 7)]


def checked(tokens: list[StreamToken], cut: int = 1) -> Tally:
    """What is counted when these come in batches of `cut`, and then the stream's end."""
    tally = Tally()
    sequence = Sequence(N, 7, tally)
    for start in range(0, len(tokens), cut):
        sequence.take(tokens[start : start + cut])
    sequence.end()
    return tally


def wrong(tally: Tally) -> tuple[int, int, int]:
    """The three ways of being wrong."""
    return tally.lost, tally.doubled, tally.changed


# the sequence


@given(st.integers(1, N))
def test_all_tokens_in_order_are_right(cut: int) -> None:
    tally = checked([*TOKENS, Done("stop")], cut)
    assert tally.sound
    assert tally.tokens == N


@given(st.integers(0, N - 1), st.integers(1, 9))
def test_lost_tokens_are_counted_once_each(at: int, many: int) -> None:
    tally = checked(TOKENS[:at] + TOKENS[at + many :])
    assert wrong(tally) == (min(many, N - at), 0, 0)


@given(st.integers(0, N - 1), st.integers(0, N - 1))
def test_a_token_that_comes_again_is_doubled(first: int, second: int) -> None:
    old, at = sorted((first, second))
    tally = checked([*TOKENS[: at + 1], TOKENS[old], *TOKENS[at + 1 :]])
    assert wrong(tally) == (0, 1, 0)
    assert tally.tokens == N


@given(st.integers(0, N - 1), st.sampled_from(["", "x", "{i}:00000000", "{i}", "٣:0"]))
def test_another_text_is_changed(at: int, text: str) -> None:
    other = Text(text.format(i=at))
    assert wrong(checked([*TOKENS[:at], other, *TOKENS[at + 1 :]])) == (0, 0, 1)


def test_a_token_behind_the_end_is_changed() -> None:
    assert wrong(checked([*TOKENS, Text("50:00000000")])) == (0, 0, 1)
    assert wrong(checked([*TOKENS[:20], Text("99:00000000"), *TOKENS[20:]])) == (0, 0, 1)


def test_another_streams_tokens_are_changed() -> None:
    others: list[StreamToken] = [Text(text) for text in numbered_tokens(N, 8)]
    assert checked(others).changed == N


def test_tallies_add_up() -> None:
    sum_ = Tally(tokens=1, failed=["a"])
    sum_.add(Tally(tokens=2, lost=3, failed=["b"]))
    assert (sum_.tokens, sum_.lost, sum_.failed) == (3, 3, ["a", "b"])
    assert not sum_.sound


# the visits


@given(st.integers())
def test_visits_follow_from_their_seed(seed: int) -> None:
    drawn = list(islice(visits(str(seed)), 20))
    assert drawn == list(islice(visits(str(seed)), 20))
    assert all(SHORTEST <= one.n <= LONGEST and 1 <= one.until < one.n for one in drawn)


def test_every_kind_of_visit_is_drawn() -> None:
    kinds = {visit.kind for visit in islice(visits("0"), 200)}
    assert kinds == {"whole", "cancelled", "moved", "shared"}


# the trend


@pytest.mark.parametrize(("freedom", "quantile"), [(18, 2.10092), (30, 2.04227), (1000, 1.96234)])
def test_students_quantile_is_the_tables(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, abs=5e-5)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(BLOCKS, 500))
def test_a_line_has_its_own_slope(slope: float, level: float, samples: int) -> None:
    found = trend([(x, level + slope * x) for x in range(samples)])
    tolerance = 1e-6 * (abs(slope) + abs(level) + 1)
    assert found.slope == pytest.approx(slope, abs=tolerance)
    assert found.low - tolerance <= slope <= found.high + tolerance


def test_too_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="20"):
        trend([(x, 1.0) for x in range(BLOCKS - 1)])


def drifting(seed: int, memory: float, slope: float) -> list[tuple[float, float]]:
    """A series of 400 around a line; each deviation keeps the share `memory` of the last."""
    draw, deviation, points = random.Random(seed), 0.0, []
    for x in range(400):
        deviation = memory * deviation + draw.gauss(0, 1)
        points.append((float(x), slope * x + deviation))
    return points


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_what_does_not_grow_is_seldom_said_to(memory: float) -> None:
    intervals = [trend(drifting(seed, memory, 0.0)) for seed in range(300)]
    missed = sum(not one.low <= 0 <= one.high for one in intervals)
    assert missed / 300 < 0.1  # 5 % are meant; these seeds give 3.0 and 7.3


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_what_grows_is_found(memory: float) -> None:
    assert all(trend(drifting(seed, memory, 0.1)).low > 0 for seed in range(300))


# the verdict


def grown(low: float, high: float) -> Growth:
    """A process with this interval, in bytes a million tokens."""
    line = Trend((low + high) / 2, low, high)
    return Growth(1, line, line, line, 0.0)


@pytest.mark.parametrize(
    ("low", "high", "flat"),
    [
        (-1e9, 1e9, True),
        (-9e6, -1e6, True),
        (1.0, ALLOWANCE - 1, True),
        (1.0, ALLOWANCE + 1, False),
        (1e6, 2e6, False),
    ],
)
def test_flat_is_what_cannot_be_told_from_it(low: float, high: float, flat: bool) -> None:
    assert grown(low, high).flat is flat


def sample(at: int, uss: int, fds: int = 9, segments: int = 3, threads: int = 1) -> Sample:
    """A daemon of one process, 1,000 tokens a second."""
    usage = Usage(1, uss, uss, fds, threads, 0.0)
    return Sample(float(at), at * 1000, {"worker 0": usage}, 1, segments)


def report(tally: Tally, samples: list[Sample], after: Sample) -> Report:
    """What is said of a run."""
    found = growth(samples), counts(samples, samples[0], after)
    return Report(0, 1.0, 1.0, 0, 0, tally, *found, samples)


FLAT = [sample(at, 1 << 20) for at in range(100)]
LEAK = [sample(at, (1 << 20) + at * 100) for at in range(100)]


@pytest.mark.parametrize(
    ("tally", "samples", "after", "fault"),
    [
        (Tally(), LEAK, FLAT[-1], "worker 0 grows"),
        (Tally(lost=1), FLAT, FLAT[-1], "lost 1, doubled 0, changed 0"),
        (Tally(failed=["x"]), FLAT, FLAT[-1], "a visit failed: x"),
        (
            Tally(),
            FLAT,
            sample(100, 1, fds=10),
            "worker 0 fds rose from 9 to 9 in the run, from 9 to 10 at rest",
        ),
        (
            Tally(),
            FLAT,
            sample(100, 1, segments=4),
            "segments rose from 3 to 3 in the run, from 3 to 4 at rest",
        ),
        (Tally(), FLAT[:10], FLAT[-1], "the run was too short to tell growth from noise"),
    ],
)
def test_each_fault_is_named(
    tally: Tally, samples: list[Sample], after: Sample, fault: str
) -> None:
    assert report(tally, samples, after).faults == [fault]
    assert not report(Tally(), FLAT, FLAT[-1]).faults


def test_a_restart_is_a_fault() -> None:
    once = msgspec.structs.replace(report(Tally(), FLAT, FLAT[-1]), deaths=1)
    assert once.faults == ["1 processes of the daemon died"]


def test_quarters_are_compared() -> None:
    samples = [sample(at, 1, fds=at) for at in range(8)]
    found = counts(samples, samples[0], samples[-1])["worker 0 fds"]
    assert found == Count(1, 7, 0, 7, varies=True)


def test_threads_must_not_rise_within_the_run_either() -> None:
    """Descriptors and segments come and go with what is open, or owed, just then."""
    samples = [sample(at, 1, fds=at, segments=3 + at // 6, threads=1 + at // 6) for at in range(8)]
    found = counts(samples, samples[0], samples[0])
    assert [name for name, count in found.items() if not count.steady] == ["worker 0 threads"]
    found = counts(samples, samples[0], samples[-1])
    assert "segments" in [name for name, count in found.items() if not count.steady]


def test_growth_is_told_in_both_units() -> None:
    found = growth(LEAK)["worker 0"]
    assert found.bytes_per_million_tokens.slope == pytest.approx(100_000)
    assert found.kib_per_hour.slope == pytest.approx(100 * 3600 / 1024)


def test_the_picture_is_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    from ringcast.soak.chart import draw

    draw(report(Tally(), FLAT, FLAT[-1]), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


# the whole


def test_a_short_soak_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory is not judged here: within 200,000 tokens a daemon is still warming up."""
    monkeypatch.setattr(soak, "KILL_TOKENS", 60_000)
    with pytest.raises(SystemExit):
        soak.main(["--tokens", "200_000", "--seed", "3", "--out", str(tmp_path), "--json"])
    written = json.loads((tmp_path / "soak.json").read_text())
    said = json.loads(capsys.readouterr().out)
    assert said == {name: written[name] for name in written if name != "samples"}
    tally = msgspec.convert(written["tally"], Tally)
    assert tally.sound
    assert tally.tokens >= 200_000
    assert min(tally.whole, tally.cancelled, tally.moved, tally.shared) > 0
    assert written["clients_killed"] == 3
    assert written["deaths"] == 0
    assert all(count["steady"] for count in written["counts"].values())
