"""What operators and agents do beside the storm's calls, through the API and the commands, and the log of it.

Every act notes when it was sent and when its answer came: between the two nobody knows whether it has happened yet.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import aiohttp

from benchmarks.storm.bodies import GOOD_MODELS
from benchmarks.storm.clients import Tenant

ANSWER_S = 45.0
COMMAND_S = 120.0
MODEL = "mistral-small-latest"
AGENTS = ("invoices", "mails")


@dataclass
class Act:
    """`kind` and what it was about. `ok`: it was answered with success; one that was not may have happened as well."""

    kind: str
    sent_at: float
    about: dict[str, Any] = field(default_factory=dict)
    done_at: float = 0.0
    status: int | None = None
    said: Any = None

    @property
    def ok(self) -> bool:
        return self.status is not None and self.status < 300

    def to_json(self) -> dict[str, Any]:
        """Without the keys that were issued."""
        return asdict(self) | ({"said": None} if self.kind == "set up" else {})


@dataclass(frozen=True)
class Budget:
    """A budget of the storm as it was made. Limits in nanodollars."""

    id: int
    tenant: str
    limit_nanos: int
    options: tuple[str, ...]


def dollars(nanos: int) -> str:
    return f"{nanos // 10**9}.{nanos % 10**9:09}"


class Operators:
    """`key` is an operator's. `environment` is that of the product's commands."""

    def __init__(self, url: str, key: str, environment: Mapping[str, str], *, seed: str) -> None:
        self._url, self._key, self._environment = url, key, environment
        self._random = Random(f"{seed}/operators")
        self.log: list[Act] = []
        self.gate = asyncio.Event()
        self.busy = 0

    async def open(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)

    async def close(self) -> None:
        await self._session.close()

    async def set_up(self) -> None:
        """Four tenants with agents, keys and budgets that are soon used up."""
        self.tenants: list[Tenant] = []
        self.budgets: list[Budget] = []
        for slug in ("acme", "bolt", "cask", "dune"):
            await self._must("tenants", slug=slug)
            keys = []
            for agent in AGENTS:
                await self._must("agents", tenant=slug, slug=agent)
                issued = await self._must("keys", role="agent", tenant=slug, agent=agent)
                keys.append(str(issued["key"]))
            self.tenants.append(Tenant(slug, tuple(keys)))
        await self._budget(20_000_000_000, "", "platform", "", "day")
        await self._budget(240_000_000, "acme", "tenant", "", "hour")
        await self._budget(160_000_000, "acme", "agent", "*", "day")
        downgrade = [{"from": ["mistral-large-latest"], "to": MODEL}]
        await self._budget(
            360_000_000, "bolt", "tenant", "", "day", hard_cap="0.5", soft_cap="0.3", downgrade_rules=downgrade
        )
        await self._budget(200_000_000, "cask", "tenant", "", "lifetime", clamp=False)
        await self._budget(60_000_000, "cask", "user", "*", "day")
        await self._budget(280_000_000, "dune", "tenant", "", "month", hard_cap="0.9")
        await self._budget(180_000_000, "dune", "agent", "mails", "hour")

    async def _budget(self, limit_nanos: int, tenant: str, scope: str, key: str, window: str, **policy: Any) -> None:
        made = await self._must(
            "budgets",
            **({"tenant": tenant} if tenant else {}),
            scope_type=scope,
            scope_key=key,
            window=window,
            limit=dollars(limit_nanos),
            **policy,
        )
        options = ("--tenant", tenant, "--scope", scope, "--key", key, "--window", window)
        self.budgets.append(Budget(made["id"], tenant, limit_nanos, options))
        self.log.append(Act("limit", 0.0, {"budget": made["id"], "limit_nanos": limit_nanos}, 0.0, 201))

    async def run(self, *, every_s: float, commands_every_s: float) -> None:
        """Act after act while the gate is open, agents' two-phase calls beside them."""
        await asyncio.gather(
            *(self._go_on(self._operate, every_s) for _ in range(2)),
            self._go_on(self._report, every_s / 2),
            *(self._go_on(self._call_in_two_phases, every_s) for _ in range(2)),
            self._go_on(self._command, commands_every_s),
        )

    async def _go_on(self, act: Any, pause_s: float) -> None:
        while True:
            await self.gate.wait()
            self.busy += 1
            try:
                await act()
            finally:
                self.busy -= 1
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * pause_s)

    async def _operate(self) -> None:
        usual = (*[self._reset] * 8, *[self._limit] * 4, *[self._believe] * 3)
        await self._random.choice((*usual, self._stop, self._pause))()

    def _own_budget(self) -> Budget:
        return self._random.choice([budget for budget in self.budgets if budget.tenant])

    async def _reset(self) -> None:
        budget = self._random.choice(self.budgets)
        await self._post("reset", {"budget": budget.id}, f"budgets/{budget.id}/reset", reason="a storm")

    async def _limit(self) -> None:
        budget = self._own_budget()
        limit_nanos = int(budget.limit_nanos * self._random.choice((0.2, 0.5, 1, 1, 1.5, 3)))
        about = {"budget": budget.id, "limit_nanos": limit_nanos}
        await self._call("PATCH", "limit", about, f"budgets/{budget.id}", {"limit": dollars(limit_nanos)})

    async def _believe(self) -> None:
        """The model keeps to its bounds again; else it would soon be refused in every call, and the storm be over."""
        model = self._random.choice(GOOD_MODELS)
        await self._post("believe", {"model": model}, f"models/{model}/clear-overruns", reason="a storm")

    async def _stop(self) -> None:
        tenant = self._random.choice(self.tenants).slug
        about: dict[str, Any] = {"tenant": tenant}
        if self._random.random() < 0.5:
            about["agent"] = self._random.choice(AGENTS)
        stop = await self._post("stop", about, "stops", **about, reason="a storm")
        await asyncio.sleep(self._random.uniform(0.5, 2.5))
        if stop.ok:
            await self._post("lift", about, f"stops/{stop.said['id']}/lift", reason="over")

    async def _pause(self) -> None:
        tenant = self._random.choice(self.tenants).slug
        await self._post("stop", {"tenant": tenant}, f"tenants/{tenant}/pause", reason="a storm")
        await asyncio.sleep(self._random.uniform(0.5, 2.0))
        await self._post("lift", {"tenant": tenant}, f"tenants/{tenant}/resume")

    async def _report(self) -> None:
        tenant = self._random.choice(self.tenants)
        cost_nanos = int(10 ** self._random.uniform(3, 7))
        request_id = str(uuid.UUID(int=self._random.getrandbits(128)))
        about: dict[str, Any] = {"tenant": tenant.slug, "cost_nanos": cost_nanos, "request_id": request_id}
        body: dict[str, Any] = {"request_id": request_id, "cost": dollars(cost_nanos), "model": MODEL}
        key, dice = self._key, self._random.random()
        if dice < 0.3:
            about["by"], body["tenant"] = "operator", tenant.slug
        else:
            about["by"], key = "agent", self._random.choice(tenant.keys)
        if dice > 0.95:
            # Far more than there is to spend, and than a column holds.
            about["cost_nanos"] = self._random.choice((200_000 * 10**9, 9 * 10**18, 2**63 - 1))
            body["cost"] = dollars(about["cost_nanos"])
        elif dice > 0.9:
            del body["cost"]
            about["cost_nanos"] = 10**12 * 600
            body["output_tokens"] = 10**12
        for _ in range(self._random.choice((1, 1, 2))):
            await self._post("report", about, "spend", key=key, **body)

    async def _call_in_two_phases(self) -> None:
        """An agent that keeps to the protocol, but for dying in the middle of it now and then."""
        tenant = self._random.choice(self.tenants)
        number = self._random.randrange(len(AGENTS))
        key = tenant.keys[number]
        held_nanos = int(10 ** self._random.uniform(4, 6.7))
        made = await self._post(
            "reserve", {}, "reservations", key=key, model=MODEL, estimated_cost=dollars(held_nanos), ttl_s=10
        )
        if not made.ok:
            return
        where = f"reservations/{made.said['id']}"
        about = {"reservation": made.said["id"], "tenant": tenant.slug, "agent": AGENTS[number]}
        await asyncio.sleep(self._random.uniform(0, 2))
        if self._random.random() < 0.5:
            more_nanos = int(10 ** self._random.uniform(4, 7))
            extended = await self._post("extend", about, f"{where}/extend", key=key, more=dollars(more_nanos), ttl_s=10)
            held_nanos += more_nanos if extended.ok else 0
        dice = self._random.random()
        if dice < 0.1:
            return
        if dice < 0.3:
            await self._post("release", about, f"{where}/release", key=key)
            return
        cost_nanos = self._random.randint(0, held_nanos)
        for _ in range(self._random.choice((1, 1, 2))):
            settled = about | {"cost_nanos": cost_nanos}
            await self._post("settle", settled, f"{where}/settle", key=key, cost=dollars(cost_nanos))

    async def _command(self) -> None:
        budget = self._own_budget()
        dice = self._random.randint(0, 4)
        if dice == 0:
            await self.command("reset", {"budget": budget.id}, "reset_budget", *budget.options, "--reason", "a storm")
        elif dice == 1:
            limit_nanos = int(budget.limit_nanos * self._random.choice((0.5, 1, 2)))
            about = {"budget": budget.id, "limit_nanos": limit_nanos}
            await self.command("limit", about, "set_budget", *budget.options, "--limit", dollars(limit_nanos))
        elif dice == 2:
            whom = {"tenant": budget.tenant}
            tenant = ("--tenant", budget.tenant, "--reason", "a storm")
            await self.command("stop", whom, "emergency_stop", *tenant)
            await self.command("lift", whom, "emergency_stop", *tenant, "--lift")
        elif dice == 3:
            await self.command("read", {}, "spend_report")
        else:
            await self.command("expire", {}, "expire_reservations")

    async def command(self, kind: str, about: Mapping[str, Any], *arguments: str) -> Act:
        """A command of `manage.py`. Its status is 200, 400 where it refused, and 500 where it broke or hung."""
        act = Act(kind, time.time(), {**about, "command": " ".join(arguments)})
        self.log.append(act)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "manage.py", *arguments),
            env={**os.environ, **self._environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await asyncio.wait_for(child.communicate(), COMMAND_S)
        except TimeoutError:
            child.kill()
            said = b"it did not end"
        act.done_at = time.time()
        act.said = said.decode("utf-8", "replace")[-2_000:]
        broke = b"Traceback" in said or b"did not end" in said
        act.status = 500 if broke else 200 if child.returncode == 0 else 400
        return act

    async def _must(self, path: str, **body: Any) -> Any:
        act = await self._post("set up", {}, path, **body)
        if not act.ok:
            raise SystemExit(f"POST /api/{path} was answered with {act.status}: {act.said}")
        return act.said

    async def _post(self, kind: str, about: Mapping[str, Any], path: str, *, key: str = "", **body: Any) -> Act:
        return await self._call("POST", kind, about, path, body, key=key)

    async def _call(
        self, method: str, kind: str, about: Mapping[str, Any], path: str, body: Mapping[str, Any], *, key: str = ""
    ) -> Act:
        act = Act(kind, time.time(), {**about, "path": path})
        self.log.append(act)
        headers = {"authorization": f"Bearer {key or self._key}"}
        try:
            async with self._session.request(method, f"{self._url}/api/{path}", json=body, headers=headers) as answer:
                act.said = _read(await answer.read())
                act.status = answer.status
        except TimeoutError:
            act.said = "no answer in time"
        except aiohttp.ClientError as error:
            act.said = type(error).__name__
        act.done_at = time.time()
        return act


def _read(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data[:200].decode("utf-8", "replace")
