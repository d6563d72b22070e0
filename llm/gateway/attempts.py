"""One attempt of a governed call at one model, under a hold of its own: sent, relayed, and settled or released."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import orjson
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone

from governance.ledger.results import SettleResult
from governance.rules import money
from governance.rules.calls import Caller, Usage
from llm.catalogue.snapshot import Catalogue
from llm.gateway import answer_headers, ended, errors, failed_answers, requests, upstream, whole_answers
from llm.gateway.answer_memory import Share
from llm.gateway.bodies import LARGE_BYTES, ClientGone
from llm.gateway.call_bounds import CallBounds
from llm.gateway.call_usage import USAGE_MISSING
from llm.gateway.holds import Hold
from llm.gateway.http import Exchange
from llm.gateway.identities import Identity
from llm.gateway.process import Gateway
from llm.gateway.routes import Route
from llm.gateway.sign_of_life import SignOfLife
from llm.gateway.streaming import CLIENT_CLOSED, UPSTREAM_CUT, ErrorInstead, Stream
from llm.gateway.upstream import Unanswered
from llm.gateway.whole_answers import Streamed
from llm.providers import Answer, Provider, ProviderError
from llm.providers.http import MOST_OF_REFUSAL
from llm.rules import forbidden, shown_work, sse, unreadable
from llm.rules.answers import WHOLE, complete, complete_usage, with_fields
from llm.rules.client_requests import Request
from llm.rules.estimates import Estimate
from llm.rules.pricing import GUARDS
from llm.rules.request_checks import DialectError
from llm.rules.routing import Candidate
from llm.rules.shown_work import AskedTexts
from llm.rules.stated_errors import StatedError, error_in
from llm.rules.stream_usage import StreamUsage
from llm.rules.usage import larger

log = logging.getLogger(__name__)

# All that is relayed is this, or a stream of events, whatever type it came with; no header of an upstream goes further.
JSON = ("content-type", "application/json")


class PricedAnew(Exception):
    """The price of the model that a call was held for changed before it was sent; the hold is released."""


@dataclass(slots=True)
class GovernedCall:
    """What stays the same from one attempt to the next, and what the next must know of those before."""

    gateway: Gateway
    exchange: Exchange
    route: Route
    identity: Identity
    caller: Caller
    request: Request
    estimate: Estimate
    # What the attempt goes by to its end, and the model that the call names there.
    catalogue: Catalogue
    asked: Candidate
    # Models, as `provider/id`, and providers that did not answer this call or are known not to.
    avoided: set[str]
    bound: CallBounds = field(init=False)
    # Why the first attempt failed: what the client is told if all do.
    failure: errors.GatewayError | None = None
    # Whether it had a hold; the ledger may know the request's id by it.
    was_held: bool = False
    # Whether it was tried once more at a model whose connection had ended.
    has_sent_again: bool = False

    def __post_init__(self) -> None:
        self.bound = CallBounds(self.gateway, self.catalogue, self.request, self.estimate, self.avoided)

    def goes_by(self, catalogue: Catalogue) -> None:
        """The next attempt is held at the prices of its own moment: the one before may have taken minutes to fail."""
        if catalogue is self.catalogue:
            return
        self.catalogue = self.bound.catalogue = catalogue
        self.asked = replace(self.asked, entry=catalogue.resolve(self.asked.name))

    def first_failure(self) -> errors.GatewayError | None:
        """To be raised, and forgotten here: by the frames that it comes through it knows the call."""
        failure, self.failure = self.failure, None
        return failure

    @property
    def strategy(self) -> str:
        return self.exchange.header("x-strategy")


@dataclass(slots=True)
class HeldAttempt:
    """The attempt at the model that `hold` is for."""

    call: GovernedCall
    hold: Hold
    provider: Provider
    # Whether the breakers were told how it went.
    judged: bool = False
    first_byte_s: float | None = None

    async def carry_out(self) -> None:
        """Send it, relay its answer, settle. Raises Unanswered where another model may be tried, or GatewayError."""
        error = "internal_error"
        try:
            await self._under_hold()
            error = self.hold.charge.reason if self.hold.charge else ""
        except (Unanswered, errors.GatewayError) as failure:
            refusal = failure.error if isinstance(failure, Unanswered) else failure
            error = refusal.code
            if not self.call.exchange.started or self.call.exchange.ended:
                raise
            await self._end_begun(error)
            return
        except asyncio.CancelledError:
            error = "cancelled"
            raise
        finally:
            if not self.judged:
                # Of a call that was cancelled, or never sent, nobody knows how the model is.
                self.call.gateway.breakers.release_probe(self.hold.usage.served.place, self.call.caller.tenant_id)
            record = ended.attempt(
                self.call.exchange,
                self.hold,
                kind=self.call.route.kind,
                request=self.call.request,
                caller=self.call.caller,
                first_byte_s=self.first_byte_s,
                error=error,
            )
            self.call.exchange.notes.attempted(record)
            self.call.gateway.telemetry.ended(record)
        await self.call.gateway.provider_failures.answered(self.provider.name)

    async def _under_hold(self) -> None:
        async with self.hold:
            try:
                await self._send_and_relay()
            except asyncio.CancelledError:
                if not self.hold.cut_reason:
                    raise
                # An operator's stop cancelled the wait for the answer, not the server this task.
                cast("asyncio.Task[None]", asyncio.current_task()).uncancel()
                await (self.hold.settle_whole(self.hold.cut_reason) if self.hold.sent else self.hold.release())
                if self.hold.cut_reason == CLIENT_CLOSED:
                    raise ClientGone from None
                raise errors.stopped() from None

    async def _send_and_relay(self) -> None:
        """Send the call on as it was decided, and relay what comes."""
        await self._register()
        size_bytes = len(self.call.request.body)
        try:
            body = await self.call.exchange.turn.work(size_bytes, make_body := self._makes_body())
        except DialectError as error:
            await self.hold.release()
            raise Unanswered(requests.mistake(error), self.hold.usage.served.place) from error
        name, now = self.hold.usage.served.name, await self.call.gateway.catalogue()
        if now is not self.call.catalogue and now.resolve(name) != self.call.catalogue.resolve(name):
            await self.hold.release()
            raise PricedAnew
        self.hold.asked = AskedTexts(make_body, size_bytes=size_bytes)
        sent = time.perf_counter()
        self.call.exchange.notes.leaves(after_s=sent - self.call.exchange.arrived)
        if self.call.request.stream and not settings.READ_CANCELLED_ANSWERS:
            # A plain answer is on its way as a whole, and paid for.
            self.call.exchange.watch(lambda: self.hold.cut(CLIENT_CLOSED))
        async with self._sign_of_life() as sign:
            answer = await self._send(body)
            try:
                with self.call.gateway.answers.share(self.call.identity.key_id, self.call.caller.tenant_id) as share:
                    if not 200 <= answer.status < 300:
                        await self._refused(answer, share, sign)
                    elif self.call.request.stream:
                        await self._stream(answer, sign, sent=sent)
                    else:
                        await self._relay(answer, share, sent=sent)
            finally:
                answer.close()

    def _makes_body(self) -> Callable[[], bytes]:
        """Makes what leaves for the provider. Raises DialectError where it cannot be asked this."""
        return partial(
            self.provider.body,
            self.call.request,
            model=self.hold.usage.served.upstream_id,
            # The bound goes upstream with the call: what was held for, or what was asked of a model that keeps to none.
            max_tokens=self.hold.quote.asked_tokens,
            disabled_tools=self.hold.decision.disabled_tools,
        )

    def _sign_of_life(self) -> SignOfLife:
        """For whom waits for a stream, however many models were tried."""
        every_s = settings.SIGN_OF_LIFE_S if self.call.request.stream else 0
        waited_s = time.perf_counter() - self.call.exchange.arrived
        return SignOfLife(
            self.call.exchange,
            lambda: [*self._headers(), *self._budget(None)],
            first_s=max(0.0, every_s - waited_s),
            every_s=every_s,
        )

    async def _end_begun(self, reason: str) -> None:
        """End a stream of which the client has the head alone, in the way that every client takes."""
        self.call.exchange.complete = False
        charge = self.hold.charge
        chunk = sse.final_chunk(
            like=None,
            model=self.hold.quote.model,
            usage=charge.usage if charge else Usage(provider=self.hold.usage.served.provider),
            cost_nanos=charge.cost_nanos if charge else 0,
            reason=reason,
            request_id=self.call.exchange.request_id,
            created=int(time.time()),
            indexes=range(self.call.request.n),
        )
        await self.call.exchange.write(chunk + sse.DONE, more=False)

    async def _register(self) -> None:
        """Make the agent of an admitted call known to operators; where that fails, its next call does."""
        if self.call.gateway.identities.is_registered(self.call.caller):
            return
        try:
            await self.call.gateway.read(lambda: self.call.gateway.identities.register(self.call.caller))
        except DatabaseError:
            log.exception("request %s: its agent could not be registered", self.call.exchange.request_id)

    async def _send(self, body: bytes) -> Answer:
        self.hold.sent = True
        try:
            return await self.provider.send(
                self.call.route.path,
                body,
                content_type=self.call.request.content_type,
                request_id=self.call.exchange.request_id,
            )
        except ProviderError as error:
            raise await self._failed(error) from error

    async def _failed(self, error: ProviderError) -> Unanswered:
        """Resolve the hold of a call that got no answer."""
        if error.again and not self.call.has_sent_again:
            # An idle connection had ended, as far as anybody knows: that says nothing of the model.
            self.call.has_sent_again = True
            await self.hold.settle_whole(error.code)
            return Unanswered(upstream.no_answer(error))
        if error.sent:
            # It may have been worked on, and but for a stream nobody says how far.
            await self.hold.settle_seen(error.code, cut=True)
        else:
            await self.hold.release()
        return self._unanswered(error)

    def _unanswered(self, error: ProviderError) -> Unanswered:
        """The model failed, whatever that cost; another may answer."""
        self.judged = True
        place = self.hold.usage.served.place
        self.call.gateway.breakers.failed(place, self.call.caller.tenant_id, time.time())
        return Unanswered(upstream.no_answer(error), place)

    async def _refused(self, answer: Answer, share: Share, sign: SignOfLife) -> None:
        """The provider's word on the request goes to the client; its word on us does not."""
        # A refusal that breaks off is one all the same.
        turn, answers = self.call.exchange.turn, self.call.request.n
        data, broken = await whole_answers.read(answer, share, turn, most_bytes=MOST_OF_REFUSAL)
        await sign.end()
        is_event_stream = answer.headers.get("content-type", "").lower().startswith("text/event-stream")
        streamed = await whole_answers.read_events(data, self.hold, turn, answers=answers)
        said = whole_answers.json_object(data) if streamed is None else streamed.answer
        choices = sse.choices_of(said)
        has_answer = bool(said and said.get(self.call.route.answer_in))
        written_bytes = sse.answer_bytes({"choices": choices})
        begins_answer = unreadable.begins_answer(data, self.call.route.answer_in)
        is_cut = broken is not None and (is_event_stream or sse.is_stream(data) or begins_answer)
        # A part of an answer, or one that writes nothing.
        is_begun = has_answer or bool(choices) or is_cut
        if streamed is None:
            used = self.hold.reported(said)
            is_over = is_last_word = True
            if written_bytes:
                self._count(said, answer, size_bytes=len(data))
            elif not said and begins_answer:
                is_begun = True
                self.hold.count.broke(data)
        else:
            used = streamed.told.used
            # An error is over with what it says.
            is_over = streamed.is_over or not (broken or choices)
            is_last_word = is_over and streamed.told.is_final
        if not is_begun:
            told, shown = (None, shown_work.refusal(data)) if streamed is None else (streamed.told, said)
            await failed_answers.settle_error(self.hold, turn, answer, shown, used, told, size_bytes=len(data))
        elif used is not None and is_last_word:
            await self.hold.settle_reported(used)
        elif written_bytes and is_over and not (broken or self.hold.count.has_failed):
            # An answer all the same, whatever its status says.
            await self.hold.settle_seen(USAGE_MISSING, at_least=used)
        else:
            await self.hold.settle_whole("upstream_failed")
        await self._pass_on_refusal(answer, b"" if broken else data)

    async def _refused_in_200(
        self, answer: Answer, error: StatedError, used: Usage | None, told: StreamUsage | None, *, size_bytes: int = 0
    ) -> None:
        """An error where an answer should be counts as the status that it stands for; it costs what it says."""
        stated = upstream.StatedRefusal(error.status, answer.headers)
        turn = self.call.exchange.turn
        if told is not None and answer.unseen_bytes:
            # Written, and in no event that anybody has counted.
            told.took_unread()
        await failed_answers.settle_error(self.hold, turn, stated, error.said, used, told, size_bytes=size_bytes)
        await self._pass_on_refusal(stated, orjson.dumps(errors.bad_request(error.message).body()))

    async def _pass_on_refusal(self, answer: upstream.Refusing, data: bytes) -> None:
        place = self.hold.usage.served.place
        if answer.status == 403 and not self._forbids_us(data):
            # Whoever stopped it: no other model is to answer what one must not.
            if forbidden.about(data) is forbidden.About.UNCLEAR:
                raise upstream.forbidden_request()
            self._succeeded(None)
        elif not upstream.is_about_the_request(answer.status):
            self.judged = True
            raise await self.call.gateway.provider_failures.refused(
                place, self.provider, answer, data, tenant=self.call.caller.tenant_id
            )
        else:
            self._succeeded(None)
            if self.call.failure is not None:
                # A stand-in's word on the request is no answer to a client that asked another model.
                raise Unanswered(self.call.failure, place)
        if not data:
            raise errors.upstream(502, "upstream_cut", "The model's API broke its refusal off.")
        if self.call.exchange.started:
            raise errors.upstream(answer.status, "upstream_refused", "The model's API refused the request.")
        body = whole_answers.refusal(data, status=answer.status)
        await self.call.exchange.answer(answer.status, body, [JSON, ("x-request-id", self.call.exchange.request_id)])

    def _forbids_us(self, said: bytes) -> bool:
        guarded = not GUARDS.isdisjoint(self.call.estimate.needs)
        prompt = None if guarded else hash(self.call.request.body)
        return self.call.gateway.provider_failures.forbids_us(self.provider.name, said, prompt=prompt)

    async def _stream(self, answer: Answer, sign: SignOfLife, *, sent: float) -> None:
        """Nothing is sent to the client before the first event is here: until then another model may answer."""
        async with Stream(self.call.exchange, self.hold, answer, answers=self.call.request.n) as stream:
            try:
                try:
                    began = await stream.begin()
                finally:
                    await sign.end()
            except ErrorInstead as instead:
                await self._refused_in_200(answer, instead.error, instead.told.used, instead.told)
                return
            except ProviderError as error:
                raise await self._failed(error) from error
            if not began:
                return
            first = time.perf_counter()
            self._succeeded(first - sent)
            await stream.relay(
                [
                    *self._headers(),
                    *self._budget(None),
                    ("server-timing", answer_headers.timing(self.call.exchange.arrived, sent, first)),
                ]
            )

    async def _relay(self, answer: Answer, share: Share, *, sent: float) -> None:
        """A plain answer: read whole, settled, then sent on with what it cost."""
        turn, answers = self.call.exchange.turn, self.call.request.n
        data, broken = await whole_answers.read(answer, share, turn, most_bytes=self.call.route.most_bytes)
        if broken is not None:
            await whole_answers.count_broken(data, self.hold, turn, answers=answers)
            raise await self._failed(broken) from broken
        streamed = await whole_answers.read_events(data, self.hold, turn, answers=answers)
        has_vectors = self.call.route.has_vectors and len(data) > LARGE_BYTES
        read = partial(whole_answers.said, data, streamed, self.hold, has_vectors=has_vectors)
        data, said, used = await turn.work(len(data), read)
        answered = time.perf_counter()
        if stated := error_in(said):
            told = streamed.told if streamed else None
            await self._refused_in_200(answer, stated, used, told, size_bytes=len(data))
            return
        if not self.call.route.answered(said):
            raise await self._garbage(data, used, streamed)
        self._succeeded(answered - sent)
        if streamed is None:
            await turn.work(len(data), partial(self._count, said, answer, size_bytes=len(data)))
        self.hold.count.is_answer = self.hold.count.is_answer or not self.hold.count.has_failed
        cost_nanos, result = await self._settle_answer(used, streamed)
        body = await turn.work(len(data), partial(self._completed, data, said, has_all=not has_vectors))
        await self.call.exchange.answer(
            200,
            body,
            [
                *self._headers(),
                *self._budget(result),
                ("x-request-cost-usd", money.format_dollars(cost_nanos)),
                ("server-timing", answer_headers.timing(self.call.exchange.arrived, sent, answered)),
                JSON,
            ],
        )

    async def _garbage(self, data: bytes, used: Usage | None, streamed: Streamed | None) -> Unanswered:
        """What is no answer of the API: it costs what it says, or what of it may have been written."""
        message = "The model's API sent no answer that could be read."
        error = ProviderError("upstream_garbage", message, sent=unreadable.shows_work(data))
        if used is None or streamed is None:
            # Of a stream as well: none of its events holds a part of an answer as it should be.
            await self.call.exchange.turn.work(len(data), partial(self.hold.count.broke, data))
        else:
            self.hold.count.end_untold()
        if used is None:
            self.hold.count.lose()
            return await self._failed(error)
        await self._settle_answer(used, streamed)
        return self._unanswered(error)

    async def _settle_answer(self, used: Usage | None, streamed: Streamed | None) -> tuple[int, SettleResult | None]:
        """Charge what a plain answer says was used; of one that came as a stream, or failed, else what came."""
        if self.hold.failures:
            used = larger(used, (await failed_answers.count(self.hold, self.call.exchange.turn))[0])
        is_over = streamed is None or streamed.is_over
        is_last_word = used is not None if streamed is None else streamed.told.is_final
        if is_over and is_last_word:
            return await self.hold.settle_reported(used)
        if is_over and not self.hold.count.has_failed:
            return await self.hold.settle_seen(USAGE_MISSING, at_least=used)
        # Nobody has seen when its parts came: it may have written on unseen.
        self.call.exchange.complete = False
        return await self.hold.settle_whole(UPSTREAM_CUT)

    def _completed(self, data: bytes, said: dict[str, Any], *, has_all: bool) -> bytes:
        """A whole answer with what clients cannot read it without; where it says no usage, with what is charged.

        `has_all`: `said` is all that it says, so it may be written anew.
        """
        came = dict(said)
        id, model = self.call.exchange.request_id, self.hold.quote.model
        lacked = complete(said, kind=WHOLE, id=id, model=model, created=int(time.time()))
        if self.hold.usage.estimate.unit == "token":
            charged = self.hold.charge.usage if self.hold.charge else self.hold.usage.estimated()
            lacked = complete_usage(said, charged, kind=WHOLE) or lacked
        if not has_all:
            more = {name: value for name, value in said.items() if came.get(name) is not value}
            return with_fields(data, more) if more else data
        return orjson.dumps(said) if lacked else data

    def _count(self, said: dict[str, Any], answer: Answer, *, size_bytes: int) -> None:
        if self.hold.quote.max_tokens is None:
            # Who writes nothing answers with numbers, too many to be looked at one by one.
            return
        whole_answers.count_answer(said, self.hold, size_bytes=size_bytes)
        self.hold.count.shows(answer.unseen_bytes)

    def _succeeded(self, latency_s: float | None) -> None:
        """The model works; of a stream it also counts how long its first bytes took."""
        self.judged = True
        self.first_byte_s = latency_s
        latency_ms = latency_s * 1000 if latency_s is not None and self.call.request.stream else None
        place, tenant = self.hold.usage.served.place, self.call.caller.tenant_id
        self.call.gateway.breakers.succeeded(place, tenant, latency_ms, time.time())

    def _headers(self) -> list[tuple[str, str]]:
        return answer_headers.of_call(
            self.hold,
            self.call.request,
            request_id=self.call.exchange.request_id,
            audience=self.call.identity.audience,
            chosen=bool(self.call.strategy) and self.call.failure is None,
        )

    def _budget(self, result: SettleResult | None) -> list[tuple[str, str]]:
        known, audience = self.call.gateway.forecasts, self.call.identity.audience
        return answer_headers.budget(self.hold, audience, result, known, now=timezone.now())
