"""The life of a governed call: identify, parse, estimate, reserve, call, settle or release; written here once.

A call that a model does not answer is tried at the next one, with a hold of its own at that one's price, as long as
the client has not been sent a byte. No database connection is held while a model answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import UUID

import orjson
import uuid_utils.compat as uuids
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone

from governance import ledger
from governance.ledger.operations import Reserve
from governance.ledger.results import SettleResult
from governance.rules import money
from governance.rules.calls import Caller, Usage
from governance.rules.decision import Action, Call, Decision, Quote, Quoter, Reason
from governance.rules.overruns import Overrun
from governance.rules.visibility import Audience
from llm.catalogue import snapshot
from llm.catalogue.snapshot import Catalogue
from llm.gateway import caller_status, callers, errors, upstream
from llm.gateway.asked import Asked
from llm.gateway.bodies import ClientGone
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
from llm.rules import bounds, exact_count, forbidden, forms, mistral_dialect, sse, unreadable
from llm.rules.answers import read_json
from llm.rules.exact_count import Tokenizer
from llm.rules.mistral_dialect import Request
from llm.rules.pricing import GUARDS, Entry
from llm.rules.routing import Candidate, UnknownStrategy, candidates
from llm.rules.stated_errors import StatedError, error_in
from llm.rules.stream_usage import StreamUsage
from llm.rules.tool_calls import with_text_arguments
from llm.state import routing
from llm.state.telemetry import Attempt, trace_context

log = logging.getLogger(__name__)

# All that is relayed is this, or a stream of events, whatever type it came with; no header of an upstream goes further.
JSON = ("content-type", "application/json")


async def read(gateway: Gateway, asked: Asked, route: Route) -> None:
    """Read a request of any route. Raises the 400 of one that is malformed: nothing was looked up or written for it."""
    exchange, identity = asked.exchange, asked.identity
    body = await exchange.body()

    def parse() -> None:
        asked.request = request = route.parse(body, exchange.header("content-type"), gateway.providers.extra_fields)
        _check_names(exchange, request)
        estimate = route.estimate(request, identity.default_max_tokens)
        asked.estimate = replace(estimate, asked=request.lengthening)

    try:
        await exchange.turn.work(len(body), parse)
    except (mistral_dialect.DialectError, bounds.UnboundedInput) as error:
        # Who may not call at all is told that first.
        await caller_status.check(gateway, identity)
        if isinstance(error, mistral_dialect.DialectError):
            raise _mistake(error) from error
        raise errors.bad_request(f"{error}.", param=error.param, code="unbounded_input") from error
    exchange.turn.leave()
    asked.caller = identity.caller(**callers.named(exchange, asked.request))


def _check_names(exchange: Exchange, request: Request) -> None:
    callers.checked("model", request.model, field="model")
    callers.checked("strategy", exchange.header("x-strategy"), field="x-strategy")
    for tool in request.tools:
        callers.checked("tool", tool, field="tools")


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


@dataclass(frozen=True, slots=True)
class _Streamed:
    """A plain call's answer that came as a stream. `is_over`: it came to its end."""

    answer: dict[str, Any]
    told: StreamUsage
    is_over: bool


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
    # The bound of the call by provider, as far as it was asked for; or why it has none there.
    estimates: dict[str, bounds.Estimate | errors.GatewayError] = field(default_factory=dict)
    # How many tokens fewer than bytes its texts have, by provider and tokenizer.
    saved_tokens: dict[tuple[str, Tokenizer], int] = field(default_factory=dict)
    # What is known of models that pass their bounds.
    overruns: Sequence[Overrun] = ()
    # Why the first attempt failed: what the client is told if all do.
    failure: errors.GatewayError | None = None
    # Whether it was tried once more at a model whose connection had ended.
    has_sent_again: bool = False
    # Whether the breakers were told how the present attempt went.
    judged: bool = False
    first_byte_s: float | None = None

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
                await hold.settle_whole(hold.cut_reason)
                if hold.cut_reason == CLIENT_CLOSED:
                    raise ClientGone from None
                raise errors.stopped() from None

    async def _reserve(self, order: Sequence[Candidate]) -> Hold:
        """Hold for the first of `order` that the budgets allow, or what they lead to. Raises the refusal."""
        if isinstance(unbounded := self._bound_at(order[0].provider), errors.GatewayError):
            raise Unanswered(unbounded, order[0].place)
        await self._count_texts({candidate.provider for candidate in order})
        known = {candidate.name: candidate for candidate in order}
        home = order[0].provider
        call = Call(
            model=order[0].name,
            quote=self._quoter(known, home),
            overrun_quote=lambda overruns: self._quoter(known, home, overruns),
            tools=self.request.tools,
            forced_tool=self.request.forced_tool,
            allow_downgrade=self._may_move,
            alternatives=tuple(candidate.name for candidate in order[1:]),
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
        if decision.reason == Reason.MODEL_NOT_PRICED and (endless := self._endless(order[0])):
            raise Unanswered(endless, order[0].place)
        if decision.quote is None:
            raise self.failure or errors.refusal(
                decision, audience=self.identity.audience, tenant=self.caller.tenant, now=timezone.now()
            )
        usage = CallUsage(
            route=self.route,
            estimate=self._estimate_at(known[decision.model]) or self.estimate,
            served=known[decision.model],
            quote=decision.quote,
            tokenizer=self.gateway.tokenizers.of(known[decision.model].entry),
            counts_answer=self._leaves_tokens_to(known[decision.model]),
        )
        return Hold(self.gateway.holds, reserve, decision, usage, request_id=self.exchange.request_id)

    def _endless(self, candidate: Candidate) -> errors.GatewayError | None:
        """Why a model has no quote that has a price: nobody knows how much it may write."""
        estimate = self._estimate_at(candidate)
        if candidate.entry is None or estimate is None or estimate.is_output_bounded_at(candidate.entry):
            return None
        return errors.bad_request(estimate.no_bound_at(candidate.entry), param="model", code="unbounded_output")

    def _quoter(self, known: dict[str, Candidate], home: str, overruns: Sequence[Overrun] = ()) -> Quoter:
        """Prices at every model; one that is avoided can do nothing, so no rule leads to it.

        A rule's bare name means the model at `home`, the provider that is asked, where it has one: calls of a zone stay
        there. What a rule names is kept in `known`.
        """
        # Of this attempt; the one before may have shown more.
        self.overruns = overruns

        def quote(model: str) -> Quote | None:
            candidate = known.get(model)
            if candidate is None:
                name = self.catalogue.nearest(model, home=home)
                candidate = known.get(name) or Candidate(name, self.catalogue.resolve(name))
                known[model] = known[name] = candidate
            estimate = self._estimate_at(candidate)
            if estimate is None:
                return None
            found = bounds.quote(estimate, candidate.entry, model=candidate.name)
            if found is None or self.avoided.isdisjoint(candidate.places):
                return found
            return replace(found, capable=False)

        return quote

    def _estimate_at(self, candidate: Candidate) -> bounds.Estimate | None:
        """The bound of what would leave for a candidate, as its tokenizer counts it where that was done; None: none."""
        if candidate.entry is None:
            return self.estimate
        found = self._bound_at(candidate.provider)
        if isinstance(found, errors.GatewayError):
            return None
        found = found.knowing(self.overruns, candidate.place)
        tokenizer = self.gateway.tokenizers.of(candidate.entry)
        saved = self.saved_tokens.get((candidate.provider, tokenizer)) if tokenizer else None
        return found.with_saved(saved, candidate.entry) if saved else found

    def _bound_at(self, provider: str) -> bounds.Estimate | errors.GatewayError:
        """The bound of what would leave for a provider: they are sent different bodies for the same request.

        Where there is none, why: the ledger asks for quotes in the midst of others' calls, so nothing is raised.
        """
        if provider not in self.gateway.providers:
            return self.estimate
        found = self.estimates.get(provider)
        if found is None:
            try:
                found = self.gateway.providers[provider].bound(self.request, self.estimate)
            except mistral_dialect.DialectError:
                # It cannot be asked; whoever tries says so.
                found = self.estimate
            except bounds.UnboundedInput as error:
                found = errors.bad_request(f"{error}.", param=error.param, code="unbounded_input")
            except Exception:
                log.exception("a request cannot be bounded at %s, so it is not asked", provider)
                found = errors.bad_request(f"This request cannot be bounded at {provider}, so it is not accepted.")
            self.estimates[provider] = found
        return found

    async def _count_texts(self, providers: Iterable[str]) -> None:
        """Count the call's texts before the ledger decides, for all models there that a rule may take it to."""
        for provider in providers:
            for tokenizer in self.gateway.tokenizers.at(provider, self.catalogue):
                if (provider, tokenizer) not in self.saved_tokens:
                    bound = self._bound_at(provider)
                    texts = bound.texts if isinstance(bound, bounds.Estimate) else ()
                    self.saved_tokens[provider, tokenizer] = await self._saved_tokens(tokenizer, texts)

    async def _saved_tokens(self, tokenizer: Tokenizer, texts: Sequence[str]) -> int:
        saved = await self.gateway.tokenizers.count(
            lambda: exact_count.saved_tokens(tokenizer, texts), text_bytes=sum(map(len, texts))
        )
        return saved or 0

    def _leaves_tokens_to(self, candidate: Candidate) -> bool:
        """Whether a model that is counted for writes as it will. Some are sent all that came, so that is looked at."""
        if self.gateway.tokenizers.of(candidate.entry) is None or self.estimate.max_tokens is None:
            return False
        return exact_count.is_plainly_sampled(orjson.loads(self.request.body))

    async def _carry_out(self, hold: Hold, provider: Provider) -> None:
        """Send the call on as it was decided, and relay what comes."""
        await self._register()
        try:
            # The bound goes upstream with the call: what was held for, or what was asked of a model that keeps to none.
            body = provider.body(
                self.request,
                model=hold.usage.served.upstream_id,
                max_tokens=hold.quote.asked_tokens,
                disabled_tools=hold.decision.disabled_tools,
            )
        except mistral_dialect.DialectError as error:
            await hold.release()
            raise Unanswered(_mistake(error), hold.usage.served.place) from error
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
        headers = [*self._headers(hold), *_budget(hold, self.identity, None)]
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
        streamed = self._read_events(hold, data)
        said = _json_object(data) if streamed is None else streamed.answer
        choices = sse.choices_of(said)
        written_bytes = sse.answer_bytes({"choices": choices})
        if streamed is None:
            used = hold.usage.reported(said)
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
        elif used is not None or choices or (broken and (is_event_stream or self._begins_answer(data))):
            # A part of one.
            await hold.settle_whole("upstream_failed")
        elif upstream.shows_no_work(answer):
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
        await (hold.release() if used is None else hold.settle_reported(used))
        stated = upstream.StatedRefusal(error.status, answer.headers)
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
        if not _is_json(data):
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
                    *_budget(hold, self.identity, None),
                    ("server-timing", _timing(self.exchange.arrived, sent, first)),
                ]
            )

    async def _relay(self, hold: Hold, provider: Provider, answer: Answer, *, sent: float) -> None:
        """A plain answer: read whole, settled, then sent on with what it cost."""
        try:
            data = await answer.read()
        except ProviderError as error:
            raise await self._failed(hold, error) from error
        streamed = self._read_events(hold, data)
        if streamed is not None:
            # A stream although none was asked for.
            data = orjson.dumps(streamed.answer)
        said = _json_object(data)
        if with_text_arguments(said):
            data = orjson.dumps(said)
        answered = time.perf_counter()
        used = hold.usage.reported(said) if streamed is None else streamed.told.used
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
                *_budget(hold, self.identity, result),
                ("x-request-cost-usd", money.format_dollars(cost_nanos)),
                ("server-timing", _timing(self.exchange.arrived, sent, answered)),
                JSON,
            ],
        )

    def _read_events(self, hold: Hold, data: bytes) -> _Streamed | None:
        """What a body says that is a stream, counted as it is in a stream; None for any other."""
        found = sse.body_events(data)
        answer = None if found is None else sse.joined(found[0])
        if found is None or answer is None:
            return None
        events, unread = found
        told = StreamUsage(self.request.n)
        for event in events:
            text_bytes = event.text_bytes
            hold.count.arrived(text_bytes, event.data)
            told.took(event, hold.usage.reported(event.data or {}), text_bytes=text_bytes)
        hold.count.arrived(len(unread))
        return _Streamed(answer, told, is_over=told.have_ended or any(event.done for event in events))

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
        """What was done to the call, for whoever sent it."""
        decision, requested = hold.decision, self.request.model
        headers = [
            ("x-request-id", self.exchange.request_id),
            ("x-model-requested", requested),
            ("x-model-served", decision.model),
            ("x-reserved-usd", money.format_dollars(hold.quote.cost_nanos)),
        ]
        chosen = bool(self.strategy) and self.failure is None
        if reason := _reason(decision, requested, chosen=chosen, audience=self.identity.audience):
            headers.append(("x-downgrade-reason", reason))
        if decision.disabled_tools:
            headers.append(("x-tools-disabled", ",".join(decision.disabled_tools)))
        if self.request.max_tokens is None and hold.quote.max_tokens is not None:
            headers.append(("x-max-tokens-default", str(hold.quote.asked_tokens)))
        if decision.clamped:
            headers.append(("x-max-tokens-clamped", str(hold.quote.asked_tokens)))
        return headers


def _mistake(error: mistral_dialect.DialectError) -> errors.GatewayError:
    if error.code == forms.WRONG_CHARSET:
        return errors.unsupported(error.message, param="content-type")
    return errors.bad_request(error.message, param=error.param, code=error.code)


def _json_object(data: bytes) -> dict[str, Any]:
    parsed = read_json(data)
    return parsed if isinstance(parsed, dict) else {}


def _is_json(data: bytes) -> bool:
    """Whether clients can read it as the JSON object that an error is."""
    try:
        return isinstance(orjson.loads(data), dict)
    except orjson.JSONDecodeError:
        return False


def _reason(decision: Decision, requested: str, *, chosen: bool, audience: Audience) -> str:
    """Why another model serves than the one requested; empty where it does not. `chosen`: by a strategy."""
    if decision.model == requested:
        return ""
    if decision.action is not Action.DEGRADE or decision.because is None:
        return "strategy" if chosen else "fallback"
    return f"{decision.reason.value} of {audience.window(decision.because).name}"


def _budget(hold: Hold, identity: Identity, result: SettleResult | None) -> list[tuple[str, str]]:
    """The tightest budget that may be shown, after this call: as settled, or (not yet settled) as held."""
    decided = identity.audience.tightest(hold.decision.views)
    if decided is None:
        return []
    held = replace(decided, reserved_nanos=decided.reserved_nanos + hold.quote.cost_nanos)
    settled = (view for view in (result.windows if result else ()) if view.window_id == decided.window_id)
    return errors.budget_headers(identity.audience.window(next(settled, held)))


def _timing(arrived: float, sent: float, answered: float) -> str:
    """Milliseconds before the call was sent on, and until the model's answer began."""
    return f"gateway;dur={(sent - arrived) * 1000:.1f}, upstream;dur={(answered - sent) * 1000:.1f}"
