"""An account's state in one file, which only its owner reads: written whole and put in place at once."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from billing.sandbox import lines
from billing.sandbox.books import StripeBooks
from billing.sandbox.state import Delivery, State

# What a reader must know before it reads: another number is another layout.
LAYOUT = 1


class StateUnreadable(ValueError):
    """The file is not one of ours, or is of another version."""


def save(state: State, path: Path) -> None:
    """Replace the file; whoever reads it meanwhile has the old one whole."""
    data = {
        "layout": LAYOUT,
        "now": state.now,
        "seed": state.seed,
        "base_url": state.base_url,
        "after_last_try": state.after_last_try,
        "number": state.number,
        "tables": state.tables,
        "events": state.events,
        "books": state.books.to_json(),
        "outgoing": [asdict(one) for one in state.outgoing],
        "answered": state.answered,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Made with mode 0600.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as draft:
        draft.write(orjson.dumps(data, default=_charge, option=orjson.OPT_PASSTHROUGH_DATACLASS))
    os.replace(draft.name, path)


def load(path: Path) -> State:
    """The state that was saved. Raises FileNotFoundError, StateUnreadable."""
    try:
        data = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise StateUnreadable(f"{path} is no state of a simulated Stripe.") from error
    if not isinstance(data, dict) or data.get("layout") != LAYOUT:
        raise StateUnreadable(f"{path} is of another version; delete it to begin anew.")
    names = ("now", "seed", "base_url", "after_last_try", "number", "events", "answered")
    state = State(**{name: data[name] for name in names})
    state.books = StripeBooks.from_json(data["books"])
    state.outgoing = [Delivery(**one) for one in data["outgoing"]]
    for kind, rows in data["tables"].items():
        for row in rows.values():
            state.put(kind, row)
    _join(state)
    return state


def _charge(value: Any) -> Any:
    if isinstance(value, lines.LineCharge):
        fields = {name: getattr(value, name) for name in value.__slots__}
        return fields | {"price": value.price["id"]}
    raise TypeError(type(value))


def _join(state: State) -> None:
    """Rows that are parts of others are the same rows again, and charges name their prices."""
    for row in (*state.tables["line_item"].values(), *state.tables["invoiceitem"].values()):
        kept = dict(row["_charge"])
        discounts = kept["discounts"]
        kept["discounts"] = None if discounts is None else [(id, amount) for id, amount in discounts]
        row["_charge"] = lines.LineCharge(**kept | {"price": state.get("price", kept["price"])})
    parts = (("invoice", "_lines", "line_item"), ("subscription", "_items", "subscription_item"))
    for kind, name, of in (
        *parts,
        ("checkout.session", "_line_items", "item"),
        ("credit_note", "_lines", "credit_note_line_item"),
    ):
        for row in state.tables[kind].values():
            row[name] = [state.tables[of].get(one["id"], one) for one in row[name]]
