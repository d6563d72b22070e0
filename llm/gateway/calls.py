"""The life of a governed call that was read: reserve, call, settle or release; written here once.

A call that a model does not answer is tried at the next one, with a hold of its own at that one's price, as long as
the client has not been sent a byte. No database connection is held while a model answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, cast
from uuid import UUID

import orjson
import uuid_utils.compat as uuids
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone

from governance import ledger
from governance.ledger.operations import Reserve
from governance.rules import money
from governance.rules.calls import Caller, Usage
from governance.rules.decision import Call, Reason
from llm.catalogue import snapshot
from llm.catalogue.snapshot import Catalogue
from llm.gateway import answer_headers, errors, requests, upstream, whole_answers
from llm.gateway.asked import Asked
from llm.gateway.bodies import LARGE_BYTES, ClientGone
from llm.gateway.call_bounds import CallBounds
from llm.gateway.call_usage import USAGE_MISSING, CallUsage
from llm.gateway.holds import Hold
from llm.gateway.http import Exchange
from llm.gateway.identities import Identity
from llm.gateway.process import Gateway
from llm.gateway.routes import Route
from llm.gateway.sign_of_life import SignOfLife
from llm.gateway.streaming import CLIENT_CLOSED, UPSTREAM_CUT, ErrorInstead, Stream
from llm.gateway.upstream import Unanswered
from llm.providers import Answer, Provider, ProviderError
from llm.rules import bounds, forbidden, mistral_dialect, sse, unreadable
from llm.rules.mistral_dialect import Request
from llm.rules.pricing import GUARDS, Entry
from llm.rules.routing import Candidate, UnknownStrategy, candidates
from llm.rules.stated_errors import StatedError, error_in
from llm.rules.tool_calls import with_text_arguments
from llm.state import routing
from llm.state.telemetry import Attempt, trace_context

log = logging.getLogger(__name__)

T = TypeVar("T")

# All that is relayed is this, or a stream of events, whatever type it came with; no header of an upstream goes further.
JSON = ("content-type", "application/json")


async def serve(gateway: Gateway, exchange: Exchange, route: Route, asked: Asked) -> None:
    """Answer a call of any route, plain or streaming, that was read."""
    exchange.watch()
    identity, request, estimate, caller = asked.identity, asked.request, asked.estimate, asked.caller
    assert request is not None and estimate is not None and caller is not None  # noqa: S101, PT018 - it was read
    catalogue = snapshot.current()
    named = Candidate(request.model, catalogue.resolve(request.model))
    unconfigured = gateway.providers.unconfigured()
    if named.entry is not None:
        _check(named.entry, request, route, estimate, unconfigured)
    if not gateway.identities.is_registered(caller):
        await gateway.read(lambda: gateway.identities.refuse_one_more(caller))
    call = _GovernedCall(
        gateway, exchange, route, identity, caller, request, estimate, catalogue, named, set(unconfigured)
    )
    await call.serve()


def _check(
    entry: Entry, request: Request, route: Route, estimate: bounds.Estimate, unconfigured: Collection[str]
) -> None:
    """Raises the refusal of a call that the model asked for could not be, whatever the budgets say."""
    lacking = estimate.lacks(entry)
    if route.kind in lacking:
        raise errors.bad_request(f"{request.model} is no {route.kind} model.", param="model", code="model_not_capable")
    if "bound" in lacking:
        raise errors.bad_request(estimate.no_bound_at(entry), param="model", code="unbounded_input")
    if entry.provider in unconfigured:
        raise errors.provider_not_configured(request.model, entry.provider)


@dataclass(slots=True)
class _GovernedCall:
    """What stays the same from one attempt to the next."""

    gateway: Gateway
    exchange: Exchange
    route: Route
    identity: Identity
    caller: Caller
    request: Request
    estimate: bounds.Estimate
    # What the call goes by to its end, and the model that it names there.
    catalogue: Catalogue
    asked: Candidate
    # Models, as `provider/id`, and providers that did not answer this call or are known not to.
    avoided: set[str]
    bound: CallBounds = field(init=False)
    # Why the first attempt failed: what the client is told if all do.
    failure: errors.GatewayError | None = None
    # Whether it was tried once more at a model whose connection had ended.
    has_sent_again: bool = False
    # Whether the breakers were told how the present attempt went.
    judged: bool = False
    first_byte_s: float | None = None

    def __post_init__(self) -> None:
        self.bound = CallBounds(self.gateway, self.catalogue, self.request, self.estimate, self.avoided)

    async def serve(self) -> None:
        """Try the candidates in order until one answers. Each failure is avoided from then on, so this ends."""
        plan = self._plan()
        while order := self._open_ones(plan):
            try:
                # A strategy's candidates, and what a failed call falls back to, do as well as the first.
                await self._attempt(order if self._is_moved_to(order[0]) else order[:1])
                return
            except Unanswered as unanswered:
                self.failure = self.failure or unanswered.error
                self.avoided.update(unanswered.avoid)
        raise self.failure or self._blocked(plan)

    def _blocked(self, candidates: Iterable[Candidate]) -> errors.GatewayError:
        return upstream.blocked([candidate.place for candidate in candidates], self.gateway.breakers, time.time())

    def _is_moved_to(self, candidate: Candidate) -> bool:
        """Whether a strategy, a failure or a breaker chose the model, and not the client."""
        return bool(self.strategy or self.failure) or candidate.name != self.request.model

    @property
    def strategy(self) -> str:
        return self.exchange.header("x-strategy")

    @property
    def _may_move(self) -> bool:
        allow = self.exchange.header("x-allow-downgrade").lower()
        if allow not in ("", "true", "false"):
            raise errors.bad_request(
                f"x-allow-downgrade must be true or false, not {allow!r}.", param="x-allow-downgrade"
            )
        return allow != "false"

    def _plan(self) -> tuple[Candidate, ...]:
        """The models that this call may be tried at, in order."""
        now = time.time()
        try:
            return candidates(
                routing.options(self.catalogue),
                asked=self.asked,
                strategy=self.strategy,
                estimate=self.estimate,
                observed=lambda place: self.gateway.breakers.latency_ms(place, now),
                payload=self.request.payload,
                allow_downgrade=self._may_move,
            )
        except UnknownStrategy as error:
            raise errors.bad_request(f"{error}", param="x-strategy", code="unknown_strategy") from error

    def _open_ones(self, plan: Sequence[Candidate]) -> list[Candidate]:
        """Those that may answer: not avoided, and not blocked by a breaker."""
        now = time.time()
        return [
            candidate
            for candidate in plan
            if self.avoided.isdisjoint(candidate.places) and not self.gateway.breakers.blocks(candidate.place, now)
        ]

    async def _attempt(self, order: Sequence[Candidate]) -> None:
        hold = await self._reserve(order)
        if self.exchange.is_gone:
            # It went while it waited for its hold; nobody is left who wants the answer.
            hold.drop()
            raise ClientGone
        served = hold.usage.served
        if served.provider not in self.gateway.providers:
            # An operator took it away while this call waited for its hold.
            hold.drop()
            raise Unanswered(errors.provider_not_configured(served.name, served.provider), served.provider)
        if not self.gateway.breakers.admits(served.place, time.time()):
            hold.drop()
            raise Unanswered(self._blocked([served]), served.place)
        provider = self.gateway.providers[served.provider]
        error = "internal_error"
        self.judged, self.first_byte_s = False, None
        try:
            await self._under_hold(hold, provider)
            error = hold.charge.reason if hold.charge else ""
        except (Unanswered, errors.GatewayError) as failure:
            refusal = failure.error if isinstance(failure, Unanswered) else failure
            error = refusal.code
            if not self.exchange.started or self.exchange.ended:
                raise
            await self._end_begun(hold, error)
            return
        except asyncio.CancelledError:
            error = "cancelled"
            raise
        finally:
            if not self.judged:
                # Of a call that was cancelled, or never sent, nobody knows how the model is.
                self.gateway.breakers.release_probe(served.place)
            self.gateway.telemetry.ended(self._attempt_record(hold, error))
        await self.gateway.provider_failures.answered(provider.name)

    async def _under_hold(self, hold: Hold, provider: Provider) -> None:
        async with hold:
            try:
                await self._carry_out(hold, provider)
            except asyncio.CancelledError:
                if not hold.cut_reason:
                    raise
                # An operator's stop cancelled the wait for the answer, not the server this task.
                cast("asyncio.Task[None]", asyncio.current_task()).uncancel()
                await (hold.settle_whole(hold.cut_reason) if hold.sent else hold.release())
                if hold.cut_reason == CLIENT_CLOSED:
                    raise ClientGone from None
                raise errors.stopped() from None

    async def _reserve(self, order: Sequence[Candidate]) -> Hold:
        """Hold for the first of `order` that the budgets allow, or what they lead to. Raises the refusal."""
        if (size_bytes := len(self.request.body)) > LARGE_BYTES:
            await self.exchange.turn.work(size_bytes, partial(self.bound.prepare, order))
        if isinstance(unbounded := self.bound.at_provider(order[0].provider), errors.GatewayError):
            raise Unanswered(unbounded, order[0].place)
        await self.bound.count_texts({candidate.provider for candidate in order})
        known = {candidate.name: candidate for candidate in order}
        home = order[0].provider
        call = Call(
            model=order[0].name,
            quote=self.bound.quoter(known, home),
            overrun_quote=lambda overruns: self.bound.quoter(known, home, overruns),
            tools=self.request.tools,
            forced_tool=self.request.forced_tool,
            allow_downgrade=self._may_move,
            alternatives=tuple(candidate.name for candidate in order[1:]),
            shows_amounts=self.identity.audience.show_amounts,
        )
        # The first hold's id is the request's: one name for a call, from its answer to its ledger entry.
        id = uuids.uuid7() if self.failure else UUID(self.exchange.request_id)
        reserve = Reserve(id, self.caller, call, provider=home, model_requested=self.request.model)
        try:
            decision = await self.gateway.commits.submit(reserve)
        except ledger.LedgerUnavailable as error:
            raise errors.ledger_unavailable() from error
        except ledger.OutOfBounds as error:
            # No call is so dear, but by a price or a length that is a mistake.
            raise errors.bad_request(f"What this call may cost at most {error}.", code="out_of_bounds") from error
        if decision.reason == Reason.MODEL_NOT_PRICED and (endless := self.bound.endless(order[0])):
            raise Unanswered(endless, order[0].place)
        if decision.quote is None:
            raise self.failure or errors.refusal(
                decision, audience=self.identity.audience, tenant=self.caller.tenant, now=timezone.now()
            )
        served = known[decision.model]
        usage = CallUsage(
            route=self.route,
            estimate=self.bound.at(served) or self.estimate,
            served=served,
            quote=decision.quote,
            tokenizer=self.gateway.tokenizers.of(served.entry),
            counts_answer=self.bound.leaves_tokens_to(served),
        )
        return Hold(self.gateway.holds, reserve, decision, usage, request_id=self.exchange.request_id)

    async def _work(self, do: Callable[[], T]) -> T:
        """Do what takes time by the size of the request: beside the event loop where that is large."""
        return await self.exchange.turn.work(len(self.request.body), do)

    async def _carry_out(self, hold: Hold, provider: Provider) -> None:
        """Send the call on as it was decided, and relay what comes."""
        await self._register()
        try:
            # The bound goes upstream with the call: what was held for, or what was asked of a model that keeps to none.
            body = await self._work(
                partial(
                    provider.body,
                    self.request,
                    model=hold.usage.served.upstream_id,
                    max_tokens=hold.quote.asked_tokens,
                    disabled_tools=hold.decision.disabled_tools,
                )
            )
        except mistral_dialect.DialectError as error:
            await hold.release()
            raise Unanswered(requests.mistake(error), hold.usage.served.place) from error
        sent = time.perf_counter()
        if self.request.stream and not settings.READ_CANCELLED_ANSWERS:
            # A plain answer is on its way as a whole, and paid for.
            self.exchange.watch(lambda: hold.cut(CLIENT_CLOSED))
        async with self._sign_of_life(hold) as sign:
            answer = await self._send(hold, provider, body)
            try:
                if not 200 <= answer.status < 300:
                    await self._refused(hold, provider, answer, sign)
                elif self.request.stream:
                    await self._stream(hold, provider, answer, sign, sent=sent)
                else:
                    await self._relay(hold, provider, answer, sent=sent)
            finally:
                answer.close()

    def _sign_of_life(self, hold: Hold) -> SignOfLife:
        """For whom waits for a stream, however many models were tried."""
        every_s = settings.SIGN_OF_LIFE_S if self.request.stream else 0
        waited_s = time.perf_counter() - self.exchange.arrived
        headers = [*self._headers(hold), *answer_headers.budget(hold, self.identity.audience, None)]
        return SignOfLife(self.exchange, headers, first_s=max(0.0, every_s - waited_s), every_s=every_s)

    async def _end_begun(self, hold: Hold, reason: str) -> None:
        """End a stream of which the client has the head alone, in the way that every client takes."""
        self.exchange.complete = False
        charge = hold.charge
        chunk = sse.final_chunk(
            like=None,
            model=hold.quote.model,
            usage=charge.usage if charge else Usage(provider=hold.usage.served.provider),
            cost_nanos=charge.cost_nanos if charge else 0,
            reason=reason,
            request_id=self.exchange.request_id,
            created=int(time.time()),
            indexes=range(self.request.n),
        )
        await self.exchange.write(chunk + sse.DONE, more=False)

    async def _register(self) -> None:
        """Make the agent of an admitted call known to operators; where that fails, its next call does."""
        if self.gateway.identities.is_registered(self.caller):
            return
        try:
            await self.gateway.read(lambda: self.gateway.identities.register(self.caller))
        except DatabaseError:
            log.exception("request %s: its agent could not be registered", self.exchange.request_id)

    async def _send(self, hold: Hold, provider: Provider, body: bytes) -> Answer:
        hold.sent = True
        try:
            return await provider.send(
                self.route.path, body, content_type=self.request.content_type, request_id=self.exchange.request_id
            )
        except ProviderError as error:
            raise await self._failed(hold, error) from error

    async def _failed(self, hold: Hold, error: ProviderError) -> Unanswered:
        """Resolve the hold of a call that got no answer."""
        place = hold.usage.served.place
        if error.again and not self.has_sent_again:
            # An idle connection had ended, as far as anybody knows: that says nothing of the model.
            self.has_sent_again = True
            await hold.settle_whole(error.code)
            return Unanswered(upstream.no_answer(error))
        self.judged = True
        self.gateway.breakers.failed(place, time.time())
        if error.sent:
            # It may have been worked on, and but for a stream nobody says how far.
            await hold.settle_seen(error.code, cut=True)
        else:
            await hold.release()
        return Unanswered(upstream.no_answer(error), place)

    async def _refused(self, hold: Hold, provider: Provider, answer: Answer, sign: SignOfLife) -> None:
        """The provider's word on the request goes to the client; its word on us does not."""
        data, broken = b"", False
        try:
            async for chunk in answer.chunks():
                data += chunk
        except ProviderError:
            # A refusal that breaks off is one all the same.
            broken = True
        await sign.end()
        is_event_stream = answer.headers.get("content-type", "").startswith("text/event-stream")
        streamed = whole_answers.read_events(data, hold, answers=self.request.n)
        said = whole_answers.json_object(data) if streamed is None else streamed.answer
        choices = sse.choices_of(said)
        has_answer = bool(said and said.get(self.route.answer_in))
        written_bytes = sse.answer_bytes({"choices": choices})
        if streamed is None:
            used = hold.reported(said)
            is_over = is_last_word = True
            if written_bytes and self.estimate.max_tokens is not None:
                hold.count.arrived(sse.answer_bytes(said) + answer.kept_bytes, said)
        else:
            used = streamed.told.used
            # An error is over with what it says.
            is_over = streamed.is_over or not (broken or choices)
            is_last_word = is_over and streamed.told.is_last_word
        if used is not None and is_last_word:
            await hold.settle_reported(used)
        elif written_bytes and is_over and not broken:
            # An answer all the same, whatever its status says.
            await hold.settle_seen(USAGE_MISSING, at_least=used)
        elif hold.was_told or choices or has_answer or (broken and (is_event_stream or self._begins_answer(data))):
            # A part of one, or one that writes nothing.
            await hold.settle_whole("upstream_failed")
        elif upstream.shows_no_work(answer) and not forbidden.is_billed(data):
            await hold.release()
        else:
            await hold.settle_whole("upstream_failed")
        await self._pass_on_refusal(hold, provider, answer, b"" if broken else data)

    def _begins_answer(self, data: bytes) -> bool:
        return sse.is_stream(data) or unreadable.begins_answer(data, self.route.answer_in)

    async def _refused_in_200(
        self, hold: Hold, provider: Provider, answer: Answer, error: StatedError, used: Usage | None
    ) -> None:
        """An error where an answer should be counts as the status that it stands for; it costs what it says."""
        stated = upstream.StatedRefusal(error.status, answer.headers)
        if used is not None:
            await hold.settle_reported(used)
        elif upstream.shows_no_work(stated) and not hold.was_told:
            await hold.release()
        else:
            await hold.settle_whole("upstream_failed")
        await self._pass_on_refusal(hold, provider, stated, orjson.dumps(errors.bad_request(error.message).body()))

    async def _pass_on_refusal(self, hold: Hold, provider: Provider, answer: upstream.Refusing, data: bytes) -> None:
        place = hold.usage.served.place
        if answer.status == 403 and not self._forbids_us(provider, data):
            # Whoever stopped it: no other model is to answer what one must not.
            if forbidden.about(data) is forbidden.About.UNCLEAR:
                raise upstream.forbidden_request()
            self._succeeded(hold, None)
        elif not upstream.is_about_the_request(answer.status):
            self.judged = True
            raise await self.gateway.provider_failures.refused(place, provider, answer)
        else:
            self._succeeded(hold, None)
            if self.failure is not None:
                # A stand-in's word on the request is no answer to a client that asked another model.
                raise Unanswered(self.failure, place)
        if not data:
            raise errors.upstream(502, "upstream_cut", "The model's API broke its refusal off.")
        if not whole_answers.is_json(data):
            # A page of a proxy or a firewall: its status is the answer, its words and its type are not.
            message = f"The model's API refused the request with status {answer.status}."
            data = orjson.dumps(errors.bad_request(message, code="upstream_refused").body())
        if self.exchange.started:
            raise errors.upstream(answer.status, "upstream_refused", "The model's API refused the request.")
        await self.exchange.answer(answer.status, data, [JSON, ("x-request-id", self.exchange.request_id)])

    def _forbids_us(self, provider: Provider, said: bytes) -> bool:
        guarded = not GUARDS.isdisjoint(self.estimate.needs)
        prompt = None if guarded else hash(self.request.body)
        return self.gateway.provider_failures.forbids_us(provider.name, said, prompt=prompt)

    async def _stream(self, hold: Hold, provider: Provider, answer: Answer, sign: SignOfLife, *, sent: float) -> None:
        """Nothing is sent to the client before the first event is here: until then another model may answer."""
        async with Stream(self.exchange, hold, answer, answers=self.request.n) as stream:
            try:
                try:
                    began = await stream.begin()
                finally:
                    await sign.end()
            except ErrorInstead as instead:
                await self._refused_in_200(hold, provider, answer, instead.error, instead.used)
                return
            except ProviderError as error:
                raise await self._failed(hold, error) from error
            if not began:
                return
            first = time.perf_counter()
            self._succeeded(hold, first - sent)
            await stream.relay(
                [
                    *self._headers(hold),
                    *answer_headers.budget(hold, self.identity.audience, None),
                    ("server-timing", answer_headers.timing(self.exchange.arrived, sent, first)),
                ]
            )

    async def _relay(self, hold: Hold, provider: Provider, answer: Answer, *, sent: float) -> None:
        """A plain answer: read whole, settled, then sent on with what it cost."""
        try:
            data = await answer.read()
        except ProviderError as error:
            raise await self._failed(hold, error) from error
        streamed = whole_answers.read_events(data, hold, answers=self.request.n)
        if streamed is not None:
            # A stream although none was asked for.
            data = orjson.dumps(streamed.answer)
        said = whole_answers.json_object(data)
        if with_text_arguments(said):
            data = orjson.dumps(said)
        answered = time.perf_counter()
        used = hold.reported(said) if streamed is None else streamed.told.used
        if stated := error_in(said):
            if used is None and sse.answer_bytes({"choices": sse.choices_of(said)}):
                broken = ProviderError(UPSTREAM_CUT, "The model's API broke its answer off.", sent=True)
                raise await self._failed(hold, broken)
            await self._refused_in_200(hold, provider, answer, stated, used)
            return
        if used is None and not self.route.answered(said):
            message = "The model's API sent no answer that could be read."
            garbage = ProviderError("upstream_garbage", message, sent=unreadable.shows_work(data))
            raise await self._failed(hold, garbage)
        self._succeeded(hold, answered - sent)
        if streamed is None and self.estimate.max_tokens is not None:
            hold.count.arrived(sse.answer_bytes(said) + answer.kept_bytes, said)
        if streamed is None or (streamed.told.is_last_word and streamed.is_over):
            cost_nanos, result = await hold.settle_reported(used)
        elif streamed.is_over:
            cost_nanos, result = await hold.settle_seen(USAGE_MISSING, at_least=used)
        else:
            # Nobody has seen when its parts came: it may have written on unseen.
            self.exchange.complete = False
            cost_nanos, result = await hold.settle_whole(UPSTREAM_CUT)
        await self.exchange.answer(
            200,
            data,
            [
                *self._headers(hold),
                *answer_headers.budget(hold, self.identity.audience, result),
                ("x-request-cost-usd", money.format_dollars(cost_nanos)),
                ("server-timing", answer_headers.timing(self.exchange.arrived, sent, answered)),
                JSON,
            ],
        )

    def _succeeded(self, hold: Hold, latency_s: float | None) -> None:
        """The model works; of a stream it also counts how long its first bytes took."""
        self.judged = True
        self.first_byte_s = latency_s
        latency_ms = latency_s * 1000 if latency_s is not None and self.request.stream else None
        self.gateway.breakers.succeeded(hold.usage.served.place, latency_ms, time.time())

    def _attempt_record(self, hold: Hold, error: str) -> Attempt:
        charge = hold.charge
        usage = charge.usage if charge else hold.usage.estimated()
        return Attempt(
            kind=self.route.kind,
            provider=usage.provider,
            model_requested=self.request.model,
            model_served=usage.model,
            tenant=self.caller.tenant,
            agent=self.caller.agent,
            request_id=self.exchange.request_id,
            reservation_id=str(hold.id),
            streamed=self.request.stream,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            reserved_nanos=hold.held_nanos,
            cost_nanos=charge.cost_nanos if charge else 0,
            certainty=charge.certainty if charge else "",
            error=error,
            duration_s=time.monotonic() - hold.since,
            first_byte_s=self.first_byte_s,
            traceparent=trace_context(self.exchange.header("traceparent")),
        )

    def _headers(self, hold: Hold) -> list[tuple[str, str]]:
        return answer_headers.of_call(
            hold,
            self.request,
            request_id=self.exchange.request_id,
            audience=self.identity.audience,
            chosen=bool(self.strategy) and self.failure is None,
        )
