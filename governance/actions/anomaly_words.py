"""What an anomaly is called, and the sentence that people are told."""

from __future__ import annotations

from collections.abc import Mapping

from governance.models import Anomaly, Tenant
from governance.models.anomalies import AnomalyAct
from governance.queries.anomalies import Kind, Watched
from governance.rules import money
from governance.rules.anomalies import Metric

# Of its alert.
KIND = "anomaly"
DONE = {AnomalyAct.PAUSE: "paused", AnomalyAct.DEGRADE: "degraded", AnomalyAct.NOTIFY: "told of"}
NOUN = {Kind.AGENT: "The agent", Kind.TENANT: "The customer", Kind.MODEL: "The model"}


def subject_name(subject: Watched, owners: Mapping[int, Tenant]) -> str:
    """ "acme/support", "acme", "mistral/mistral-large-2512"."""
    if subject.kind == Kind.MODEL:
        return f"{subject.provider}/{subject.model}"
    slug = owners[subject.tenant_id].slug
    return f"{slug}/{subject.agent}" if subject.agent else slug


def done(anomaly: Anomaly) -> str:
    """What its act does to whom, in a word."""
    return DONE[AnomalyAct(anomaly.act)]


def sentence(anomaly: Anomaly) -> str:
    """Who, how much of what beside what is usual, and what was done about it."""
    told = f"{NOUN[Kind(anomaly.subject_type)]} {anomaly.subject} {_what(anomaly)}"
    if anomaly.acted_at is not None and anomaly.undone_at is None:
        spent = _dollars(anomaly.acted_spent_nanos or 0)
        told += f" It was {done(anomaly)} by itself, when its hour had spent {spent}"
        told += ": undo that on the anomaly's page."
    return told


def _what(anomaly: Anomaly) -> str:
    hour = f"in the hour from {anomaly.hour:%H:%M} UTC"
    seen, usual, most = (anomaly.observed, anomaly.expected, anomaly.bound)
    match Metric(anomaly.metric):
        case Metric.COST:
            known = _dollars(usual) if usual else "nothing"
            return f"spent {_dollars(seen)} {hour}, where {known} is usual and {_dollars(most)} the most."
        case Metric.CALLS:
            return f"made {seen:,} calls {hour}, where {usual:,} are usual and {most:,} the most."
        case Metric.COST_PER_CALL:
            return (
                f"paid {_dollars(seen)} a call {hour}, where {_dollars(usual)} is usual and {_dollars(most)} the most."
            )
        case Metric.FAILURES:
            return f"had {seen:,} calls fail {hour}, where {usual:,} are usual and {most:,} the most."


def _dollars(nanos: int) -> str:
    amount = money.dollars_from_nanos(nanos)
    return f"${amount:,.2f}" if abs(amount) >= 1 or nanos % 10_000_000 == 0 else f"${amount:,.4f}"
