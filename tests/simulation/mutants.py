"""Faults planted into the daemon, one at a time, to see that the simulation finds them.

Some it does not find within 20,000 histories, as what they need is rare in them. A broker that
stops within a round: its records count one by one (test_follow_one_token has it). Payloads in
fragments: input of an unfinished event released too early (test_follow_one_token has it), and
fragments that are not held for a new broker (test_sessions has it). A full ring, when a request
failed and the broker dies: what was kept back is not told the next one (test_kept_back has it),
or a grant that nobody heard is not repeated (test_unsaid has it). Input of two sendings that was
not released: the first is taken for the second (test_kept_back has it). Ends that three dead
processes wrote of one stream, each of them answered (test_unsaid has it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from msgspec.structs import replace

from ringcast.broker.dispatch import Dispatch
from ringcast.broker.exchange import Exchange
from ringcast.broker.inbox import Inbox
from ringcast.broker.rebuild import Rebuild
from ringcast.broker.session import Sessions
from ringcast.broker.stream import Stream, Subscription
from ringcast.providers import commands
from ringcast.providers.flow import Flow
from ringcast.providers.process import Process as ProviderProcess
from ringcast.providers.traffic.admission import Admission
from ringcast.providers.traffic.course import Course
from ringcast.providers.traffic.errand import Errand
from ringcast.providers.traffic.errands import Errands
from ringcast.providers.traffic.manager import ProviderManager
from ringcast.providers.traffic.retry import RetryPolicy
from ringcast.shm import records
from ringcast.shm.ring import Record
from ringcast.shm.tokens import Error
from ringcast.workers import stage as stages
from ringcast.workers.stage import Stage

Wrapped = Callable[[Callable[..., Any]], Callable[..., Any]]


def _instead(mutant: Callable[..., Any]) -> Wrapped:
    return lambda method: mutant


def _nothing(method: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **named: None


def _release_first(commit: Callable[[Stage], bool]) -> Callable[[Stage], bool]:
    def mutant(stage: Stage) -> bool:
        done, stage._done = stage._done, None
        if done is not None:
            stage._ins[done[0]].release(done[1])
        return commit(stage)

    return mutant


def _no_skip(begin: Callable[..., None]) -> Callable[..., None]:
    def mutant(stage: Stage, *args: Any, **named: Any) -> None:
        begin(stage, *args, **named)
        stage._done_with = {}

    return mutant


def _unannounced(stage: Stage) -> None:
    stage._broker = stage._out.consumer_epoch
    stage._pending.append(stage._start())


def _without_raw(checkpoint: Callable[..., None]) -> Callable[..., None]:
    def mutant(stage: Stage, slot: int, stream: Any) -> None:
        first = len(stage._pending)
        checkpoint(stage, slot, stream)
        for number in range(first, len(stage._pending)):
            kind, _, a, _, payload, flags, count = stage._pending[number]
            stage._pending[number] = (kind, slot, a, 0, payload, flags, count)

    return mutant


def _with_doubles(inbox: Inbox, first: int, tokens: list[Any]) -> None:
    inbox.next += len(tokens)
    inbox.batches.append(tokens)
    inbox.arrived()


def _one_too_late(repeat: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    def mutant(exchange: Exchange) -> None:
        for inbox in exchange._inboxes.values():
            inbox.next += bool(inbox.next)
        repeat(exchange)
        for inbox in exchange._inboxes.values():
            inbox.next -= bool(inbox.next)

    return mutant


def _all_told(report: Callable[..., None]) -> Callable[..., None]:
    def mutant(rebuild: Rebuild, index: int, live: list[Any], now_ns: int) -> None:
        report(rebuild, index, [replace(one, limit=1 << 40) for one in live], now_ns)

    return mutant


def _own_ended(abandon: Callable[..., None]) -> Callable[..., None]:
    def mutant(errands: Errands, slot: int, worker: int, how: str) -> None:
        known, errands._errands = errands._errands, {}
        abandon(errands, slot, worker, how)
        errands._errands = known

    return mutant


def _forgotten(look_at: Callable[..., None]) -> Callable[..., None]:
    def mutant(course: Course, flow: Flow) -> None:
        look_at(course, flow)
        if flow.finished:
            course._errands.pop(flow.slot, None)

    return mutant


def _dropped(course: Course, errand: Errand) -> None:
    upstream, errand.upstream = errand.upstream, None
    if upstream is not None:
        upstream.drop()


def _sent_all_the_same(stop: Callable[..., None]) -> Callable[..., None]:
    def mutant(errands: Errands, said: commands.Stop) -> None:
        errand = errands._errands.get(said.slot)
        if errand is None or errand.over or errand.upstream is not None or said.ended:
            stop(errands, said)

    return mutant


def _timed(end: Callable[..., None]) -> Callable[..., None]:
    def mutant(course: Course, errand: Errand, ending: Any) -> None:
        errand.timer = None
        end(course, errand, ending)

    return mutant


def _over_abandoned(reconcile: Callable[..., None]) -> Callable[..., None]:
    def mutant(dispatch: Dispatch, index: int) -> None:
        before = dispatch.ready[index]
        live = [one for one in before.live if not one.over]
        dispatch.ready[index] = replace(before, live=live)
        reconcile(dispatch, index)
        dispatch.ready[index] = before

    return mutant


def _swallowed(end: Callable[..., None]) -> Callable[..., None]:
    def mutant(stage: Stage, slot: int, stream: Any, record: Record, now_ns: int) -> None:
        if stream is None and slot in stage._said:
            stage._said.remove(slot)
        else:
            end(stage, slot, stream, record, now_ns)

    return mutant


def _any_loss(again: Callable[..., None]) -> Callable[..., None]:
    def mutant(sessions: Sessions, stream: Stream, record: Record) -> None:
        opened = stream.opened
        if not record.flags & records.UNSAID:
            stream.opened = b"something"
        again(sessions, stream, record)
        if not record.flags & records.UNSAID:
            stream.opened = opened

    return mutant


def _as_now(cut: Callable[..., None]) -> Callable[..., None]:
    def mutant(course: Course, errand: Errand) -> None:
        opened_ns, errand.opened_ns = errand.opened_ns, 1 << 62
        cut(course, errand)
        errand.opened_ns = opened_ns

    return mutant


def _kept_back_late(stream: Any, tokens: list[Any]) -> bool:
    return not stream.final and type(tokens[-1]) is Error


MUTANTS: dict[str, tuple[type | ModuleType, str, Wrapped]] = {
    "input is released before the batch is published": (Stage, "_commit", _release_first),
    "a successor does not skip what was dealt with": (Stage, "__init__", _no_skip),
    "streams are not announced to a new broker": (Stage, "_announce", _instead(_unannounced)),
    "a checkpoint does not say how far it is": (Stage, "_checkpoint", _without_raw),
    "nothing moves to the heap": (Stream, "wanted", _instead(lambda stream, record: False)),
    "credit is not turned into grants": (Sessions, "_settle", _nothing),
    "a new broker takes all limits for told": (Rebuild, "report", _all_told),
    "what a reader is done with is not counted": (
        Subscription, "processed", _instead(lambda subscription, number: None),
    ),
    "what a dead provider process left is not ended": (Dispatch, "reconcile", _nothing),
    "a stream that can go on does not": (Dispatch, "go_on", _nothing),
    "the bell of a producer that waits is not rung": (
        Sessions, "make_room", _instead(lambda sessions, log: False),
    ),
    "a provider process ends what is its own": (Errands, "abandon", _own_ended),
    "flows that wait for room are forgotten": (ProviderProcess, "_pump", _nothing),
    "credit is not asked for": (Flow, "held", _instead(property(lambda flow: False))),  # type: ignore[arg-type]
    "a client keeps what it has twice": (Inbox, "feed", _instead(_with_doubles)),
    "a client joins again one token too late": (Exchange, "repeat", _one_too_late),
    "a client does not join again": (Exchange, "repeat", _nothing),
    "what was kept back is ignored": (Dispatch, "unsaid", _nothing),
    "what was kept back is never said": (Dispatch, "spent", _nothing),
    "an error behind tokens is kept back": (stages, "_is_unsaid", _instead(_kept_back_late)),
    "the end of what was kept back is swallowed": (Stage, "_end", _swallowed),
    "a sending that is dropped has no end": (Course, "cut", _instead(_dropped)),
    "an errand is forgotten at its end": (Course, "look_at", _forgotten),
    "an errand that waits is not cancelled": (Errands, "stop", _sent_all_the_same),
    "an errand's timer outlives it": (Course, "end", _timed),
    "a new broker abandons what is over": (Dispatch, "reconcile", _over_abandoned),
    "what is left of a dropped sending is a loss": (Sessions, "_again", _any_loss),
    "a sending that is dropped ends when it is": (Course, "cut", _as_now),
    "a request is sent for ever": (
        RetryPolicy, "_is_enough", _instead(lambda policy, sent, failure: False),
    ),
    "a place in a queue is kept": (Admission, "withdraw", _nothing),
    "what a request held is not given back": (ProviderManager, "ended", _nothing),
}  # fmt: skip


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Have one of `MUTANTS` in the daemon."""
    owner, method, wrapped = MUTANTS[name]
    before = owner.__dict__[method]
    setattr(owner, method, wrapped(before))
    try:
        yield
    finally:
        setattr(owner, method, before)
