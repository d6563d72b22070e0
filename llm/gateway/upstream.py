"""What a provider's failures mean: which are the operator's to mend, which pass, and what the client is told."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from django.db import DatabaseError
from django.utils import timezone

from governance import alerts
from governance.actions.overruns import OVERRUN
from governance.rules.calls import Usage
from governance.rules.overruns import ModelOverrun, Side
from llm.gateway import errors
from llm.providers import Provider, ProviderError
from llm.rules import cool_down, forbidden, too_large
from llm.state.breakers import Breakers

log = logging.getLogger(__name__)

# The provider's refusals that are about us, not the call: the operator's to mend, never shown as the client's.
_OURS = {
    401: ("upstream_auth", "The gateway's own key was refused by the model's API."),
    402: ("provider_spend_limit", "The gateway's own account at the model's API is out of money."),
    403: ("upstream_auth", "The gateway's own key was refused by the model's API."),
    407: ("upstream_auth", "A proxy on the way to the model's API wants to know who the gateway is."),
}

_DOUBTS = {
    "usage_implausible": "It reported more tokens than it can read and write, or fewer than it wrote.",
    "model_unknown": "Its answer names a model that has no price here and may be dearer. If it is the one that was"
    " asked for, make that name an alias of it.",
    "price_missing": "It reported a usage that has no price here.",
    "told_above_hold": "It says that the call cost more than was held for it: its price here may be too low.",
    "tier_unpriced": "A service tier that has no price here, and may be dearer, served it.",
}
# All others are charged at their whole hold.
_CHARGED = {"tier_unpriced": "The call is charged at the standard price, as an estimate."}
# What an overrun shows, and what an operator may do before it is cleared.
_OVERRUNS = {
    Side.OUTPUT: (
        "{place} wrote {tokens:,} tokens where {permitted:,} were permitted: `max_tokens` does not bound it.",
        "Say the most that it can write as the model's context, mark it `reasoning` if it thinks, or have its endpoint"
        " keep to `max_tokens`.",
    ),
    Side.INPUT: (
        "{place} read {tokens:,} tokens (pages, seconds) where {permitted:,} were sent: that does not bound it.",
        "Say the most that it can read as the model's context, or have its endpoint read no more than it is sent.",
    ),
}

# A status that some give instead of 503, where they did nothing.
OVERLOADED = 529

# A failure that every call meets is reported once in so many seconds.
REPORT_AGAIN_S = 10.0


class Unanswered(Exception):
    """An attempt brought no answer. `error` is what the client is told if no other does; `avoid` what not to try."""

    def __init__(self, error: errors.GatewayError, *avoid: str) -> None:
        super().__init__(error.message)
        self.error = error
        self.avoid = avoid


def blocked(places: Collection[str], breakers: Breakers, now: float, *, tenant: int) -> errors.GatewayError:
    """No model that could answer the tenant may be called: rate limited ones until they have cooled down."""
    known = [status for place in places if (status := breakers.status(place, now, tenant=tenant))]
    impaired = [status for status in known if status.is_impaired]
    until = math.ceil(min((status.breaker.blocked_until(now) for status in impaired), default=now))
    free_at = datetime.fromtimestamp(until, UTC)
    ends = [status.breaker.cool_until - now for status in impaired if status.cooling_down]
    if ends and len(ends) == len(impaired):
        return replace(_rate_limit(min(ends)), free_at=free_at)
    message = f"{', '.join(places) or 'The model'} failed too often and is left alone for a while."
    return replace(errors.upstream(503, "breaker_open", message, retry_after_s=5), free_at=free_at)


def no_answer(error: ProviderError) -> errors.GatewayError:
    return errors.upstream(504 if error.code == "upstream_timeout" else 502, error.code, str(error))


def _rate_limit(wait_s: float) -> errors.GatewayError:
    return errors.upstream(429, "upstream_rate_limit", "The model's API is rate limiting.", retry_after_s=wait_s)


def is_about_the_request(status: int) -> bool:
    """Whether a refusal says something of the request, which no other model would take either."""
    return 400 <= status < 500 and status not in _OURS and status not in (408, 429)


def forbidden_request() -> errors.GatewayError:
    """The answer to a request that a provider does not take, in our words: whatever stood in its way wrote the page."""
    return errors.GatewayError(403, "permission_error", "upstream_forbidden", "The model's API forbids this request.")


class Refusing(Protocol):
    """An answer that is none: what it means is in its status and headers."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class StatedRefusal:
    """A refusal that came with status 200; `headers` are that answer's."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = {"content-type": "application/json", **cool_down.saying(headers)}


def shows_no_work(answer: Refusing) -> bool:
    """Whether a refusal says that the model did nothing for it, so that it cannot cost anything.

    A server that fails with 500, 502 or 504 may have worked before, or be at work still (1xx); one that is overloaded
    or asks to come back has not.
    """
    status = answer.status
    return 200 <= status < 500 or status == OVERLOADED or (status == 503 and "retry-after" in answer.headers)


class ProviderFailures:
    """Turns providers' refusals into verdicts for a model's breaker and alerts for operators."""

    def __init__(self, breakers: Breakers, read: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._breakers = breakers
        self._read = read
        # Providers that have answered since they last failed us, and when the others were last reported.
        self._fine: set[str] = set()
        self._reported_at: dict[tuple[str, str], float] = {}
        # The prompts that providers have answered 403, and nobody knows why; until they answer one.
        self._forbidden: dict[str, int] = {}
        self._telling: set[asyncio.Future[None]] = set()

    async def refused(
        self, place: str, provider: Provider, answer: Refusing, said: bytes, *, tenant: int
    ) -> Unanswered:
        """What a refusal of a tenant's call means that is not, by its status, about the request. `said` is its body."""
        status = answer.status
        if status in _OURS:
            code, message = _OURS[status]
            self._breakers.release_probe(place, tenant)
            await self._alert(provider.name, code, f"{message} It answered with status {status}.")
            return Unanswered(errors.upstream(503, code, message), provider.name)
        if status == 429 and too_large.says(said):
            # The same call meets the same tomorrow, and a smaller one does not.
            self._breakers.release_probe(place, tenant)
            message = "The model's API takes no request of so many tokens: they are more than its limit a minute."
            return Unanswered(errors.upstream(429, "upstream_rate_limit", message), place)
        now = time.time()
        self._breakers.failed(place, tenant, now)
        if status == 429:
            wait_s = cool_down.duration_s(answer.headers, now=now)
            self._breakers.cool_down(place, tenant, now + wait_s)
            # As the next call is told, which meets the cool-down.
            error = _rate_limit(wait_s)
        else:
            error = errors.upstream(
                503 if status in (503, OVERLOADED) else 502,
                "upstream_failed",
                f"The model's API answered with status {status}.",
                retry_after_s=cool_down.asked_for_s(answer.headers, now=now),
            )
        return Unanswered(error, place)

    def forbids_us(self, provider: str, said: bytes, *, prompt: int | None) -> bool:
        """Whether a 403 is about our key: it says so, or the next innocent call meets it too.

        `prompt` tells one from another; None: it is not innocent, for it came with guardrails that may have stopped it.
        """
        what = forbidden.about(said)
        if what is not forbidden.About.UNCLEAR:
            return what is forbidden.About.KEY
        return prompt is not None and self._forbidden.setdefault(provider, prompt) != prompt

    async def answered(self, provider: str) -> None:
        """The provider takes our key, so what was said against it is over."""
        self._forbidden.pop(provider, None)
        if provider in self._fine:
            return
        self._fine.add(provider)
        kinds = {code for code, _ in _OURS.values()}
        await self._keep(lambda: [alerts.clear(kind=kind, subject=provider, now=timezone.now()) for kind in kinds])

    def doubted(self, place: str, reason: str, used: Usage | None, tiers: str = "") -> None:
        """A model reported a usage that cannot be charged as it is: operators are to look. `tiers`: what served."""
        said = f"It reported {used}." if used else "It reported none."
        charged = _CHARGED.get(reason, "The call is charged at its whole hold.")
        named = f"Its tier: {tiers}. " if tiers else ""
        message = f"{place}: {_DOUBTS.get(reason, reason)} {named}{charged} {said}"
        self._tell(self._alert(place, reason, message[:1000]))

    def overran(self, overrun: ModelOverrun) -> None:
        """A model wrote or read more than was permitted; from the next call on all that it may have is held for."""
        whose = f"Calls with {overrun.asked.replace(' ', ', ')}" if overrun.asked else "Its calls"
        seen, remedy = _OVERRUNS[overrun.side]
        seen = seen.format(place=overrun.place, tokens=overrun.tokens, permitted=overrun.permitted)
        message = (
            f"{seen} {whose} now hold for all that it can have, or are refused where that is not known or is what it"
            f" passed. {remedy} Then clear the overrun at the model."
        )
        self._tell(self._alert(overrun.place, OVERRUN, message))

    def _tell(self, alert: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(alert)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _alert(self, provider: str, code: str, message: str) -> None:
        self._fine.discard(provider)
        now = time.monotonic()
        if now - self._reported_at.get((provider, code), -REPORT_AGAIN_S) < REPORT_AGAIN_S:
            return
        self._reported_at[provider, code] = now
        log.error("provider %s: %s", provider, message)
        await self._keep(
            lambda: alerts.report(kind=code, subject=provider, message=message, now=timezone.now(), severity="critical")
        )

    async def _keep(self, work: Callable[[], Any]) -> None:
        try:
            await self._read(work)
        except DatabaseError:
            log.exception("an alert could not be kept")
