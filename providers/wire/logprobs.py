"""Log-probabilities, as chat completions and as legacy completions send them."""

from __future__ import annotations

from typing import Any, Final

from ringcast.providers.wire.numbers import real, whole
from ringcast.providers.wire.portable import whole_text
from ringcast.shm.tokens import Logprob

MAX_ENTRIES: Final = 65_536


def openai_logprobs(entries: Any) -> list[Logprob] | None:
    """From `logprobs.content` or `.refusal`, one entry a token; null if one can not be read."""
    if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
        return None
    try:
        return [_entry(entry) for entry in entries]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def legacy_logprobs(value: Any) -> list[Logprob] | None:
    """From `{tokens, token_logprobs, top_logprobs}` of the legacy API; null if unreadable."""
    if not isinstance(value, dict) or not isinstance(value.get("tokens"), list):
        return None
    tokens = value["tokens"]
    scores = value.get("token_logprobs")
    tops = value.get("top_logprobs")
    if not isinstance(scores, list) or len(scores) != len(tokens) or len(tokens) > MAX_ENTRIES:
        return None
    if not isinstance(tops, list) or len(tops) != len(tokens):
        tops = [None] * len(tokens)
    try:
        return [
            Logprob(_string(token), _score(score), None, _top_map(top))
            for token, score, top in zip(tokens, scores, tops, strict=True)
        ]
    except (TypeError, ValueError):
        return None


def gemini_logprobs(result: dict[str, Any]) -> list[Logprob] | None:
    """From `{chosenCandidates: […], topCandidates: [{candidates: […]}]}`; null if unreadable.

    https://ai.google.dev/api/generate-content#LogprobsResult
    """
    try:
        chosen = [_candidate(one) for one in result.get("chosenCandidates") or ()]
        tops = [top.get("candidates") or () for top in result.get("topCandidates") or ()]
        tops += [()] * (len(chosen) - len(tops))
        entries = [
            entry | {"top_logprobs": [_candidate(one) for one in top]}
            for entry, top in zip(chosen, tops, strict=False)
        ]
    except (AttributeError, TypeError):
        return None
    return openai_logprobs(entries)


def _candidate(candidate: dict[str, Any]) -> dict[str, Any]:
    return {"token": candidate.get("token"), "logprob": candidate.get("logProbability")}


def _entry(entry: Any) -> Logprob:
    top = [(_string(t["token"]), _score(t["logprob"])) for t in entry.get("top_logprobs") or ()]
    raw = entry.get("bytes")
    octets = None if raw is None else bytes(_octet(value) for value in raw)
    return Logprob(_string(entry["token"]), _score(entry["logprob"]), octets, top)


def _top_map(top: Any) -> list[tuple[str, float]]:
    return [(_string(t), _score(p)) for t, p in top.items()] if isinstance(top, dict) else []


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a token must be text")
    return whole_text(value)


def _score(value: Any) -> float:
    """A log-probability; the first token of an echoed prompt has none, which counts as 0."""
    score = 0.0 if value is None else real(value)
    if score is None:
        raise TypeError("a log-probability must be a finite number")
    return score


def _octet(value: Any) -> int:
    octet = whole(value)
    if octet is None:
        raise TypeError("a byte must be a number")
    return octet
