"""What a request's `transforms` says, checked before anything is sent.

`[{"name": "think_tags"}, {"name": "content_filter", "patterns": ["..."]}]`: what is done to the
answer's tokens, in this order. Four are built in; others are entry points of the group
`ringcast.transforms`, and must be listed in the configuration by their names.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import Any, Final, Literal, TypeAlias

import msgspec

from ringcast.errors import Code, ConfigError, RequestError
from ringcast.providers import pattern

GROUP: Final = "ringcast.transforms"
MAX_BYTES: Final = 8 << 10  # all of them, encoded: they are part of a record of either ring
MAX_TRANSFORMS: Final = 16
LONGEST_BYTES: Final = 256
PREVIEW_NEEDS: Final = "json_preview needs jiter: pip install 'ringcast[preview]'"

Part: TypeAlias = Literal["text", "reasoning", "refusal", "arguments"]
Json: TypeAlias = dict[str, Any]


class ContentFilter(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="name",
    tag="content_filter",
    rename={"parts": "in"},
):
    """Replace what matches; see `ringcast.ContentFilter`."""

    patterns: list[str]
    replacement: str = ""
    parts: tuple[Part, ...] = ("text",)
    longest: int = LONGEST_BYTES


class Accumulate(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="accumulate"
):
    """Join small pieces; see `ringcast.TokenAccumulator`."""

    min: int = 20
    max: int = 200
    idle_ms: float = 50.0


class ThinkTags(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="think_tags"
):
    """Take thinking out of the text; see `ringcast.ThinkTagSplitter`."""

    anywhere: bool = False


class Preview(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="json_preview"
):
    """Say what arguments of tools hold so far; see `workers.json_preview`."""


class Custom(msgspec.Struct, frozen=True):
    """One of another author: the entry point's name, and all else that was given."""

    name: str
    options: Json


Spec: TypeAlias = ContentFilter | Accumulate | ThinkTags | Preview | Custom
_BUILT_IN: Final[dict[str, type[ContentFilter | Accumulate | ThinkTags | Preview]]] = {
    "content_filter": ContentFilter,
    "accumulate": Accumulate,
    "think_tags": ThinkTags,
    "json_preview": Preview,
}
# What is held back goes into the CHECKPOINT of every round.
MAX_HELD: Final = 4096
_RANGES: Final = {"longest": (1, MAX_HELD), "min": (1, MAX_HELD), "idle_ms": (1.0, 60_000.0)}
_decode = msgspec.msgpack.Decoder(list[Json]).decode


def encoded(transforms: Sequence[Json], allowed: Collection[str] = ()) -> bytes:
    """Check transforms and return them for an OPEN record, nothing if there are none.

    `allowed` are the names of entry points. Raises `RequestError` (bad_request) naming the field
    and, in a pattern, the position.
    """
    if len(transforms) > MAX_TRANSFORMS:
        raise _refused("transforms", f"{len(transforms)} are more than {MAX_TRANSFORMS}")
    payload = msgspec.msgpack.encode(transforms) if transforms else b""
    if len(payload) > MAX_BYTES:
        raise _refused("transforms", f"{len(payload)} bytes are more than {MAX_BYTES}")
    specs = [_spec(given, f"transforms[{n}]") for n, given in enumerate(transforms)]
    for number, spec in enumerate(specs):
        _check(spec, specs[:number], f"transforms[{number}]", allowed)
    return payload


def decoded(payload: bytes) -> list[Spec]:
    """Return what `encoded` was given."""
    return [_spec(given, "transforms") for given in _decode(payload)] if payload else []


def _spec(given: Json, where: str) -> Spec:
    name = given.get("name")
    if not isinstance(name, str):
        raise _refused(f"{where}.name", "must be a string")
    if name not in _BUILT_IN:
        return Custom(name, {key: value for key, value in given.items() if key != "name"})
    try:
        return msgspec.convert(given, _BUILT_IN[name])
    except msgspec.ValidationError as error:
        raise _refused(where, str(error)) from None


def _check(spec: Spec, before: list[Spec], where: str, allowed: Collection[str]) -> None:
    _check_numbers(spec, where)
    match spec:
        case Custom(name):
            _check_custom(name, allowed, where)
        case ContentFilter():
            _check_patterns(spec, where)
            if "arguments" in spec.parts and Preview() in before:
                raise _refused(where, "json_preview would show arguments that this has not seen")
        case Preview():
            if find_spec("jiter") is None:
                raise _refused(where, PREVIEW_NEEDS)


def _check_custom(name: str, allowed: Collection[str], where: str) -> None:
    if name not in allowed:
        known = ", ".join([*_BUILT_IN, *sorted(allowed)])
        text = f"{name!r} is unknown, or not in workers.transforms; there are {known}"
        raise _refused(f"{where}.name", text)
    from importlib.metadata import entry_points  # 3.5 MB that only this needs

    if not entry_points(group=GROUP, name=name):
        raise _refused(f"{where}.name", f"no installed package has {name!r} ({GROUP})")


def _check_numbers(spec: Spec, where: str) -> None:
    for field, (low, high) in _RANGES.items():
        value = getattr(spec, field, low)
        if not low <= value <= high:
            raise _refused(f"{where}.{field}", f"{value} is not in {low}..{high}")
    if isinstance(spec, Accumulate) and not spec.min <= spec.max <= MAX_HELD:
        raise _refused(f"{where}.max", f"{spec.max} is not in {spec.min}..{MAX_HELD}")


def _check_patterns(spec: ContentFilter, where: str) -> None:
    try:
        pattern.compiled(tuple(spec.patterns), spec.longest)
    except pattern.PatternError as error:
        text = f"at character {error.position}: {error.why}"
        raise _refused(f"{where}.patterns[{error.index}]", text) from None
    except ConfigError as error:
        raise _refused(where, str(error)) from None


def _refused(field: str, why: str) -> RequestError:
    return RequestError(Code.BAD_REQUEST, f"{field}: {why}", field=field)
