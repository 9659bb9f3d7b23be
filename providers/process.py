"""A provider process: commands from the broker in, whole raw events into the in-rings.

It alone holds keys and speaks HTTP. Commands come over a DEALER socket; bodies are pushed
by the transport straight into the rings, published once a loop turn.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, ParamSpec

import httpx
import msgspec
import uvloop
import zmq

from ringcast import child, fault
from ringcast.config import Config
from ringcast.errors import Code, ConfigError, RequestError
from ringcast.providers import commands, inquiry, request
from ringcast.providers.credentials import Credential
from ringcast.providers.flow import Outlet
from ringcast.providers.gateway import Gateway
from ringcast.providers.http.clocks import TICK_S
from ringcast.providers.http.transport import open_client
from ringcast.providers.inquiry import Health
from ringcast.providers.registry import ProviderRegistry
from ringcast.providers.spending.usage_store import UsageStore, Used
from ringcast.providers.survey import Survey
from ringcast.providers.traffic.errands import Errands
from ringcast.providers.traffic.manager import ProviderManager
from ringcast.providers.traffic.routing import Target
from ringcast.shm import counters, records, segment
from ringcast.shm.ring import Writer
from ringcast.shm.shared_words import SharedWords
from ringcast.shm.tokens import Error, Usage
from ringcast.shm.wiring import Line, Wiring
from ringcast.sockets import Message, Socket, make

CONNECTIONS: Final = ("connections_open", "connections_idle", "connections_awaited")  # Gauges
KNOWN_S: Final = 1.0
RECALL_S: Final = 10.0
NOBODY: Final = 0  # the slot of no stream

P = ParamSpec("P")


def run(
    wiring: Wiring,
    index: int,
    config: Config,
    run_dir: Path,
    environment: Mapping[str, str],
    ready: Connection,
) -> None:
    """Be provider process `index` until SIGTERM or the supervisor's end."""
    child.enter(f"rc-provider-{index}")
    with fault.last_words():
        uvloop.run(_main(wiring, index, config, run_dir, environment, ready))


async def _main(
    wiring: Wiring,
    index: int,
    config: Config,
    run_dir: Path,
    environment: Mapping[str, str],
    ready: Connection,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(child.parent_fd(), os._exit, 0)
    process = Process(wiring, index, config, environment)
    fault.watch(loop, process.count_fault)
    process.connect(run_dir)
    with suppress(TimeoutError):  # a broker that has died meanwhile is not ours to wait for
        await asyncio.wait_for(process.known.wait(), KNOWN_S)
    ready.send("ready")
    ready.close()
    await stop.wait()
    await process.close()


class Process:
    """Everything of one provider process."""

    def __init__(
        self, wiring: Wiring, index: int, config: Config, environment: Mapping[str, str]
    ) -> None:
        """Attach to the rings and resolve the keys."""
        self._index = index
        self._config = config
        self._loop = asyncio.get_running_loop()
        page = segment.attach(wiring.counters)
        number = wiring.block("provider", index)
        self._counters = counters.Block(page.memory, number, "provider", pid=os.getpid())
        self._lines: list[Line] = wiring.ins[index]
        self._publishing = False
        self._outlets = [
            Outlet(Writer(segment.attach(line.name).memory), self._publish_soon)
            for line in self._lines
        ]
        for number, line in enumerate(self._lines):
            self._loop.add_reader(line.room.fileno(), self._room, number)
        self._tasks: set[asyncio.Task[None]] = set()
        self._gateways, self._disabled, self._lacking = _gateways(config, environment)
        self._client = open_client(config)
        self._survey = Survey(self._client, self._gateways, self._disabled, self._lacking, config)
        keys = {name: len(by_key) for name, by_key in self._gateways.items()}
        words = SharedWords.attach(wiring.traffic)
        self._manager = ProviderManager(config, keys, words, index)
        self._usage = UsageStore(config.usage)
        now = time.time()
        self._manager.spent(None, now, so_far=self._usage.spent_today(now))
        self._errands = Errands(
            config,
            self._manager,
            self._gateways,
            self._client,
            self._outlets,
            self._counters,
            self._tell,
            self._spend,
        )
        self.known = asyncio.Event()  # set once the broker sends us requests
        self._socket: Socket | None = None
        self._ticker = self._loop.create_task(self._tick())

    def connect(self, run_dir: Path) -> None:
        """Connect to the broker and report."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        dealer = make(
            context,
            zmq.DEALER,
            routing_id=b"p%d" % self._index,
            sndhwm=0,
            rcvhwm=0,
            reconnect_ivl=5,  # a broker that was replaced waits for us
        )
        dealer.connect(f"ipc://{run_dir}/control.sock")
        self._context = context
        self._socket = Socket(dealer, self._on_commands)
        self._ready()

    def _ready(self, nonce: int = 0) -> None:
        """Report what can be asked of us, and what is under way."""
        live, now_ns = self._errands.live, time.monotonic_ns()
        starts, disabled, lacking = self._counters.starts, self._disabled, self._lacking
        self._tell(commands.Ready(self._index, starts, disabled, live, now_ns, nonce, lacking))

    def _tell(self, said: commands.Command) -> None:
        """Say something to the broker."""
        if self._socket is not None:
            self._socket.send([commands.encode(said)])

    def _spend(self, target: Target, usage: Usage | None, error: Error | None, begun: bool) -> None:
        """Note what a request used."""
        failed = error is not None and error.code != Code.CANCELLED
        begun = begun or error is None
        self._usage.add(Used(target.provider, target.model, usage, failed, begun))
        if usage is not None:
            self._manager.spent(usage.cost, time.time())

    def count_fault(self) -> None:
        """Count a fault of ours."""
        self._counters.add(self._counters.slot("faults"))

    def _on_commands(self, messages: list[Message]) -> None:
        errands, do = self._errands, self._do
        for _, command in messages:
            match commands.decode_command(command):
                case commands.Grant(limits):
                    for slot, limit in limits:
                        do(slot, errands.grant, slot, limit)
                case commands.Start() as start:
                    do(start.slot, errands.start, start)
                case commands.Began(slots):
                    for slot in slots:
                        do(slot, errands.began, slot)
                case commands.Stop() as stop:
                    do(stop.slot, errands.stop, stop)
                case commands.Unsaid() as unsaid:
                    do(unsaid.slot, errands.unsaid, unsaid)
                case commands.Fail(slot, code, message):
                    do(slot, errands.fail, slot, code, message)
                case commands.Abandon(streams, how):
                    for slot, worker in streams:
                        do(slot, errands.abandon, slot, worker, how)
                case commands.Resume() as resume:
                    do(resume.slot, errands.resume, resume)
                case commands.Recall(provider, api, cursor):
                    do(NOBODY, self._recall, provider, api, cursor)
                case commands.Ask() as ask:
                    self._background(self._answer(ask))
                case commands.Report(nonce):
                    self._ready(nonce)
                case commands.Welcome():
                    self.known.set()

    def _do(self, slot: int, act: Callable[P, None], *args: P.args, **options: P.kwargs) -> None:
        """Do what is said of a stream; a fault of ours ends that one, and no other."""
        try:
            act(*args, **options)
        except Exception as error:
            self._errands.broke(slot, error)

    def _recall(self, provider: str, api: str, cursor: records.Cursor) -> None:
        """Have an answer stopped that is made whether or not anybody listens."""
        if (by_key := self._gateways.get(provider)) is not None:
            gateway = by_key[0]
            outgoing = gateway.request(self._client, gateway.recall(api, cursor))
            self._background(self._stop_remotely(outgoing, gateway.credential))

    def _first(self, ask: commands.Ask) -> tuple[Gateway, str]:
        """Return whom a question goes to, of a route the first. Raises `RequestError`."""
        target = self._manager.targets(ask.provider, ask.model)[0]
        return self._gateways[target.provider][target.key], target.model

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(_reported(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, ask: commands.Ask) -> None:
        """Ask one provider or all of them, and tell the broker what they say."""
        try:
            said = await self._inquire(ask)
            answer = commands.Answer(ask.number, msgspec.Raw(msgspec.msgpack.encode(said)))
        except RequestError as error:
            answer = commands.Answer(
                ask.number, commands.NOTHING, error.code, error.message, error.detail
            )
        except Exception as error:  # whatever it is, the question must not wait for ever
            text = f"the question could not be carried out: {fault.named(error)}"
            answer = commands.Answer(ask.number, commands.NOTHING, Code.INTERNAL, text)
            fault.report(error)
        self._tell(answer)

    async def _inquire(self, ask: commands.Ask) -> object:
        match ask.what:
            case "count":
                asked = request.decode(ask.request)
                gateway, model = self._first(ask)
                return await inquiry.count(self._client, gateway, self._config, model, asked)
            case "can_count":
                return inquiry.can_count(*self._first(ask))
            case "capabilities":
                gateway, model = self._first(ask)
                return gateway.vendor.capabilities(model)
            case "health":
                return self._with_traffic(await self._survey.health(ask.provider))
            case "models":
                return await self._survey.models(ask.provider)

    def _with_traffic(self, health: dict[str, Health]) -> dict[str, Health]:
        traffic, now = self._manager.traffic, time.monotonic()
        return {
            name: msgspec.structs.replace(one, traffic=traffic(name, now))
            for name, one in health.items()
        }

    async def _look_at_health(self, provider: str) -> None:
        health = await self._survey.health(provider)
        self._manager.is_well(provider, health[provider])

    async def _stop_remotely(self, outgoing: httpx.Request, credential: Credential) -> None:
        try:
            async with asyncio.timeout(RECALL_S):
                await credential.authorize(outgoing, self._client)
                response = await self._client.send(outgoing)
            said = f"HTTP {response.status_code}"
        except (httpx.HTTPError, TimeoutError, RequestError) as error:
            said = type(error).__name__
        if said != "HTTP 200":
            print(f"ringcast: an answer could not be recalled: {said}", file=sys.stderr)

    def _publish_soon(self) -> None:
        """Publish once, at the end of this loop turn."""
        if not self._publishing:
            self._publishing = True
            self._loop.call_soon(self._publish)

    def _publish(self) -> None:
        self._publishing = False
        for outlet, line in zip(self._outlets, self._lines, strict=True):
            if outlet.marked:
                outlet.marked = False
                if outlet.writer.publish():
                    line.bell.ring()
            if outlet.waiting and not outlet.writer.wait():
                self._loop.call_soon(self._pump, outlet)

    def _room(self, number: int) -> None:
        self._lines[number].room.clear()
        self._pump(self._outlets[number])

    def _pump(self, outlet: Outlet) -> None:
        """The ring has room again: let the flows that wait for it go on."""
        waiting, outlet.waiting = outlet.waiting, {}
        for flow in waiting.values():
            flow.pump()
            self._errands.moved(flow)

    async def _tick(self) -> None:
        """Look around for as long as the process lives."""
        slots = {name: self._counters.slot(name) for name in counters.NAMES["provider"]}
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._look_around(time.monotonic())
            except Exception as error:  # clocks and the heartbeat must go on
                fault.report(error)
            self._write_gauges(slots)

    def _look_around(self, now: float) -> None:
        """Look at the body clocks, and at what is due."""
        for upstream in self._errands.upstreams:
            upstream.overdue(now)
        self._errands.tick(now)
        for provider in self._manager.to_ask(now):
            self._background(self._look_at_health(provider))

    def _write_gauges(self, slots: dict[str, int]) -> None:
        self._counters.beat(time.monotonic_ns())
        full = sum(outlet.writer.full for outlet in self._outlets)
        self._counters.set(slots["ring_full"], full)
        self._counters.set(slots["streams"], len(self._errands.upstreams))
        self._counters.set(slots["waiting"], self._errands.waiting)
        for name, value in zip(CONNECTIONS, self._client.transport.gauges, strict=True):
            self._counters.set(slots[name], value)

    async def close(self) -> None:
        """Close every upstream connection and say why, then the sockets."""
        self._errands.close()
        self._publish()
        self._ticker.cancel()
        await self._client.aclose()
        self._usage.close()
        if self._socket is not None:
            self._socket.close()
            self._context.term()


async def _reported(work: Coroutine[Any, Any, None]) -> None:
    """Do work that nobody awaits."""
    try:
        await work
    except Exception as error:
        fault.report(error)


def _gateways(
    config: Config, secrets: Mapping[str, str]
) -> tuple[dict[str, list[Gateway]], dict[str, str], dict[str, str]]:
    """Find all providers and their keys; return the ways, why others have none, what keys lack."""
    environment = {**os.environ, **secrets}
    registry = ProviderRegistry()
    gateways: dict[str, list[Gateway]] = {}
    disabled: dict[str, str] = {}
    lacking: dict[str, str] = {}
    for name, provider in config.providers.items():
        try:
            gateways[name], missing = registry.create_all(name, provider, environment)
        except ConfigError as error:
            disabled[name] = str(error)
        else:
            lacking |= {name: "; ".join(missing)} if missing else {}
    return gateways, disabled, lacking
