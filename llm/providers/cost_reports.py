"""Asking providers what they will bill: their own daily costs, each from the account's admin key.

Mistral's admin API reports a billing period of a month, in the account's own currency, and documents no shape of its
amounts: no day can be judged by it. Keys travel in a header to the address that is configured, and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from urllib.parse import urlsplit

from django.conf import settings

from governance.rules.judgement import CostReport, Silence
from llm.models import ProviderEndpoint
from llm.providers import ProviderError
from llm.providers.http import Connection
from llm.rules import cost_reports
from llm.rules.addresses import RESERVED_NAMES
from llm.rules.cost_reports import OtherCurrency, ReportPage, ReportUnreadable

log = logging.getLogger(__name__)

# Of one account: all of its pages together, how many there may be, and how large each.
DEADLINE_S = 30.0
MOST_PAGES = 20
MOST_BYTES = 16 * 1024 * 1024
DAYS_A_PAGE = 31

Read = Callable[[date, date, date], Awaitable[Mapping[date, int]]]


@dataclass(frozen=True, slots=True)
class _Account:
    """An account at a provider, the names that the ledger has for it, and how its days are asked for."""

    name: str
    providers: frozenset[str]
    has_key: bool
    read: Read


class _NoReport(Exception):
    def __init__(self, silence: Silence, detail: str) -> None:
        super().__init__(detail)
        self.silence, self.detail = silence, detail


def read(*, since: date, until: date, now: datetime) -> list[CostReport]:
    """The report of each account that calls may be billed to, of those days in [since, until) that are over.

    Never raises for what a provider answers. Takes `DEADLINE_S` at most. `now` is in UTC.
    """
    today = now.astimezone(UTC).date()
    accounts = _accounts()
    mistral = CostReport("mistral", frozenset(RESERVED_NAMES), silence=Silence.NO_DAILY_REPORT)
    return [*asyncio.run(_reports(accounts, since, min(until, today), today)), mistral]


async def _reports(accounts: Sequence[_Account], since: date, until: date, today: date) -> list[CostReport]:
    return list(await asyncio.gather(*(_report(account, since, until, today) for account in accounts)))


async def _report(account: _Account, since: date, until: date, today: date) -> CostReport:
    if not account.has_key:
        return CostReport(account.name, account.providers, silence=Silence.NO_ADMIN_KEY)
    try:
        if until <= since:
            return CostReport(account.name, account.providers)
        async with asyncio.timeout(DEADLINE_S):
            days = await account.read(since, until, today)
        return CostReport(account.name, account.providers, days)
    except _NoReport as error:
        silence, detail = error.silence, error.detail
    except OtherCurrency:
        silence, detail = Silence.OTHER_CURRENCY, ""
    except ReportUnreadable as error:
        silence, detail = Silence.UNREADABLE, f"What is wrong with it: {error}."
    except (ProviderError, TimeoutError):
        silence, detail = Silence.UNREACHABLE, "It gave no answer in time."
    except Exception as error:
        # Whatever a provider's answer sets off ends here. Its words stay out of our log.
        log.error("the cost report of %s set off a %s", account.name, type(error).__name__)
        silence, detail = Silence.UNREADABLE, ""
    return CostReport(account.name, account.providers, silence=silence, detail=detail)


def _accounts() -> list[_Account]:
    openai, anthropic = settings.OPENAI_API_BASE, settings.ANTHROPIC_API_BASE
    openrouter = settings.OPENROUTER_API_BASE
    to_anthropic = {"x-api-key": settings.ANTHROPIC_ADMIN_KEY, "anthropic-version": "2023-06-01"}
    # Disabled ones too: they may have been called on the days that are asked for.
    places = {
        name: urlsplit(base_url).netloc.lower()
        for name, base_url in ProviderEndpoint.objects.values_list("name", "base_url")
    }

    def account(name: str, base: str, key: str, headers: Mapping[str, str], ask: Callable[..., Read]) -> _Account:
        """Billed to it: what the environment calls so, and every endpoint there; of two names the database's counts."""
        there = {endpoint for endpoint, place in places.items() if place == urlsplit(base).netloc.lower()}
        billed = there if name in places else there | {name}
        return _Account(name, frozenset(billed), bool(key), ask(Connection(base=base, headers=headers)))

    return [
        account("openai", openai, settings.OPENAI_ADMIN_KEY, _bearer(settings.OPENAI_ADMIN_KEY), _openai),
        account("anthropic", anthropic, settings.ANTHROPIC_ADMIN_KEY, to_anthropic, _anthropic),
        account(
            "openrouter", openrouter, settings.OPENROUTER_ADMIN_KEY, _bearer(settings.OPENROUTER_ADMIN_KEY), _openrouter
        ),
    ]


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _openai(connection: Connection) -> Read:
    async def days(since: date, until: date, today: date) -> Mapping[date, int]:
        query = {"start_time": str(_epoch(since)), "end_time": str(_epoch(until)), "bucket_width": "1d"}
        return await _paged(connection, "/organization/costs", query, cost_reports.openai_page)

    return days


def _anthropic(connection: Connection) -> Read:
    async def days(since: date, until: date, today: date) -> Mapping[date, int]:
        query = {"starting_at": f"{since}T00:00:00Z", "ending_at": f"{until}T00:00:00Z", "bucket_width": "1d"}
        return await _paged(connection, "/v1/organizations/cost_report", query, cost_reports.anthropic_page)

    return days


def _openrouter(connection: Connection) -> Read:
    async def days(since: date, until: date, today: date) -> Mapping[date, int]:
        return cost_reports.openrouter_days(await _body(connection, "/activity", {}), today=today)

    return days


async def _paged(
    connection: Connection, path: str, query: Mapping[str, str], read_page: Callable[[bytes], ReportPage]
) -> Mapping[date, int]:
    """All days of all pages. Raises ReportUnreadable where they do not end."""
    days: Mapping[date, int] = {}
    asked = {**query, "limit": str(DAYS_A_PAGE)}
    for _ in range(MOST_PAGES):
        page = read_page(await _body(connection, path, asked))
        days = cost_reports.merged(days, page.days)
        if not page.next_page:
            return days
        asked["page"] = page.next_page
    raise ReportUnreadable("its pages do not end")


async def _body(connection: Connection, path: str, query: Mapping[str, str]) -> bytes:
    status, body = await connection.get(path, query, timeout_s=DEADLINE_S, most_bytes=MOST_BYTES)
    if status == 200:
        return body
    # Too many requests and failures of its own are over some time; whatever else it says to a key is its answer.
    silence = Silence.UNREACHABLE if status == 429 or status >= 500 else Silence.REFUSED
    raise _NoReport(silence, f"It answered with status {status}.")


def _epoch(day: date) -> int:
    return (day - date(1970, 1, 1)).days * cost_reports.DAY_S
