"""Plans and customers in the console: what operators set, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminDecimalFieldWidget

from billing.accounts import binding, sync
from billing.console import account_page, unbound_page
from billing.models import BillingAccount, BillingPeriod, Plan, TopUp
from billing.queries import plans, proposals
from billing.stripe_api import client
from governance.audit import DoneBefore
from governance.console import confirm, presses
from governance.console.amounts import AmountField
from governance.console.base import ConsoleAdmin, ReadOnlyAdmin, actor
from governance.models import Tenant
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
        label="Limit in dollars", required=False, min_value=0, help_text="In place of the plan's. Empty: the plan's."
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


class AccountList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.rows = [account_page.row(account) for account in self.result_list]


class BillingAccountAdmin(ConsoleAdmin):
    form = AccountForm
    add_form_template = "admin/change_form.html"
    change_form_template = "console/account.html"
    change_list_template = "console/accounts.html"
    list_display = ("stripe_customer_id",)
    list_filter = ("state", OnPlan, ("tenant", admin.EmptyFieldListFilter))
    list_select_related = ("tenant",)
    list_filter_sheet = True
    search_fields = ("stripe_customer_id", "tenant__slug", "claimed_tenant")
    search_help_text = "The id of a Stripe customer, or the name of one of yours."
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
    actions_detail = ("accept_one", "dismiss_one", "sync_one")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return (*self.readonly_fields, "stripe_customer_id") if obj else self.readonly_fields

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[AccountList]:
        return AccountList

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        more = {"may_read": self.has_operate_permission(request)}
        return super().changelist_view(request, {**more, **(extra_context or {})})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        def read() -> dict[str, Any]:
            # Only where the page is shown: what was saved leads to another request.
            return account_page.context(request, self.row(request, object_id), timezone.now())

        return super().change_view(request, object_id, form_url, {"read": read, **(extra_context or {})})

    @display(description="Limit")
    def limit(self, account: BillingAccount) -> str:
        return dollars(account.limit_nanos)

    @display(description="Reasons")
    def why(self, account: BillingAccount) -> str:
        return ", ".join(account.reasons) or "-"

    @action(description="Bind to the tenant that is claimed", permissions=["operate"])
    def accept_claim(self, request: HttpRequest, queryset: QuerySet[BillingAccount]) -> HttpResponse | None:
        return self._decide(request, queryset, "accept_claim", "Bind", unbound_page.acceptance, binding.accept)

    @action(description="Dismiss the claim to a tenant", permissions=["operate"])
    def dismiss_claim(self, request: HttpRequest, queryset: QuerySet[BillingAccount]) -> HttpResponse | None:
        return self._decide(request, queryset, "dismiss_claim", "Refuse", unbound_page.refusal, binding.dismiss)

    def _decide(
        self,
        request: HttpRequest,
        queryset: QuerySet[BillingAccount],
        action: str,
        verb: str,
        words: Callable[[BillingAccount], str],
        act: Callable[..., None],
    ) -> HttpResponse | None:
        """For each that is selected, once its page was read that says `words` of each."""
        accounts = list(queryset)
        if asked := confirm.page(
            request,
            model_admin=self,
            title=f"{verb} {'1 customer' if len(accounts) == 1 else f'{len(accounts)} customers'}",
            verb=verb,
            explanation="\n".join(map(words, accounts)),
            back=request.get_full_path(),
            rows=accounts,
            action=action,
        ):
            return asked
        for account in accounts:
            try:
                with presses.once(request, part=str(account.pk)):
                    act(account=account, by=actor(request), now=timezone.now())
            except DoneBefore:
                self.message_user(request, f"{account}: {presses.DONE_ALREADY}")
            except binding.BindingError as error:
                self.message_user(request, str(error), messages.ERROR)
            else:
                self._sync(request, account)
        return None

    @action(description="Read again from Stripe and apply", permissions=["operate"])
    def sync_now(self, request: HttpRequest, queryset: QuerySet[BillingAccount]) -> None:
        for account in queryset:
            self._sync(request, account)

    @action(description="Bind", url_path="accept", permissions=["operate"], icon="link")
    def accept_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """To the tenant that `tenant` in the address names, else to the one that is proposed."""
        account = self.row(request, object_id)
        (proposal,) = proposals.of([account])
        slug = request.GET.get("tenant", "").strip()[:200]
        chosen = Tenant.objects.filter(slug=slug).first() if slug and "\0" not in slug else None
        tenant = chosen if slug else proposal.tenant or account.tenant
        if tenant is None:
            words = f"There is no customer {slug!r}" if slug else f"{account} names nobody: choose whom it pays for"
            self.message_user(request, f"{words}.", messages.ERROR if slug else messages.WARNING)
            return redirect(self._page(account))
        title, explanation = f"{account} pays for {tenant}", unbound_page.consequence(account, tenant)
        back = reverse("admin:unbound")
        if asked := confirm.page(
            request, model_admin=self, title=title, verb="Bind", explanation=explanation, back=back
        ):
            return asked
        return self._decided(request, account, partial(binding.bind, tenant=tenant))

    @action(description="Refuse what is claimed", url_path="dismiss", permissions=["operate"], icon="link_off")
    def dismiss_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        account = self.row(request, object_id)
        if asked := confirm.page(
            request,
            model_admin=self,
            title="Refuse a claim",
            verb="Refuse",
            explanation=unbound_page.refusal(account),
            back=reverse("admin:unbound"),
        ):
            return asked
        return self._decided(request, account, binding.dismiss)

    @action(description="Read from Stripe", url_path="read", permissions=["operate"], icon="sync")
    def sync_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        account = self.row(request, object_id)
        explanation = "What Stripe says of its subscriptions and payments now is read, and its budget follows."
        if asked := confirm.page(
            request,
            model_admin=self,
            title=f"Read {account} anew",
            verb="Read",
            explanation=explanation,
            back=self._page(account),
        ):
            return asked
        self._sync(request, account)
        return redirect(self._page(account))

    def _decided(self, request: HttpRequest, account: BillingAccount, act: Callable[..., None]) -> HttpResponse:
        try:
            act(account=account, by=actor(request), now=timezone.now())
        except binding.BindingError as error:
            self.message_user(request, str(error), messages.ERROR)
            return redirect(self._page(account))
        self._sync(request, account)
        account.refresh_from_db()
        whom = f"pays for {account.tenant}" if account.tenant else "pays for nobody"
        self.message_user(request, f"{account} {whom}.")
        return redirect("admin:unbound")

    def _page(self, account: BillingAccount) -> str:
        return reverse("admin:billing_billingaccount_change", args=[account.pk])

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
        # Stripe is not waited for while the page's transaction is open.
        transaction.on_commit(partial(self._sync, request, account))

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
