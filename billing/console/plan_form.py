"""A plan's form in the console: what a budget's has, and what its customers get when."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from billing.accounts import plans, policy
from billing.models import Plan
from governance.console.policy_forms import PolicyForm
from governance.rules import money
from governance.rules.errors import FieldError

# Of these an empty field means what the settings say, which stands beside it.
SHARES = {
    "trial_percent": "While a trial runs, %",
    "provisional_percent": "While payment is on its way, %",
    "credit_percent": "While a period is paid for later, %",
}
AS_EVERYWHERE = "as everywhere"


class NamesField(forms.CharField):
    """Names, with commas between them; the list that they are."""

    widget = UnfoldAdminTextInputWidget

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return list(dict.fromkeys(name for part in (value or "").split(",") if (name := part.strip())))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((self.prepare_value(initial) or "") != (data or ""))


class PlanForm(PolicyForm):
    """What `accounts.plans` says is wrong is shown at its field."""

    lookup_keys = NamesField(
        required=False, label="Lookup keys", help_text="Of Stripe's prices, with commas. They stay as prices change."
    )
    price_ids = NamesField(required=False, label="Price ids", help_text="Such as price_1Qx…, before lookup keys.")
    product_ids = NamesField(
        required=False, label="Product ids", help_text="Such as prod_Qx…: all prices of a product, after the others."
    )

    class Meta:
        model = Plan
        fields = tuple(name for name in plans.PLANS.fields if name != "limit_nanos")
        labels = {
            **SHARES,
            "is_default": "The plan of prices that nothing is said of",
            "monthly": "For each month, also where a year is billed",
            "per_unit": "Once for each unit of quantity",
            "grace_days": "Days until an unpaid period stops the customer",
            "upgrade": "A rise in mid-period counts",
            "upgrade_times": "At most so many times what was paid",
            "downgrade": "A fall that is not credited yet counts",
            "pause": "Paused collection counts as",
            "clamp": "Lower max_tokens to what the money covers",
            "clamp_min_tokens": "Not below tokens",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "limit" in self.fields:
            self.fields["limit"].help_text = "What it gives, once for each period."
        usual = policy.current()
        said = {name: str(getattr(usual, name)) for name in (*SHARES, "grace_days", "upgrade_times")}
        for name, value in said.items():
            if name in self.fields:
                self.fields[name].widget = UnfoldAdminTextInputWidget(
                    attrs={"inputmode": "numeric", "placeholder": f"{value}, {AS_EVERYWHERE}"}
                )
                self.fields[name].help_text = ""
        for name, choices in plans.CHOICES.items():
            if name in self.fields:
                usually: str = choices(getattr(usual, name)).label
                field = cast(forms.ChoiceField, self.fields[name])
                field.widget = UnfoldAdminSelectWidget()
                field.choices = [("", f"{AS_EVERYWHERE.capitalize()}: {usually}"), *choices.choices]
                field.help_text = ""
        for name in ("is_default", "monthly", "per_unit", "clamp", "clamp_min_tokens"):
            if name in self.fields:
                self.fields[name].help_text = ""

    def clean(self) -> dict[str, Any]:
        found = super().clean() or {}
        for name in plans.MATCHERS:
            # A name may have a comma in it: what nobody touched stays as it is.
            if name in self.fields and name not in self.changed_data:
                found[name] = list(getattr(self.instance, name))
        if "limit" in found:
            try:
                self.instance.limit_nanos = self.limit_nanos()
            except money.AmountError as error:
                self.add_error("limit", str(error))
        return found

    def _post_clean(self) -> None:
        """The domain's rules say which field is wrong."""
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            plans.validate(self.instance)
        except FieldError as error:
            self.add_error(error.field if error.field in self.fields else None, error.message)
