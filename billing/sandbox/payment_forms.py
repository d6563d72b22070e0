"""What requests about invoices, payments, checkouts, meters, clocks and webhooks may carry (see `forms`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from billing.sandbox.fields import (
    Count,
    Currency,
    Exact,
    Flag,
    Form,
    Listed,
    ListedByTime,
    Metadata,
    Moment,
    Plain,
    Quantity,
    TrialDays,
    Whole,
)
from billing.sandbox.forms import DiscountForm, ProductData, RecurringForm, StripePriceForm

# Invoices and payments


class InvoiceForm(Plain):
    customer: str
    auto_advance: Flag = False
    collection_method: Literal["charge_automatically", "send_invoice"] = "charge_automatically"
    currency: Currency | Literal[""] = ""
    days_until_due: Count | None = None
    description: str = ""
    discounts: list[DiscountForm] | Literal[""] = []
    metadata: Metadata = None
    pending_invoice_items_behavior: Literal["exclude", "include"] = "exclude"
    subscription: str = ""


class InvoiceChange(Plain):
    auto_advance: Flag = False
    default_payment_method: str = ""
    description: str = ""
    metadata: Metadata = None


class InvoicePay(Plain):
    off_session: Flag = False
    paid_out_of_band: Flag = False
    payment_method: str = ""


class InvoiceFinalize(Plain):
    auto_advance: Flag | None = None


class AttachPayment(Plain):
    payment_intent: str


class InvoiceList(ListedByTime):
    collection_method: Literal["charge_automatically", "send_invoice"] | None = None
    customer: str = ""
    status: Literal["draft", "open", "paid", "uncollectible", "void"] | None = None
    subscription: str = ""


class PaymentList(Listed):
    invoice: str = ""
    status: Literal["open", "paid", "canceled"] | None = None


class PeriodForm(Form):
    start: Moment
    end: Moment


class ItemPricing(Form):
    price: str


class InvoiceItemForm(Plain):
    customer: str
    amount: Whole | None = None
    currency: Currency | Literal[""] = ""
    description: str = ""
    invoice: str = ""
    metadata: Metadata = None
    period: PeriodForm | None = None
    pricing: ItemPricing | None = None
    quantity: Quantity | None = None
    subscription: str = ""


class InvoiceItemList(ListedByTime):
    customer: str = ""
    invoice: str = ""
    pending: Flag | None = None


class IntentForm(Plain):
    amount: Whole
    currency: Currency
    confirm: Flag = False
    customer: str = ""
    description: str = ""
    metadata: Metadata = None
    off_session: Flag = False
    payment_method: str = ""


class IntentConfirm(Plain):
    off_session: Flag = False
    payment_method: str = ""


class ByCustomer(ListedByTime):
    customer: str = ""


class ChargeList(ByCustomer):
    payment_intent: str = ""


class RefundForm(Plain):
    amount: Whole | None = None
    charge: str = ""
    metadata: Metadata = None
    payment_intent: str = ""
    reason: Literal["duplicate", "fraudulent", "requested_by_customer"] | None = None


class RefundChange(Plain):
    metadata: Metadata = None


class RefundList(ListedByTime):
    charge: str = ""
    payment_intent: str = ""


class NoteLineForm(Form):
    type: Literal["custom_line_item", "invoice_line_item"]
    amount: Count | None = None
    description: str = ""
    invoice_line_item: str = ""
    quantity: Quantity | None = None
    unit_amount: Count | None = None


class NoteRefundForm(Form):
    refund: str


class CreditNoteForm(Plain):
    invoice: str
    amount: Whole | None = None
    credit_amount: Count | None = None
    lines: list[NoteLineForm] = []
    memo: str = ""
    metadata: Metadata = None
    out_of_band_amount: Count | None = None
    reason: Literal["duplicate", "fraudulent", "order_change", "product_unsatisfactory"] | None = None
    refund_amount: Count | None = None
    refunds: Annotated[list[NoteRefundForm], Field(max_length=1)] = []

    @property
    def refund(self) -> str:
        return self.refunds[0].refund if self.refunds else ""


class CreditNoteList(ListedByTime):
    customer: str = ""
    invoice: str = ""


class EvidenceForm(Form):
    uncategorized_text: str | None = None


class DisputeAnswer(Plain):
    evidence: EvidenceForm | None = None
    submit: Flag | None = None


# Checkout


class LinePriceData(Form):
    """A price that is made for one checkout; the rest of a price's form is left at what it is by default."""

    currency: Currency
    product: str = ""
    product_data: ProductData | None = None
    recurring: RecurringForm | None = None
    unit_amount: Count | None = None
    unit_amount_decimal: Exact | None = None

    def __getattr__(self, name: str) -> Any:
        fields = StripePriceForm.model_fields
        if name in fields:
            return fields[name].default
        raise AttributeError(name)


class LineForm(Form):
    price: str = ""
    price_data: LinePriceData | None = None
    quantity: Quantity | None = None


class SubscriptionDataForm(Form):
    description: str = ""
    metadata: Metadata = None
    trial_period_days: TrialDays | None = None


class IntentDataForm(Form):
    description: str = ""
    metadata: Metadata = None


class InvoiceDataForm(Form):
    description: str = ""
    metadata: Metadata = None


class InvoiceCreationForm(Form):
    enabled: Flag
    invoice_data: InvoiceDataForm | None = None


class CheckoutForm(Plain):
    mode: Literal["payment", "subscription"]
    line_items: Annotated[list[LineForm], Field(min_length=1)]
    cancel_url: str = ""
    client_reference_id: str = ""
    customer: str = ""
    customer_creation: Literal["always", "if_required"] | None = None
    customer_email: str = ""
    expires_at: Moment | None = None
    invoice_creation: InvoiceCreationForm | None = None
    metadata: Metadata = None
    payment_intent_data: IntentDataForm | None = None
    subscription_data: SubscriptionDataForm | None = None
    success_url: str = ""


class CheckoutList(ListedByTime):
    customer: str = ""
    payment_intent: str = ""
    status: Literal["complete", "expired", "open"] | None = None
    subscription: str = ""


# Meters


class FormulaForm(Form):
    formula: Literal["sum", "count", "last"]


class MappingForm(Form):
    event_payload_key: str
    type: Literal["by_id"]


class ValueForm(Form):
    event_payload_key: str


class MeterForm(Plain):
    default_aggregation: FormulaForm
    display_name: str
    event_name: str
    customer_mapping: MappingForm | None = None
    value_settings: ValueForm | None = None


class MeterList(Listed):
    status: Literal["active", "inactive"] | None = None


class MeterEventForm(Plain):
    event_name: str
    payload: dict[str, str]
    identifier: Annotated[str, Field(max_length=100)] = ""
    timestamp: Moment | None = None


class SummaryForm(Listed):
    customer: str
    start_time: Moment
    end_time: Moment
    value_grouping_window: Literal["day", "hour"] | None = None


# Clocks, events and their endpoints


class ClockForm(Plain):
    frozen_time: Moment
    name: str = ""


class ClockAdvance(Plain):
    frozen_time: Moment


class EventList(ListedByTime):
    delivery_success: Flag | None = None
    type: str = ""
    types: list[str] = []


class EndpointForm(Plain):
    url: str
    enabled_events: Annotated[list[str], Field(min_length=1)]
    api_version: str | None = None
    description: str = ""
    metadata: Metadata = None


class EndpointChange(Plain):
    description: str = ""
    disabled: Flag = False
    enabled_events: list[str] = []
    metadata: Metadata = None
    url: str = ""
