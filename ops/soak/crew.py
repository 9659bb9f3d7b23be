"""The client processes of a soak, seen from outside: started, killed, asked to finish."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from ringcast.soak.sequence import Tally

MEMBERS: Final = 3
LANES: Final = 4
FINISH_S: Final = 60.0
STALL_S: Final = 60.0  # without a single token anywhere

_decode = msgspec.json.Decoder(Tally).decode


class Crew:
    """Keeps `MEMBERS` client processes at work. `tally` sums up what they reported.

    What a process that is killed has checked since its last report counts for nothing.
    """

    def __init__(self, run_dir: Path, seed: int) -> None:
        """Visit the daemon of `run_dir`; `seed` draws who does what, and who is killed."""
        self.tally = Tally()
        self.killed = 0
        self._run_dir = run_dir
        self._seed = seed
        self._draw = random.Random(seed)
        self._started = 0
        self._members: dict[Process, asyncio.Task[None]] = {}
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start all members."""
        for _ in range(MEMBERS):
            await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill whoever has not finished. Raises what went wrong in reading their reports."""
        for member in list(self._members):
            await self._kill(member)

    async def replace_one(self) -> None:
        """Kill a member with SIGKILL, so that it leaves without a word, and start another."""
        await self._kill(self._draw.choice(list(self._members)))
        self.killed += 1
        await self._start()

    async def until(self, tokens: int) -> None:
        """Wait until so many tokens are checked, or until something went wrong."""
        while self.tally.tokens < tokens and self.tally.sound:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), STALL_S)
            except TimeoutError:
                self.tally.failed.append(f"no token came for {STALL_S:g} s")

    async def finish(self) -> None:
        """Have everybody read what they have begun, and end."""
        for member in self._members:
            assert member.stdin is not None
            member.stdin.close()
        _, late = await asyncio.wait(self._members.values(), timeout=FINISH_S)
        if late:
            text = f"{len(late)} client processes did not end within {FINISH_S:g} s"
            self.tally.failed.append(text)

    async def _start(self) -> None:
        number, self._started = self._started, self._started + 1
        command = [sys.executable, "-P", "-m", "ringcast.soak.member", str(self._run_dir)]
        command += [f"{self._seed}/{number}", str(LANES)]
        member = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        self._members[member] = asyncio.create_task(self._listen(member))

    async def _listen(self, member: Process) -> None:
        """Add up a member's reports until it has ended."""
        assert member.stdout is not None
        while (line := await member.stdout.readline()).endswith(b"\n"):  # else cut by a kill
            report = _decode(line)
            self.tally.add(report)
            if report.tokens or not report.sound:
                self._news.set()
        if await member.wait() and member in self._members:
            self.tally.failed.append(f"a client process ended with {member.returncode}")
        self._news.set()

    async def _kill(self, member: Process) -> None:
        listening = self._members.pop(member)
        if member.returncode is None:
            member.kill()
        await listening
