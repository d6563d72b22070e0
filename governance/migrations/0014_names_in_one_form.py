"""Agents, scopes and subjects are brought into the form in which names are kept from now on.

No amount is changed: limits, windows and lines of the ledger keep their figures, and lines their names. What cannot be
brought together (two budgets of what is one scope now) stays as it is, is printed, and is an alert for operators.
"""

import unicodedata
from collections import defaultdict

from django.db import migrations
from django.utils import timezone

ACTOR = "migration"
KINDS = ("agent", "user", "session", "task")
ATTRIBUTED = ("Reservation", "PendingReport")
OPEN = {"Reservation": "pending", "PendingReport": "waiting"}


def composed(text):
    return " ".join(unicodedata.normalize("NFC", text).split())


def folded(text):
    while (again := composed(unicodedata.normalize("NFKC", text).casefold())) != text:
        text = again
    return text


def form(kind, text, most):
    """As it was on the day of this migration; what would not fit, or leave nothing, stays."""
    found = folded(text) if kind == "agent" else composed(text)
    return found if 0 < len(found) <= most else text


def subject_form(budget, subject):
    """Whom a window is for. A platform's budget for each one puts the tenant before the name."""
    tenant, slash, key = subject.partition("/") if budget.tenant_id is None else ("", "", subject)
    return f"{tenant}{slash}{form(budget.scope_type, key, 200)}"


def bring_into_form(apps, schema_editor):
    now = timezone.now()
    for tenant_id in apps.get_model("governance", "Agent").objects.values_list("tenant_id", flat=True).distinct():
        bring_agents(apps, tenant_id, now)
    for model, table in (("Budget", "BudgetWindow"), ("RateLimit", "RateBucket")):
        bring_scopes(apps, model, now)
        bring_subjects(apps, model, table, now)
    for model in ATTRIBUTED:
        bring_attribution(apps, model)


def bring_agents(apps, tenant_id, now):
    """One agent of those that are one now: with the keys and stops of all, and paused if one of them was."""
    Agent = apps.get_model("governance", "Agent")
    alike = defaultdict(list)
    for agent in Agent.objects.filter(tenant_id=tenant_id).order_by("pk").select_related("tenant"):
        alike[form("agent", agent.slug, 100)].append(agent)
    for slug, agents in alike.items():
        kept = next((agent for agent in agents if agent.slug == slug), agents[0])
        if agents == [kept] and kept.slug == slug:
            continue
        others = [agent for agent in agents if agent != kept]
        for other in others:
            apps.get_model("governance", "ApiKey").objects.filter(agent=other).update(agent=kept)
            move_stops(apps, other, kept, now)
        status = "paused" if any(agent.status == "paused" for agent in agents) else kept.status
        Agent.objects.filter(pk__in=[other.pk for other in others]).delete()
        Agent.objects.filter(pk=kept.pk).update(slug=slug, status=status)
        old = {"agents": [agent.slug for agent in agents]}
        note(
            apps, "agent.merge", f"agent {kept.tenant.slug}/{slug}", now, old=old, new={"slug": slug, "status": status}
        )


def move_stops(apps, other, kept, now):
    stops = apps.get_model("governance", "EmergencyStop").objects
    if stops.filter(agent=kept, lifted_at=None).exists():
        # One of an agent: the other's goes on.
        stops.filter(agent=other, lifted_at=None).update(lifted_at=now, lifted_by=ACTOR)
    stops.filter(agent=other).update(agent=kept)


def bring_scopes(apps, model, now):
    """Of several rules for one scope one has its name: the one that has it already, else the strictest."""
    rows = apps.get_model("governance", model).objects
    by_limit = ("limit_nanos", "pk") if model == "Budget" else ("pk",)
    for row in rows.filter(scope_type__in=KINDS).exclude(scope_key="*").select_related("tenant").order_by(*by_limit):
        key = form(row.scope_type, row.scope_key, 200)
        if key == row.scope_key:
            continue
        same = rows.filter(tenant_id=row.tenant_id, scope_type=row.scope_type, scope_key=key)
        if model == "Budget":
            same = same.filter(window=row.window)
        noun = "budget" if model == "Budget" else "rate_limit"
        who = f"{row.tenant.slug if row.tenant else 'platform'} {row.scope_type}:{row.scope_key}"
        if twin := same.first():
            per = f" per {row.window}" if model == "Budget" else ""
            tell(
                apps,
                f"{noun} {row.pk}",
                now,
                f"There are two rules ({noun}) for what is one scope now: {who!r}{per}"
                f" ({row.pk}) governs no call any more, {key!r} ({twin.pk}) governs all of them. Check the limit of"
                " the second, and delete the first.",
            )
            continue
        rows.filter(pk=row.pk).update(scope_key=key)
        note(apps, f"{noun}.rename", who, now, old={"scope_key": row.scope_key}, new={"scope_key": key})


def bring_subjects(apps, model, table, now):
    """Windows and buckets are for whom calls name now. Two that run for one subject stay two."""
    rules = {row.pk: row for row in apps.get_model("governance", model).objects.filter(scope_type__in=KINDS)}
    rule_id = "budget_id" if model == "Budget" else "rate_limit_id"
    rows = apps.get_model("governance", table).objects
    for pk, of, subject in list(rows.filter(**{f"{rule_id}__in": rules}).values_list("pk", rule_id, "subject")):
        rule = rules[of]
        found = subject_form(rule, subject) if rule.scope_key == "*" else rule.scope_key
        if found == subject:
            continue
        running = rows.filter(**{rule_id: of}, subject=found)
        if model == "Budget" and rows.get(pk=pk).closed_at is not None:
            running = running.none()
        elif model == "Budget":
            running = running.filter(closed_at=None)
        if running.exists():
            if model == "Budget":
                tell(
                    apps,
                    f"window {pk}",
                    now,
                    f"Two windows of budget {of} run for what is one subject now: that of"
                    f" {subject!r} ({pk}) keeps its figures and ends with its time, calls count in that of {found!r}.",
                )
            continue
        rows.filter(pk=pk).update(subject=found)


def bring_attribution(apps, model):
    """What is still to be charged is charged to the names of now."""
    rows = apps.get_model("governance", model).objects
    for row in rows.filter(status=OPEN[model]).values("pk", *KINDS).iterator():
        found = {kind: form(kind, row[kind], 100 if kind == "agent" else 200) for kind in KINDS}
        changed = {kind: name for kind, name in found.items() if name != row[kind]}
        if changed:
            rows.filter(pk=row["pk"]).update(**changed)


def tell(apps, subject, now, message):
    print(f"\n  {message}", end="")
    apps.get_model("governance", "Alert").objects.create(
        kind="names_not_merged", subject=subject, severity="warning", message=message[:1000], first_at=now, last_at=now
    )


def note(apps, action, target, now, *, old, new):
    apps.get_model("governance", "AuditEntry").objects.create(
        occurred_at=now, actor=ACTOR, action=action, target=target[:200], old=old, new=new
    )


class Migration(migrations.Migration):
    dependencies = [
        ("governance", "0013_bounds_of_names"),
    ]

    operations = [migrations.RunPython(bring_into_form, migrations.RunPython.noop)]
