"""A worker process: the stage, its rings, and sleep between rounds."""

from __future__ import annotations

import os
import select
import signal
import time
from multiprocessing.connection import Connection
from typing import Final

from ringcast import child
from ringcast.shm import counters, segment
from ringcast.shm.ring import Reader, Writer
from ringcast.shm.wiring import Wiring
from ringcast.workers.stage import Stage

# A lost wake-up costs this much at most (layout, R9): with streams, and with none. Looking
# every 20 ms for nothing costs 0.4 % of a core.
SLEEP_MS: Final = 20
IDLE_MS: Final = 250


def run(wiring: Wiring, index: int, ready: Connection) -> None:
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
    stage = Stage(ins, out, block, block.starts)
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
