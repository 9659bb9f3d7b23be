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
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import uvloop
import zmq

from ringcast import child
from ringcast.config import Config
from ringcast.errors import Code, ConfigError, RequestError
from ringcast.providers import commands, inquiry, request
from ringcast.providers.credentials import Credential
from ringcast.providers.flow import Flow, Outlet
from ringcast.providers.gateway import Gateway, open_gateway
from ringcast.providers.survey import Survey
from ringcast.providers.transform_spec import encoded
from ringcast.providers.transport import open_client
from ringcast.providers.upstream import CANCELLED, Upstream
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.framing import framer
from ringcast.providers.wire.sse import SseFramer
from ringcast.shm import counters, records, segment
from ringcast.shm.ring import Writer
from ringcast.shm.wiring import Line, Wiring
from ringcast.sockets import Message, Socket, make

TICK_S: Final = 0.25
KNOWN_S: Final = 1.0
RECALL_S: Final = 10.0


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
        self._upstreams: dict[int, Upstream] = {}
        self._ending: dict[int, Flow] = {}  # ended flows whose END waits for room
        self._live: dict[int, commands.Live] = {}  # what the broker is told of both
        self._tasks: set[asyncio.Task[None]] = set()
        self._gateways, self._disabled = _gateways(config, environment)
        self._client = open_client(config)
        self._survey = Survey(self._client, self._gateways, self._disabled, config)
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
        flows = [*(one.flow for one in self._upstreams.values()), *self._ending.values()]
        replace = msgspec.structs.replace
        live = [
            replace(self._live[flow.slot], limit=flow.limit)
            for flow in flows
            if flow.slot in self._live
        ]
        report = commands.Ready(
            self._index, self._counters.starts, self._disabled, live, time.monotonic_ns(), nonce
        )
        if self._socket is not None:
            self._socket.send([commands.encode(report)])

    def _on_commands(self, messages: list[Message]) -> None:
        for parts in messages:
            match commands.decode_command(parts[-1]):
                case commands.Grant(limits):
                    for slot, limit in limits:
                        self._grant(slot, limit)
                case commands.Start() as start:
                    self._start(start)
                case commands.Stop(slot, cancel):
                    self._stop(slot, cancel)
                case commands.Fail(slot, code, message):
                    if (upstream := self._upstreams.get(slot)) is not None:
                        upstream.fail(code, message)
                case commands.Abandon(streams, how):
                    for slot, worker in streams:
                        self._abandon(slot, worker, how)
                case commands.Resume() as resume:
                    self._resume(resume)
                case commands.Recall(provider, api, cursor):
                    self._recall(provider, api, cursor)
                case commands.Ask() as ask:
                    self._background(self._answer(ask))
                case commands.Report(nonce):
                    self._ready(nonce)
                case commands.Welcome():
                    self.known.set()

    def _grant(self, slot: int, limit: int) -> None:
        if (upstream := self._upstreams.get(slot)) is not None:
            upstream.flow.grant(limit)
            upstream.adapt()
        elif (flow := self._ending.get(slot)) is not None:
            flow.grant(limit)
            self._ended_flow(flow)

    def _stop(self, slot: int, cancel: bool) -> None:
        if cancel:
            self._counters.add(self._counters.slot("cancelled"))
        if (upstream := self._upstreams.get(slot)) is not None:
            if cancel:
                upstream.cancel()
            else:
                upstream.finish()
        elif (flow := self._ending.get(slot)) is not None:  # the rest waits, and nobody wants it
            flow.end(CANCELLED, time.monotonic_ns())
            self._ended_flow(flow)

    def _abandon(self, slot: int, worker: int, how: str) -> None:
        """End a stream that has no connection (any more)."""
        if slot in self._upstreams or slot in self._ending:  # it is ours, and has just begun
            return
        flow = Flow(slot, self._outlets[worker], SseFramer(), 0)
        text = "the connection to the provider is lost"
        ending = CANCELLED if how == "cancelled" else Ending("failed", Code.INTERRUPTED, text)
        flow.end(ending, time.monotonic_ns(), final=how == "for good")
        self._ended_flow(flow)

    def _start(self, start: commands.Start) -> None:
        if start.slot in self._live:  # asked twice: a broker died between asking and noting it
            return
        flow = self._flow(start, 0)
        self._counters.add(self._counters.slot("requests"))
        now = time.monotonic_ns()
        opened = records.Open(start.stream, "chat", start.provider, start.model)
        try:
            gateway = self._gateway(start.provider)
            asked = request.decode(start.request)
            transforms = encoded(asked.transforms or [], self._config.workers.transforms)
            api, call = gateway.shape(start.model, asked)
            outgoing = gateway.request(self._client, call)
        except (RequestError, httpx.InvalidURL) as error:
            flow.open(opened, now)
            self._refuse(flow, error)
            return
        opened = msgspec.structs.replace(
            opened,
            api=api,
            kind=gateway.config.kind,
            compat=asked.compat or "",
            transforms=transforms,
        )
        flow.open(opened, now)
        self._send(flow, gateway, outgoing, api)

    def _resume(self, resume: commands.Resume) -> None:
        """Go on with a stream whose connection is gone, behind what was decoded of it."""
        if resume.slot in self._live:
            return
        flow = self._flow(resume, resume.raw)
        try:
            gateway = self._gateway(resume.provider)
            outgoing = gateway.request(self._client, gateway.reattach(resume.api, resume.cursor))
        except (RequestError, httpx.InvalidURL) as error:
            self._refuse(flow, error)
            return
        self._counters.add(self._counters.slot("reattached"))
        self._send(flow, gateway, outgoing, resume.api)

    def _flow(self, asked: commands.Start | commands.Resume, sent: int) -> Flow:
        self._ending.pop(asked.slot, None)  # an end that still waits for room is answered by this
        self._outlets[asked.worker].waiting.pop(asked.slot, None)
        self._live[asked.slot] = commands.Live(
            asked.slot, asked.stream, asked.worker, asked.provider, asked.model, asked.limit
        )
        return Flow(asked.slot, self._outlets[asked.worker], SseFramer(), asked.limit, sent)

    def _gateway(self, name: str) -> Gateway:
        gateway = self._gateways.get(name)
        if gateway is None:
            raise RequestError(Code.PROVIDER_DISABLED, f"{name} is not usable in this process")
        return gateway

    def _refuse(self, flow: Flow, error: RequestError | httpx.InvalidURL) -> None:
        code = error.code if isinstance(error, RequestError) else Code.BAD_REQUEST
        text = error.message if isinstance(error, RequestError) else str(error)
        flow.end(Ending("failed", code=code, message=text), time.monotonic_ns())
        self._ended_flow(flow)

    def _send(self, flow: Flow, gateway: Gateway, outgoing: httpx.Request, api: str) -> None:
        limits = self._config.limits
        flow.framer = framer(
            api, max_line_bytes=limits.max_line_bytes, max_event_bytes=limits.max_event_bytes
        )
        self._upstreams[flow.slot] = Upstream(
            flow, self._client, outgoing, self._config, gateway.credential, self._on_end
        )

    def _recall(self, provider: str, api: str, cursor: records.Cursor) -> None:
        """Have an answer stopped that is made whether or not anybody listens."""
        if (gateway := self._gateways.get(provider)) is not None:
            outgoing = gateway.request(self._client, gateway.recall(api, cursor))
            self._background(self._stop_remotely(outgoing, gateway.credential))

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
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
            text = f"the question could not be carried out: {type(error).__name__}"
            answer = commands.Answer(ask.number, commands.NOTHING, Code.INTERNAL, text)
            print(f"ringcast: {ask.what}: {type(error).__name__}", file=sys.stderr)
        if self._socket is not None:
            self._socket.send([commands.encode(answer)])

    async def _inquire(self, ask: commands.Ask) -> object:
        match ask.what:
            case "count":
                asked = request.decode(ask.request)
                gateway = self._gateway(ask.provider)
                return await inquiry.count(self._client, gateway, self._config, ask.model, asked)
            case "capabilities":
                return self._gateway(ask.provider).vendor.capabilities(ask.model)
            case "health":
                return await self._survey.health(ask.provider)
            case "models":
                return await self._survey.models(ask.provider)

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

    def _on_end(self, upstream: Upstream) -> None:
        self._upstreams.pop(upstream.flow.slot, None)
        self._ended_flow(upstream.flow)

    def _ended_flow(self, flow: Flow) -> None:
        if flow.finished:
            self._ending.pop(flow.slot, None)
            self._live.pop(flow.slot, None)
        else:
            self._ending[flow.slot] = flow

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
        for slot, flow in waiting.items():
            flow.pump()
            if (upstream := self._upstreams.get(slot)) is not None:
                upstream.adapt()
            elif slot in self._ending:
                self._ended_flow(flow)

    async def _tick(self) -> None:
        """Look at the body clocks, and write the heartbeat."""
        full = self._counters.slot("ring_full")
        streams = self._counters.slot("streams")
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for upstream in list(self._upstreams.values()):
                upstream.overdue(now)
            self._counters.beat(time.monotonic_ns())
            self._counters.set(full, sum(outlet.writer.full for outlet in self._outlets))
            self._counters.set(streams, len(self._upstreams))

    async def close(self) -> None:
        """Close every upstream connection and say why, then the sockets."""
        for upstream in list(self._upstreams.values()):
            upstream.cancel()
        self._publish()
        self._ticker.cancel()
        await self._client.aclose()
        if self._socket is not None:
            self._socket.close()
            self._context.term()


def _gateways(
    config: Config, secrets: Mapping[str, str]
) -> tuple[dict[str, Gateway], dict[str, str]]:
    """Find all providers and their keys; one that is not found is disabled with the reason."""
    environment = {**os.environ, **secrets}
    gateways: dict[str, Gateway] = {}
    disabled: dict[str, str] = {}
    for name, provider in config.providers.items():
        try:
            gateways[name] = open_gateway(name, provider, environment)
        except ConfigError as error:
            disabled[name] = str(error)
    return gateways, disabled
