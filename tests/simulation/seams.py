"""Where the simulation is put in the system's place: names in the processes' modules."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import zmq

from ringcast.broker import client_stream, connection, control, dispatch, intake, replies, takeover
from ringcast.broker import process as broker_process
from ringcast.providers import process as provider_process
from ringcast.providers import response_ending, upstream
from ringcast.providers.traffic import course, errands, retry
from ringcast.providers.traffic.manager import ProviderManager
from ringcast.shm.shared_words import SharedWords

from .loop import Clock, Loop, Sleep


class System:
    """What processes ask for. A world sets it before one of its processes runs."""

    clock: Clock
    loop: Loop  # of the process that runs
    memories: dict[str, memoryview]  # segments by name
    bound: Callable[[str, Any], None]  # told when a broker binds a ROUTER to an address
    routers: Callable[[], Any]  # a new ROUTER
    reserve: Any  # the spill's segment
    joined: Callable[[bytes], Any]  # a DEALER of a provider process, by its identity
    connections: Callable[[], Any]  # what is connected to a new provider process
    words: SharedWords  # of all provider processes
    chance: random.Random  # of their pauses


def _socket(raw: Any, on_messages: Callable[[Any], None]) -> Any:
    raw.on_messages = on_messages
    return raw


@asynccontextmanager
async def _timeout(_: float | None) -> AsyncIterator[None]:
    yield  # nobody here is late


@contextmanager
def system() -> Iterator[System]:
    """Put a `System` under the processes, and take it away again."""
    system = System()
    time = SimpleNamespace(
        time=lambda: system.clock.monotonic(),
        monotonic=lambda: system.clock.monotonic(),
        monotonic_ns=lambda: system.clock.monotonic_ns(),
    )
    loops = SimpleNamespace(
        get_running_loop=lambda: system.loop,
        sleep=Sleep,
        timeout=_timeout,
        Event=lambda: SimpleNamespace(set=lambda: None),
    )
    attached = SimpleNamespace(
        attach=lambda name: SimpleNamespace(
            memory=system.memories[name], inode=0, close=lambda: None
        ),
    )
    sockets = SimpleNamespace(
        Context=lambda *_: None, ZMQError=zmq.ZMQError, ROUTER=zmq.ROUTER, DEALER=zmq.DEALER
    )

    def bind(router: object, path: Path) -> None:
        system.bound(path.name, router)

    def make(context: object, kind: int, routing_id: bytes, **_: object) -> Any:
        return system.joined(routing_id)

    seams: dict[Any, dict[str, Any]] = {
        broker_process: {
            "asyncio": loops, "time": time, "segment": attached, "zmq": sockets,
            "Socket": _socket, "Gate": lambda context: None, "Door": lambda *_: None,
            "Reserve": lambda *_, **__: system.reserve,
            "router": lambda *_, **__: system.routers(), "bind": bind,
        },
        control: {"zmq": sockets},
        intake: {"segment": attached},
        replies: {"zmq": sockets},
        takeover: {"asyncio": loops},
        dispatch: {"time": time},
        provider_process: {
            "asyncio": loops, "time": time, "segment": attached, "zmq": sockets,
            "Socket": _socket, "make": make, "open_client": lambda _: system.connections(),
            "_gateways": lambda *_: ({"local": [system.connections()]}, {}, {}),
            "SharedWords": SimpleNamespace(attach=lambda _: system.words),
            "ProviderManager": lambda config, keys, words, index: ProviderManager(
                config, keys, words, index, system.chance
            ),
        },
        errands: {"time": time},
        course: {"asyncio": loops, "time": time},
        retry: {"LEAST_PAUSE_S": 0.0},
        upstream: {"asyncio": loops, "time": time},
        response_ending: {"asyncio": loops, "time": time},
        client_stream: {"asyncio": loops},
        connection: {"asyncio": loops},
    }  # fmt: skip
    before = [(one, name, getattr(one, name)) for one, names in seams.items() for name in names]
    try:
        for module, names in seams.items():
            for name, value in names.items():
                setattr(module, name, value)
        yield system
    finally:
        for module, name, value in before:
            setattr(module, name, value)
