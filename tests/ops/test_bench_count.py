"""The bench of counting: a small run of it, and that it refuses what is not right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fakes.ranks import forget, needs_ranks

from ringcast.bench import count


def test_without_rank_files_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, tmp_path)
    with pytest.raises(SystemExit, match="no rank files: ringcast tokenizers install"):
        count.main([])


def test_clients_that_find_a_fault_end_it() -> None:
    code = "import sys; sys.stdin.readline(); print(1.5, flush=True)"
    arguments, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as child:
        askers = count.Askers(child)
        assert askers.count(0.5) == 1.5
        with pytest.raises(AssertionError, match="have ended"):
            askers.told()


@needs_ranks
def test_a_small_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "QUIET_S", 0.5)
    figures = count.run(streams=5, clients=1, repeat=1)
    assert figures["quiet_p99_ms"] > 0
    assert figures["at_once_s"] > 0
