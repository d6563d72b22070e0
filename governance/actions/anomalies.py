"""Looks for hours out of all proportion, tells of them, does what a rule says, and is undone by people.

A look reads the hour that goes on, for everybody at once. What is found opens one row for each subject and metric and
one alert; both are over when it was not seen for an hour, or when somebody says that it is usual. An act is made for
the cost alone, at most once an hour for a customer, by the same functions as a person's, with their audit rows: it
holds until somebody undoes it. It is a transaction of its own after the row's, so that a process that dies between
them leaves it to the next look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q

from governance import alerts, audit
from governance.actions import anomaly_words, budgets, tenancy
from governance.audit import Actor
from governance.models import Agent, Anomaly, AnomalyRule, Budget, ScopeType, Tenant
from governance.models.anomalies import AnomalyAct
from governance.models.budgets import EACH
from governance.queries import anomalies
from governance.queries.anomalies import Kind, Watched
from governance.rules import anomalies as rules
from governance.rules import money
from governance.rules.anomalies import FEWEST_FAILURES, HOUR, Bounds, Excess, HourFigures, Least, Metric
from governance.rules.errors import Conflict, FieldError, NotOpen

BY = Actor("anomalies")
# An hour is looked at once more after its end, for what settled after the last look.
LATE = timedelta(minutes=2)
# Bounds are reckoned once an hour for whoever may need them, so many in a look; the rest in the next ones.
MOST_NEW = 200
# What nobody saw for so long is over; what somebody called usual is not told again unless it doubles, for so long.
OVER_AFTER, USUAL_FOR, USUAL_UP_TO = HOUR, timedelta(days=1), 2
ACTS_APART = HOUR
# Hours that are kept to show what an hour was compared with.
SHOWN_HOURS = 72

# What each subject may have in an hour, as a process has reckoned it.
Known = dict[tuple[Watched, datetime], Bounds | None]
Key = tuple[str, str, str]


def look(*, now: datetime, known: Known) -> int:
    """Look at the hour that goes on; how many anomalies are open. `known` is kept between looks, and tidied."""
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    for key in [key for key in known if key[1] < hour - HOUR]:
        del known[key]
    usual = _called_usual(now)
    for at in [hour - HOUR, hour] if now - hour < LATE else [hour]:
        seen = {subject: figures for subject, figures in anomalies.of_hour(at).items() if _is_worth(figures)}
        _reckon(seen, at, known)
        judged = [(subject, (bounds := known.get((subject, at))) and bounds.judge(seen[subject])) for subject in seen]
        beyond = {subject: found for subject, found in judged if found}
        owners = anomalies.tenants(beyond)
        for subject, finding in sorted(_unexplained(beyond), key=_urgency):
            name = anomaly_words.subject_name(subject, owners)
            if finding.observed > usual.get((subject.kind, name, finding.metric), 0):
                _found(subject, owners, finding, seen[subject], at, now)
    _end(now)
    return anomalies.open_ones().count()


def dismiss(*, anomaly: Anomaly, by: Actor, now: datetime, reason: str = "") -> Anomaly:
    """Somebody says that it is usual: over, and not told again for a day unless it doubles. An act holds on.

    Raises NotOpen.
    """
    with transaction.atomic():
        # The condition settles a race: only one of two finds a row, so one audit row is written.
        rows = Anomaly.objects.filter(pk=anomaly.pk, ended_at=None).order_by()
        if not rows.update(ended_at=now, ended_by=by.name[:150]):
            raise NotOpen("", f"{anomaly} is over already")
        anomaly.refresh_from_db()
        audit.record(
            action="anomaly.dismiss", target=str(anomaly), by=by, now=now, reason=reason, old=_to_audit(anomaly)
        )
        alerts.clear(kind=anomaly_words.KIND, subject=str(anomaly), now=now)
    return anomaly


def undo(*, anomaly: Anomaly, by: Actor, now: datetime, reason: str = "") -> Anomaly:
    """Let go whom it paused or degraded, from the next call on. It does not act again for this one. Raises NotOpen."""
    with transaction.atomic():
        held = Anomaly.objects.filter(pk=anomaly.pk, acted_at__isnull=False, undone_at=None).order_by()
        if not held.update(undone_at=now, undone_by=by.name[:150]):
            raise NotOpen("", f"nothing that {anomaly} did by itself is in force")
        anomaly.refresh_from_db()
        because = reason or f"what was done for {anomaly} is undone"
        if anomaly.guard is not None:
            budgets.delete(budget=anomaly.guard, by=by, now=now)
        elif anomaly.act == AnomalyAct.PAUSE:
            _resume(anomaly, because, by, now)
        audit.record(action="anomaly.undo", target=str(anomaly), by=by, now=now, reason=reason, old=_to_audit(anomaly))
    return anomaly


def _resume(anomaly: Anomaly, reason: str, by: Actor, now: datetime) -> None:
    """The pause is its own: whoever resumes by hand undoes the act by that (`tenancy`), so no later one is lifted."""
    tenant = Tenant.objects.get(anomalies=anomaly.pk)
    if anomaly.agent:
        agent = tenancy.agent_named(tenant, anomaly.agent)
        tenancy.resume_agent(agent=agent, reason=reason, by=by, now=now)
    else:
        tenancy.resume_tenant(tenant=tenant, reason=reason, by=by, now=now)


def rule_for(anomaly: Anomaly) -> AnomalyRule | None:
    """The most exact rule for whom an anomaly is of; None for a model, and where there is none: only told."""
    if anomaly.tenant_id is None:
        return None
    for_whom = AnomalyRule.objects.filter(Q(tenant=anomaly.tenant_id) | Q(tenant=None))
    found = {(rule.tenant_id, rule.agent): rule for rule in for_whom}
    order: list[tuple[int | None, str]] = [(anomaly.tenant_id, anomaly.agent)]
    order += [(anomaly.tenant_id, EACH), (None, EACH)] if anomaly.agent else [(None, "")]
    return next((found[key] for key in order if key in found), None)


def least() -> Least:
    return Least(cost_nanos=money.nanos_from_dollars(settings.ANOMALY_LEAST_DOLLARS))


def _is_worth(seen: HourFigures) -> bool:
    floor = least()
    return seen.cost_nanos > floor.cost_nanos or seen.calls > floor.calls or seen.failures >= FEWEST_FAILURES


def _reckon(seen: Mapping[Watched, HourFigures], hour: datetime, known: Known) -> None:
    """Make known what those may have that are not known yet: agents, who may be held, and the dearest first."""
    unknown = [subject for subject in seen if (subject, hour) not in known]
    new = sorted(unknown, key=lambda one: (one.kind != Kind.AGENT, -seen[one].cost_nanos))[:MOST_NEW]
    owners, floor = anomalies.tenants(new), least()
    for subject, hours in anomalies.histories(new, before=hour).items():
        zone = anomalies.zone_of(subject, owners)
        known[subject, hour] = rules.bounds(hours, hour=hour, zone=zone, least=floor)


def _unexplained(beyond: Mapping[Watched, Sequence[Excess]]) -> Iterator[tuple[Watched, Excess]]:
    """Each that is to be told: agents, and the customers and models that are not beyond their bounds for one of them.

    A customer that a rule holds as a whole is told in any case.
    """
    held = set(AnomalyRule.objects.filter(agent="").exclude(act=AnomalyAct.NOTIFY).values_list("tenant_id", flat=True))
    for subject, found in beyond.items():
        is_held = subject.kind == Kind.TENANT and not held.isdisjoint({None, subject.tenant_id})
        parts = [
            finding
            for agent, its in beyond.items()
            if agent.kind == Kind.AGENT and subject.tenant_id in (0, agent.tenant_id)
            for finding in its
        ]
        for finding in found:
            if subject.kind == Kind.AGENT or is_held or not rules.explains(parts, finding):
                yield subject, finding


def _urgency(one: tuple[Watched, Excess]) -> tuple[bool, int]:
    """What costs most comes first: each takes a moment to be written, and a runaway spends meanwhile."""
    _, finding = one
    return finding.metric != Metric.COST, finding.expected - finding.observed


def _called_usual(now: datetime) -> Mapping[Key, int]:
    """Up to where nothing is told, because a person said so."""
    rows = Anomaly.objects.filter(ended_at__gt=now - USUAL_FOR).exclude(ended_by="").order_by("observed")
    named = rows.values_list("subject_type", "subject", "metric", "observed")
    return {(kind, name, metric): USUAL_UP_TO * observed for kind, name, metric, observed in named}


def _found(
    subject: Watched,
    owners: Mapping[int, Tenant],
    finding: Excess,
    figures: HourFigures,
    hour: datetime,
    now: datetime,
) -> None:
    name = anomaly_words.subject_name(subject, owners)
    anomaly = _again(subject, name, finding, now) or _open(subject, owners, finding, hour, now)
    if finding.metric == Metric.COST and anomaly.acted_at is None:
        _act(anomaly, finding, figures, now)


def _again(subject: Watched, name: str, finding: Excess, now: datetime) -> Anomaly | None:
    """The open one, which keeps the highest that was seen."""
    found = Anomaly.objects.filter(
        subject_type=subject.kind, subject=name, metric=finding.metric, ended_at=None
    ).first()
    if found is None:
        return None
    changes: dict[str, object] = {"last_at": now}
    if finding.observed > found.observed:
        changes |= {name: _kept(getattr(finding, name)) for name in ("observed", "expected", "bound")}
    # Not where it was ended at this moment.
    Anomaly.objects.filter(pk=found.pk, ended_at=None).order_by().update(**changes)
    found.refresh_from_db()
    return found


def _open(subject: Watched, owners: Mapping[int, Tenant], finding: Excess, hour: datetime, now: datetime) -> Anomaly:
    name = anomaly_words.subject_name(subject, owners)
    # It takes a moment, and no call waits for that: on SQLite a transaction is one at a time.
    evidence = _evidence(subject, owners, finding, hour)
    try:
        with transaction.atomic():
            made = Anomaly.objects.create(
                subject_type=subject.kind,
                subject=name,
                tenant_id=subject.tenant_id or None,
                agent=subject.agent,
                model=name if subject.kind == Kind.MODEL else "",
                metric=finding.metric,
                hour=hour,
                observed=_kept(finding.observed),
                expected=_kept(finding.expected),
                bound=_kept(finding.bound),
                evidence=evidence,
                started_at=now,
                last_at=now,
            )
            _report(made, now)
            return made
    except IntegrityError:
        # Another worker was first.
        if (other := _again(subject, name, finding, now)) is None:
            raise
        return other


def _evidence(
    subject: Watched, owners: Mapping[int, Tenant], finding: Excess, hour: datetime
) -> list[tuple[str, int, int | None, int | None]]:
    """The hours up to the one that was found, each with what it was expected to have and might have had."""
    hours = anomalies.histories([subject], before=hour)[subject]
    zone = anomalies.zone_of(subject, owners)
    found: list[tuple[str, int, int | None, int | None]] = []
    past = rules.course(hours, until=hour - HOUR, count=SHOWN_HOURS - 1, zone=zone, least=least())
    for at, figures, bounds in past:
        expected, bound = bounds.of(finding.metric, figures) if bounds else (None, None)
        found.append((at.isoformat(), figures.of(finding.metric), expected, bound))
    return [*found, (hour.isoformat(), finding.observed, finding.expected, finding.bound)]


def _act(anomaly: Anomaly, finding: Excess, figures: HourFigures, now: datetime) -> None:
    """What a rule says is done, if it may be; a note is left where it may not."""
    rule = rule_for(anomaly)
    if rule is None or rule.act == AnomalyAct.NOTIFY:
        return
    with transaction.atomic():
        # Workers take turns at a customer; calls, whose rows only name it, do not wait for that.
        tenant = Tenant.objects.select_for_update(no_key=True, of=("self",)).get(anomalies=anomaly.pk)
        anomaly.refresh_from_db()
        if anomaly.acted_at is not None or anomaly.ended_at is not None:
            return
        lately = Anomaly.objects.filter(tenant=tenant, acted_at__gt=now - ACTS_APART).order_by("-acted_at").first()
        if lately is not None:
            _note(
                anomaly,
                f"not done: {lately.subject} was {anomaly_words.DONE[AnomalyAct(lately.act)]} less than an hour ago",
            )
            return
        try:
            with transaction.atomic():
                guard = _do(rule, anomaly, tenant, finding, now)
        except (Conflict, FieldError) as error:
            _note(anomaly, f"not done: {error}")
            return
        Anomaly.objects.filter(pk=anomaly.pk).update(
            act=rule.act, guard=guard, acted_at=now, acted_spent_nanos=figures.cost_nanos, act_note=""
        )
        anomaly.refresh_from_db()
        _report(anomaly, now, is_news=True)


def _do(rule: AnomalyRule, anomaly: Anomaly, tenant: Tenant, finding: Excess, now: datetime) -> Budget | None:
    """Pause or degrade. Raises Conflict, FieldError."""
    reason = anomaly_words.sentence(anomaly)[:300]
    if rule.act == AnomalyAct.DEGRADE:
        return _guard(rule, anomaly, tenant, finding, now)
    if not anomaly.agent:
        _refuse_paused(tenant)
        tenancy.pause_tenant(tenant=tenant, reason=reason, by=BY, now=now)
        return None
    # An agent that only its own reports name has no row yet.
    tenancy.register_agent(tenant_id=tenant.pk, slug=anomaly.agent)
    agent = tenancy.agent_named(tenant, anomaly.agent)
    _refuse_paused(agent)
    tenancy.pause_agent(agent=agent, reason=reason, by=BY, now=now)
    return None


def _refuse_paused(whom: Agent | Tenant) -> None:
    """Whom a person paused is that person's to let go. Raises Conflict."""
    if whom.status == Agent.Status.PAUSED:
        raise Conflict("status", f"{whom} was paused already")


def _guard(rule: AnomalyRule, anomaly: Anomaly, tenant: Tenant, finding: Excess, now: datetime) -> Budget:
    """A budget of the agent's that moves its calls from the first on. Every other budget goes on to be asked as well.

    Where one for each agent is in force none is made: an agent's own would stand in its place.
    """
    whole = Budget.objects.filter(scope_type=ScopeType.AGENT, scope_key=EACH, enabled=True)
    if whole.filter(tenant=tenant).exists() or whole.filter(tenant=None).exists():
        raise Conflict("", "a budget for each agent would give way to the one that degrades it")
    taken = set(
        Budget.objects.filter(tenant=tenant, scope_type=ScopeType.AGENT, scope_key=anomaly.agent, enabled=True)
        .order_by()
        .values_list("window", flat=True)
    )
    for window, hours in (("day", 24), ("week", 168), ("month", 744), ("hour", 1)):
        if window not in taken:
            return budgets.create(
                tenant=tenant,
                scope_type=ScopeType.AGENT,
                scope_key=anomaly.agent,
                window=window,
                limit_nanos=min(money.MAX_LIMIT_NANOS, max(finding.bound, 1) * hours),
                soft_cap="0.0001",
                downgrade_rules=[{"from": ["*"], "to": rule.degrade_to}],
                by=BY,
                now=now,
            )
    raise Conflict("", "there is a budget of the agent's for each window already")


def _note(anomaly: Anomaly, note: str) -> None:
    if anomaly.act_note != note[:300]:
        Anomaly.objects.filter(pk=anomaly.pk).update(act_note=note[:300])


def _report(anomaly: Anomaly, now: datetime, *, is_news: bool = False) -> None:
    alerts.report(
        kind=anomaly_words.KIND,
        subject=str(anomaly),
        message=anomaly_words.sentence(anomaly),
        severity="critical" if anomaly.acted_at or anomaly.metric == Metric.COST else "warning",
        tenant=anomaly.tenant_id,
        path=f"/admin/governance/anomaly/{anomaly.pk}/change/",
        is_news=is_news,
        now=now,
    )


def _end(now: datetime) -> None:
    """What was not seen for an hour, and holds nobody any more, is over."""
    for anomaly in anomalies.open_ones().filter(last_at__lte=now - OVER_AFTER):
        if anomaly.acted_at is not None and anomaly.undone_at is None:
            if anomaly.act == AnomalyAct.PAUSE or (anomaly.guard is not None and anomaly.guard.enabled):
                continue
            # Somebody deleted or disabled the budget on its own page.
            Anomaly.objects.filter(pk=anomaly.pk, undone_at=None).update(undone_at=now, undone_by="by hand")
        with transaction.atomic():
            if Anomaly.objects.filter(pk=anomaly.pk, ended_at=None).order_by().update(ended_at=now):
                alerts.clear(kind=anomaly_words.KIND, subject=str(anomaly), now=now)


def _to_audit(anomaly: Anomaly) -> dict[str, object]:
    return {
        "metric": anomaly.metric,
        "observed": anomaly.observed,
        "expected": anomaly.expected,
        "bound": anomaly.bound,
        "act": anomaly.act if anomaly.acted_at else AnomalyAct.NOTIFY.value,
    }


def _kept(figure: int) -> int:
    return min(money.MAX_SUM, max(0, figure))
