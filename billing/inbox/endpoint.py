"""Our webhook endpoint at Stripe: what it should be, what is wrong with it, and how it is made so.

An endpoint's API version is fixed when it is made, and its secret is given only then. So one of another version is
replaced: the new one is made beside it, both are accepted until the new secret is in STRIPE_WEBHOOK_SECRET, and the
old one is disabled on request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings

from billing.inbox import runs
from billing.inbox.handlers import HOLDS_UP_INVOICES, asked_for
from billing.models import StripeRun
from billing.stripe_api import client
from governance import alerts, audit
from governance.audit import Actor
from governance.models import AuditEntry

PATH = "/api/webhooks/stripe"
NAME = "Spend Governor"
# The version that the client is pinned to: what webhooks bring and what is fetched looks alike.
API_VERSION = client.API_VERSION
ALERT = "stripe_endpoint"
SET_UP = "billing.set_up_endpoint"
# Not worth an alert: what comes needlessly is kept and asks for nothing.
HARMLESS = frozenset({"extra_events"})

Found = Mapping[str, Any]


class NotReachable(ValueError):
    """Stripe cannot send to this address; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`code`: missing, disabled, other_version, missing_events, extra_events, delays_invoices, several."""

    code: str
    message: str
    endpoint_id: str = ""


@dataclass(slots=True)
class Setup:
    """What was done (or would be, in a dry run), and the secrets that Stripe gave; it gives each once.

    `failed`: what Stripe said where something afterwards failed, the last look among it. What was done is done.
    """

    actions: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    failed: str = ""

    @property
    def is_wrong(self) -> bool:
        return bool(self.failed) or any(finding.code not in HARMLESS for finding in self.findings)


def our_url() -> str:
    """Where Stripe is to send. Raises NotReachable."""
    return checked_url(f"{settings.APP_URL}{PATH}")


def checked_url(url: str) -> str:
    """The address without a trailing slash. Raises NotReachable."""
    if not url.startswith("https://"):
        raise NotReachable(f"Stripe sends to https addresses only, not to {url}; set APP_URL or give --url.")
    return url.rstrip("/")


def lint(endpoints: Sequence[Found], *, url: str) -> list[Finding]:
    """What is wrong with those of Stripe's endpoints that send to `url`. Pure."""
    ours = _at(endpoints, url)
    if not ours:
        return [Finding("missing", f"Stripe has no webhook endpoint for {url}; run stripe_setup.")]
    enabled = [one for one in ours if one.get("status") == "enabled"]
    # A disabled one beside one that works has been retired.
    found = [finding for one in enabled or ours for finding in _lint_one(one)]
    if len(enabled) > 1:
        names = ", ".join(str(one["id"]) for one in enabled)
        found.append(Finding("several", f"Each event comes {len(enabled)} times: {names} all send to {url}."))
    return found


def _lint_one(one: Found) -> list[Finding]:
    id, events = str(one.get("id")), frozenset(one.get("enabled_events") or ())
    found: list[Finding] = []
    if one.get("status") != "enabled":
        return [Finding("disabled", f"{id} is disabled: Stripe sends nothing to it.", id)]
    if one.get("api_version") != API_VERSION:
        has = one.get("api_version") or "the account's version"
        found.append(Finding("other_version", f"{id} sends {has} in place of {API_VERSION}; it must be replaced.", id))
    if missing := sorted(_unsent(one)):
        message = f"{id} does not send {', '.join(missing)}; run stripe_setup."
        found.append(Finding("missing_events", message, id))
    if HOLDS_UP_INVOICES in events or "*" in events:
        message = f"{id} sends {HOLDS_UP_INVOICES}: an answer that fails would hold invoices up for days."
        found.append(Finding("delays_invoices", message, id))
    if extra := sorted(events - asked_for() - {HOLDS_UP_INVOICES}):
        found.append(Finding("extra_events", f"{id} sends what nothing here asks for: {', '.join(extra)}.", id))
    return found


def _sent(endpoints: Sequence[Found], url: str) -> dict[str, list[str]]:
    """As figures of a run: the types that we ask for and are sent. Nothing where no endpoint of that address works:
    then it is not known, for one of another address may lead here."""
    enabled = [one for one in _at(endpoints, url) if one.get("status") == "enabled"]
    return {"sent": sorted(asked_for() - frozenset.intersection(*map(_unsent, enabled)))} if enabled else {}


def _unsent(one: Found) -> frozenset[str]:
    events = frozenset(one.get("enabled_events") or ())
    return frozenset() if "*" in events else asked_for() - events


def set_up(
    *, url: str, dry_run: bool = False, meters: bool = False, retire: bool = False, by: Actor, now: datetime
) -> Setup:
    """Make or mend our endpoint. A second run does nothing. Raises StripeUnavailable, StripeRefused, NotReachable.

    They are raised where nothing was done; else what was done comes back with its secrets, and is in the audit trail.
    `meters`: also Stripe's meters of STRIPE_METERS, and the destination of their error reports, which come as thin
    events that an endpoint does not get. `retire`: disable our endpoints of other versions.
    """
    done = Setup()
    try:
        _endpoint(checked_url(url), done, dry_run=dry_run, retire=retire)
        if meters:
            _destination(checked_url(url), done, dry_run=dry_run)
            for event_name, unit in dict(settings.STRIPE_METERS).items():
                _meter(event_name, str(unit), done, dry_run=dry_run)
        done.findings = lint(endpoints(), url=url)
    except client.StripeError as error:
        if dry_run or not done.actions:
            raise
        done.failed = str(error)
    if done.actions and not dry_run:
        audit.record(action=SET_UP, target=url, by=by, now=now, new={"actions": done.actions})
    return done


def check(*, now: datetime) -> StripeRun:
    """Check our endpoint and keep what is wrong with it; operators get an alert. Raises StripeError, NotReachable."""
    url = our_url()
    listed = endpoints()
    found = lint(listed, url=url)
    serious = [finding for finding in found if finding.code not in HARMLESS]
    if serious:
        message = " ".join(finding.message for finding in serious)[:1000]
        alerts.report(kind=ALERT, subject=url, message=message, severity="critical", now=now)
    else:
        alerts.clear(kind=ALERT, subject=url, now=now)
    figures = {"serious": len(serious), **_sent(listed, url)}
    return runs.note(StripeRun.Kind.ENDPOINT, now=now, figures=figures, findings=[one.message for one in found])


def endpoints() -> list[Found]:
    """All webhook endpoints of the account. Raises StripeUnavailable, StripeRefused."""

    def read(api: client.Client) -> list[Found]:
        listed = api.v1.webhook_endpoints.list({"limit": client.PAGE})
        return [one.to_dict(for_json=True) for one in listed.auto_paging_iter()]

    return client.ask(read)


def _at(endpoints: Sequence[Found], url: str) -> list[Found]:
    return [one for one in endpoints if str(one.get("url") or "").rstrip("/") == url]


def _endpoint(url: str, done: Setup, *, dry_run: bool, retire: bool) -> None:
    # By what is known before the look: who looks at the same moment asks Stripe for the same.
    once = _once(url)
    ours = _at(endpoints(), url)
    right = [one for one in ours if one.get("api_version") == API_VERSION]
    # An enabled one first: nothing that works is left for one that does not.
    right.sort(key=lambda one: one.get("status") != "enabled")
    if right:
        _mend(right[0], done, dry_run=dry_run)
    else:
        _create(url, done, once, dry_run=dry_run)
    for other in ours:
        if other not in right[:1] and other.get("status") == "enabled":
            _retire(other, done, dry_run=dry_run, wanted=retire and bool(right))


def _mend(one: Found, done: Setup, *, dry_run: bool) -> None:
    changes: Any = {}
    if frozenset(one.get("enabled_events") or ()) != asked_for():
        changes["enabled_events"] = sorted(asked_for())
    if one.get("status") != "enabled":
        changes["disabled"] = False
    if not changes:
        return
    if not dry_run:
        client.ask(lambda api: api.v1.webhook_endpoints.update(str(one["id"]), changes))
    done.actions.append(f"set {' and '.join(sorted(changes))} of {one['id']}")


def _create(url: str, done: Setup, once: Any, *, dry_run: bool) -> None:
    act = f"create an endpoint for {url} at {API_VERSION}"
    if dry_run:
        done.actions.append(act)
        return
    wanted: Any = {
        "url": url,
        "api_version": API_VERSION,
        "enabled_events": sorted(asked_for()),
        "description": NAME,
    }
    made = client.ask(lambda api: api.v1.webhook_endpoints.create(wanted, once))
    done.secrets[made.id] = str(made.secret or "")
    done.actions.append(act)


def _once(url: str) -> Any:
    """Of several who find no endpoint at one moment each is given the same one, with its secret: until one that was
    made is in the audit trail, they all ask under one key."""
    last = AuditEntry.objects.filter(action=SET_UP).order_by("-pk").values_list("pk", flat=True).first() or 0
    key = hashlib.sha256(f"{url}\n{API_VERSION}\n{sorted(asked_for())}\n{last}".encode()).hexdigest()
    return {"idempotency_key": key}


def _retire(one: Found, done: Setup, *, dry_run: bool, wanted: bool) -> None:
    if not wanted:
        done.actions.append(
            f"leave {one['id']} enabled, until the new secret is in STRIPE_WEBHOOK_SECRET; then run this with --retire"
        )
        return
    if not dry_run:
        client.ask(lambda api: api.v1.webhook_endpoints.update(str(one["id"]), {"disabled": True}))
    done.actions.append(f"disable {one['id']}")


def _destination(url: str, done: Setup, *, dry_run: bool) -> None:
    """Where reports of meters' errors go: the same address, by Stripe's newer API."""

    def read(api: client.Client) -> list[Found]:
        listed = api.v2.core.event_destinations.list({"include": ["webhook_endpoint.url"]})
        return [one.to_dict(for_json=True) for one in listed.auto_paging_iter()]

    for one in client.ask(read):
        address = (one.get("webhook_endpoint") or {}).get("url") or ""
        if one.get("event_payload") == "thin" and address.rstrip("/") == url:
            _mend_destination(one, done, dry_run=dry_run)
            return
    act = f"create an event destination for {', '.join(sorted(asked_for(thin=True)))}"
    if dry_run:
        done.actions.append(act)
        return
    wanted: Any = {
        "name": NAME,
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": sorted(asked_for(thin=True)),
        "webhook_endpoint": {"url": url},
        "include": ["webhook_endpoint.signing_secret"],
    }
    made = client.ask(lambda api: api.v2.core.event_destinations.create(wanted)).to_dict(for_json=True)
    done.secrets[made["id"]] = str((made.get("webhook_endpoint") or {}).get("signing_secret") or "")
    done.actions.append(act)


def _mend_destination(one: Found, done: Setup, *, dry_run: bool) -> None:
    id = str(one["id"])
    if frozenset(one.get("enabled_events") or ()) != asked_for(thin=True):
        if not dry_run:
            events = sorted(asked_for(thin=True))
            client.ask(lambda api: api.v2.core.event_destinations.update(id, {"enabled_events": events}))
        done.actions.append(f"set enabled_events of {id}")
    if one.get("status") != "enabled":
        if not dry_run:
            client.ask(lambda api: api.v2.core.event_destinations.enable(id))
        done.actions.append(f"enable {id}")


def _meter(event_name: str, unit: str, done: Setup, *, dry_run: bool) -> None:
    def read(api: client.Client) -> list[Found]:
        listed = api.v1.billing.meters.list({"status": "active", "limit": client.PAGE})
        return [one.to_dict(for_json=True) for one in listed.auto_paging_iter()]

    if any(one.get("event_name") == event_name for one in client.ask(read)):
        return
    act = f"create the meter {event_name} of {unit}"
    if dry_run:
        done.actions.append(act)
        return
    wanted: Any = {
        "display_name": f"Model usage ({unit})",
        "event_name": event_name,
        "default_aggregation": {"formula": "sum"},
        "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
        "value_settings": {"event_payload_key": "value"},
    }
    client.ask(lambda api: api.v1.billing.meters.create(wanted))
    done.actions.append(act)
