"""A worker process: the stage, its rings, and sleep between rounds."""

from __future__ import annotations

import os
import select
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from ringcast import child
from ringcast.errors import StartupError
from ringcast.providers import commands
from ringcast.providers.commands import Adopted
from ringcast.shm import counters, segment
from ringcast.shm.ring import Reader, Writer
from ringcast.shm.wiring import Wiring
from ringcast.workers import stream_metrics
from ringcast.workers.stage import Stage

# A lost wake-up costs this much at most (layout, R9): with streams, and with none. Looking
# every 20 ms for nothing costs 0.4 % of a core.
SLEEP_MS: Final = 20
IDLE_MS: Final = 250
ANSWER_MS: Final = 5000
ASK_MS: Final = 200


def run(wiring: Wiring, index: int, run_dir: Path, ready: Connection) -> None:
    """Be worker `index` until SIGTERM or the supervisor's end."""
    child.enter(f"rc-worker-{index}")
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    page = segment.attach(wiring.counters)
    lines = [row[index] for row in wiring.ins]
    ins = [Reader(segment.attach(line.name).memory) for line in lines]
    outward = wiring.outs[index]
    out = Writer(segment.attach(outward.name).memory)
    block = counters.Block(page.memory, wiring.block("worker", index), "worker", pid=os.getpid())
    block.beat(time.monotonic_ns())
    told = out.consumer_epoch  # before asking: whoever reads later must be told again
    adopted = take_over(run_dir, index) if block.starts > 1 else []
    metrics = stream_metrics.of_worker(segment.attach(wiring.metrics).memory, index)
    clock = time.monotonic_ns
    stage = Stage(ins, out, block, block.starts, adopted, told, metrics, clock)
    parent = child.parent_fd()
    bells = {line.bell.fileno(): line.bell for line in lines}
    bells[outward.room.fileno()] = outward.room
    poll = select.poll()
    for fd in (parent, *bells):
        poll.register(fd, select.POLLIN)
    for reader, line in zip(ins, lines, strict=True):
        if reader.release(reader.released):  # our predecessor may have died before it rang
            line.room.ring()
    ready.send("ready")
    ready.close()
    while not stopping:
        now = time.monotonic_ns()
        block.beat(now)
        worked = stage.step(now)
        if stage.ring_out:
            stage.ring_out = False
            outward.bell.ring()
        while stage.freed:
            lines[stage.freed.pop()].room.ring()
        if worked and not stage.blocked:
            continue
        if out.wait() if stage.blocked else all(reader.sleep() for reader in ins):
            for fd, _ in poll.poll(SLEEP_MS if stage.busy else IDLE_MS):
                if fd == parent:
                    return
                bells[fd].clear()
        for reader in ins:
            reader.wake()


def take_over(run_dir: Path, index: int) -> list[Adopted]:
    """Ask the broker where the streams of our predecessor are.

    Raises `StartupError` if it does not answer: then another worker will ask it.
    """
    import zmq  # only a successor speaks it, and only once

    from ringcast.sockets import make

    identity = b"w%d-%d" % (index, os.getpid())
    with (
        zmq.Context[zmq.Socket[bytes]](1) as context,
        make(context, zmq.DEALER, routing_id=identity, reconnect_ivl=5) as dealer,
    ):
        dealer.connect(f"ipc://{run_dir}/control.sock")
        for _ in range(ANSWER_MS // ASK_MS):  # a broker may die with the question
            dealer.send(commands.encode(commands.Takeover(index)))
            if dealer.poll(ASK_MS):
                return commands.decode_adopt(dealer.recv()).streams
        raise StartupError("the broker did not say where the streams are")
