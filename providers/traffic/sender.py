"""What is sent upstream for a request: its shape for each target, its OPEN, its connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import httpx

from ringcast.config import ROUTE, Config
from ringcast.errors import Code, RequestError
from ringcast.providers import commands, request
from ringcast.providers.estimate import estimate
from ringcast.providers.gateway import Gateway
from ringcast.providers.spending.prices import price_of
from ringcast.providers.traffic.errand import Errand
from ringcast.providers.traffic.plan import Plan
from ringcast.providers.traffic.routing import Target
from ringcast.providers.transform_spec import encoded
from ringcast.providers.upstream import Upstream
from ringcast.providers.vendor import AnyRequest
from ringcast.providers.wire.body import Ending
from ringcast.providers.wire.framing import framer
from ringcast.shm import records


class Sender:
    """Sends errands. `on_head` and `on_end` are told as by `Upstream`, with the errand."""

    def __init__(
        self,
        config: Config,
        gateways: Mapping[str, list[Gateway]],
        client: httpx.AsyncClient,
        on_head: Callable[[Errand, int, httpx.Headers], None],
        on_end: Callable[[Errand, Ending], None],
    ) -> None:
        """`gateways` has those of each usable provider, one for each of its keys."""
        self._config = config
        self._gateways = gateways
        self._client = client
        self._on_head = on_head
        self._on_end = on_end

    def read(self, errand: Errand, start: commands.Start) -> tuple[int, int]:
        """Find out what is asked; return about how many tokens are given, and may be made.

        Raises `RequestError`.
        """
        errand.asked = asked = request.decode(start.request)
        route = self._config.routes.get(start.model) if start.provider == ROUTE else None
        chosen = asked.transforms or (route.transforms if route else None)
        errand.transforms = encoded(chosen or [], self._config.workers.transforms)
        return estimate(asked), asked.max_tokens or 0

    def shape(self, errand: Errand, plan: Plan) -> None:
        """Leave out who cannot be asked this. Raises `RequestError` if that is all."""
        assert errand.asked is not None
        refused: dict[str, RequestError] = {}
        for target in plan.targets:
            if target.name in errand.shapes or target.name in refused:
                continue
            try:
                errand.shapes[target.name] = self._shape(target, errand.asked)
            except RequestError as error:
                refused[target.name] = error
        plan.targets = [one for one in plan.targets if one.name in errand.shapes]
        if not plan.targets:
            raise next(iter(refused.values()))

    def _shape(self, target: Target, asked: AnyRequest) -> tuple[str, request.Call]:
        return self._gateways[target.provider][target.key].shape(target.model, asked)

    def send(self, errand: Errand, target: Target, now_ns: int, *, final: bool) -> None:
        """Write OPEN, and send it; after a `final` sending comes no other.

        Raises `RequestError`, `httpx.InvalidURL`.
        """
        gateway = self._gateways[target.provider][target.key]
        api, call = errand.shapes[target.name]
        self._open(errand, target, api, gateway.config.kind, now_ns, final)
        self._connect(errand, gateway, gateway.request(self._client, call), api)

    def open_unsent(self, errand: Errand, now_ns: int) -> None:
        """Write OPEN for an END without a sending."""
        asked = Target(errand.start.provider, 0, errand.start.model)
        target = next(reversed(errand.plan.said), asked) if errand.plan else asked
        self._open(errand, target, "chat", "", now_ns, final=True)

    def _open(
        self, errand: Errand, target: Target, api: str, kind: str, now_ns: int, final: bool
    ) -> None:
        plan, asked = errand.plan, errand.asked
        # An answer that is read on was sent; what was refused at once never was.
        attempts = plan.earlier + plan.sent if plan else isinstance(errand.start, commands.Resume)
        opened = records.Open(
            errand.start.stream, api, target.provider, target.model, kind,
            (asked.compat if asked else None) or "", errand.transforms, errand.since_ns,
            int(attempts), final, price_of(self._config, target.provider, target.model),
        )  # fmt: skip
        errand.opened_ns, errand.known = now_ns, True
        errand.flow.open(opened, now_ns)

    def resume(self, errand: Errand, resume: commands.Resume) -> None:
        """Ask for the rest of a kept answer. Raises `RequestError`, `httpx.InvalidURL`."""
        if not (gateways := self._gateways.get(resume.provider)):
            text = f"{resume.provider} is not usable in this process"
            raise RequestError(Code.PROVIDER_DISABLED, text)
        target = errand.plan.target if errand.plan else None
        gateway = gateways[target.key if target else 0]  # an answer is kept for who asked
        outgoing = gateway.request(self._client, gateway.reattach(resume.api, resume.cursor))
        self._connect(errand, gateway, outgoing, resume.api)

    def _connect(self, errand: Errand, gateway: Gateway, outgoing: httpx.Request, api: str) -> None:
        limits = self._config.limits
        errand.flow.framer = framer(
            api, max_line_bytes=limits.max_line_bytes, max_event_bytes=limits.max_event_bytes
        )
        errand.upstream = Upstream(
            errand.flow,
            self._client,
            outgoing,
            self._config,
            gateway.credential,
            lambda _, ending: self._on_end(errand, ending),
            lambda status, headers: self._on_head(errand, status, headers),
        )
