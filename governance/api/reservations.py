"""/api/reservations: the two-phase protocol, for agents that call a provider themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance import ports
from governance.actions import reservations, reviews
from governance.api.authentication import Principal
from governance.api.callers import caller_of
from governance.api.decisions import DecisionBody, DecisionRequest, call_of, decided, refused, runs_out_at
from governance.api.fields import Count, Dollars, Moment, Name, Strict, missing, surplus
from governance.api.once import PARAMETER, OnceView, once
from governance.api.permissions import CALLERS, EVERYONE
from governance.api.refusing import RefusingView
from governance.api.reviews import needs_review
from governance.api.spend import OF_MODELS, TOKENS, cost_of, provider_of, refuse_misdated, trust_in
from governance.api.views import ControlView
from governance.ledger.operations import Extend, Release, Reserve, Settle
from governance.ledger.results import AlreadyResolved, ExtendRefused, ReserveAnew, SettleResult
from governance.models import PendingReport, Reservation, Tenant
from governance.rules.calls import TOOL_PROVIDER, Caller, Usage, tool_usage
from governance.rules.decision import Decision, Reason
from governance.rules.errors import Conflict
from governance.rules.judgement import AGENT_SETTLED
from governance.rules.reports import ReportTrust


class Lifetime(serializers.IntegerField):
    """Seconds until a reservation expires unless it is extended."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, min_value=1, max_value=reservations.LONGEST_TTL_S, **kwargs)


class ReserveRequest(DecisionRequest):
    """A call about to be made: who, which model, and how much at most; or which tool, and how many calls of it."""

    provider = Name("provider", required=False, help_text=OF_MODELS)
    ttl_s = Lifetime(help_text="How long the hold lasts; the platform's default where it is left out.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs = super().validate(attrs)
        attrs["provider"] = provider_of(attrs)
        return attrs


class UsageBody(Strict):
    input_tokens = Count(required=False, default=0)
    cached_tokens = Count(required=False, default=0)
    output_tokens = Count(required=False, default=0)


class SettleRequest(UsageBody):
    """What the call cost, or the tokens that it used; of a tool, how many calls ran."""

    cost = Dollars(required=False)
    calls = Count(required=False, least=1, help_text="Of the tool; where none ran, release the hold.")
    usage = UsageBody(required=False, help_text="The token counts, for those who have them in one object.")
    model = Name("model", required=False, help_text="The model that served, where it was another.")
    provider = Name("provider", required=False)
    request_id = Name("request_id", required=False, help_text="Yours or the provider's.")
    occurred_at = Moment(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if usage := attrs.pop("usage", None):
            if any(attrs[name] for name in TOKENS):
                raise surplus("usage", "give either it or token counts beside it, not both.")
            attrs |= usage
        if attrs["cached_tokens"] > attrs["input_tokens"]:
            raise serializers.ValidationError({"cached_tokens": ["are part of input_tokens, so cannot be more."]})
        if "cost" not in attrs and not any(attrs.get(name) for name in (*TOKENS, "calls")):
            raise missing("cost", "give the cost, or input_tokens and output_tokens, or of a tool calls.")
        return attrs


class ExtendRequest(Strict):
    """More money, more time, or both. Without `ttl_s` the hold lives on for the platform's default."""

    more = Dollars(required=False, default=0)
    ttl_s = Lifetime()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs["more"] and "ttl_s" not in attrs:
            raise missing("more", "give it, or ttl_s, or both.")
        return attrs


class ReservationBody(serializers.Serializer[Reservation]):
    """A hold. `model` is the one to call, or the tool; `cost` what was charged in the end, corrections included."""

    id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=Reservation.Status.choices)
    amount = Dollars(source="amount_nanos")
    cost = serializers.SerializerMethodField()
    tenant = serializers.CharField(source="tenant.slug")
    agent = serializers.CharField()
    key = serializers.CharField(source="key.prefix", default=None, allow_null=True)
    user = serializers.CharField()
    session = serializers.CharField()
    task = serializers.CharField()
    provider = serializers.CharField()
    model = serializers.CharField(source="model_served")
    model_requested = serializers.CharField()
    tool = serializers.SerializerMethodField(help_text="The tool, where it is one that is held for.")
    reserved_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    resolved_at = serializers.DateTimeField(allow_null=True)

    def get_tool(self, row: Reservation) -> str | None:
        return row.model_served if row.provider == TOOL_PROVIDER else None

    def get_cost(self, row: Reservation) -> str | None:
        if row.status not in (Reservation.Status.SETTLED, Reservation.Status.EXPIRED):
            return None
        cost_nanos = reservations.cost_nanos(row)
        return None if cost_nanos is None else Dollars().to_representation(cost_nanos)


class ReservedBody(DecisionBody):
    """The hold, and the decision that allowed it. `model` is the one to call, or the tool."""

    id = serializers.UUIDField()
    status = serializers.CharField()
    amount = Dollars()
    model_requested = serializers.CharField()
    reserved_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()


class SettledBody(serializers.Serializer[Any]):
    """`late`: the hold had expired, and the difference to what it was charged was posted as an adjustment."""

    id = serializers.UUIDField()
    status = serializers.CharField()
    entry = serializers.UUIDField()
    cost = Dollars()
    overage = Dollars(help_text="What the cost exceeded the hold by.")
    late = serializers.BooleanField()


class Reservations(RefusingView, OnceView):
    permissions = {"POST": "governance.add_reservation"}
    roles = {"POST": CALLERS}
    takes = ReserveRequest

    @extend_schema(
        operation_id="reservations_create",
        parameters=[PARAMETER],
        request=ReserveRequest,
        responses={201: ReservedBody},
    )
    @once
    def post(self, request: Request) -> Response:
        """Decide on a call and hold what it may cost. A refusal is an error, with the decision in it.

        A call of a tool or a search of your own names the `tool` in place of a model, and how many `calls` of it.
        """
        asked = self.valid(ReserveRequest, request.data)
        caller = caller_of(self.by, asked)
        id = reservations.new_id(now=self.now)
        if self.claim:
            # The same id again where an earlier run of this request was cut off, so that it holds once.
            id = reservations.new_id(now=self.claim.started_at, named=f"kept answer {self.claim.id}")
        operation = Reserve(
            reservation_id=id,
            caller=caller,
            call=call_of(asked, caller, self.by.audience),
            provider=asked["provider"],
            ttl_s=asked.get("ttl_s"),
            trust=trust_in(self.by),
            is_repeat=self.claim is not None and self.claim.taken_over,
            is_unpriced=self.by.tenant is not None and not _has_price(asked),
        )
        try:
            decision = _carry_out(self, operation, caller.tenant)
        except AlreadyResolved:
            return self._reserved_before(id)
        if not decision.allowed:
            self.decision = decision
            ahead = runs_out_at(decision, now=self.now)
            return refused(decision, request, asked=asked, audience=self.by.audience, now=self.now, ahead=ahead)
        return self._reserved(id, decision, asked)

    def _reserved(self, id: UUID, decision: Decision, asked: Mapping[str, Any]) -> Response:
        row = Reservation.objects.get(pk=id)
        ahead = runs_out_at(decision, now=self.now)
        answer = decided(decision, asked, audience=self.by.audience, ahead=ahead) | {
            "id": str(id),
            "status": row.status,
            "amount": Dollars().to_representation(row.amount_nanos),
            "model": row.model_served,
            "model_requested": row.model_requested,
            "reserved_at": _moment(row.reserved_at),
            "expires_at": _moment(row.expires_at),
        }
        return Response(answer, status=201)

    def _reserved_before(self, id: UUID) -> Response:
        """The run that made the hold died before it could answer, so its decision is not known any more."""
        return Response(ReservationBody(self.one(_seen(self), pk=id)).data, status=201)


class ReservationAct(OnceView):
    """Something done with one reservation by whoever may see it."""

    acts_on = "governance.reservation"
    roles = {"POST": CALLERS}

    def owner(self, request: Request, **where: Any) -> Tenant | None:
        found = _seen(self).filter(pk=where["id"]).first()
        return found.tenant if found else None

    def held(self, id: UUID) -> Reservation:
        return reservations.own(self.one(_seen(self), pk=id))

    def shown(self, id: UUID) -> Response:
        return Response(ReservationBody(self.one(_seen(self), pk=id)).data)


class OneReservation(ControlView):
    acts_on = "governance.reservation"
    roles = {"GET": EVERYONE}

    @extend_schema(operation_id="reservations_get", responses=ReservationBody)
    def get(self, request: Request, id: UUID) -> Response:
        return Response(ReservationBody(self.one(_seen(self), pk=id)).data)


class ReservationSettle(ReservationAct):
    @extend_schema(
        operation_id="reservations_settle", parameters=[PARAMETER], request=SettleRequest, responses=SettledBody
    )
    @once
    def post(self, request: Request, id: UUID) -> Response:
        """Charge what the call cost and return the rest of the hold, once. One that has expired is settled late.

        What a tenant's key claims beyond the hold and what the tenant's budgets leave is kept for an operator, and
        answered 409: the hold is charged.
        """
        held = self.held(id)
        asked = self.valid(SettleRequest, request.data)
        refuse_misdated(asked, reserved_at=held.reserved_at)
        operation = _settlement(held, asked, trust=trust_in(self.by))
        try:
            done = self._settle(operation, held.tenant.slug)
        except AlreadyResolved:
            if self.claim and self.claim.taken_over and (before := _settled_before(operation)):
                return before
            raise
        if isinstance(done, PendingReport):
            return self._reviewed(held, done)
        return _settled(id, done.entry_id, done.charged_nanos, overage_nanos=done.overage_nanos, late=done.late)

    def _settle(self, operation: Settle, tenant: str) -> SettleResult | PendingReport:
        if operation.trust is None:
            return cast(SettleResult, _carry_out(self, operation, tenant))
        return reviews.settle(operation=operation, tenant=tenant, now=self.now)

    def _reviewed(self, held: Reservation, row: PendingReport) -> Response:
        """The answer where more was claimed than could be charged at once; after it was accepted, as if it had been."""
        if row.entry is None:
            return needs_review(self, row)
        late = held.status == Reservation.Status.EXPIRED
        return _settled(held.pk, row.entry, row.cost_nanos, overage_nanos=0 if late else row.waiting_nanos, late=late)


def _has_price(asked: dict[str, Any]) -> bool:
    if "tool" in asked:
        usage = tool_usage(asked["tool"], calls=1)
    else:
        usage = Usage(provider=asked["provider"], model=asked["model"], input_tokens=1)
    return ports.true_cost(usage) is not None


def _is_holder(by: Principal, held: Reservation) -> bool:
    """Whether who may see a hold is also whom it is for: its agent, or the tenant with a key that is no agent's."""
    if by.agent is not None:
        return True
    return by.tenant is not None and (held.key is None or held.key.agent_id is None)


class ReservationExtend(RefusingView, ReservationAct):
    def asker(self, by: Principal, said: Mapping[str, Any]) -> tuple[Caller | None, str]:
        row = reservations.seen_by(by.reader).filter(pk=self.kwargs["id"]).first()
        if row is None:
            return super().asker(by, said)
        key = row.key
        caller = Caller(
            row.tenant_id,
            row.tenant.slug,
            agent=row.agent,
            key_id=key.pk if key else None,
            key_prefix=key.scope_key if key else "",
            user=row.user,
            session=row.session,
            task=row.task,
        )
        return caller, row.model_requested

    @extend_schema(
        operation_id="reservations_extend", parameters=[PARAMETER], request=ExtendRequest, responses=ReservationBody
    )
    @once
    def post(self, request: Request, id: UUID) -> Response:
        """Hold more, or for longer. It is refused as a call of that size is, and the hold stays as it is.

        Where only a new hold can have it, as when its budget's period is over, that is a 409 `reserve_anew`.
        """
        held = self.held(id)
        asked = self.valid(ExtendRequest, request.data)
        if asked["more"] and self.claim and self.claim.taken_over:
            raise Conflict(
                "more",
                "an earlier run of this request was cut off, and may have held it already: look at the reservation's"
                " amount, and extend it by what is missing under a new Idempotency-Key.",
            )
        extension = Extend(
            held.pk,
            more_nanos=asked["more"],
            ttl_s=asked.get("ttl_s"),
            asked=True,
            by_holder=_is_holder(self.by, held),
            trust=trust_in(self.by),
        )
        try:
            _carry_out(self, extension, held.tenant.slug)
        except ExtendRefused as error:
            if error.decision.reason == Reason.KEY_INVALID and not extension.by_holder:
                # Not the key of whoever asks, to whom a 401 would say so.
                raise ReserveAnew("the key that it was held with is revoked or has expired: reserve anew") from error
            self.decision, self.more_nanos = error.decision, asked["more"]
            ahead = runs_out_at(error.decision, now=self.now)
            return refused(
                error.decision,
                request,
                asked={"tool" if held.provider == TOOL_PROVIDER else "model": held.model_requested},
                audience=self.by.audience,
                now=self.now,
                ahead=ahead,
            )
        return self.shown(id)


class ReservationRelease(ReservationAct):
    @extend_schema(
        operation_id="reservations_release", parameters=[PARAMETER], request=Strict, responses=ReservationBody
    )
    @once
    def post(self, request: Request, id: UUID) -> Response:
        """Return the whole hold: nothing was spent. What was charged for one that has expired is taken back."""
        held = self.held(id)
        self.valid(Strict, request.data)
        try:
            _carry_out(self, Release(held.pk), held.tenant.slug)
        except AlreadyResolved as error:
            # An earlier run of this very request may have done it and died before it could answer.
            is_released = error.status == Reservation.Status.RELEASED or reservations.settlement(held.pk, 0)
            if not (self.claim and self.claim.taken_over and is_released):
                raise
        return self.shown(id)


def _seen(view: ControlView) -> Any:
    return reservations.seen_by(view.by.reader)


def _carry_out(view: ControlView, operation: reservations.Act, tenant: str) -> Any:
    operator = view.by.actor if view.by.tenant is None else None
    return reservations.carry_out(operation, tenant=tenant, operator=operator, now=view.now)


def _settlement(held: Reservation, asked: dict[str, Any], *, trust: ReportTrust | None) -> Settle:
    usage = _used(held, asked)
    cost_nanos, rule = cost_of(asked, usage, at=asked.get("occurred_at", held.reserved_at))
    return Settle(
        reservation_id=held.pk,
        cost_nanos=cost_nanos,
        usage=usage,
        price_rule=rule,
        reason=AGENT_SETTLED,
        request_id=asked.get("request_id", str(held.pk)),
        occurred_at=asked.get("occurred_at"),
        trust=trust,
    )


def _used(held: Reservation, asked: dict[str, Any]) -> Usage:
    """What the call is said to have used, in the unit that it was held in."""
    if held.provider == TOOL_PROVIDER:
        for name in (*TOKENS, "model", "provider"):
            if asked.get(name):
                raise surplus(name, "is of a model, and the hold is of a tool: give its calls, or the cost.")
        return tool_usage(held.model_served, calls=asked.get("calls", 0))
    if "calls" in asked:
        raise surplus("calls", "are of a tool, and the hold is of a model: give its tokens, or the cost.")
    return Usage(
        provider=asked.get("provider", held.provider),
        model=asked.get("model", held.model_served),
        **{name: asked[name] for name in TOKENS},
    )


def _settled_before(operation: Settle) -> Response | None:
    """The answer of this very settlement, where an earlier run of the request posted it and died."""
    entry = reservations.settlement(operation.reservation_id, operation.cost_nanos)
    if entry is None:
        return None
    late = entry.corrects_id is not None
    return _settled(
        operation.reservation_id, entry.pk, operation.cost_nanos, overage_nanos=entry.overage_nanos, late=late
    )


def _settled(id: UUID, entry_id: UUID, cost_nanos: int, *, overage_nanos: int, late: bool) -> Response:
    status = Reservation.Status.EXPIRED if late else Reservation.Status.SETTLED
    answer = {
        "id": id,
        "status": status,
        "entry": entry_id,
        "cost": cost_nanos,
        "overage": overage_nanos,
        "late": late,
    }
    return Response(SettledBody(answer).data)


def _moment(at: Any) -> Any:
    return serializers.DateTimeField().to_representation(at)
