"""Budgets in the console: the list with its bars, and the form, which writes through actions.budgets alone."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from django import forms
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils import timezone
from unfold.views import ChangeList
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from governance.actions import budgets
from governance.audit import Actor
from governance.console.amounts import AmountField
from governance.models import Budget
from governance.queries import budget_status
from governance.rules import money, policy
from governance.rules.errors import Conflict, FieldError


class BudgetList(ChangeList):
    """Adds each listed budget's current window, in one query for the page."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows: list[Any] = list(self.result_list)  # type: ignore[has-type]
        found = budget_status.current(rows, now=timezone.now())
        for budget in rows:
            budget.status = found[budget.pk]
        self.result_list = rows


class PolicyField(forms.CharField):
    """A field of a policy as people type it: names with commas, a rule a line (`governance.rules.policy`)."""

    def __init__(self, column: str, **kwargs: Any) -> None:
        super().__init__(required=False, **kwargs)
        self.column = column

    def prepare_value(self, value: Any) -> Any:
        return policy.to_text(self.column, value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        try:
            return policy.from_text(self.column, super().to_python(value) or "")
        except FieldError as error:
            raise ValidationError(error.message) from error


class BudgetForm(forms.ModelForm):  # type: ignore[type-arg]
    """Dollars and plain lists in; what `governance.actions.budgets` says is wrong is shown at its field."""

    limit = AmountField(
        label="Limit in dollars",
        decimal_places=9,
        widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any", "min": "0"}),
        help_text="For one window.",
    )
    alert_thresholds = PolicyField(
        "alert_thresholds",
        widget=UnfoldAdminTextInputWidget(),
        help_text="Shares of the limit, separated by commas; each is told once a window.",
    )
    downgrade_rules = PolicyField(
        "downgrade_rules",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="One rule a line: mistral-large-latest -> mistral-small-latest at 0.9. It counts from that share of "
        "the limit on, without one from the soft cap on; * stands for any model. The first that matches a call is "
        "followed, so the highest share comes first; a further one only where its model does not fit or cannot do it.",
    )
    disabled_tools = PolicyField(
        "disabled_tools",
        widget=UnfoldAdminTextInputWidget(),
        help_text="Names of tools taken away from the soft cap on, separated by commas.",
    )

    class Meta:
        model = Budget
        fields = ["tenant", "scope_type", "scope_key", "window", *policy.COLUMNS, "enabled"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and "limit" in self.fields:
            amount = money.dollars_from_nanos(self.instance.limit_nanos).normalize()
            self.fields["limit"].initial = f"{amount:f}"
        for name, value in self.initial.items():
            if isinstance(value, Decimal):
                self.initial[name] = policy.to_text(name, value)

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
