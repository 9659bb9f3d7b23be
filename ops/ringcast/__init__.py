"""ringcast: streams LLM tokens to editors, every process apart, nothing lost between them.

import ringcast

async with ringcast.connect() as rc:
    stream = await rc.chat(model="openai/gpt-4o", messages=[{"role": "user", "content": "hi"}])
    async for token in stream:
        ...

Names are loaded on first use, so that a process imports only what its role needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ringcast.broker.client import Client, ClientStream, connect
    from ringcast.broker.credit import BackpressureController, BackpressureError
    from ringcast.errors import ConnectionLost, NotRunning, RequestError, RingcastError
    from ringcast.providers.http_stream import BodyError, HttpStreamHandler
    from ringcast.providers.provider import AnswerError, Provider
    from ringcast.providers.registry import ProviderRegistry
    from ringcast.providers.traffic.breaker import CircuitBreaker
    from ringcast.providers.traffic.limiter import AdaptiveRateLimiter, RateSettings
    from ringcast.providers.traffic.manager import ProviderManager
    from ringcast.providers.wire.sse import SseEvent, SseParser
    from ringcast.shm.answer import Answer, joined
    from ringcast.shm.merge import merge
    from ringcast.shm.tokens import (
        Citation,
        Delta,
        Done,
        Error,
        FunctionCall,
        Reasoning,
        Refusal,
        StreamToken,
        Text,
        ToolCall,
        Usage,
        Waiting,
    )
    from ringcast.workers.content_filter import ContentFilter
    from ringcast.workers.json_preview import JsonPreview
    from ringcast.workers.pipeline import StreamingPipeline, StreamPipelineBuilder
    from ringcast.workers.stream_metrics import NoMetrics, StreamMetrics
    from ringcast.workers.think_tag_splitter import ThinkTagSplitter
    from ringcast.workers.token_accumulator import TokenAccumulator
    from ringcast.workers.token_count import TokenCount, count_tokens
    from ringcast.workers.token_decoder import TokenDecoder
    from ringcast.workers.transform import (
        Pass,
        Replace,
        Skip,
        StreamTransformer,
        TransformResult,
    )

_HOMES = {
    "ringcast.broker.client": ("Client", "ClientStream", "connect"),
    "ringcast.broker.credit": ("BackpressureController", "BackpressureError"),
    "ringcast.errors": ("ConnectionLost", "NotRunning", "RequestError", "RingcastError"),
    "ringcast.providers.traffic.breaker": ("CircuitBreaker",),
    "ringcast.providers.http_stream": ("BodyError", "HttpStreamHandler"),
    "ringcast.providers.traffic.limiter": ("AdaptiveRateLimiter", "RateSettings"),
    "ringcast.providers.traffic.manager": ("ProviderManager",),
    "ringcast.providers.provider": ("AnswerError", "Provider"),
    "ringcast.providers.registry": ("ProviderRegistry",),
    "ringcast.providers.wire.sse": ("SseEvent", "SseParser"),
    "ringcast.shm.answer": ("Answer", "joined"),
    "ringcast.shm.merge": ("merge",),
    "ringcast.shm.tokens": (
        "Citation",
        "Delta",
        "Done",
        "Error",
        "FunctionCall",
        "Reasoning",
        "Refusal",
        "StreamToken",
        "Text",
        "ToolCall",
        "Usage",
        "Waiting",
    ),
    "ringcast.workers.content_filter": ("ContentFilter",),
    "ringcast.workers.json_preview": ("JsonPreview",),
    "ringcast.workers.pipeline": ("StreamPipelineBuilder", "StreamingPipeline"),
    "ringcast.workers.stream_metrics": ("NoMetrics", "StreamMetrics"),
    "ringcast.workers.token_count": ("TokenCount", "count_tokens"),
    "ringcast.workers.think_tag_splitter": ("ThinkTagSplitter",),
    "ringcast.workers.token_accumulator": ("TokenAccumulator",),
    "ringcast.workers.token_decoder": ("TokenDecoder",),
    "ringcast.workers.transform": (
        "Pass",
        "Replace",
        "Skip",
        "StreamTransformer",
        "TransformResult",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdaptiveRateLimiter",
    "Answer",
    "AnswerError",
    "BackpressureController",
    "BackpressureError",
    "BodyError",
    "CircuitBreaker",
    "Citation",
    "Client",
    "ClientStream",
    "ConnectionLost",
    "ContentFilter",
    "Delta",
    "Done",
    "Error",
    "FunctionCall",
    "HttpStreamHandler",
    "JsonPreview",
    "NoMetrics",
    "NotRunning",
    "Pass",
    "Provider",
    "ProviderManager",
    "ProviderRegistry",
    "RateSettings",
    "Reasoning",
    "Refusal",
    "Replace",
    "RequestError",
    "RingcastError",
    "Skip",
    "SseEvent",
    "SseParser",
    "StreamMetrics",
    "StreamPipelineBuilder",
    "StreamToken",
    "StreamTransformer",
    "StreamingPipeline",
    "Text",
    "ThinkTagSplitter",
    "TokenAccumulator",
    "TokenCount",
    "TokenDecoder",
    "ToolCall",
    "TransformResult",
    "Usage",
    "Waiting",
    "__version__",
    "connect",
    "count_tokens",
    "joined",
    "merge",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module when it is first asked for (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'ringcast' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(home), name)
