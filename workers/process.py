"""A worker process: the stage, its rings, and sleep between rounds."""

from __future__ import annotations

import os
import select
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from ringcast import child, fault
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
    with fault.last_words():
        process = Process(wiring, index, run_dir)
        ready.send("ready")
        ready.close()
        process.serve()


class Process:
    """The stage between its rings, and the bells that it rings and sleeps on."""

    def __init__(self, wiring: Wiring, index: int, run_dir: Path) -> None:
        """Attach to everything, and go on where a predecessor left off.

        Raises what `take_over` raises.
        """
        self._over = False
        signal.signal(signal.SIGTERM, self._stop)
        self._lines = [row[index] for row in wiring.ins]
        self._outward = wiring.outs[index]
        self._ins = [Reader(segment.attach(line.name).memory) for line in self._lines]
        self._out = Writer(segment.attach(self._outward.name).memory)
        page, number = segment.attach(wiring.counters), wiring.block("worker", index)
        self._block = counters.Block(page.memory, number, "worker", pid=os.getpid())
        self._block.beat(time.monotonic_ns())
        self._stage = self._new_stage(wiring, index, run_dir)
        self._parent = child.parent_fd()
        self._bells = {line.bell.fileno(): line.bell for line in self._lines}
        self._bells[self._outward.room.fileno()] = self._outward.room
        self._poll = select.poll()
        for fd in (self._parent, *self._bells):
            self._poll.register(fd, select.POLLIN)
        for reader, line in zip(self._ins, self._lines, strict=True):
            if reader.release(reader.released):  # our predecessor may have died before it rang
                line.room.ring()

    def serve(self) -> None:
        """Work, and sleep where there is nothing to do, until SIGTERM or the supervisor's end."""
        while not self._over:
            if not self._work():
                self._sleep()

    def _new_stage(self, wiring: Wiring, index: int, run_dir: Path) -> Stage:
        starts = self._block.starts
        told = self._out.consumer_epoch  # before asking: whoever reads later must be told again
        adopted = take_over(run_dir, index) if starts > 1 else []
        metrics = stream_metrics.of_worker(segment.attach(wiring.metrics).memory, index)
        clock = time.monotonic_ns
        return Stage(self._ins, self._out, self._block, starts, adopted, told, metrics, clock)

    def _stop(self, *_: object) -> None:
        self._over = True

    def _work(self) -> bool:
        """Do one round and ring who waits for it; return whether to do the next at once."""
        stage, now_ns = self._stage, time.monotonic_ns()
        self._block.beat(now_ns)
        worked = stage.step(now_ns)
        if stage.ring_out:
            stage.ring_out = False
            self._outward.bell.ring()
        while stage.freed:
            self._lines[stage.freed.pop()].room.ring()
        return worked and not stage.blocked

    def _sleep(self) -> None:
        """Wait for a bell, unless what it would tell of has come already."""
        stage, ins = self._stage, self._ins
        if self._out.wait() if stage.blocked else all(reader.sleep() for reader in ins):
            for fd, _ in self._poll.poll(SLEEP_MS if stage.busy else IDLE_MS):
                if fd == self._parent:
                    self._over = True
                    return
                self._bells[fd].clear()
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
