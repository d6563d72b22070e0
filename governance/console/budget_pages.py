"""Budgets in the console: the list with its bars, and the form, which writes through actions.budgets alone."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from django import forms
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from unfold.views import ChangeList
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from governance.actions import budgets
from governance.audit import Actor
from governance.models import Budget
from governance.queries import budget_status
from governance.rules import money

ARROW = re.compile(r"\s*(?:->|→)\s*")


class BudgetList(ChangeList):
    """Adds each listed budget's current window, in one query for the page."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows: list[Any] = list(self.result_list)  # type: ignore[has-type]
        found = budget_status.current(rows, now=timezone.now())
        for budget in rows:
            budget.status = found[budget.pk]
        self.result_list = rows


class NamesField(forms.CharField):
    """Names separated by commas."""

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value) or ""
        return [name for part in re.split(r"[,\n]", text) if (name := part.strip())]


class RulesField(forms.CharField):
    """One downgrade rule a line: `mistral-medium-latest, mistral-large-latest -> mistral-small-latest`."""

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return "\n".join(f"{', '.join(rule['from'])} -> {rule['to']}" for rule in value)

    def to_python(self, value: Any) -> Any:
        lines = [line.strip() for line in (super().to_python(value) or "").splitlines() if line.strip()]
        return [self._rule(line) for line in lines]

    @staticmethod
    def _rule(line: str) -> dict[str, Any]:
        parts = ARROW.split(line)
        sources = [name.strip() for name in parts[0].split(",") if name.strip()]
        if len(parts) != 2 or not sources or not parts[1]:
            raise ValidationError(f"{line!r} is not like: mistral-large-latest -> mistral-small-latest")
        return {"from": sources, "to": parts[1].strip()}


class BudgetForm(forms.ModelForm):  # type: ignore[type-arg]
    """Dollars and plain lists in; what `governance.actions.budgets` says is wrong is shown at its field."""

    limit = forms.DecimalField(
        label="Limit in dollars",
        decimal_places=9,
        widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any", "min": "0"}),
        help_text="For one window.",
    )
    alert_thresholds = NamesField(
        required=False,
        widget=UnfoldAdminTextInputWidget(),
        help_text="Shares of the limit, separated by commas; each is told once a window.",
    )
    downgrade_rules = RulesField(
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="From the soft cap on, one rule a line: mistral-large-latest -> mistral-small-latest. "
        "* stands for any model.",
    )
    disabled_tools = NamesField(
        required=False,
        widget=UnfoldAdminTextInputWidget(),
        help_text="Names of tools taken away from the soft cap on, separated by commas.",
    )

    class Meta:
        model = Budget
        fields = [
            "tenant",
            "scope_type",
            "scope_key",
            "window",
            "soft_cap",
            "hard_cap",
            "warn_at",
            "alert_thresholds",
            "downgrade_rules",
            "disabled_tools",
            "clamp",
            "clamp_min_tokens",
            "enabled",
        ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and "limit" in self.fields:
            amount = money.dollars_from_nanos(self.instance.limit_nanos).normalize()
            self.fields["limit"].initial = f"{amount:f}"
        for name in ("soft_cap", "hard_cap", "warn_at"):
            ratio = self.initial.get(name)
            if isinstance(ratio, Decimal):
                self.initial[name] = f"{ratio.normalize():f}"

    def _post_clean(self) -> None:
        """Try the act in a transaction that is rolled back: the form accepts exactly what the domain does."""
        if self.errors:
            return
        try:
            with transaction.atomic():
                self.write(by=Actor("form"), now=timezone.now())
                transaction.set_rollback(True)
        except budgets.BudgetError as error:
            field = "limit" if error.field == "limit_nanos" else error.field
            self.add_error(field if field in self.fields else None, error.message)
        except budgets.BudgetConflict as error:
            self.add_error(None, f"There is a budget {error.budget} already: change that one.")

    def save(self, commit: bool = True) -> Budget:
        """Nothing: the page writes with `write`, which knows who and when."""
        return cast(Budget, self.instance)

    save_m2m = staticmethod(lambda: None)

    def write(self, *, by: Actor, now: datetime) -> Budget:
        values = dict(self.cleaned_data)
        values["limit_nanos"] = _nanos(values.pop("limit"))
        if self.instance.pk:
            return budgets.change(budget=self.instance, changes=values, by=by, now=now)
        return budgets.create(**values, by=by, now=now)


def _nanos(dollars: Decimal) -> int:
    try:
        return money.nanos_from_dollars(dollars)
    except money.AmountError as error:
        raise budgets.BudgetError("limit", str(error)) from error
