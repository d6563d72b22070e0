"""The client for plain code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import sleep
from typing import Any, Self, TypeVar

import httpx2 as httpx

from spend_governor_client.common import TIMEOUT_S, TRIES, Asking, OnError, Open
from spend_governor_client.errors import GovernorError
from spend_governor_client.exchange import cost_or_usage, estimate, given, of_tool, spent
from spend_governor_client.values import (
    Dollars,
    Held,
    Reported,
    Reservation,
    Settled,
    Usage,
    dollars,
    understood,
    usage_of,
)

R = TypeVar("R")


class Hold(Open):
    """A hold that is open. Call `model`, then `settle`, or `release` where nothing was spent."""

    def __init__(self, governor: Governor, held: Held, *, calls: int = 1) -> None:
        super().__init__(held, calls=calls)
        self._governor = governor

    def settle(
        self,
        answer: Any = None,
        *,
        cost: Dollars | None = None,
        usage: Usage | None = None,
        calls: int | None = None,
    ) -> Settled:
        """Charge what the call cost. `answer` is what a provider's client returned, whose usage is read.

        Of a tool: all the calls that are held, or as many as `calls` says have run.
        """
        usage, calls = self._told_by(answer, cost=cost, usage=usage, calls=calls)
        settled = self._governor.settle(self.id, cost=cost, usage=usage, calls=calls)
        self.is_resolved = True
        return settled

    def extend(self, *, more: Dollars = 0, ttl_s: int | None = None) -> Reservation:
        """Hold more, or for longer."""
        return self._governor.extend(self.id, more=more, ttl_s=ttl_s)

    def release(self) -> Reservation:
        """Give all of it back: nothing was spent."""
        released = self._governor.release(self.id)
        self.is_resolved = True
        return released


class Governor(Asking):
    """The gateway at `url`, asked with `key`. May be used by many threads at once; close it, or use it with `with`.

    What gets no answer is asked again, `tries` times in all, under the same idempotency key, so it is done once.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float = TIMEOUT_S,
        tries: int = TRIES,
        client: httpx.Client | None = None,
    ) -> None:
        super().__init__(url, key, tries=tries)
        self._client = client or httpx.Client(timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def reserve(
        self,
        model: str | None = None,
        *,
        tool: str | None = None,
        calls: int | None = None,
        input_tokens: int | None = None,
        max_tokens: int | None = None,
        estimated_cost: Dollars | None = None,
        provider: str | None = None,
        agent: str | None = None,
        user: str | None = None,
        session: str | None = None,
        task: str | None = None,
        tenant: str | None = None,
        tools: list[str] | None = None,
        allow_downgrade: bool | None = None,
        ttl_s: int | None = None,
        patience_s: float = 0.0,
        idempotency_key: str | None = None,
    ) -> Hold:
        """Hold what a call may cost: of `input_tokens` and `max_tokens` at the model's price, or `estimated_cost`.

        In place of a model a `tool` that the gateway has a price of, and how many `calls` of it, one unless told.

        With `allow_downgrade=False` no cheaper model is held than was asked for. Raises Refused where a budget is in
        the way. Money that other calls hold is waited for, `patience_s` at most.
        """
        who = given(agent=agent, user=user, session=session, task=task, tenant=tenant)
        body = given(model=model, provider=provider, tools=tools, allow_downgrade=allow_downgrade, ttl_s=ttl_s)
        body |= who | estimate(input_tokens, max_tokens, estimated_cost) | of_tool(tool, calls)
        told = self._post("/api/reservations", body, key=idempotency_key, patience_s=patience_s)
        return Hold(self, understood(Held, told), calls=calls or 1)

    def settle(
        self,
        id: str,
        *,
        cost: Dollars | None = None,
        usage: Usage | None = None,
        calls: int | None = None,
        model: str | None = None,
        request_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Settled:
        """Charge what a reserved call cost, or what it used, or how many calls of a tool ran; the rest is given back.

        Raises NeedsReview where more is claimed than the tenant's budgets leave.
        """
        body = cost_or_usage(cost, usage, calls) | given(model=model, request_id=request_id)
        return understood(Settled, self._post(f"/api/reservations/{id}/settle", body, key=idempotency_key))

    def extend(
        self, id: str, *, more: Dollars = 0, ttl_s: int | None = None, idempotency_key: str | None = None
    ) -> Reservation:
        """Hold more, or for longer. Raises Refused as a call of that size is; the hold stays as it was."""
        body = given(more=dollars(more) if more else None, ttl_s=ttl_s)
        return understood(Reservation, self._post(f"/api/reservations/{id}/extend", body, key=idempotency_key))

    def release(self, id: str, *, idempotency_key: str | None = None) -> Reservation:
        """Give a whole hold back: nothing was spent."""
        return understood(Reservation, self._post(f"/api/reservations/{id}/release", {}, key=idempotency_key))

    def report(
        self,
        request_id: str,
        *,
        model: str | None = None,
        tool: str | None = None,
        calls: int | None = None,
        cost: Dollars | None = None,
        usage: Usage | None = None,
        provider: str | None = None,
        agent: str | None = None,
        user: str | None = None,
        session: str | None = None,
        task: str | None = None,
        tenant: str | None = None,
        occurred_at: str | None = None,
    ) -> Reported:
        """Charge a call that was made without a hold, or so many of a tool. A repeated `request_id` charges nothing."""
        who = given(agent=agent, user=user, session=session, task=task, tenant=tenant)
        body = given(request_id=request_id, model=model, provider=provider, occurred_at=occurred_at)
        body |= who | spent(cost, usage, tool, calls)
        return understood(Reported, self._post("/api/spend", body))

    @contextmanager
    def hold(self, model: str | None = None, *, on_error: OnError = "release", **reserve: Any) -> Iterator[Hold]:
        """A hold for a block of code, which settles it. Takes what `reserve` takes.

        Where the block fails before it settles, the hold is released, unless it is to be kept: then it is charged
        whole when it expires, which is right for a provider that bills what it had begun. A block that ends well
        without having settled or released raises Unsettled.
        """
        held = self.reserve(model, **reserve)
        try:
            yield held
        except BaseException:
            if held._is_given_back(on_error):
                # The block's own failure is what is to be seen; an unreleased hold expires.
                with suppress(GovernorError):
                    held.release()
            raise
        held._be_resolved()

    def governed(
        self,
        model: str | None = None,
        *,
        tool: str | None = None,
        usage: Callable[[R], Usage] = usage_of,
        on_error: OnError = "release",
        **reserve: Any,
    ) -> Callable[[Callable[..., R]], Callable[..., R]]:
        """Decorates a function that calls a provider: held before, settled after by what its answer says it used.

        The function gets the model to call as its keyword `model`, unless its caller names one. Of a `tool` it gets
        none, and all the `calls` that are held are charged, one unless told.
        """

        def decorate(call: Callable[..., R]) -> Callable[..., R]:
            @functools.wraps(call)
            def governed_call(*args: Any, **kwargs: Any) -> R:
                if tool is not None:
                    with self.hold(tool=tool, on_error=on_error, **reserve) as held:
                        answer = call(*args, **kwargs)
                        held.settle()
                        return answer
                with self.hold(kwargs.get("model", model), on_error=on_error, **reserve) as held:
                    answer = call(*args, **kwargs | {"model": held.model})
                    held.keep()
                    held.settle(usage=usage(answer))
                    return answer

            return governed_call

        return decorate

    def _post(self, path: str, body: dict[str, Any], *, key: str | None = None, patience_s: float = 0.0) -> Any:
        ask = self._ask(path, body, key=key, patience_s=patience_s)
        while True:
            try:
                answer = self._client.post(self._url + ask.path, json=ask.body, headers=self._headers | ask.headers)
            except httpx.TransportError as error:
                pause_s = ask.pause_after_failure(error)
            else:
                told = ask.read(answer)
                if not isinstance(told, float):
                    return told
                pause_s = told
            sleep(pause_s)
