"""Shares of a limit as people type them in the console: in percent. `governance.rules.policy` keeps shares."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from governance import ports
from governance.console.amounts import AmountField
from governance.rules import money, policy
from governance.rules.errors import FieldError


def percent(share: Decimal | str | float) -> str:
    """A share in percent, without the sign: "80", "97.5"."""
    return f"{(Decimal(str(share)) * 100).normalize():f}"


def share(typed: str) -> Decimal:
    """The share that a percentage is, with its sign or without. Raises ValidationError."""
    try:
        number = money.decimal(typed.strip().removesuffix("%"))
    except money.AmountError:
        raise ValidationError(f'Type a percentage such as 80, not "{typed[:40]}".') from None
    if 0 < number < 1:
        raise ValidationError(f"Type percent: {percent(number)} for {percent(number)}% of the limit, not {number:f}.")
    return number / 100


class PercentField(AmountField):
    """A share of the limit, typed and shown in percent."""

    widget = UnfoldAdminDecimalFieldWidget

    def prepare_value(self, value: Any) -> Any:
        return percent(value) if isinstance(value, Decimal) else value

    def to_python(self, value: Any) -> Decimal | None:  # type: ignore[override]
        return None if value in self.empty_values else share(str(value))

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(initial != self.to_python(data))
        except ValidationError:
            return True


class PolicyField(forms.CharField):
    """A list of a policy, as `policy.from_text` reads it."""

    widget = UnfoldAdminTextInputWidget

    def __init__(self, column: str, **kwargs: Any) -> None:
        super().__init__(required=False, initial=policy.default(column), **kwargs)
        self.column = column

    def prepare_value(self, value: Any) -> Any:
        return policy.to_text(self.column, value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return self.kept(super().to_python(value) or "")

    def kept(self, text: str) -> Any:
        try:
            return policy.from_text(self.column, text)
        except FieldError as error:
            raise ValidationError(error.message) from error

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(self.prepare_value(initial) != self.prepare_value(data))


class PercentsField(PolicyField):
    """Several shares, in percent, with commas between them."""

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(percent, value)) if isinstance(value, list) else value

    def kept(self, text: str) -> Any:
        shares = [share(part) for part in text.replace("%", "").split(",") if part.strip()]
        return super().kept(", ".join(f"{each:f}" for each in shares))


class RulesWidget(UnfoldAdminTextareaWidget):
    """A line for each downgrade rule, of three inputs; names of models are suggested."""

    def render(self, name: str, value: Any, attrs: Mapping[str, Any] | None = None, renderer: Any = None) -> SafeString:
        rules = value if isinstance(value, list) else []
        lines = [
            {"from": ", ".join(rule["from"]), "to": rule["to"], "at": percent(rule["at"]) if rule.get("at") else ""}
            for rule in rules
        ]
        # One line more than there are rules, for the next.
        context = {
            "name": name,
            "lines": [*lines, {}],
            "id": (attrs or {}).get("id", name),
            "models": ports.model_names(),
        }
        return SafeString(render_to_string("console/rules.html", context))

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Any:
        """The lines as a text, one rule a line; or that text, where it is sent as one."""
        if name in data or not hasattr(data, "getlist"):
            return data.get(name)
        columns = (data.getlist(f"{name}-{part}") for part in ("from", "to", "at"))
        lines = (map(str.strip, line) for line in zip(*columns, strict=False))
        return "\n".join(
            f"{sources} -> {to}{f' at {at}' if at else ''}" for sources, to, at in lines if sources or to or at
        )

    def value_omitted_from_data(self, data: Any, files: Any, name: str) -> bool:
        return name not in data and f"{name}-from" not in data


class RulesField(PolicyField):
    """Downgrade rules; the share that one counts from is typed in percent."""

    widget = RulesWidget

    def prepare_value(self, value: Any) -> Any:
        """The rules as they are kept; of a text that is none, the lines that are."""
        return _readable(value) if isinstance(value, str) else value

    def kept(self, text: str) -> Any:
        lines = []
        for line in filter(None, map(str.strip, text.splitlines())):
            rule, at, typed = line.rpartition(" at ")
            lines.append(f"{rule} at {share(typed):f}" if at else line)
        return super().kept("\n".join(lines))


def _readable(text: str) -> list[dict[str, Any]]:
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        sources, _, target = line.replace("→", "->").partition("->")
        to, _, at = target.partition(" at ")
        try:
            share_of_it: str | None = str(share(at)) if at.strip() else None
        except ValidationError:
            share_of_it = None
        found.append({"from": [sources.strip()], "to": to.strip(), "at": share_of_it})
    return found
