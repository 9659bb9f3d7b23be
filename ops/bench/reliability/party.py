"""Client processes seen from outside: killed, with others going on for them; or stopped."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Final

import msgspec

from ringcast.bench.reliability.load import Load, Opened
from ringcast.bench.reliability.member import Note, Place
from ringcast.bench.reliability.service import PATIENCE_S
from ringcast.bench.reliability.tally import Tally
from ringcast.bench.reliability.watch import Outages, Silent

RUN_S: Final = 0.05, 0.4  # of a client between two strikes
STALL_S: Final = 0.05, 2.0
BEHIND: Final = 20  # tokens at most that a successor reads again

_decode = msgspec.json.Decoder(Note).decode


class Member:
    """One client process. `notes` has the latest of each lane; `noted` is told all."""

    def __init__(self, process: Process, noted: Callable[[Note], None]) -> None:
        """`process` has just been started."""
        self.notes: dict[int, Note] = {}
        self.tally = Tally()  # of what has ended
        self._process = process
        self._noted = noted
        self._news = asyncio.Event()
        self.connected = False
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, run_dir: Path, noted: Callable[[Note], None]) -> Member:
        """Start a process that is not `connected` yet."""
        command = [sys.executable, "-P", "-m", "ringcast.bench.reliability.member", str(run_dir)]
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        return cls(process, noted)

    async def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        while (line := await stdout.readline()).endswith(b"\n"):  # else cut by a kill
            if line == b"\n":
                self.connected = True
            else:
                self._take(_decode(line))
            self._news.set()
        await self._process.wait()
        self._news.set()

    def _take(self, note: Note) -> None:
        self.notes[note.place.lane] = note
        if note.ended:
            self.tally.add(note.tally)
        self._noted(note)

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until its notes say something. Raises `Silent`."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not holds():
                    if self._listening.done():
                        raise Silent(f"a client process ended and was not {what}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise Silent(f"a client process was not {what} for {PATIENCE_S:g} s") from None

    def give(self, place: Place) -> None:
        """Have it read a stream."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(place) + b"\n")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """Kill it, if it lives, and read all that it had written down."""
        if self._process.returncode is None:
            self._process.kill()
        await self._listening

    async def finish(self) -> None:
        """Have it read what is open, and end. Raises `Silent`."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self.until(self._listening.done, "ended")
        if self._process.returncode:
            raise Silent(f"a client process ended with {self._process.returncode}")


class Party:
    """Strikes clients in one place: one after the other, or the same again and again."""

    def __init__(self, run_dir: Path, seed: str, lanes: range, tokens: int) -> None:
        """A client opens a stream in each lane, of `tokens` at most and half as many at least."""
        self.tally = Tally()
        self.outages = Outages()
        self.strikes = 0
        self._run_dir = run_dir
        self._draw = random.Random(seed)
        self._lanes = lanes
        self._tokens = tokens
        self._member: Member | None = None  # who is given new streams
        self._living: set[Member] = set()

    async def kill(self, times: int) -> None:
        """SIGKILL clients; each time another goes on, a little behind what was written down."""
        async with self._orderly():
            member = await self._begin()
            while self.strikes < times and self._sound(member):
                successor = await self._start()
                await asyncio.sleep(self._draw.uniform(*RUN_S))
                await self._succeed(member, successor)
                member = successor
            await self._finish(member)

    async def stall(self, times: int, load: Load) -> None:
        """SIGSTOP a client again and again; it also reads streams of `load` along."""
        async with self._orderly():
            member = await self._begin()
            while self.strikes < times and self._sound(member):
                await asyncio.sleep(self._draw.uniform(*RUN_S))
                await self._stop(member, load)
                self.strikes += 1
            await self._finish(member)

    def read_along(self, opened: Opened) -> None:
        """Have the client read a stream that somebody else has opened and pays for."""
        if self._member is not None:
            place = Place(opened.lane, opened.n, opened.seed, opened.stream, late=True)
            self._member.give(place)

    @asynccontextmanager
    async def _orderly(self) -> AsyncIterator[None]:
        """Count a silence as a fault, and leave no client behind."""
        try:
            yield
        except Silent as error:
            self.tally.faults.append(str(error))
        finally:
            for member in self._living:
                await member.kill()

    async def _start(self) -> Member:
        member = await Member.start(self._run_dir, self._noted)
        self._living.add(member)
        await member.until(lambda: member.connected, "connected")
        return member

    async def _begin(self) -> Member:
        member = self._member = await self._start()
        for lane in self._lanes:
            member.give(self._new(lane))
        await self._at_work(member)
        return member

    async def _succeed(self, member: Member, successor: Member) -> None:
        """Kill a client, and have another, which is connected, go on for it."""
        self._member, killed = None, time.monotonic()
        await member.kill()
        self._living.remove(member)
        self._count(member)
        self._member = successor
        for lane in self._lanes:
            successor.give(self._behind(member.notes[lane]))
        await self._at_work(successor)
        self.strikes += 1
        nexts = [note.fresh_at - killed for note in successor.notes.values() if note.fresh_at]
        self.outages.silences.append(min(nexts, default=0.0))
        self.outages.nexts += nexts

    async def _stop(self, member: Member, load: Load) -> None:
        """Stop a client for a while; watch the other readers meanwhile, then how it goes on."""
        watch = load.watched(time.monotonic())
        member.signal(SIGSTOP)
        await asyncio.sleep(self._draw.uniform(*STALL_S))
        load.watches.discard(watch)
        now = time.monotonic()
        watch.close(now)
        member.signal(SIGCONT)
        await member.until(lambda: any(one.at > now for one in member.notes.values()), "awake")
        self.outages.silences.append(watch.silence)
        self.outages.stalls += watch.stalls
        self.outages.nexts.append(min(n.at for n in member.notes.values() if n.at > now) - now)

    async def _finish(self, member: Member) -> None:
        self._member = None
        await member.finish()
        self._count(member)

    async def _at_work(self, member: Member) -> None:
        """Wait until every lane has had a token that nobody had written down. Raises `Silent`."""

        def at_work() -> bool:
            notes = [member.notes.get(lane) for lane in self._lanes]
            return all(one is not None and (one.fresh_at or one.ended) for one in notes)

        await member.until(at_work, "at work")

    def _new(self, lane: int) -> Place:
        n = self._draw.randint(self._tokens // 2, self._tokens)
        return Place(lane, n, self._draw.getrandbits(32))

    def _noted(self, note: Note) -> None:
        """Give another stream to a lane whose stream has ended."""
        if note.ended and note.place.lane in self._lanes and self._member is not None:
            self._member.give(self._new(note.place.lane))

    def _behind(self, note: Note) -> Place:
        place = note.place
        if note.ended:
            return self._new(place.lane)
        after = max(-1, note.seq - self._draw.randint(0, BEHIND))
        return Place(place.lane, place.n, place.seed, note.stream, note.seq, after)

    def _sound(self, member: Member) -> bool:
        return self.tally.sound and member.tally.sound

    def _count(self, member: Member) -> None:
        """Add what a client saw that has ended."""
        self.tally.add(member.tally)
        for note in member.notes.values():
            if not note.ended:
                self.tally.add(note.tally)
