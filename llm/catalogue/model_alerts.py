"""Models in use that somebody should look at: unpriced, deprecated, gone, or priced differently by another source.

In use is what was called in the last days, and what budgets' downgrade rules lead to; also a name that led to such a
model, and now leads to one that nobody can call: what is refused leaves no spend.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from governance import alerts
from governance.models import Alert, AuditEntry, Budget, RefusedCall, SpendRollup
from governance.rules.calls import TOOL_PROVIDER
from llm.catalogue import comparison, snapshot
from llm.catalogue.comparison import Difference
from llm.models import Model, ModelAlias
from llm.rules.pricing import DEFAULT_PROVIDER, ZONE_PROVIDERS

USED_DAYS = 7
# The list is asked for every night: what it has not named for longer is gone from it.
GONE_AFTER = timedelta(days=2)
UNPRICED, DEPRECATED, UNLISTED, DIFFERS = "price_missing", "model_deprecated", "model_unlisted", "price_differs"
KINDS = (UNPRICED, DEPRECATED, UNLISTED, DIFFERS)


def look(*, now: datetime) -> int:
    """Open an alert for each model in use that needs one, clear those that are over; how many are open."""
    used = in_use(now=now)
    found = {**_of_models(used, now=now), **_of_prices(used, now=now)}
    for (kind, subject), (message, severity) in found.items():
        alerts.report(kind=kind, subject=subject, message=message, severity=severity, now=now)
    for alert in Alert.objects.filter(kind__in=KINDS, cleared_at=None):
        if (alert.kind, alert.subject) not in found:
            alerts.clear(kind=alert.kind, subject=alert.subject, now=now)
    return len(found)


def in_use(*, now: datetime) -> set[tuple[str, str]]:
    """(provider, name) of the models that were called lately or that a downgrade rule leads to, and of lost aliases."""
    # Not of tools that agents run themselves, which no call of a model names.
    recent = SpendRollup.objects.filter(hour__gte=now - timedelta(days=USED_DAYS)).exclude(provider=TOOL_PROVIDER)
    used = {
        (provider, name) for provider, name in recent.order_by().values_list("provider", "model").distinct() if name
    }
    for rules in Budget.objects.filter(enabled=True).values_list("downgrade_rules", flat=True):
        used |= {("", rule["to"]) for rule in rules}
    return used | _lost_aliases(used, now=now)


def _lost_aliases(used: Iterable[tuple[str, str]], *, now: datetime) -> set[tuple[str, str]]:
    """Aliases that meant a model in use, or were asked for in vain, and mean one now that is not served or unpriced."""
    catalogue, since = snapshot.read(now=now), now - timedelta(days=USED_DAYS)
    models = {(_home(provider), name) for provider, name in used}
    lost = set()
    for provider, name in ModelAlias.objects.values_list("provider", "name"):
        entry = catalogue.resolve(f"{provider}/{name}")
        if entry is not None and entry.rates is not None:
            continue
        moves = AuditEntry.objects.filter(action="modelalias.change", target=name).values_list("old__model", flat=True)
        refused = RefusedCall.objects.filter(refused_at__gte=since, model__in=[name, f"{provider}/{name}"])
        if any((provider, before) in models for before in moves) or refused.exists():
            lost.add((provider, name))
    return lost


def _of_models(used: Iterable[tuple[str, str]], *, now: datetime) -> dict[tuple[str, str], tuple[str, str]]:
    """(kind, subject) of the alerts, each with its message and severity."""
    catalogue = snapshot.read(now=now)
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for provider, name in used:
        entry = catalogue.resolve(catalogue.nearest(name, home=provider))
        row = _row(provider, name)
        if entry is None or entry.rates is None or (provider and entry.provider != provider):
            shown = f"{provider}/{name}" if provider else name
            which = "it" if row is None or row.name == name.rpartition("/")[2] else f"{row}, which it means,"
            what = "the catalogue does not have it" if row is None else f"{which} is not served, or has no price"
            message = f"{shown} is in use, and {what}: calls of it through the gateway are refused."
            # Of a model that is not ours agents may report what it cost; one of ours should be callable.
            found[UNPRICED, shown] = (message, "warning" if row is None else "critical")
        if row is None:
            continue
        if row.status == Model.Status.DEPRECATED or row.deprecated_at is not None:
            since = f" from {row.deprecated_at:%Y-%m-%d} on" if row.deprecated_at else ""
            instead = f"; {row.replacement} would replace it" if row.replacement else ""
            found[DEPRECATED, str(row)] = (f"{row} is in use and deprecated{since}{instead}.", "warning")
        if row.listed_at is not None and row.listed_at < now - GONE_AFTER:
            message = f"{row} is in use, and its provider has not listed it since {row.listed_at:%Y-%m-%d}."
            found[UNLISTED, str(row)] = (message, "warning")
    return found


def _of_prices(used: Iterable[tuple[str, str]], *, now: datetime) -> dict[tuple[str, str], tuple[str, str]]:
    rows = {row.pk: row for provider, name in used if (row := _row(provider, name)) is not None}
    try:
        offers = [
            offer
            for provider in sorted({row.provider for row in rows.values()})
            for offer in comparison.from_genai(provider=provider, at=now)
        ]
    except comparison.SourceMissing:
        return {}
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for one in comparison.differences(offers, at=now):
        if one.row is not None and one.row.pk in rows and (told := _difference(one)):
            message = f"{one.offer.source} has {told}; see import_prices."
            found[DIFFERS, f"{one.name}:{one.offer.part}"] = (message, "info")
    return found


def _difference(one: Difference) -> str:
    """What the other source has, as far as calls may be charged otherwise than they cost; empty where they are not."""
    if one.ours is not None:
        return f"{one.ratio} times our price" if one.ratio else "a price, and ours is free"
    if one.offer.above:
        return f"a price of calls above {one.offer.above:,} input tokens, and we have none"
    return "a fee for each request, which no price here holds" if one.offer.has_fee else ""


def _row(provider: str, name: str) -> Model | None:
    """The catalogue's row of a model, served or not, by its id or an alias."""
    if not provider and "/" in name:
        provider, _, name = name.partition("/")
    home = _home(provider)
    row = Model.objects.filter(provider=home, name=name).first()
    if row is None:
        alias = ModelAlias.objects.select_related("model").filter(provider=home, name=name).first()
        return alias.model if alias else None
    return row


def _home(provider: str) -> str:
    """Whose rows a provider's models are."""
    return DEFAULT_PROVIDER if provider in ("", *ZONE_PROVIDERS) else provider
