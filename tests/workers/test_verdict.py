"""What an END means: all of the table, for every code and kind of ending."""

from __future__ import annotations

from itertools import product

import pytest

from ringcast.errors import Code
from ringcast.providers.wire.body import Ending
from ringcast.workers.verdict import Verdict, verdict

KINDS = ("eof", "reset", "http", "failed", "cancelled")
ENDINGS = [Ending(kind, code) for kind, code in product(KINDS, ["", *Code])]  # type: ignore[arg-type]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("shown", [True, False])
def test_a_final_end_is_the_end(kept: bool, shown: bool) -> None:
    for ending in ENDINGS:
        assert verdict(ending, final=True, kept=kept, shown=shown) is Verdict.OVER


@pytest.mark.parametrize(
    "ending",
    [
        Ending("eof"),
        Ending("reset", Code.TRANSPORT),
        Ending("failed", Code.INTERRUPTED),
        Ending("failed", Code.TRANSPORT),
        Ending("failed", Code.FIRST_BYTE_TIMEOUT),
    ],
)
@pytest.mark.parametrize("shown", [True, False])
def test_an_answer_that_is_kept_goes_on_when_its_connection_breaks(
    ending: Ending, shown: bool
) -> None:
    assert verdict(ending, final=False, kept=True, shown=shown) is Verdict.GO_ON


@pytest.mark.parametrize(
    "ending",
    [
        Ending("http", status=500),
        Ending("failed", Code.AUTH),
        Ending("failed", Code.IDLE_TIMEOUT),
        Ending("cancelled", Code.CANCELLED),
    ],
)
@pytest.mark.parametrize("shown", [True, False])
def test_an_answer_that_somebody_ended_does_not_go_on(ending: Ending, shown: bool) -> None:
    assert verdict(ending, final=False, kept=True, shown=shown) is Verdict.OVER


def test_only_a_dead_process_and_silence_let_a_request_be_sent_anew() -> None:
    for ending, shown in product(ENDINGS, [True, False]):
        said = verdict(ending, final=False, kept=False, shown=shown)
        anew = ending.code == Code.INTERRUPTED and not shown
        assert said is (Verdict.ANEW if anew else Verdict.OVER)
