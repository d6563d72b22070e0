"""Rate limits in the console: the form in dollars, which writes through governance.actions.rate_limits alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from django import forms
from unfold.widgets import UnfoldAdminDecimalFieldWidget

from governance.actions import rate_limits
from governance.audit import Actor
from governance.console.amounts import AmountField
from governance.models import RateLimit
from governance.rules import money
from governance.rules.errors import Conflict, FieldError


class RateLimitForm(forms.ModelForm):  # type: ignore[type-arg]
    """What `governance.actions.rate_limits` says is wrong is shown at its field."""

    dollars_per_minute = AmountField(
        required=False,
        decimal_places=9,
        widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any", "min": "0"}),
        help_text="The worst case of a call counts when it is made, its true cost when it is answered.",
    )

    class Meta:
        model = RateLimit
        fields = ["tenant", "scope_type", "scope_key", "requests_per_minute", "tokens_per_minute", "enabled"]
        help_texts = {
            "tenant": "Empty: the platform, or each tenant's scopes separately.",
            "scope_key": "The agent, key prefix, user, … it governs; * for each one separately.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        nanos = self.instance.nanos_per_minute
        if nanos is not None and "dollars_per_minute" in self.fields:
            self.fields["dollars_per_minute"].initial = f"{money.dollars_from_nanos(nanos).normalize():f}"

    def _post_clean(self) -> None:
        """Say at its field what the domain would refuse. Nothing is written yet."""
        if self.errors:
            return
        try:
            rate_limits.check(limit=self.instance if self.instance.pk else None, **self._values())
        except Conflict as error:
            self.add_error(None, f"There is a rate limit for {error.existing} already: change that one.")
        except FieldError as error:
            self.add_error(error.field if error.field in self.fields else None, error.message)

    def save(self, commit: bool = True) -> RateLimit:
        """Nothing: the page writes with `write`, which knows who and when."""
        return cast(RateLimit, self.instance)

    save_m2m = staticmethod(lambda: None)

    def write(self, *, by: Actor, now: datetime) -> RateLimit:
        values = self._values()
        if self.instance.pk:
            # What the form does not change may be changed by somebody at this moment.
            changes = {name: value for name, value in values.items() if value != getattr(self.instance, name)}
            return rate_limits.change(limit=self.instance, changes=changes, by=by, now=now)
        return rate_limits.create(**values, by=by, now=now)

    def _values(self) -> dict[str, Any]:
        values = dict(self.cleaned_data)
        dollars = values.pop("dollars_per_minute")
        try:
            values["nanos_per_minute"] = (
                None if dollars is None else money.nanos_from_dollars(dollars, most=money.MAX_LIMIT_NANOS)
            )
        except money.AmountError as error:
            raise FieldError("dollars_per_minute", str(error)) from error
        return values
