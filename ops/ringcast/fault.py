"""Faults of our own: an exception that nobody expected is named by type and place, never by text.

Its text may cite whatever it was raised over: a header with a key, a prompt, an answer. Python
prints it all the same, with a traceback, for a callback, for a task that nobody awaits, for a
thread, for a finalizer, and for a process that it ends. Here each of them prints one line.

What goes wrong in a loop is told to the loop's exception handler, whoever caught it.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ringcast.errors import RingError, RunDirError, StartupError

if TYPE_CHECKING:
    import asyncio  # not at runtime: a worker has no loop

PACKAGE: Final = "ringcast."
# Words of our own about segments, files and processes: they cite nothing that passes through.
OUTSPOKEN: Final = (RingError, RunDirError, StartupError)


def named(error: BaseException) -> str:
    """Return an exception's type and place, as `KeyError at providers/upstream.py:74`."""
    if isinstance(error, OUTSPOKEN):
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__name__} at {place(error)}"


def place(error: BaseException) -> str:
    """Return file and line of the innermost frame in this package, or of the innermost of all."""
    found, ours = "?", False
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", "?"))
        if module.startswith(PACKAGE) or not ours:
            ours = module.startswith(PACKAGE)
            found = f"{module.removeprefix(PACKAGE).replace('.', '/')}.py:{line}"
    return found


def say(error: BaseException) -> None:
    """Print the one line."""
    print(f"ringcast: fault: {named(error)}", file=sys.stderr, flush=True)


def report(error: BaseException) -> None:
    """Tell the running loop of a fault that was caught."""
    import asyncio

    asyncio.get_running_loop().call_exception_handler({"message": "fault", "exception": error})


def of_task(task: asyncio.Task[Any]) -> None:
    """Tell the loop at once, and not when nobody refers to `task` any more: a done callback."""
    if not task.cancelled() and (error := task.exception()) is not None:
        report(error)


def watch(loop: asyncio.AbstractEventLoop, count: Callable[[], None] = lambda: None) -> None:
    """Have all faults in `loop` said here, and counted."""

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(error := context.get("exception"), BaseException):
            count()
            say(error)
        else:  # asyncio's own words, as of a task that was destroyed while it waited
            print(f"ringcast: asyncio: {context.get('message')}", file=sys.stderr, flush=True)

    loop.set_exception_handler(handle)


@contextmanager
def last_words() -> Iterator[None]:
    """Name what ends this process, which exits with 1, and what goes wrong beside its main thread.

    A panic of an extension module is no `Exception`, and cites its input as any other.
    """
    threading.excepthook = lambda said: say(said.exc_value or SystemExit())
    sys.unraisablehook = lambda said: say(said.exc_value or SystemExit())
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        say(error)
        raise SystemExit(1) from None
