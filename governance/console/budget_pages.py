"""A budget's form in the console, which writes through actions.budgets alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from django import forms
from unfold.widgets import UnfoldAdminDecimalFieldWidget

from governance.actions import budgets
from governance.audit import Actor
from governance.console.amounts import AmountField
from governance.console.percents import PercentField, PercentsField, PolicyField, RulesField
from governance.models import Budget
from governance.rules import money, policy
from governance.rules.errors import Conflict, FieldError
from governance.rules.policy import Policy


class BudgetForm(forms.ModelForm):  # type: ignore[type-arg]
    """Dollars, percent and plain lists in; what `actions.budgets` says is wrong is shown at its field."""

    limit = AmountField(
        label="Limit in dollars",
        decimal_places=9,
        widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any", "min": "0"}),
        help_text="For one window.",
    )
    soft_cap = PercentField(
        label="Soft cap, %",
        required=False,
        initial=policy.default("soft_cap"),
        help_text="Calls are warned, downgraded and lose tools.",
    )
    hard_cap = PercentField(label="Hard cap, %", initial=policy.default("hard_cap"), help_text="No call passes it.")
    warn_at = PercentField(label="Warn at, %", required=False, help_text="Below the soft cap.")
    alert_thresholds = PercentsField(
        "alert_thresholds",
        label="Alert thresholds, %",
        help_text="Of the limit, separated by commas; each is told once a window. Empty: none is.",
    )
    downgrade_rules = RulesField(
        "downgrade_rules",
        help_text="A rule counts from its percentage of the limit on, without one from the soft cap on. The first that "
        "matches a call is followed, so the highest comes first; a further one only where its model does not fit or "
        "cannot do it. To take a rule away, empty it.",
    )
    disabled_tools = PolicyField(
        "disabled_tools", help_text="Names of tools taken away from the soft cap on, separated by commas."
    )

    class Meta:
        model = Budget
        fields = ["tenant", "scope_type", "scope_key", "window", *policy.COLUMNS, "enabled"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and "limit" in self.fields:
            amount = money.dollars_from_nanos(self.instance.limit_nanos).normalize()
            self.fields["limit"].initial = f"{amount:f}"

    def _post_clean(self) -> None:
        """Say at its field what the domain would refuse. Nothing is written yet."""
        if self.errors:
            return
        try:
            budgets.check(budget=self.instance if self.instance.pk else None, **self._values())
        except Conflict as error:
            self.add_error(None, f"There is a budget {error.existing} already: change that one.")
        except FieldError as error:
            field = "limit" if error.field == "limit_nanos" else error.field
            self.add_error(field if field in self.fields else None, error.message)

    def save(self, commit: bool = True) -> Budget:
        """Nothing: the page writes with `write`, which knows who and when."""
        return cast(Budget, self.instance)

    save_m2m = staticmethod(lambda: None)

    def typed(self) -> tuple[Policy, int]:
        """The policy that the form says and its limit in nanodollars. Of a valid form alone."""
        values = self._values()
        kept = {name: policy.parse(name, values.get(name, getattr(self.instance, name))) for name in policy.COLUMNS}
        return policy.of(kept), values["limit_nanos"]

    def write(self, *, by: Actor, now: datetime) -> Budget:
        values = self._values()
        if self.instance.pk:
            return budgets.change(budget=self.instance, changes=values, by=by, now=now)
        return budgets.create(**values, by=by, now=now)

    def _values(self) -> dict[str, Any]:
        values = dict(self.cleaned_data)
        try:
            values["limit_nanos"] = money.nanos_from_dollars(values.pop("limit"))
        except money.AmountError as error:
            raise FieldError("limit", str(error)) from error
        return values
