"""What forms of budgets and plans have in common: dollars, percent and plain lists, in place of what is kept."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminDecimalFieldWidget

from governance.console.amounts import AmountField
from governance.console.percents import PercentField, PercentsField, PolicyField, RulesField
from governance.rules import money, policy


class PolicyForm(forms.ModelForm):  # type: ignore[type-arg]
    """A limit and what happens near it. Whoever writes the row takes the limit by `limit_nanos`."""

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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and "limit" in self.fields:
            amount = money.dollars_from_nanos(self.instance.limit_nanos).normalize()
            self.fields["limit"].initial = f"{amount:f}"

    def limit_nanos(self) -> int:
        """The limit that was typed. Raises AmountError."""
        return money.nanos_from_dollars(self.cleaned_data["limit"], most=money.MAX_LIMIT_NANOS)
