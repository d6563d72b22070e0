"""The page where a payer pays for a checkout, with a button for each way in which a payment can go."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from html import escape

from billing.sandbox import amounts
from billing.sandbox.state import State
from billing.sandbox.wire import Row, refused

WAYS = {
    "pm_card_visa": "Pay by card",
    "pm_usBankAccount_success": "Pay by a bank debit, which takes four days",
    "pm_card_chargeCustomerFail": "Pay by a card that is declined",
}
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; display: grid; place-items: center; min-height: 100vh; background: light-dark(#f6f8f8, #101717); }
main { width: min(26rem, calc(100vw - 2rem)); padding: 1.5rem; border-radius: 12px; box-sizing: border-box;
  background: light-dark(#fff, #1a2323); border: 1px solid light-dark(#d9e2e1, #2c3938); }
h1 { font-size: 1.1rem; margin: 0 0 .25rem; } p { margin: .5rem 0; } .note { opacity: .75; font-size: .875rem; }
.total { font-size: 1.75rem; font-weight: 600; margin: .5rem 0 1rem; } .wrong { color: light-dark(#a61b1b, #ff9c9c); }
button, input { font: inherit; width: 100%; padding: .7rem; margin-top: .5rem; border-radius: 8px;
  box-sizing: border-box; border: 1px solid light-dark(#b8c7c5, #3d4d4b); background: transparent; color: inherit; }
button.first { background: #0f766e; border-color: #0f766e; color: #fff; }
button:focus-visible, input:focus-visible, a:focus-visible { outline: 3px solid #14b8a6; outline-offset: 2px; }
"""


def page(state: State, row: Row, problem: str = "") -> bytes:
    """The session as HTML: open with its buttons, else with what became of it."""
    names = ", ".join(f"{item['quantity']} × {item['description']}" for item in row["_line_items"])
    chosen = any(state.get("price", item["price"])["custom_unit_amount"] for item in row["_line_items"])
    body = [
        "<h1>Simulated checkout</h1>",
        f"<p>{escape(names)}</p>",
        f'<p class="total">{escape(amounts.in_words(row["amount_total"] or 0, row["currency"]))}</p>',
        f'<p class="wrong" role="alert">{escape(problem)}</p>' if problem else "",
        _buttons(chosen=chosen) if row["status"] == "open" else f"<p>This checkout is {escape(row['status'])}.</p>",
        '<p class="note">No money moves: this is the Stripe that runs on this machine.</p>',
        f'<p class="note"><a href="{escape(row["cancel_url"])}">Back without paying</a></p>'
        if row["cancel_url"]
        else "",
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    html = f"<!doctype html><html lang=en><head>{head}<title>Simulated checkout</title><style>{STYLE}</style></head>"
    return f"{html}<body><main>{''.join(body)}</main></body></html>".encode()


def _buttons(*, chosen: bool) -> str:
    amount = '<label>Your amount<input name="amount" inputmode="decimal" required></label>' if chosen else ""
    buttons = "".join(
        f'<button name="method" value="{method}"{" class=first" if place == 0 else ""}>{words}</button>'
        for place, (method, words) in enumerate(WAYS.items())
    )
    return f'<form method="post">{amount}{buttons}</form>'


def amount_in(text: str, currency: str) -> int | None:
    """What a payer typed, in the currency's smallest unit; None for nothing. Raises StripeRefusal."""
    if not text.strip():
        return None
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite():
        raise refused(f"{text} is no amount.", param="amount")
    digits = 0 if currency in amounts.ZERO_DECIMAL else 3 if amounts.STEPS.get(currency) == 10 else 2
    return int(value.scaleb(digits))


def destination(row: Row) -> str:
    """Where a payer is sent who has paid."""
    url: str = row["success_url"] or "/"
    return url.replace("{CHECKOUT_SESSION_ID}", row["id"])
