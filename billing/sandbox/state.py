"""All that a simulated account holds: its objects by kind and id, its clock, its events and its books.

Rows are Stripe's objects as plain dictionaries. Names that begin with an underscore are the stand-in's own and are
never shown; references are ids, and lists are kept whole. `views` makes of a row what Stripe shows.
"""

from __future__ import annotations

import random
import string
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from billing.sandbox import wire
from billing.sandbox.books import StripeBooks
from billing.sandbox.wire import Row

# Stripe lists events of so long.
LISTED_S = 30 * 86_400
PREFIXES = {
    "customer": "cus",
    "product": "prod",
    "price": "price",
    "coupon": "co",
    "discount": "di",
    "subscription": "sub",
    "subscription_item": "si",
    "subscription_schedule": "sub_sched",
    "invoice": "in",
    "line_item": "il",
    "invoiceitem": "ii",
    "invoice_payment": "inpay",
    "payment_intent": "pi",
    "payment_method": "pm",
    "charge": "ch",
    "refund": "re",
    "credit_note": "cn",
    "credit_note_line_item": "cnli",
    "dispute": "du",
    "checkout.session": "cs_test",
    "customer_balance_transaction": "cbtxn",
    "balance_transaction": "txn",
    "test_helpers.test_clock": "clock",
    "billing.meter": "mtr",
    "billing.meter_event": "mev",
    "entitlements.feature": "feat",
    "product_feature": "prodft",
    "entitlements.active_entitlement": "ent",
    "webhook_endpoint": "we",
    "v2.core.event_destination": "ed",
    "event": "evt",
    "item": "li",
}
# Fields by which rows are looked up at once; none of them changes once its row was added.
INDEXED = {
    "subscription": ("customer",),
    "invoice": ("customer", "_subscription"),
    "invoiceitem": ("customer",),
    "invoice_payment": ("invoice", "_intent"),
    "charge": ("customer", "payment_intent"),
    "refund": ("charge", "customer"),
    "payment_intent": ("customer",),
    "subscription_schedule": ("customer",),
    "credit_note": ("invoice",),
    "dispute": ("charge",),
    "customer_balance_transaction": ("customer",),
    "billing.meter_event": ("_customer", "identifier"),
}
_LETTERS = string.ascii_letters + string.digits


def _no_effect(state: State, row: Row) -> None:
    """In place of what a module further up does."""


@dataclass(slots=True)
class Effects:
    """What the payment of an invoice, or its failure, means for its subscription: told by modules further up."""

    invoice_paid: Callable[[State, Row], None] = _no_effect
    invoice_processing: Callable[[State, Row], None] = _no_effect
    invoice_failed: Callable[[State, Row], None] = _no_effect


@dataclass(slots=True)
class Delivery:
    """A webhook on its way: tried so often, and next at `due_at` (Unix time)."""

    event: str
    endpoint: str
    tries: int = 0
    due_at: float = 0.0


@dataclass(slots=True)
class AccountState:
    """`now` is the account's clock in Unix seconds. `after_last_try`: what becomes of a subscription whose invoice was
    tried for the last time: cancel, unpaid or past_due (an account's setting at Stripe)."""

    now: int
    seed: str = ""
    base_url: str = "https://stripe.invalid"
    after_last_try: str = "cancel"
    number: int = 0
    tables: defaultdict[str, dict[str, Row]] = field(default_factory=lambda: defaultdict(dict))
    # (kind, field, value) -> the ids of the rows that have it, in their order.
    index: defaultdict[tuple[str, str, Any], list[str]] = field(default_factory=lambda: defaultdict(list))
    events: list[Row] = field(default_factory=list)
    books: StripeBooks = field(default_factory=StripeBooks)
    outgoing: list[Delivery] = field(default_factory=list)
    answered: dict[str, list[Any]] = field(default_factory=dict)
    effects: Effects = field(default_factory=Effects)
    # Makes an object as Stripe shows it; `views` puts itself here.
    show: Callable[[State, Row], Row] = lambda state, row: row
    # The request that is being answered, which its events name.
    request: Row = field(default_factory=lambda: {"id": None, "idempotency_key": None})

    def new_id(self, kind: str) -> str:
        """An id as Stripe's look; the same for the same seed and the same acts."""
        self.number += 1
        dice = random.Random(f"{self.seed}/{self.number}")  # noqa: S311 - a name, not a secret
        return f"{PREFIXES[kind]}_1{self.number:05d}{''.join(dice.choices(_LETTERS, k=12))}"

    def add(self, kind: str, row: Row) -> Row:
        """Keep a new object under its id, which is made where it has none."""
        row = {"id": self.new_id(kind), "object": kind, "livemode": False, **row}
        self.put(kind, row)
        return row

    def put(self, kind: str, row: Row) -> None:
        """Keep a row that has its id."""
        self.tables[kind][row["id"]] = row
        for name in INDEXED.get(kind, ()):
            self.index[kind, name, row.get(name)].append(row["id"])

    def get(self, kind: str, id: str | None, param: str = "") -> Row:
        """The object. Raises StripeRefusal; `param` is where the id was named, if not in the address."""
        found = self.tables[kind].get(id or "")
        if found is None:
            raise wire.no_such(kind.rpartition(".")[2], id or "", param)
        return found

    def find(self, kind: str, id: str | None) -> Row | None:
        return self.tables[kind].get(id or "")

    def rows(self, kind: str, **fields: Any) -> Iterator[Row]:
        """The objects of a kind with these fields, in the order in which they were made."""
        table = self.tables[kind]
        name = next((name for name in INDEXED.get(kind, ()) if name in fields), None)
        ids = list(table) if name is None else list(self.index[kind, name, fields[name]])
        for row in [table[id] for id in ids if id in table]:
            if all(row.get(name) == value for name, value in fields.items()):
                yield row

    def time_of(self, row: Row | None) -> int:
        """The time that counts for an object: its customer's test clock's, else the account's."""
        if row is None:
            return self.now
        clock = self.find("test_helpers.test_clock", self.clock_of(row))
        return int(clock["frozen_time"]) if clock else self.now

    def clock_of(self, row: Row) -> str | None:
        """The id of the test clock that an object is on."""
        owner = row if row["object"] == "customer" else self.find("customer", row.get("customer"))
        return owner.get("test_clock") if owner else row.get("test_clock")

    def emit(self, type: str, row: Row, previous: Row | None = None) -> Row:
        """Note an event and send it to every endpoint that asks for its type."""
        data: Row = {"object": self.show(self, row)}
        if previous:
            data["previous_attributes"] = previous
        event = {
            "id": self.new_id("event"),
            "object": "event",
            "api_version": wire.API_VERSION,
            "created": self.now,
            "data": data,
            "livemode": False,
            "pending_webhooks": 0,
            "request": dict(self.request),
            "type": type,
        }
        self.keep_event(event, "webhook_endpoint")
        self._emit_twin(event, row)
        return event

    def _emit_twin(self, event: Row, row: Row) -> None:
        """The same as a thin event, where a destination asks for that: `v1.invoice.paid` tells of `invoice.paid`."""
        type = f"v1.{event['type']}"
        rows = self.rows("v2.core.event_destination", status="enabled")
        if not any(type in one["enabled_events"] for one in rows):
            return
        kind = str(row["object"])
        twin = {
            "id": self.new_id("event"),
            "object": "v2.core.event",
            "type": type,
            "created": moment(self.now),
            "livemode": False,
            "related_object": {"id": row.get("id"), "type": kind, "url": f"/v1/{kind}s/{row.get('id')}"},
            "_at": self.now,
        }
        self.keep_event(twin, "v2.core.event_destination")

    def keep_event(self, event: Row, kind: str) -> None:
        self.events.append(event)
        while self.events and int(self.events[0].get("_at") or self.events[0]["created"]) < self.now - LISTED_S:
            self.events.pop(0)
        for endpoint in self.rows(kind, status="enabled"):
            if "*" in endpoint["enabled_events"] or event["type"] in endpoint["enabled_events"]:
                event["pending_webhooks"] = int(event.get("pending_webhooks") or 0) + 1
                self.outgoing.append(Delivery(event["id"], endpoint["id"]))


def moment(at: int) -> str:
    """A Unix time as the newer API writes it."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


# The name by which the other modules call what they act on.
State = AccountState
