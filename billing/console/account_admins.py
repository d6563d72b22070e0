"""Plans and customers in the console: what operators set, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminDecimalFieldWidget

from billing.accounts import binding, sync
from billing.models import BillingAccount, BillingPeriod, Plan, TopUp
from billing.queries import plans
from billing.stripe_api import client
from governance.console.amounts import AmountField
from governance.console.base import ConsoleAdmin, ReadOnlyAdmin, actor
from governance.rules import money


def dollars(nanos: int | None) -> str:
    return "-" if nanos is None else f"${money.format_dollars(nanos)}"


class DollarsField(AmountField):
    """Dollars in the form, nanodollars in the row: those of a limit."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("widget", UnfoldAdminDecimalFieldWidget)
        most = int(money.dollars_from_nanos(money.MAX_LIMIT_NANOS))
        super().__init__(max_digits=16, decimal_places=6, max_value=most, **kwargs)


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]
    limit_override = DollarsField(
        required=False, min_value=0, help_text="In dollars; in place of the plan's limit. Empty: the plan's."
    )

    class Meta:
        model = BillingAccount
        fields = ("stripe_customer_id", "tenant")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        nanos = self.instance.limit_override_nanos
        if nanos is not None and "limit_override" in self.fields:
            self.fields["limit_override"].initial = money.dollars_from_nanos(nanos)

    def clean_limit_override(self) -> int | None:
        amount = self.cleaned_data["limit_override"]
        if amount == 0:
            raise ValidationError("Must be more than 0 dollars.")
        return None if amount is None else money.nanos_from_dollars(amount)


class OnPlan(admin.SimpleListFilter):
    """Customers who have a plan, alone or among others."""

    title, parameter_name = "plan", "on_plan"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(plan.name, plan.name) for plan in Plan.objects.all()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[BillingAccount]) -> QuerySet[BillingAccount]:
        plan = Plan.objects.filter(name=self.value()).first() if self.value() else None
        return queryset.filter(plans.on(plan)) if plan else queryset


class BillingAccountAdmin(ConsoleAdmin):
    form = AccountForm
    list_display = ("stripe_customer_id", "tenant", "status", "plan", "limit", "period_start", "period_end", "why")
    list_filter = ("state", OnPlan, ("tenant", admin.EmptyFieldListFilter))
    list_select_related = ("tenant",)
    search_fields = ("stripe_customer_id", "tenant__slug", "claimed_tenant")
    readonly_fields = (
        "state",
        "plan",
        "limit",
        "period_start",
        "period_end",
        "why",
        "claimed_tenant",
        "claim_source",
        "fetched_at",
    )
    fields = ("stripe_customer_id", "tenant", "limit_override", *readonly_fields)
    actions = ("accept_claim", "dismiss_claim", "sync_now")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return (*self.readonly_fields, "stripe_customer_id") if obj else self.readonly_fields

    @display(
        description="State",
        label={
            "active": "success",
            "trial": "info",
            "provisional": "warning",
            "free": "info",
            "frozen": "danger",
            "lapsed": "warning",
            "suspended": "danger",
            "closed": "danger",
        },
    )
    def status(self, account: BillingAccount) -> str:
        return account.state

    @display(description="Limit")
    def limit(self, account: BillingAccount) -> str:
        return dollars(account.limit_nanos)

    @display(description="Reasons")
    def why(self, account: BillingAccount) -> str:
        return ", ".join(account.reasons) or "-"

    @action(description="Bind to the tenant that is claimed", permissions=["operate"])
    def accept_claim(self, request: HttpRequest, queryset: QuerySet[BillingAccount]) -> None:
        self._decide(request, queryset, binding.accept)

    @action(description="Dismiss the claim to a tenant", permissions=["operate"])
    def dismiss_claim(self, request: HttpRequest, queryset: QuerySet[BillingAccount]) -> None:
        self._decide(request, queryset, binding.dismiss)

    def _decide(self, request: HttpRequest, queryset: QuerySet[BillingAccount], act: Callable[..., None]) -> None:
        for account in queryset:
            try:
                act(account=account, by=actor(request), now=timezone.now())
            except binding.BindingError as error:
                self.message_user(request, str(error), messages.ERROR)
            else:
                self._sync(request, account)

    @action(description="Read again from Stripe and apply", permissions=["operate"])
    def sync_now(self, request: HttpRequest, queryset: QuerySet[BillingAccount]) -> None:
        for account in queryset:
            self._sync(request, account)

    def save_model(self, request: HttpRequest, obj: BillingAccount, form: AccountForm, change: bool) -> None:
        now, by = timezone.now(), actor(request)
        account = binding.of_customer(obj.stripe_customer_id)
        obj.pk = account.pk
        if "tenant" in form.changed_data:
            try:
                binding.bind(account=account, tenant=form.cleaned_data["tenant"], by=by, now=now)
            except binding.BindingError as error:
                self.message_user(request, str(error), messages.ERROR)
                return
        wanted = form.cleaned_data["limit_override"]
        if wanted != account.limit_override_nanos:
            sync.override(account=account, limit_nanos=wanted, by=by, now=now)
        self._sync(request, account)

    def _sync(self, request: HttpRequest, account: BillingAccount) -> None:
        try:
            sync.customer(account.stripe_customer_id, now=timezone.now())
        except client.StripeError as error:
            self.message_user(request, f"{account}: {error}", messages.ERROR)


class TopUpAdmin(ReadOnlyAdmin):
    """Budget bought in addition."""

    list_display = ("key", "account", "tenant", "amount", "refunded", "noted_at", "counts_from")
    list_filter = (("counts_from", admin.EmptyFieldListFilter),)
    list_select_related = ("account", "tenant")
    search_fields = ("key", "invoice_id", "tenant__slug", "named_tenant", "account__stripe_customer_id")

    @display(description="Amount", ordering="amount_nanos")
    def amount(self, topup: TopUp) -> str:
        return dollars(topup.amount_nanos)

    @display(description="Refunded", ordering="refunded_nanos")
    def refunded(self, topup: TopUp) -> str:
        return dollars(topup.refunded_nanos)


class BillingPeriodAdmin(ReadOnlyAdmin):
    """The windows that Stripe opened, and whose periods they are made of."""

    list_display = ("tenant", "account", "starts_at", "ends_at", "given")
    list_select_related = ("account", "tenant")
    search_fields = ("tenant__slug", "account__stripe_customer_id")

    @display(description="Given", ordering="given_nanos")
    def given(self, period: BillingPeriod) -> str:
        return dollars(period.given_nanos)
