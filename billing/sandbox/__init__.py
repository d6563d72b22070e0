"""A simulated Stripe that speaks the real wire format: for the demo and the tests. Nothing but `serve` starts it."""

from billing.sandbox.books import PaidInvoice, PaidSpan, StripeBooks, Undoing
from billing.sandbox.postman import Postman
from billing.sandbox.service import SimulatedStripe
from billing.sandbox.store import StateUnreadable
from billing.sandbox.wire import StripeRefusal

__all__ = [
    "PaidInvoice",
    "PaidSpan",
    "Postman",
    "SimulatedStripe",
    "StateUnreadable",
    "StripeBooks",
    "StripeRefusal",
    "Undoing",
]
