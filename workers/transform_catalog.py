"""From what a request says of transformers to the transformers themselves."""

from __future__ import annotations

from ringcast.errors import Code, ConfigError
from ringcast.providers import transform_spec
from ringcast.providers.transform_spec import (
    GROUP,
    Accumulate,
    Custom,
    Preview,
    Spec,
    ThinkTags,
)
from ringcast.shm.tokens import Error, StreamToken
from ringcast.workers.content_filter import ContentFilter
from ringcast.workers.json_preview import JsonPreview
from ringcast.workers.think_tag_splitter import ThinkTagSplitter
from ringcast.workers.token_accumulator import TokenAccumulator
from ringcast.workers.transform import StreamTransformer, TransformResult
from ringcast.workers.transforms import Transforms


def open_transforms(payload: bytes) -> Transforms | None:
    """Return the chain that a stream's OPEN record asks for, None if it asks for none.

    One that cannot be had ends the stream with an error in place of its first token.
    """
    if not payload:
        return None
    return Transforms(map(_transformer, transform_spec.decoded(payload)))


def _transformer(spec: Spec) -> StreamTransformer:
    match spec:
        case Accumulate():
            return TokenAccumulator(spec.min, spec.max, spec.idle_ms)
        case ThinkTags():
            return ThinkTagSplitter(spec.anywhere)
        case Preview():
            return _preview()
        case Custom():
            return _custom(spec)
    return ContentFilter(spec.patterns, spec.replacement, spec.parts, spec.longest)


def _preview() -> StreamTransformer:
    try:
        return JsonPreview()
    except ConfigError as error:  # it was there when the request was checked
        return _Missing(str(error))


def _custom(spec: Custom) -> StreamTransformer:
    """Call the entry point with the options; it returns a new transformer for each stream."""
    from importlib.metadata import entry_points  # 3.5 MB that only this needs

    try:
        (found,) = entry_points(group=GROUP, name=spec.name)
        made = found.load()(**spec.options)
    except Exception as error:  # of another author: this stream's matter, not the worker's
        return _Missing(f"the transformer {spec.name!r} cannot be had: {error!r}")
    if not isinstance(made, StreamTransformer):
        return _Missing(f"{spec.name!r} gave a {type(made).__name__}, not a StreamTransformer")
    return made


class _Missing(StreamTransformer):
    """Stands for one that cannot be had: nothing may pass that it has not seen."""

    def __init__(self, why: str) -> None:
        self._error = Error(Code.INTERNAL, why)

    def transform(self, token: StreamToken, now_ns: int) -> TransformResult:
        """End the stream."""
        return self._error
