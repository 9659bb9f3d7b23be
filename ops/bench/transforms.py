"""What the built-in transformers cost: µs a token in batches of several sizes, and MB/s of text.

Run it with `python ops/bench/transforms.py [--json]`. Every case first checks its answer; then it
is timed in 7 rounds, and the median counts. A worker's round has up to 64 records or 64 KiB: one
token while all is idle, some 200 when there is much to do. Words come as tokens, 6 characters on
average; `one text` is the same in a single token of 600 KB. The filter has 50 patterns.
"""

from __future__ import annotations

import argparse
import json as stdlib_json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from ringcast.errors import ConfigError
from ringcast.shm.tokens import Reasoning, StreamToken, Text
from ringcast.workers.content_filter import ContentFilter
from ringcast.workers.think_tag_splitter import ThinkTagSplitter
from ringcast.workers.token_accumulator import TokenAccumulator
from ringcast.workers.transform import StreamTransformer
from ringcast.workers.transforms import Transforms

ROUNDS = 7
TOKENS = 8192
BATCHES = (1, 8, 64, 256)
SEED = 1
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "while", "considering", "questions"]
SECRETS = ("alpha", "key", "pass", "token", "card")
PATTERNS = [
    *(rf"(?i)\b{word}-?secret[0-9]+" for word in SECRETS),
    *(f"forbidden{number}word" for number in range(45)),
]

Make = Callable[[], StreamTransformer]


def run(json: bool = False) -> dict[str, Any]:
    """All cases, by name: µs a token by the batch's size, and MB/s.

    With `json` the result is printed as one JSON object, otherwise as a table.
    """
    results = {"think_tags": _case(ThinkTagSplitter), "accumulate": _case(TokenAccumulator)}
    try:
        results["content_filter"] = _case(lambda: ContentFilter(PATTERNS, "#"))
        results["content_filter"]["one text"] = _one_text()
    except ConfigError as error:  # an extra that is not installed is no reason to measure nothing
        results["content_filter"] = {"skipped": str(error)}
    _print(results, json)
    return results


def _words() -> list[StreamToken]:
    choose = random.Random(SEED).choice
    return [Text(" " + choose(WORDS)) for _ in range(TOKENS)]


def _case(make: Make) -> dict[str, Any]:
    tokens = _words()
    _check(make)
    size = sum(map(len, map(_text, tokens)))
    result: dict[str, Any] = {}
    for batch in BATCHES:
        groups = [tokens[at : at + batch] for at in range(0, TOKENS, batch)]
        seconds = _time(make, groups)
        result[f"batches of {batch}"] = _result(seconds, size, TOKENS)
    return result


def _one_text() -> dict[str, float]:
    text = "".join(map(_text, _words())) * 10
    return _result(_time(lambda: ContentFilter(PATTERNS, "#"), [[Text(text)]]), len(text), 1)


def _check(make: Make) -> None:
    """See that a transformer does what it is for, before it is timed."""
    said = [Text("<think>a</think>"), Text("b key-se"), Text("cret7 ")]
    after = Transforms([make()]).feed(list(said), 1)
    joined = Transforms([make()]).feed([*_words(), Text("forbidden7word.")], 1)
    right = {
        ThinkTagSplitter: after == [Reasoning("a"), *said[1:]],
        TokenAccumulator: len(joined) < TOKENS / 2,
        ContentFilter: after == [Text("<think>a</think>b # ")] and "#." in _text(joined[-1]),
    }
    if not right[type(make())]:
        raise AssertionError(f"{type(make()).__name__} gave a wrong answer")


def _text(token: StreamToken) -> str:
    assert isinstance(token, Text)
    return token.content


def _time(make: Make, groups: list[list[StreamToken]]) -> float:
    """Median seconds for all groups."""
    rounds = []
    for _ in range(ROUNDS):
        chain = Transforms([make()])
        started = time.perf_counter()
        for group in groups:
            chain.feed(group, 1)
        rounds.append(time.perf_counter() - started)
    return statistics.median(rounds)


def _result(seconds: float, size: int, tokens: int) -> dict[str, float]:
    per_token = round(seconds / tokens * 1e6, 3)
    return {"us_per_token": per_token, "mb_per_s": round(size / seconds / 1e6, 1)}


def _print(results: dict[str, Any], json: bool) -> None:
    if json:
        print(stdlib_json.dumps(results))
        return
    for name, cases in results.items():
        for case, figures in cases.items():
            if isinstance(figures, str):
                print(f"{name:16} {case}: {figures}")
                continue
            speed = f"{figures['us_per_token']:10.3f} µs a token {figures['mb_per_s']:7.1f} MB/s"
            print(f"{name:16} {case:16} {speed}")


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench transforms", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    run(parser.parse_args(arguments).json)


if __name__ == "__main__":
    main()
