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
    from ringcast.providers.provider import AnswerError, Provider
    from ringcast.shm.answer import Answer, joined
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
    )

_HOMES = {
    "ringcast.broker.client": ("Client", "ClientStream", "connect"),
    "ringcast.broker.credit": ("BackpressureController", "BackpressureError"),
    "ringcast.errors": ("ConnectionLost", "NotRunning", "RequestError", "RingcastError"),
    "ringcast.providers.provider": ("AnswerError", "Provider"),
    "ringcast.shm.answer": ("Answer", "joined"),
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
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "AnswerError",
    "BackpressureController",
    "BackpressureError",
    "Citation",
    "Client",
    "ClientStream",
    "ConnectionLost",
    "Delta",
    "Done",
    "Error",
    "FunctionCall",
    "NotRunning",
    "Provider",
    "Reasoning",
    "Refusal",
    "RequestError",
    "RingcastError",
    "StreamToken",
    "Text",
    "ToolCall",
    "Usage",
    "__version__",
    "connect",
    "joined",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module when it is first asked for (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'ringcast' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(home), name)
