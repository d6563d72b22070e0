"""Anomalies in the console: the list, the page of one with the hours before it, and what is done by itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from governance.actions import anomalies, anomaly_rules, anomaly_words
from governance.audit import Actor
from governance.console import display as show
from governance.console import ranges, reasons
from governance.console.base import ConsoleAdmin, ReadOnlyAdmin, actor, latest_values, reader
from governance.console.display import Card, Series
from governance.models import Agent, Anomaly, AnomalyRule
from governance.rules.anomalies import Metric
from governance.rules.errors import Conflict, FieldError

WORDS = {
    Metric.COST: "Cost",
    Metric.CALLS: "Calls",
    Metric.COST_PER_CALL: "Cost a call",
    Metric.FAILURES: "Failed calls",
}
COLOURS = {"open": "danger", "over": "default", "called usual": "default", "paused": "warning", "degraded": "warning"}


class AnomalyAdmin(ReadOnlyAdmin):
    tenant_path = "tenant"
    change_form_template = "console/anomaly.html"
    list_display = ("named", "what", "seen", "usual", "times", "state", "started_at", "last_at")
    list_filter = ("subject_type", "metric", latest_values("act"), "tenant")
    search_fields = ("subject",)
    search_help_text = "A customer, an agent or a model."
    list_select_related = ("tenant",)
    ordering = ("-id",)
    fields = ("subject",)
    actions_detail = ("undo_one", "dismiss_one")

    @display(description="Whom", header=True)
    def named(self, obj: Anomaly) -> list[str]:
        return [obj.subject, obj.get_subject_type_display()]

    @display(description="What")
    def what(self, obj: Anomaly) -> str:
        return WORDS[Metric(obj.metric)]

    @display(description="Seen")
    def seen(self, obj: Anomaly) -> str:
        return figure(obj, obj.observed)

    @display(description="Usual")
    def usual(self, obj: Anomaly) -> str:
        return figure(obj, obj.expected)

    @display(description="Times")
    def times(self, obj: Anomaly) -> str:
        return times(obj)

    @display(description="State", label=COLOURS)
    def state(self, obj: Anomaly) -> str:
        return state(obj)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        row = self.get_object(request, str(object_id))
        idle: tuple[str, ...] = () if row and row.ended_at is None else ("dismiss_one",)
        idle += () if row and is_held(row) else ("undo_one",)
        offered = super().get_actions_detail(request, object_id)
        return [one for one in offered if not one.action_name.endswith(idle or ("-",))]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        def read() -> dict[str, Any]:
            return context(request, self.row(request, object_id))

        return super().change_view(request, object_id, form_url, {"read": read, **(extra_context or {})})

    @action(
        description="Let it go",
        url_path="undo",
        permissions=["operate"],
        icon="play_arrow",
        variant=ActionVariant.PRIMARY,
    )
    def undo_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.row(request, object_id)
        by, now = actor(request), timezone.now()
        spent = show.dollars(row.acted_spent_nanos) if row.acted_at else "nothing"
        return reasons.ask(
            request,
            model_admin=self,
            title="Undo what was done by itself",
            verb="Let it go",
            explanation=f"{row.subject} had spent {spent} in an hour when it was held. From the next call on budgets "
            "alone decide, and it is not held again for this anomaly.",
            rows=[row],
            act=lambda one, reason: anomalies.undo(anomaly=one, reason=reason, by=by, now=now),
            back=reverse("admin:governance_anomaly_change", args=[row.pk]),
        )

    @action(description="It is usual", url_path="dismiss", permissions=["operate"], icon="check")
    def dismiss_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.row(request, object_id)
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Call an anomaly usual",
            verb="It is usual",
            explanation="It is over, and for a day nothing is told of the same until it is twice as much. What was "
            "done by itself holds on until it is undone.",
            rows=[row],
            act=lambda one, reason: anomalies.dismiss(anomaly=one, reason=reason, by=by, now=now),
            back=reverse("admin:governance_anomaly_changelist"),
        )


class AnomalyRuleForm(forms.ModelForm):  # type: ignore[type-arg]
    """What `governance.actions.anomaly_rules` says is wrong is shown at its field."""

    class Meta:
        model = AnomalyRule
        fields = ["tenant", "agent", "act", "degrade_to"]
        help_texts = {
            "tenant": "Empty: everybody's.",
            "agent": "The agent; * for each one; empty: the customer as a whole.",
        }

    def _post_clean(self) -> None:
        """Say at its field what the domain would refuse. Nothing is written yet."""
        if self.errors:
            return
        try:
            anomaly_rules.check(rule=self.instance if self.instance.pk else None, **self.cleaned_data)
        except Conflict as error:
            self.add_error(None, f"There is a rule for {error.existing} already: change that one.")
        except FieldError as error:
            self.add_error(error.field if error.field in self.fields else None, error.message)

    def save(self, commit: bool = True) -> AnomalyRule:
        """Nothing: the page writes with `write`, which knows who and when."""
        return cast(AnomalyRule, self.instance)

    save_m2m = staticmethod(lambda: None)

    def write(self, *, by: Actor, now: datetime) -> AnomalyRule:
        if self.instance.pk:
            return anomaly_rules.change(rule=self.instance, changes=self.cleaned_data, by=by, now=now)
        return anomaly_rules.create(**self.cleaned_data, by=by, now=now)


class AnomalyRuleAdmin(ConsoleAdmin):
    form = AnomalyRuleForm
    list_display = ("named", "act", "degrade_to")
    list_select_related = ("tenant",)
    ordering = ("tenant__slug", "agent")
    actions_detail = ("delete_one",)
    fieldsets = (
        (
            "What is done by itself",
            {
                "description": "When the cost of an hour is out of all proportion. At most one act an hour for a "
                "customer; each is told to the operators, audited, and undone on the anomaly's page.",
                "fields": ("tenant", "agent", "act", "degrade_to"),
            },
        ),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: AnomalyRule | None = None) -> tuple[str, ...]:
        return ("tenant", "agent") if obj else ()

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if not self.has_change_permission(request, obj):
            # A viewer sees the values; there is no form to build.
            kwargs["form"] = forms.ModelForm
        return super().get_form(request, obj, change=change, **kwargs)

    def save_model(self, request: HttpRequest, obj: AnomalyRule, form: Any, change: bool) -> None:
        obj.__dict__.update(form.write(by=actor(request), now=timezone.now()).__dict__)

    @display(description="Whom", ordering="tenant__slug")
    def named(self, obj: AnomalyRule) -> str:
        return str(obj)

    @action(
        description="Delete", url_path="remove", permissions=["operate"], icon="delete", variant=ActionVariant.DANGER
    )
    def delete_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        rule = self.row(request, object_id)
        by, now = actor(request), timezone.now()
        return reasons.ask(
            request,
            model_admin=self,
            title="Delete a rule",
            verb="Delete",
            explanation="Of anomalies of whom it is for people are told, and no more, unless a wider rule says so.",
            rows=[rule],
            act=lambda row, reason: anomaly_rules.delete(rule=row, reason=reason, by=by, now=now),
            back=reverse("admin:governance_anomalyrule_changelist"),
            danger=True,
        )


def context(request: HttpRequest, anomaly: Anomaly) -> dict[str, Any]:
    """What the page of one shows: the sentence, its figures, the hours before it, and what was done."""
    zone = anomaly.tenant.zone if anomaly.tenant else ZoneInfo("UTC")
    is_bound = reader(request).tenant is not None
    return {
        "anomaly": anomaly,
        "state": state(anomaly),
        "tone": {"open": "stopped", "paused": "warned", "degraded": "warned"}.get(state(anomaly), "off"),
        "what": WORDS[Metric(anomaly.metric)],
        "kind": anomaly.get_subject_type_display(),
        "sentence": anomaly_words.sentence(anomaly),
        "cards": _cards(anomaly),
        "chart": _chart(anomaly, zone),
        "unit": "dollars" if Metric(anomaly.metric).is_money else "count",
        "rows": [_row(anomaly, each, zone) for each in reversed(anomaly.evidence)],
        "calls": _calls(anomaly, zone, is_bound=is_bound),
        "whom": _whom(anomaly),
        "steps": _steps(anomaly, is_bound=is_bound),
    }


def figure(anomaly: Anomaly, number: int | None) -> str:
    """In the metric's unit."""
    return show.dollars(number) if Metric(anomaly.metric).is_money else show.count(number)


def times(anomaly: Anomaly) -> str:
    return f"{anomaly.observed / anomaly.expected:,.1f}×" if anomaly.expected else "–"


def is_held(anomaly: Anomaly) -> bool:
    return anomaly.acted_at is not None and anomaly.undone_at is None


def state(anomaly: Anomaly) -> str:
    if is_held(anomaly):
        return anomaly_words.done(anomaly)
    if anomaly.ended_at is None:
        return "open"
    return "called usual" if anomaly.ended_by else "over"


def _cards(anomaly: Anomaly) -> list[Card]:
    cards = [
        Card("Seen", figure(anomaly, anomaly.observed), "in that hour, at most", "trending_up", "danger"),
        Card(
            "Usual",
            figure(anomaly, anomaly.expected),
            f"{times(anomaly)} that was seen" if anomaly.expected else "at this hour",
            "horizontal_rule",
        ),
        Card("Bound", figure(anomaly, anomaly.bound), "beyond it an hour is told", "vertical_align_top"),
    ]
    if anomaly.acted_at is not None:
        done = anomaly_words.done(anomaly).capitalize()
        cards.append(Card(f"{done} at", show.dollars(anomaly.acted_spent_nanos), "spent in its hour by then", "bolt"))
    return cards


def _chart(anomaly: Anomaly, zone: ZoneInfo) -> dict[str, Any]:
    def drawn(number: int | None) -> str | None:
        if number is None:
            return None
        return show.plain_dollars(number) if Metric(anomaly.metric).is_money else str(number)

    columns = list(zip(*anomaly.evidence, strict=True))
    hours, seen, usual, bound = columns or ([], [], [], [])
    series = [
        Series("Seen", [drawn(each) for each in seen], filled=True),
        Series("Usual", [drawn(each) for each in usual], "--sg-rest", dashed=True, stepped=True),
        Series("Bound", [drawn(each) for each in bound], "--sg-bad", dashed=True, stepped=True),
    ]
    return show.chart("lines", [_label(each, zone) for each in hours], series)


def _label(hour: str, zone: ZoneInfo) -> str:
    local = datetime.fromisoformat(hour).astimezone(zone)
    return f"{local:%a} {local.day}, {local:%H:%M}"


def _row(anomaly: Anomaly, each: list[Any], zone: ZoneInfo) -> tuple[str, str, str, str]:
    hour, seen, usual, bound = each
    return _label(hour, zone), figure(anomaly, seen), figure(anomaly, usual), figure(anomaly, bound)


def _calls(anomaly: Anomaly, zone: ZoneInfo, *, is_bound: bool) -> str:
    """The calls of its day."""
    day = anomaly.hour.astimezone(zone).date()
    asked: dict[str, Any] = {} if is_bound or anomaly.tenant is None else {"tenant": anomaly.tenant.slug}
    asked |= {"agent": anomaly.agent} if anomaly.agent else {}
    asked |= {"model": anomaly.model.partition("/")[2]} if anomaly.model else {}
    return f"{reverse('admin:calls')}?{urlencode(ranges.days(day, day) | asked)}"


def _whom(anomaly: Anomaly) -> str:
    """The page of whom it is of."""
    if anomaly.agent:
        agent = Agent.objects.filter(tenant=anomaly.tenant_id, slug=anomaly.agent).first()
        return reverse("admin:governance_agent_change", args=[agent.pk]) if agent else ""
    return reverse("admin:governance_tenant_change", args=[anomaly.tenant_id]) if anomaly.tenant_id else ""


def _steps(anomaly: Anomaly, *, is_bound: bool) -> list[tuple[Any, str]]:
    """What happened when. Whoever acted is an operator to a tenant's own staff."""
    found = [(show.moment(anomaly.started_at, "second"), "seen")]
    if anomaly.acted_at is not None:
        found.append((show.moment(anomaly.acted_at, "second"), f"{anomaly_words.done(anomaly)} by itself"))
    elif anomaly.act_note:
        found.append((show.moment(anomaly.last_at, "second"), anomaly.act_note))
    if anomaly.undone_at is not None:
        found.append((show.moment(anomaly.undone_at, "second"), f"let go by {_who(anomaly.undone_by, is_bound)}"))
    if anomaly.ended_at is not None:
        by = f"called usual by {_who(anomaly.ended_by, is_bound)}" if anomaly.ended_by else "over"
        found.append((show.moment(anomaly.ended_at, "second"), by))
    return found


def _who(name: str, is_bound: bool) -> str:
    return "an operator" if is_bound else name
