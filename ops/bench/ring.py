"""Bench of the ring: how fast records cross to another process, and how fast one wakes it.

Run: `python -m ringcast.bench.ring [--json]`. Two processes, one shared-memory segment, two
doorbells. Every record is checked on the far side (sequence and checksum) before a figure
is believed; figures are medians of five runs. `multiprocessing.Pipe` moves the same records,
a batch to a `send_bytes`, in the same run, as a yardstick.
"""

from __future__ import annotations

import argparse
import json as codec
import multiprocessing
import os
import select
import statistics
import time
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ringcast.shm import layout, segment
from ringcast.shm.doorbell import Doorbell
from ringcast.shm.ring import HEAD, Reader, Writer

CAPACITY = 1 << 20
FRAME = bytes(range(256))
FRAMES = 96_000
RUNS = 5
WAKES = 400
DOZE_S = 0.0005  # long enough for the kernel to have put the other process to sleep
NAP_MS = 20  # R9: a consumer looks again after this long


class Link:
    """A ring and its doorbells, as both processes of the bench see them."""

    def __init__(self, name: str, record: Doorbell, room: Doorbell) -> None:
        """Attach the segment `name`; `record` and `room` wake the consumer and the producer."""
        self.segment = segment.attach(name)
        self.record = Waiter(record)
        self.room = Waiter(room)

    def reader(self) -> Reader:
        return Reader(self.segment.memory)

    def writer(self) -> Writer:
        return Writer(self.segment.memory)


class Waiter:
    """A doorbell and the poll that waits for it."""

    def __init__(self, bell: Doorbell) -> None:
        """Watch `bell`."""
        self.ring = bell.ring
        self._clear = bell.clear
        self._poll = select.poll()
        self._poll.register(bell, select.POLLIN)

    def wait(self) -> None:
        """Return when the bell was rung, or after a nap."""
        self._poll.poll(NAP_MS)
        self._clear()


def consume(name: str, record: Doorbell, room: Doorbell, frames: int, answer: Connection) -> None:
    """Take `frames` records, checking each, and answer with the time of the last (ns)."""
    link = Link(name, record, room)
    reader, taken, crc = link.reader(), 0, 0
    answer.send("ready")
    while taken < frames:
        records = reader.poll()
        for item in records:
            if item.a != taken or len(item.payload) != len(FRAME):
                raise AssertionError(f"record {item.a} came as number {taken}")
            taken += 1
        if records:
            crc = zlib.crc32(records[-1].payload)
            if reader.release(records[-1].end):
                room.ring()
        elif reader.sleep():
            link.record.wait()
            reader.wake()
    answer.send((time.monotonic_ns(), crc))


def hear(name: str, record: Doorbell, room: Doorbell, frames: int, answer: Connection) -> None:
    """Sleep for each of `frames` records; answer with the latencies from their stamps (ns)."""
    link = Link(name, record, room)
    reader = link.reader()
    latencies: list[int] = []
    answer.send("ready")
    while len(latencies) < frames:
        records = reader.poll()
        now = time.monotonic_ns()
        latencies.extend(now - item.a for item in records)
        if records:
            reader.release(records[-1].end)
        if reader.sleep():
            room.ring()  # about to sleep: the next stamp may be set soon
            link.record.wait()
            reader.wake()
    answer.send(latencies)


def receive(pipe: Connection, frames: int, answer: Connection) -> None:
    """Do what `consume` does, with messages of a pipe that hold a batch each."""
    answer.send("ready")
    taken, step = 0, HEAD.size + len(FRAME)
    payload = memoryview(b"")
    while taken < frames:
        block = memoryview(pipe.recv_bytes())
        for at in range(0, len(block), step):
            _, _, _, _, number, _ = HEAD.unpack_from(block, at)
            payload = block[at + HEAD.size : at + step]
            if number != taken or len(payload) != len(FRAME):
                raise AssertionError(f"record {number} came as number {taken}")
            taken += 1
    answer.send((time.monotonic_ns(), zlib.crc32(payload)))


class Far:
    """The other process, started and ready."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        """Start `target(*arguments, answer)` in a process of the fork server."""
        context = multiprocessing.get_context("forkserver")
        self.answer, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=target, args=(*arguments, theirs))
        self.process.start()
        theirs.close()
        self.answer.recv()

    def result(self) -> Any:
        """Return what it answers at its end. Raises `EOFError` if it died before."""
        try:
            return self.answer.recv()
        finally:
            self.process.join()


def write_all(link: Link, batch: int) -> None:
    """Write all frames, `batch` to a publish."""
    writer = link.writer()
    append, ring = writer.append, link.record.ring
    for first in range(0, FRAMES, batch):
        for number in range(first, first + batch):
            while not append(2, 1, number, 0, FRAME):
                if writer.publish():
                    ring()
                if writer.wait():
                    link.room.wait()
        if writer.publish():
            ring()
    writer.close()


def throughput(link: Link, name: str, bells: tuple[Doorbell, Doorbell], batch: int) -> float:
    """Return frames a second through the ring, from the first append to the last poll."""
    layout.initialise(link.segment.memory, CAPACITY)
    far = Far(consume, name, *bells, FRAMES)
    start = time.monotonic_ns()
    write_all(link, batch)
    end, crc = far.result()
    if crc != zlib.crc32(FRAME):
        raise AssertionError("the last payload came out changed")
    return FRAMES * 1e9 / float(end - start)


def pipe_throughput(batch: int) -> float:
    """Return frames a second through a pipe, a batch to a message."""
    theirs, ours = multiprocessing.Pipe(duplex=False)
    far = Far(receive, theirs, FRAMES)
    start = time.monotonic_ns()
    for first in range(0, FRAMES, batch):
        parts: list[bytes] = []
        for number in range(first, first + batch):
            parts += HEAD.pack(2, 0, 0, 1, number, 0), FRAME
        ours.send_bytes(b"".join(parts))
    end, crc = far.result()
    if crc != zlib.crc32(FRAME):
        raise AssertionError("the last payload came out changed")
    ours.close()
    theirs.close()
    return FRAMES * 1e9 / float(end - start)


def wake_latencies(link: Link, name: str, bells: tuple[Doorbell, Doorbell]) -> list[int]:
    """Return how long after its stamp each record reached a sleeping consumer (ns)."""
    layout.initialise(link.segment.memory, CAPACITY)
    writer = link.writer()
    far = Far(hear, name, *bells, WAKES)
    for _ in range(WAKES):
        link.room.wait()
        time.sleep(DOZE_S)
        writer.append(2, 1, time.monotonic_ns(), 0, FRAME)
        if writer.publish():
            link.record.ring()
    writer.close()
    latencies: list[int] = far.result()
    return sorted(latencies)


def one_process(batch: int) -> tuple[float, float]:
    """Return ns a record for append + publish, and for poll + release, in one process."""
    memory = memoryview(bytearray(layout.size_of(CAPACITY)))
    layout.initialise(memory, CAPACITY)
    writer, reader, clock = Writer(memory), Reader(memory), time.perf_counter_ns
    writing = reading = 0
    for first in range(0, FRAMES, batch):
        begin = clock()
        for number in range(first, first + batch):
            writer.append(2, 1, number, 0, FRAME)
        writer.publish()
        middle = clock()
        records = reader.poll()
        reader.release(records[-1].end)
        end = clock()
        writing += middle - begin
        reading += end - middle
    return writing / FRAMES, reading / FRAMES


def run(json: bool = False) -> dict[str, float]:
    """Return all figures; print them as a table unless `json`."""
    name = f"{segment.family()}-0"
    bells = Doorbell.create(), Doorbell.create()
    owner = segment.create(name, layout.size_of(CAPACITY), setting="bench")
    try:
        link = Link(name, *bells)
        figures = measure(link, name, bells)
        link.segment.close()
    finally:
        owner.close()
        segment.remove(name)
        for bell in bells:
            bell.close()
    if not json:
        for key, value in figures.items():
            print(f"{key:32} {value:14,.2f}")
    return figures


def measure(link: Link, name: str, bells: tuple[Doorbell, Doorbell]) -> dict[str, float]:
    """Return every figure by its name; the units are in the names."""
    figures: dict[str, float] = {}
    for batch in (1, 8, 32):
        pairs = [
            (throughput(link, name, bells, batch), pipe_throughput(batch)) for _ in range(RUNS)
        ]
        ring, pipe = (statistics.median(column) for column in zip(*pairs, strict=True))
        figures[f"ring_frames_per_s_by_{batch}"] = ring
        figures[f"pipe_frames_per_s_by_{batch}"] = pipe
        figures[f"ring_to_pipe_by_{batch}"] = ring / pipe
        both = [one_process(batch) for _ in range(RUNS)]
        writing, reading = (statistics.median(column) for column in zip(*both, strict=True))
        figures[f"write_ns_by_{batch}"], figures[f"read_ns_by_{batch}"] = writing, reading
    wakes = [wake_latencies(link, name, bells) for _ in range(RUNS)]
    figures["wake_p50_us"] = statistics.median(run[WAKES // 2] for run in wakes) / 1e3
    figures["wake_p99_us"] = statistics.median(run[WAKES * 99 // 100] for run in wakes) / 1e3
    figures["cores"] = os.cpu_count() or 0
    return figures


def main(argv: list[str] | None = None) -> None:
    """Print the figures, for people or as JSON."""
    parser = argparse.ArgumentParser(prog="ringcast bench ring", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    figures = run(arguments.json)
    if arguments.json:
        print(codec.dumps(figures))


if __name__ == "__main__":
    main()
