"""/api/spend: reports of calls made elsewhere, the ledger's lines and their sums."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import uuid_utils.compat as uuids
from django.conf import settings
from django.db.models import Q
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance import ports
from governance.actions import corrections, reviews, spend_reports
from governance.api import tables
from governance.api.authentication import Principal
from governance.api.callers import CallerFields, caller_of
from governance.api.errors import Refused
from governance.api.fields import (
    CallQuery,
    Count,
    Dollars,
    Moment,
    Name,
    NameFilter,
    PeriodQuery,
    Text,
    looked_for,
    missing,
    surplus,
)
from governance.api.once import PARAMETER, OnceView, once
from governance.api.pagination import ByPlace
from governance.api.permissions import CALLERS, EVERYONE
from governance.api.reviews import needs_review
from governance.api.views import ListView, columns_of, describe_list, paging, presenter
from governance.ledger import clock
from governance.ledger.operations import Record
from governance.ledger.results import RecordResult
from governance.models import PendingReport, SpendEntry
from governance.queries import spend
from governance.queries.spend import GROUPS, MEASURES, TimeRange
from governance.rules import money
from governance.rules.calls import LONGEST_TOOL, TOOL_PROVIDER, Usage, tool_usage
from governance.rules.errors import OverBound
from governance.rules.reports import OLDEST_REPORT, ReportTrust

# Clocks differ a little; a call from further ahead is a mistake.
CLOCK_SKEW = timedelta(minutes=5)
# Of a summary as CSV, which comes as one table or not at all.
MOST_LINES = 10_000
OF_MODELS = "Of a model; mistral, where it is left out."
TOKENS = ("input_tokens", "cached_tokens", "output_tokens")


class ReportBody(CallerFields):
    """A call already made: what it cost, or the tokens it used; or so many calls of a tool."""

    request_id = Name("request_id", help_text="Yours; a repeat is a no-op.")
    model = Name("model", required=False, default="", allow_blank=True)
    provider = Name("provider", required=False, help_text=OF_MODELS)
    tool = Name("tool", required=False, max_length=LONGEST_TOOL, help_text="In place of a model.")
    calls = Count(required=False, least=1, help_text="Of the tool; one, where it is left out.")
    cost = Dollars(required=False)
    input_tokens = Count(required=False, default=0)
    cached_tokens = Count(required=False, default=0)
    output_tokens = Count(required=False, default=0)
    occurred_at = Moment(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["cached_tokens"] > attrs["input_tokens"]:
            raise serializers.ValidationError({"cached_tokens": ["are part of input_tokens, so cannot be more."]})
        attrs["provider"] = provider_of(attrs)
        if "tool" in attrs:
            for name in ("model", *TOKENS):
                if attrs[name]:
                    raise surplus(name, "is of a call of a model, not of a tool.")
            return attrs
        if "calls" in attrs:
            raise surplus("calls", "are of a tool.")
        if "cost" in attrs:
            return attrs
        if not any(attrs[name] for name in TOKENS):
            raise missing("cost", "give the cost, or input_tokens and output_tokens.")
        if not attrs["model"]:
            raise missing("model", "is needed to price the tokens.")
        return attrs


def provider_of(attrs: Mapping[str, Any]) -> str:
    """Whose model a body names; a tool is nobody's."""
    said: str | None = attrs.get("provider")
    if "tool" not in attrs and said != TOOL_PROVIDER:
        return "mistral" if said is None else said
    if said is not None:
        raise surplus("provider", "is of a call of a model: tools have none, and are named by tool.")
    return TOOL_PROVIDER


class ReportedBody(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    request_id = serializers.CharField()
    cost = Dollars()
    duplicate = serializers.BooleanField()


class EntryBody(serializers.Serializer[SpendEntry]):
    """One line of the ledger."""

    id = serializers.UUIDField()
    kind = serializers.CharField()
    tenant = serializers.CharField(source="tenant.slug")
    agent = serializers.CharField()
    key = serializers.CharField(source="key.prefix", default=None, allow_null=True)
    user = serializers.CharField()
    session = serializers.CharField()
    task = serializers.CharField()
    provider = serializers.CharField()
    model_requested = serializers.CharField()
    model_served = serializers.CharField()
    input_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    unit = serializers.CharField()
    units = serializers.IntegerField()
    cost = Dollars(source="cost_nanos")
    overage = Dollars(source="overage_nanos")
    certainty = serializers.CharField()
    reason = serializers.CharField()
    price_rule = serializers.CharField()
    request_id = serializers.CharField()
    reservation = serializers.UUIDField(source="reservation_id", allow_null=True)
    corrects = serializers.UUIDField(source="corrects_id", allow_null=True)
    occurred_at = serializers.DateTimeField()
    recorded_at = serializers.DateTimeField()


class EntryQuery(CallQuery):
    """Filters of the ledger's lines; `model` is the one that served, or the tool that ran."""

    provider = NameFilter("provider", required=False)
    scope = Text(required=False, help_text="`platform`, or a kind and its key: `agent:invoices`.")
    certainty = serializers.ChoiceField(choices=SpendEntry.Certainty.values, required=False)
    kind = serializers.ChoiceField(choices=SpendEntry.Kind.values, required=False)
    request_id = NameFilter("request_id", required=False)
    open = serializers.BooleanField(required=False, help_text="Only estimates that nobody has confirmed or voided.")


class SummaryQuery(PeriodQuery):
    group_by = Text(default="day", help_text=f"Comma-separated: {', '.join(GROUPS)}.")
    tenant = NameFilter("tenant", required=False)
    agent = NameFilter("agent", required=False)
    provider = NameFilter("provider", required=False)
    model = NameFilter("model", required=False)

    def validate_group_by(self, value: str) -> list[str]:
        names = [part for raw in value.split(",") if (part := raw.strip())]
        unknown = [name for name in names if name not in GROUPS]
        if unknown or not names:
            what = f"{unknown[0]!r} is no group" if unknown else "name a group"
            raise serializers.ValidationError(f"{what}; there are {', '.join(GROUPS)}.")
        return list(dict.fromkeys(names))


class SummaryRow(serializers.Serializer[Any]):
    """Sums of one group; only the groups asked for are there."""

    tenant = serializers.CharField(required=False)
    agent = serializers.CharField(required=False)
    provider = serializers.CharField(required=False)
    model = serializers.CharField(required=False)
    tool = serializers.CharField(required=False, help_text="Empty for calls of models.")
    hour = serializers.DateTimeField(required=False)
    day = serializers.DateField(required=False)
    month = serializers.CharField(required=False)
    calls = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cost = Dollars()


class SummaryBody(serializers.Serializer[Any]):
    """A page of the groups; `total` and `calls` are of them all."""

    total = Dollars()
    calls = serializers.IntegerField()
    results = SummaryRow(many=True)
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)


class Spend(OnceView, ListView):
    acts_on = "governance.spendentry"
    roles = {"GET": EVERYONE, "POST": CALLERS}
    table_name = "spend"
    takes = ReportBody

    @describe_list("spend_list", EntryBody, EntryQuery)
    def get(self, request: Request) -> Any:
        asked = self.valid(EntryQuery, request.query_params.dict())
        period = TimeRange(asked.pop("from", None), asked.pop("to", None))
        only_open = asked.pop("open", False)
        where = _scope(asked.pop("scope", None))
        where &= Q(**{looked_for(name, value): value for name, value in asked.items()})
        rows = spend.entries(reader=self.by.reader, period=period).filter(where)
        if only_open:
            rows = corrections.open_estimates(rows)
        return self.listed(rows, presenter(EntryBody), columns=columns_of(EntryBody))

    @extend_schema(
        operation_id="spend_report",
        parameters=[PARAMETER],
        request=ReportBody,
        responses={201: ReportedBody, 200: ReportedBody},
    )
    @once
    def post(self, request: Request) -> Response:
        """Charge a call made elsewhere. A repeated request_id answers 200 and charges nothing.

        What a tenant's key reports beyond what the tenant's budgets leave is kept for an operator, and answered 409.
        """
        asked = self.valid(ReportBody, request.data)
        refuse_misdated(asked)
        done = self._recorded(self._operation(asked))
        if isinstance(done, PendingReport):
            return needs_review(self, done)
        answer = {
            "id": done.entry_id,
            "request_id": asked["request_id"],
            "cost": done.cost_nanos,
            "duplicate": done.duplicate,
        }
        return Response(ReportedBody(answer).data, status=200 if done.duplicate else 201)

    def _recorded(self, report: Record) -> RecordResult | PendingReport:
        if self.by.tenant is None:
            return spend_reports.record(report=report, by=self.by.actor, now=self.now)
        return reviews.report(report=report, now=self.now)

    def _operation(self, asked: dict[str, Any]) -> Record:
        usage = _used(asked)
        cost_nanos, rule = cost_of(asked, usage, at=asked.get("occurred_at"))
        return Record(
            entry_id=uuids.uuid7(),
            caller=caller_of(self.by, asked),
            request_id=asked["request_id"],
            cost_nanos=cost_nanos,
            usage=usage,
            model_requested=usage.model,
            price_rule=rule,
            occurred_at=asked.get("occurred_at"),
            trust=trust_in(self.by),
        )


class SpendSummary(ListView):
    acts_on = "governance.spendrollup"
    roles = {"GET": EVERYONE}
    refuses = {"GET": (422,)}
    table_name = "spend-summary"

    @extend_schema(
        operation_id="spend_summary",
        parameters=[SummaryQuery, *paging(ByPlace.page_size)],
        responses={(200, "application/json"): SummaryBody, (200, "text/csv"): str},
    )
    def get(self, request: Request) -> Any:
        """Sums from the hourly rollups: `from` and `to` count the hours that begin between them.

        For a tenant's key so many hourly sums are added up at most (`SUMMARY_HOURLY_SUMS`), and a table (CSV) has so
        many lines at most: 10,000.
        """
        asked = self.valid(SummaryQuery, request.query_params.dict())
        period = TimeRange(asked.pop("from", None), asked.pop("to", None))
        groups = asked.pop("group_by")
        where = Q(**{looked_for(name, value, model="model"): value for name, value in asked.items()})
        asked_of: dict[str, Any] = {"reader": self.by.reader, "period": period, "where": where}
        if self.by.tenant is not None:
            spend.refuse_too_much(**asked_of, most=settings.SUMMARY_HOURLY_SUMS)
        if tables.wanted(request):
            return self._table(groups, asked_of)
        pages = ByPlace()
        place, size = pages.begin(request)
        rows = spend.summary(group_by=groups, **asked_of, offset=place, limit=size + 1)
        cost_nanos, calls = spend.total(**asked_of)
        about = {"total": Dollars().to_representation(cost_nanos), "calls": calls}
        found = [_printed(row) for row in rows[:size]]
        return Response(about | {"results": found} | pages.links(more=len(rows) > size))

    def _table(self, groups: list[str], asked_of: dict[str, Any]) -> Any:
        rows = spend.summary(group_by=groups, **asked_of, limit=MOST_LINES + 1)
        if len(rows) > MOST_LINES:
            raise OverBound("group_by", f"makes more than {MOST_LINES:,} lines: name a shorter period, or take pages.")
        columns = [*groups, *(name for name in MEASURES if name != "cost_nanos"), "cost"]
        return tables.streamed(self.request, map(_printed, rows), columns=columns, name=self.table_name)


def trust_in(by: Principal) -> ReportTrust | None:
    """How far reports of this caller are believed; None: whatever they say, as of operators."""
    if by.tenant is None:
        return None
    return reviews.trust_in(tenant_id=by.tenant.pk, agent_is_fixed=by.agent is not None)


def refuse_misdated(asked: dict[str, Any], *, reserved_at: datetime | None = None) -> None:
    """Refuse a call that has not happened yet by the database's clock, or so long ago that it cannot be meant.

    Nor did it happen before it was reserved: its line would lie where nobody looks for it, and nobody bills it.
    """
    now = clock.known_now()
    at = asked.get("occurred_at", now)
    if at > now + CLOCK_SKEW:
        raise OverBound("occurred_at", "is in the future.")
    if at < now - OLDEST_REPORT:
        raise OverBound("occurred_at", f"is more than {OLDEST_REPORT.days} days ago.")
    if reserved_at is not None and at < reserved_at - CLOCK_SKEW:
        raise OverBound("occurred_at", f"is before the call was reserved, at {reserved_at.isoformat()}.")


def cost_of(asked: dict[str, Any], usage: Usage, *, at: datetime | None) -> tuple[int, str]:
    """(nanodollars, price rule) of what is reported of a call that was made at that moment, or now."""
    if "cost" in asked:
        return asked["cost"], "reported"
    priced = ports.true_cost(usage, at=at)
    if priced is None and usage.provider == TOOL_PROVIDER:
        raise Refused("tool_not_priced", f"The tool {usage.model!r} has no price; report the cost.", param="tool")
    if priced is None:
        raise Refused("model_not_priced", f"The model {usage.model!r} has no price; report the cost.", param="model")
    money.refuse_beyond("cost", priced[0], most=money.MAX_AMOUNT_NANOS)
    return priced


def _used(asked: Mapping[str, Any]) -> Usage:
    if "tool" in asked:
        return tool_usage(asked["tool"], calls=asked.get("calls", 1))
    return Usage(provider=asked["provider"], model=asked["model"], **{name: asked[name] for name in TOKENS})


def _scope(scope: str | None) -> Q:
    try:
        return Q() if scope is None else spend.in_scope(scope)
    except ValueError as error:
        raise serializers.ValidationError({"scope": [str(error)]}) from error


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    found = dict(row)
    found["cost"] = Dollars().to_representation(found.pop("cost_nanos"))
    for name, form in (("hour", "%Y-%m-%dT%H:00:00Z"), ("day", "%Y-%m-%d"), ("month", "%Y-%m")):
        if name in found:
            found[name] = found[name].strftime(form)
    return found
