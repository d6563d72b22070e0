"""A budget's form in the console, which writes through actions.budgets alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from governance.actions import budgets
from governance.audit import Actor
from governance.console.policy_forms import PolicyForm
from governance.models import Budget
from governance.rules import money, policy
from governance.rules.errors import Conflict, FieldError
from governance.rules.policy import Policy


class BudgetForm(PolicyForm):
    """What `actions.budgets` says is wrong is shown at its field."""

    class Meta:
        model = Budget
        fields = ["tenant", "scope_type", "scope_key", "window", *policy.COLUMNS, "carry_over", "enabled"]

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
            # What the form does not change may be changed by somebody at this moment.
            changes = {name: value for name, value in values.items() if value != getattr(self.instance, name)}
            return budgets.change(budget=self.instance, changes=changes, by=by, now=now)
        return budgets.create(**values, by=by, now=now)

    def _values(self) -> dict[str, Any]:
        values = dict(self.cleaned_data)
        try:
            values["limit_nanos"] = self.limit_nanos()
        except money.AmountError as error:
            raise FieldError("limit", str(error)) from error
        del values["limit"]
        return values
