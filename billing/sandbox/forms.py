"""What a request may carry: closed forms, so that a misspelt or unknown parameter is refused as Stripe refuses it.

The names and choices are those of the pinned SDK's own types, which tests hold them against; what Stripe knows beyond
them is not simulated, and is refused rather than ignored. Those about invoices, payments and the rest are in
`payment_forms`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from billing.sandbox.fields import (
    Count,
    Currency,
    Exact,
    Flag,
    Form,
    Incomplete,
    Interval,
    Listed,
    ListedByTime,
    ListedStatus,
    Metadata,
    Moment,
    Plain,
    Proration,
    Quantity,
    TrialDays,
    Whole,
)

# Catalogue


class ProductForm(Plain):
    name: str
    id: str = ""
    active: Flag = True
    description: str = ""
    metadata: Metadata = None
    unit_label: str = ""


class ProductData(Form):
    name: str
    id: str = ""
    active: Flag = True
    description: str = ""
    metadata: Metadata = None
    unit_label: str = ""


class ProductChange(Plain):
    name: str = ""
    active: Flag = True
    default_price: str = ""
    description: str = ""
    metadata: Metadata = None
    unit_label: str = ""


class ProductList(ListedByTime):
    active: Flag | None = None
    ids: list[str] = []


class RecurringForm(Form):
    interval: Interval
    interval_count: Annotated[Whole, Field(ge=1)] = 1
    meter: str | None = None
    usage_type: Literal["licensed", "metered"] = "licensed"


class TierForm(Form):
    up_to: Literal["inf"] | Annotated[str, Field(pattern=r"^\d+$")]
    unit_amount: Whole | None = None
    unit_amount_decimal: Exact | None = None
    flat_amount: Whole | None = None
    flat_amount_decimal: Exact | None = None


class PackageForm(Form):
    divide_by: Annotated[Whole, Field(ge=1)]
    round: Literal["up", "down"]


class CustomAmountForm(Form):
    enabled: Flag
    maximum: Count | None = None
    minimum: Count | None = None
    preset: Count | None = None


class StripePriceForm(Plain):
    currency: Currency
    product: str = ""
    product_data: ProductData | None = None
    active: Flag = True
    billing_scheme: Literal["per_unit", "tiered"] = "per_unit"
    custom_unit_amount: CustomAmountForm | None = None
    lookup_key: str = ""
    metadata: Metadata = None
    nickname: str = ""
    recurring: RecurringForm | None = None
    tax_behavior: Literal["unspecified", "exclusive", "inclusive"] = "unspecified"
    tiers: list[TierForm] = []
    tiers_mode: Literal["graduated", "volume"] | None = None
    transfer_lookup_key: Flag = False
    transform_quantity: PackageForm | None = None
    unit_amount: Count | None = None
    unit_amount_decimal: Exact | None = None


class PriceChange(Plain):
    active: Flag = True
    lookup_key: str = ""
    metadata: Metadata = None
    nickname: str = ""
    tax_behavior: Literal["unspecified", "exclusive", "inclusive"] = "unspecified"
    transfer_lookup_key: Flag = False


class PriceList(ListedByTime):
    active: Flag | None = None
    currency: Currency | None = None
    lookup_keys: list[str] = []
    product: str = ""
    type: Literal["one_time", "recurring"] | None = None


class CouponForm(Plain):
    id: str = ""
    amount_off: Whole | None = None
    currency: Currency | None = None
    duration: Literal["once", "repeating", "forever"] = "once"
    duration_in_months: Whole | None = None
    metadata: Metadata = None
    name: str = ""
    percent_off: Annotated[Exact, Field()] | None = None


class CouponChange(Plain):
    metadata: Metadata = None
    name: str = ""


class DiscountForm(Form):
    coupon: str


class FeatureForm(Plain):
    lookup_key: str
    name: str
    metadata: Metadata = None


class ProductFeatureForm(Plain):
    entitlement_feature: str


class EntitlementList(Listed):
    customer: str


# Customers


class InvoiceSettingsForm(Form):
    default_payment_method: str = ""


class CustomerForm(Plain):
    balance: Whole = 0
    description: str = ""
    email: str = ""
    invoice_settings: InvoiceSettingsForm | None = None
    metadata: Metadata = None
    name: str = ""
    payment_method: str = ""
    test_clock: str = ""


class CustomerChange(Plain):
    balance: Whole = 0
    description: str = ""
    email: str = ""
    invoice_settings: InvoiceSettingsForm | None = None
    metadata: Metadata = None
    name: str = ""


class CustomerList(ListedByTime):
    email: str = ""
    test_clock: str = ""


class BalanceForm(Plain):
    amount: Whole
    currency: Currency
    description: str = ""
    metadata: Metadata = None


class CardForm(Form):
    token: str


class MethodForm(Plain):
    type: Literal["card"]
    card: CardForm


class AttachForm(Plain):
    customer: str


class MethodList(Listed):
    customer: str = ""
    type: str = ""


# Subscriptions


class ItemPriceData(Form):
    """A recurring price that is made for one subscription: of a product that there is."""

    currency: Currency
    product: str
    recurring: RecurringForm
    unit_amount: Count | None = None
    unit_amount_decimal: Exact | None = None


class ItemForm(Form):
    price: str = ""
    price_data: ItemPriceData | None = None
    quantity: Quantity | None = None
    metadata: Metadata = None


class ItemChange(Form):
    id: str = ""
    price: str = ""
    price_data: ItemPriceData | None = None
    quantity: Quantity | None = None
    deleted: Flag = False
    metadata: Metadata = None


class ExtraItem(Form):
    price: str
    quantity: Quantity | None = None


class EndBehaviorForm(Form):
    missing_payment_method: Literal["cancel", "create_invoice", "pause"]


class TrialSettingsForm(Form):
    end_behavior: EndBehaviorForm


class BillingModeForm(Form):
    type: Literal["classic", "flexible"]


class PauseForm(Form):
    behavior: Literal["keep_as_draft", "mark_uncollectible", "void"]
    resumes_at: Moment | None = None


class AnchorForm(Form):
    type: Literal["now", "unchanged"]


class SubscriptionForm(Plain):
    customer: str
    items: Annotated[list[ItemForm], Field(min_length=1)]
    add_invoice_items: list[ExtraItem] = []
    backdate_start_date: Moment | None = None
    billing_cycle_anchor: Moment | None = None
    billing_mode: BillingModeForm | None = None
    cancel_at: Moment | None = None
    cancel_at_period_end: Flag = False
    collection_method: Literal["charge_automatically", "send_invoice"] = "charge_automatically"
    currency: Currency | Literal[""] = ""
    days_until_due: Count | None = None
    default_payment_method: str = ""
    description: str = ""
    discounts: list[DiscountForm] | Literal[""] = []
    metadata: Metadata = None
    off_session: Flag = False
    payment_behavior: Incomplete = "allow_incomplete"
    proration_behavior: Proration = "create_prorations"
    trial_end: Literal["now"] | Moment | None = None
    trial_period_days: TrialDays | None = None
    trial_settings: TrialSettingsForm | None = None


class SubscriptionChange(Plain):
    items: list[ItemChange] = []
    add_invoice_items: list[ExtraItem] = []
    billing_cycle_anchor: AnchorForm | None = None
    cancel_at: Literal["min_period_end", "max_period_end", ""] | Moment | None = None
    cancel_at_period_end: Flag = False
    collection_method: Literal["charge_automatically", "send_invoice"] = "charge_automatically"
    days_until_due: Count | None = None
    default_payment_method: str = ""
    description: str = ""
    discounts: list[DiscountForm] | Literal[""] = []
    metadata: Metadata = None
    off_session: Flag = False
    pause_collection: PauseForm | Literal[""] | None = None
    payment_behavior: Incomplete = "allow_incomplete"
    proration_behavior: Proration = "create_prorations"
    proration_date: Moment | None = None
    trial_end: Literal["now"] | Moment | None = None
    trial_settings: TrialSettingsForm | None = None


class SubscriptionCancel(Plain):
    invoice_now: Flag = False
    prorate: Flag = False


class SubscriptionResume(Plain):
    billing_cycle_anchor: Literal["now"] = "now"


class SubscriptionList(ListedByTime):
    customer: str = ""
    price: str = ""
    status: ListedStatus | None = None
    test_clock: str = ""


class ItemList(Listed):
    subscription: str


class OneItemChange(Plain):
    """A change of one item alone, made at once or not at all."""

    metadata: Metadata = None
    payment_behavior: Literal["allow_incomplete", "default_incomplete", "error_if_incomplete"] = "allow_incomplete"
    price: str = ""
    price_data: ItemPriceData | None = None
    proration_behavior: Proration = "create_prorations"
    proration_date: Moment | None = None
    quantity: Quantity | None = None


class OneItemForm(OneItemChange):
    subscription: str


class OneItemDelete(Form):
    payment_behavior: Literal["allow_incomplete", "default_incomplete", "error_if_incomplete"] = "allow_incomplete"
    proration_behavior: Proration = "create_prorations"
    proration_date: Moment | None = None


class ScheduleForm(Plain):
    from_subscription: str


class DurationForm(Form):
    interval: Interval
    interval_count: Annotated[Whole, Field(ge=1)] = 1


class PhaseItemForm(Form):
    price: str
    quantity: Quantity | None = None


class PhaseForm(Form):
    items: Annotated[list[PhaseItemForm], Field(min_length=1)]
    start_date: Moment | None = None
    end_date: Moment | None = None
    duration: DurationForm | None = None
    proration_behavior: Proration = "create_prorations"


class ScheduleChange(Plain):
    end_behavior: Literal["release", "cancel"] | None = None
    metadata: Metadata = None
    phases: list[PhaseForm] = []
    proration_behavior: Proration = "create_prorations"


class ScheduleList(ListedByTime):
    customer: str = ""
