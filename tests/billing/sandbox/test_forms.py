"""The forms take nothing that the pinned SDK does not know, and no choice that it does not offer."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel
from stripe import params
from stripe.params import billing, checkout, entitlements, test_helpers

from billing.sandbox import fields, forms, payment_forms, wire

PAIRS: list[tuple[type[BaseModel], Any]] = [
    (forms.ProductForm, params.ProductCreateParams),
    (forms.ProductChange, params.ProductUpdateParams),
    (forms.ProductList, params.ProductListParams),
    (forms.StripePriceForm, params.PriceCreateParams),
    (forms.PriceChange, params.PriceUpdateParams),
    (forms.PriceList, params.PriceListParams),
    (forms.CouponForm, params.CouponCreateParams),
    (forms.CouponChange, params.CouponUpdateParams),
    (forms.FeatureForm, entitlements.FeatureCreateParams),
    (forms.ProductFeatureForm, params.ProductFeatureCreateParams),
    (forms.EntitlementList, entitlements.ActiveEntitlementListParams),
    (forms.CustomerForm, params.CustomerCreateParams),
    (forms.CustomerChange, params.CustomerUpdateParams),
    (forms.CustomerList, params.CustomerListParams),
    (forms.BalanceForm, params.CustomerBalanceTransactionCreateParams),
    (forms.MethodForm, params.PaymentMethodCreateParams),
    (forms.AttachForm, params.PaymentMethodAttachParams),
    (forms.MethodList, params.PaymentMethodListParams),
    (forms.SubscriptionForm, params.SubscriptionCreateParams),
    (forms.SubscriptionChange, params.SubscriptionUpdateParams),
    (forms.SubscriptionCancel, params.SubscriptionCancelParams),
    (forms.SubscriptionResume, params.SubscriptionResumeParams),
    (forms.SubscriptionList, params.SubscriptionListParams),
    (forms.ItemList, params.SubscriptionItemListParams),
    (forms.OneItemForm, params.SubscriptionItemCreateParams),
    (forms.OneItemChange, params.SubscriptionItemUpdateParams),
    (forms.OneItemDelete, params.SubscriptionItemDeleteParams),
    (forms.ScheduleForm, params.SubscriptionScheduleCreateParams),
    (forms.ScheduleChange, params.SubscriptionScheduleUpdateParams),
    (forms.ScheduleList, params.SubscriptionScheduleListParams),
    (payment_forms.InvoiceForm, params.InvoiceCreateParams),
    (payment_forms.InvoiceChange, params.InvoiceUpdateParams),
    (payment_forms.InvoicePay, params.InvoicePayParams),
    (payment_forms.InvoiceFinalize, params.InvoiceFinalizeInvoiceParams),
    (payment_forms.AttachPayment, params.InvoiceAttachPaymentParams),
    (payment_forms.InvoiceList, params.InvoiceListParams),
    (payment_forms.PaymentList, params.InvoicePaymentListParams),
    (payment_forms.InvoiceItemForm, params.InvoiceItemCreateParams),
    (payment_forms.InvoiceItemList, params.InvoiceItemListParams),
    (payment_forms.IntentForm, params.PaymentIntentCreateParams),
    (payment_forms.IntentConfirm, params.PaymentIntentConfirmParams),
    (payment_forms.ChargeList, params.ChargeListParams),
    (payment_forms.RefundForm, params.RefundCreateParams),
    (payment_forms.RefundChange, params.RefundUpdateParams),
    (payment_forms.RefundList, params.RefundListParams),
    (payment_forms.CreditNoteForm, params.CreditNoteCreateParams),
    (payment_forms.CreditNoteList, params.CreditNoteListParams),
    (payment_forms.DisputeAnswer, params.DisputeUpdateParams),
    (payment_forms.CheckoutForm, checkout.SessionCreateParams),
    (payment_forms.CheckoutList, checkout.SessionListParams),
    (payment_forms.MeterForm, billing.MeterCreateParams),
    (payment_forms.MeterList, billing.MeterListParams),
    (payment_forms.MeterEventForm, billing.MeterEventCreateParams),
    (payment_forms.SummaryForm, billing.MeterListEventSummariesParams),
    (payment_forms.ClockForm, test_helpers.TestClockCreateParams),
    (payment_forms.ClockAdvance, test_helpers.TestClockAdvanceParams),
    (payment_forms.EventList, params.EventListParams),
    (payment_forms.EndpointForm, params.WebhookEndpointCreateParams),
    (payment_forms.EndpointChange, params.WebhookEndpointUpdateParams),
]


def hints(kind: Any) -> dict[str, Any]:
    # Options of a request are inherited, from a module that imports this one for its types alone.
    return typing.get_type_hints(kind, {"StripeContext": Any, "Mapping": Mapping, **vars(sys.modules[kind.__module__])})


def members(hint: Any) -> Iterator[Any]:
    """The kinds that a type is made of: of a union, a list, or what may be left out."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType, list, typing.Annotated) or "NotRequired" in str(
        typing.get_origin(hint)
    ):
        for inner in typing.get_args(hint):
            yield from members(inner)
    else:
        yield hint


def choices(hint: Any) -> set[Any]:
    return {
        value for one in members(hint) if typing.get_origin(one) is typing.Literal for value in typing.get_args(one)
    }


def beyond(form: type[BaseModel], known: Any, place: str = "") -> Iterator[str]:
    """What a form takes that the SDK does not send."""
    theirs = hints(known)
    for name, field in form.model_fields.items():
        if name not in theirs:
            yield f"{place}{name}"
            continue
        wanted, offered = choices(field.annotation), choices(theirs[name])
        if offered and (unknown := wanted - offered - {""}):
            yield f"{place}{name}: {sorted(unknown)}"
        inner = [one for one in members(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
        of_theirs = [one for one in members(theirs[name]) if typing.is_typeddict(one)]
        for one in inner:
            if of_theirs:
                yield from beyond(one, of_theirs[0], f"{place}{name}.")


@pytest.mark.parametrize(("form", "known"), PAIRS, ids=lambda one: one.__name__)
def test_a_form_takes_nothing_that_the_sdk_cannot_send(form: type[BaseModel], known: Any) -> None:
    assert list(beyond(form, known)) == []


def test_the_comparison_finds_what_is_beyond() -> None:
    class Odd(fields.Form):
        emial: str = ""
        collection_method: typing.Literal["charge_automatically", "by_pigeon"] = "by_pigeon"

    assert list(beyond(Odd, params.SubscriptionCreateParams)) == ["emial", "collection_method: ['by_pigeon']"]


@pytest.mark.parametrize("module", [forms, payment_forms])
def test_every_request_is_compared(module: Any) -> None:
    compared = {form for form, _ in PAIRS} | {payment_forms.ByCustomer}
    requests = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, fields.Plain)]
    assert [one.__name__ for one in requests if one.__module__ == module.__name__ and one not in compared] == []


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ([("a", "1"), ("b[c]", "2")], {"a": "1", "b": {"c": "2"}}),
        ([("items[0][price]", "p"), ("items[1][price]", "q")], {"items": [{"price": "p"}, {"price": "q"}]}),
        ([("types[]", "a"), ("types[]", "b")], {"types": ["a", "b"]}),
        ([("metadata[tenant_id]", "")], {"metadata": {"tenant_id": ""}}),
    ],
)
def test_forms_are_read_as_stripe_encodes_them(pairs: list[tuple[str, str]], found: Any) -> None:
    assert wire.unflatten(pairs) == found


@pytest.mark.parametrize("pairs", [[("[a]", "1")], [("a", "1"), ("a[b]", "2")]])
def test_forms_that_contradict_themselves_are_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(wire.StripeRefusal):
        wire.unflatten(pairs)
