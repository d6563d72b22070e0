"""A form for what is there already refuses where that changed since it was opened, or it would put back what was there.

The page carries how each of its fields stood, as digests, and the last row of the audit trail; so whoever is refused
is told which field, and by whom. A POST without them is taken as opened now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django import forms

from governance.models import AuditEntry

FIELD = "_opened"
# Of the audit trail since then so many rows are looked through for who it was.
MOST_ROWS = 1_000

if TYPE_CHECKING:
    Base = forms.ModelForm[Any]
else:
    Base = object


class OpenedForm(Base):
    """Before the form of an admin: `opened` is what its page must send back in a hidden input of the name FIELD."""

    @property
    def opened(self) -> str:
        """Of a form that is shown again, how it was opened the first time: what is refused once stays refused."""
        if said := self.data.get(FIELD):
            return str(said)
        last = AuditEntry.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        return " ".join([str(last), *(f"{name}:{self._digest(name)}" for name in self.fields)])

    def clean(self) -> dict[str, Any] | None:
        cleaned: dict[str, Any] | None = super().clean()
        last, *said = str(self.data.get(FIELD, "")).split()[: len(self.fields) + 1] or [""]
        was = dict(each.rsplit(":", 1) for each in said if ":" in each)
        moved = [
            name for name in self.fields if was.get(name) not in (None, self._digest(name)) and self._differs(name)
        ]
        if moved:
            who = _who(self.instance, int(last) if last.isdecimal() and len(last) < 19 else 0)
            for name in moved:
                self.add_error(name, f"{self._now(name)}, changed{who} since you opened this page. Open it anew.")
        return cleaned

    def _differs(self, name: str) -> bool:
        """Whether what was sent is another than what is there by now; else it is nobody's loss.

        Not by `changed_data`, which of some fields believes what the page says that they were.
        """
        field = self.fields[name]
        return not field.disabled and field.has_changed(self.get_initial_for_field(field, name), self[name].data)

    def _initial(self, name: str) -> Any:
        field = self.fields[name]
        value = self.get_initial_for_field(field, name)
        if isinstance(field, forms.ModelMultipleChoiceField):
            return sorted(map(str, field.prepare_value(value or [])))
        return field.prepare_value(value)

    def _digest(self, name: str) -> str:
        return hashlib.sha256(repr(self._initial(name)).encode()).hexdigest()[:16]

    def _now(self, name: str) -> str:
        """Plain values alone are told: of others the page says more."""
        value = self._initial(name)
        if isinstance(value, bool):
            return f"It is {'on' if value else 'off'} now"
        is_plain = isinstance(value, str | int) and not isinstance(self.fields[name], forms.ModelChoiceField)
        return f"It is {value} now" if is_plain and value != "" else "It is another now"


def form(made: type[Any]) -> type[Any]:
    """An admin's form that refuses so."""
    return type(made.__name__, (OpenedForm, made), {})


def _who(row: Any, last: int) -> str:
    """ " by alice": of the newest act on a row after that one of the audit trail; empty where there is none."""
    names = (str(row), str(getattr(row, "name", "")) or str(row))
    later: Iterable[tuple[str, str]] = (
        AuditEntry.objects.filter(pk__gt=last).order_by("-pk").values_list("actor", "target")[:MOST_ROWS]
    )
    for actor, target in later:
        if any(target == name[:200] or target.endswith(f" {name}") for name in names):
            return f" by {actor}"
    return ""
