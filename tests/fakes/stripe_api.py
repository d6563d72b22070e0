"""Stripe's account, as `responses` answers for it: what a test puts in is what the product reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import responses

API = "https://api.stripe.com"
# So many members of a list come with the object that it is in.
EMBEDDED = 10
Rows = list[dict[str, Any]]


class Account:
    """`requests` are (method, path, parameters), oldest first. `fails` answers everything with that status;
    `fails_after` all that comes after a POST to that path.
    """

    def __init__(self, api: responses.RequestsMock) -> None:
        self.customers: dict[str, dict[str, Any]] = {}
        self.accounts: dict[str, dict[str, Any]] = {}
        self.subscriptions: Rows = []
        self.invoices: Rows = []
        self.products: dict[str, dict[str, Any]] = {}
        self.events: Rows = []
        self.webhook_endpoints: Rows = []
        self.event_destinations: Rows = []
        self.meters: Rows = []
        self.fails = 0
        self.fails_after = ""
        self._answered: dict[str, str] = {}
        self.page_size = 100
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        for method in ("GET", "POST"):
            api.add_callback(method, re.compile(rf"{API}/.*"), self._answer)

    def customer(self, id: str = "cus_acme", tenant: str = "acme") -> None:
        metadata = {"tenant_id": tenant} if tenant else {}
        self.customers[id] = {"id": id, "object": "customer", "metadata": metadata}

    def calls(self, method: str = "POST") -> list[str]:
        return [path for one, path, _ in self.requests if one == method]

    def _answer(self, request: Any) -> tuple[int, dict[str, str], str]:
        address = urlsplit(request.url)
        body = request.body or ""
        text = body.decode() if isinstance(body, bytes) else body
        is_json = text.startswith("{")
        parameters = json.loads(text) if is_json else _flat(text or address.query)
        self.requests.append((request.method, address.path, parameters))
        key = request.headers.get("Idempotency-Key")
        if key in self._answered:
            return 200, {}, self._answered[key]
        if self.fails:
            return self.fails, {}, json.dumps({"error": {"message": "no", "type": "api_error"}})
        if str(parameters.get("customer") or "").startswith("acct_"):
            # Accounts have a parameter of their own.
            said = f"No such customer: '{parameters['customer']}'"
            return 400, {}, json.dumps({"error": {"message": said, "code": "resource_missing", "param": "customer"}})
        found = self._found(request.method, address.path.strip("/").split("/"), parameters)
        if found is None:
            return 404, {}, json.dumps({"error": {"message": f"No such thing: {address.path}"}})
        # As Stripe: what was answered under a key is answered again, and is not done again.
        answer = json.dumps(found)
        if key:
            self._answered[key] = answer
        if self.fails_after and address.path.startswith(self.fails_after) and request.method == "POST":
            self.fails = 500
        return 200, {}, answer

    def _found(self, method: str, path: list[str], parameters: dict[str, Any]) -> dict[str, Any] | None:
        match [method, *path]:
            case ["GET", "v1", "customers", id]:
                return self.customers.get(id)
            case ["GET", "v1", "products", id]:
                return self.products.get(id, {"id": id, "object": "product", "metadata": {}})
            case ["GET", "v1", ("subscriptions" | "invoices") as kind]:
                rows = self._of_customer(getattr(self, kind), parameters)
                return self._listing([self._folded(row) for row in rows], parameters)
            case ["GET", "v1", "invoices", id, "lines"]:
                return self._listing(self._embedded(self.invoices, id, "lines"), parameters)
            case ["GET", "v1", ("subscriptions" | "invoices") as kind, id]:
                return next((self._folded(row) for row in getattr(self, kind) if row["id"] == id), None)
            case ["GET", "v1", "invoice_payments"]:
                return self._listing(self._embedded(self.invoices, parameters["invoice"], "payments"), parameters)
            case ["GET", "v1", "subscription_items"]:
                return self._listing(
                    self._embedded(self.subscriptions, parameters["subscription"], "items"), parameters
                )
            case ["GET", "v2", "core", "accounts", id]:
                return self.accounts.get(id)
            case ["GET", "v1", "events"]:
                return self._listing(self._newest_first(parameters), parameters)
            case ["GET", "v1", "webhook_endpoints"]:
                return self._listing(self.webhook_endpoints, parameters)
            case ["GET", "v1", "billing", "meters"]:
                return self._listing(self.meters, parameters)
            case ["GET", "v2", "core", "event_destinations"]:
                return {"data": self.event_destinations, "next_page_url": None}
            case ["GET", "v1", _]:
                return self._listing([], parameters)
            case ["POST", "v1", "webhook_endpoints"]:
                return self._made(self.webhook_endpoints, "we", parameters, secret="whsec_made")
            case ["POST", "v1", "webhook_endpoints", id]:
                return self._changed(self.webhook_endpoints, id, parameters)
            case ["POST", "v1", "billing", "meters"]:
                return self._made(self.meters, "mtr", parameters)
            case ["POST", "v2", "core", "event_destinations"]:
                once = {"webhook_endpoint": parameters["webhook_endpoint"] | {"signing_secret": "whsec_thin"}}
                return self._made(self.event_destinations, "ed", parameters) | once
            case ["POST", "v2", "core", "event_destinations", id]:
                return self._changed(self.event_destinations, id, parameters)
            case ["POST", "v2", "core", "event_destinations", id, "enable"]:
                return self._changed(self.event_destinations, id, {"status": "enabled"})
        return None

    def _embedded(self, rows: Rows, id: str, name: str) -> Rows:
        return list(next(row[name]["data"] for row in rows if row["id"] == id))

    def _folded(self, row: dict[str, Any]) -> dict[str, Any]:
        """As Stripe embeds lists: their first ten."""
        short = {
            name: {**row[name], "data": row[name]["data"][:EMBEDDED], "has_more": len(row[name]["data"]) > EMBEDDED}
            for name in ("lines", "payments", "items")
            if name in row
        }
        return row | short

    def _of_customer(self, rows: Rows, parameters: dict[str, Any]) -> Rows:
        status = parameters.get("status", "all")
        for name in ("customer", "customer_account"):
            if asked := parameters.get(name):
                rows = [row for row in rows if row.get(name) == asked]
        return [row for row in rows if status in ("all", row["status"])]

    def _newest_first(self, parameters: dict[str, Any]) -> Rows:
        first, last = int(parameters.get("created[gte]", 0)), int(parameters.get("created[lte]", 10**12))
        rows = [row for row in self.events if first <= row["created"] <= last]
        return sorted(rows, key=lambda row: (row["created"], row["id"]), reverse=True)

    def _listing(self, rows: Rows, parameters: dict[str, Any]) -> dict[str, Any]:
        ids = [row["id"] for row in rows]
        after = parameters.get("starting_after")
        start = ids.index(after) + 1 if after else 0
        page = rows[start : start + self.page_size]
        return {"object": "list", "data": page, "has_more": start + len(page) < len(rows), "url": self.requests[-1][1]}

    def _made(self, rows: Rows, prefix: str, parameters: dict[str, Any], **once: str) -> dict[str, Any]:
        row = {"id": f"{prefix}_{len(rows) + 1}", "status": "enabled", "livemode": False} | parameters
        rows.append(row)
        return row | once

    def _changed(self, rows: Rows, id: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
        row = next((row for row in rows if row["id"] == id), None)
        if row is not None:
            disabled = parameters.pop("disabled", None)
            if disabled is not None:
                row["status"] = "disabled" if disabled == "true" else "enabled"
            row.update(parameters)
        return row


@contextmanager
def answering() -> Iterator[Account]:
    """Stripe answers until this ends."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as api:
        yield Account(api)


def _flat(query: str) -> dict[str, Any]:
    """Stripe's form encoding: `a[0]=x` is a list, the rest are texts."""
    found: dict[str, Any] = {}
    for name, values in parse_qs(query).items():
        plain, _, rest = name.partition("[")
        if rest[:-1].isdecimal():
            found.setdefault(plain, []).append(values[0])
        else:
            found[name] = values[0]
    return found
