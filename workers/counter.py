"""The counting process: one count of tokens at a time, for the broker, after everybody else.

It is started by the first count that needs it, and loads rank files when it first needs them. A
long text takes seconds, so it has a process of its own, which gives way to those of the streams.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import msgspec
import zmq

from ringcast import child, fault
from ringcast.errors import RequestError
from ringcast.providers import commands, count, request
from ringcast.shm import counters, segment
from ringcast.shm.wiring import Wiring
from ringcast.sockets import make
from ringcast.workers.token_count import count_request

NICENESS: Final = 10
BEAT_MS: Final = 500


def answer(question: bytes, text: bytes, beat: Callable[[], None]) -> commands.Answer:
    """Return what ASK gets; a request that is none is refused. `beat` is called on the way."""
    number = commands.decode_ask(question).number
    try:
        counted = _counted(text, beat)
    except RequestError as error:
        return commands.Answer(number, commands.NOTHING, error.code, error.message, error.detail)
    return commands.Answer(number, msgspec.Raw(count.encode(counted)))


def _counted(text: bytes, beat: Callable[[], None]) -> count.TokenCount:
    try:
        return count_request(request.decode(text), beat=beat)
    except RecursionError:
        raise request.refuse("request", "is nested too deeply") from None


def run(wiring: Wiring, run_dir: Path, ready: Connection) -> None:
    """Be the counting process until SIGTERM or the supervisor's end."""
    child.enter("rc-counter")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    page = segment.attach(wiring.counters)
    block = counters.Block(page.memory, wiring.block("counter", 0), "counter", pid=os.getpid())
    block.beat(time.monotonic_ns())
    ready.send("ready")
    ready.close()
    os.nice(NICENESS)
    with fault.last_words():
        _serve(run_dir, block)


def _serve(run_dir: Path, block: counters.Block) -> None:
    def beat() -> None:
        block.beat(time.monotonic_ns())

    dealer = make(
        zmq.Context(1), zmq.DEALER, routing_id=commands.COUNTER, sndhwm=0, reconnect_ivl=5
    )
    dealer.connect(f"ipc://{run_dir}/control.sock")
    dealer.send(commands.encode(commands.Counting()))
    parent, poller = child.parent_fd(), zmq.Poller()
    poller.register(dealer, zmq.POLLIN)
    poller.register(parent, zmq.POLLIN)
    while parent not in (heard := dict(poller.poll(BEAT_MS))):
        beat()
        if dealer in heard:
            question, text = dealer.recv_multipart()
            dealer.send(commands.encode(answer(question, text, beat)))
            block.add(block.slot("counts"))
