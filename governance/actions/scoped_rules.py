"""Rules of which there is one for a scope: how budgets and rate limits are made, changed and deleted, each act audited.

Plans, which have a name in place of a scope, are kept by the same code as far as they are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar

from django.db import IntegrityError, models, transaction

from governance import audit, ledger
from governance.audit import Actor
from governance.models import ApiKey, ScopeType, Tenant
from governance.models.budgets import EACH
from governance.rules import names
from governance.rules.errors import Conflict, FieldError, Gone

R = TypeVar("R", bound=models.Model)


@dataclass(frozen=True, slots=True)
class ScopedRules(Generic[R]):
    """One kind of rule. `noun` names it to people, `code` in the audit trail.

    A row is known by its `identity`, of which there is one; `fields` are what may be set, and what an audit row keeps.
    `validate` raises FieldError, `conflict` says what `create` raises where there is such a row already.
    """

    model: type[R]
    noun: str
    code: str
    identity: tuple[str, ...]
    fields: tuple[str, ...]
    validate: Callable[[R], None]
    conflict: Callable[[R], Conflict]
    target: Callable[[R], str] = str
    # One with a history is disabled, not deleted.
    has_history: Callable[[R], bool] = lambda row: False

    def check(self, row: R, values: Mapping[str, Any]) -> None:
        """Raise what writing these values would: FieldError, Conflict. Nothing is written; the row stays as it is."""
        tried = copy(row)
        self.set(tried, values)
        self.validate(tried)
        if tried.pk is None:
            self._refuse_second(tried)

    def create(self, row: R, values: Mapping[str, Any], *, by: Actor, now: datetime, reason: str = "") -> R:
        """Insert a row that has its identity. Raises FieldError, Conflict."""
        self.set(row, values)
        self.validate(row)
        with transaction.atomic():
            self.write(row)
            self.record("create", row, by=by, now=now, reason=reason, new=self.to_audit(row))
        return row

    @ledger.run_again
    def change(
        self,
        row: R,
        changes: Mapping[str, Any],
        *,
        by: Actor,
        now: datetime,
        reason: str = "",
        then: Callable[[R], object] = lambda row: None,
    ) -> R:
        """Change a row; nothing is written where nothing differs. `then` is done before the audit row is written.

        Raises FieldError, Gone.
        """
        with transaction.atomic():
            row = self._locked(row)
            old = self.to_audit(row)
            for name in self.identity:
                if name in changes and changes[name] != getattr(row, name):
                    raise FieldError(name, f"{name} cannot be changed: make another {self.noun} instead")
            self.set(row, {name: value for name, value in changes.items() if name not in self.identity})
            self.validate(row)
            new = self.to_audit(row)
            if new != old:
                row.save()
                then(row)
                self.record("change", row, by=by, now=now, reason=reason, old=old, new=new)
        return row

    @ledger.run_again
    def delete(self, row: R, *, by: Actor, now: datetime, reason: str = "") -> bool:
        """Delete a row that has no history; disable one that has. True where it is gone. Raises Gone."""
        with transaction.atomic():
            row = self._locked(row)
            old, gone = self.to_audit(row), not self.has_history(row)
            self.record("delete" if gone else "disable", row, by=by, now=now, reason=reason, old=old)
            if gone:
                row.delete()
            else:
                self.set(row, {"enabled": False})
                row.save()
        return gone

    def same(self, row: R) -> R | None:
        """The row that is known by the same identity."""
        known = self.model._default_manager.filter(**{name: getattr(row, name) for name in self.identity})
        return known.exclude(pk=row.pk).first()

    def set(self, row: R, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name not in self.fields:
                there_are = ", ".join(dict.fromkeys((*self.identity, *self.fields)))
                raise FieldError(name, f"is no field of a {self.noun}; there are {there_are}")
            setattr(row, name, value)

    def write(self, row: R) -> None:
        """Save a row, in a transaction. Raises Conflict where there is one of its identity already."""
        self._refuse_second(row)
        try:
            with transaction.atomic():
                row.save()
        except IntegrityError as error:
            # Somebody made the same one between the look and the insert.
            self._refuse_second(row)
            raise FieldError("", f"the database refuses this {self.noun}: {error}") from error

    def record(self, act: str, row: R, *, by: Actor, now: datetime, **figures: Any) -> None:
        """Write the audit row of an act."""
        audit.record(action=f"{self.code}.{act}", target=self.target(row), by=by, now=now, **figures)

    def to_audit(self, row: R) -> dict[str, Any]:
        """What an audit row keeps of a row."""
        shown = {name: getattr(row, name) for name in self.fields}
        return {
            name: f"{value.normalize():f}" if isinstance(value, Decimal) else value for name, value in shown.items()
        }

    def _locked(self, row: R) -> R:
        found = self.model._default_manager.select_for_update(of=("self",)).filter(pk=row.pk).first()
        if found is None:
            raise Gone(f"the {self.noun} has just been deleted")
        return found

    def _refuse_second(self, row: R) -> None:
        if (same := self.same(row)) is not None:
            raise self.conflict(same)


def stored_scope(*, scope_type: str, scope_key: str, tenant: Tenant | None) -> dict[str, Any]:
    """The scope of a rule as it is stored: `tenant`, `scope_type`, `scope_key`, the last of a tenant its slug.

    Raises FieldError.
    """
    if scope_type not in ScopeType.values:
        raise FieldError("scope_type", f"must be one of {', '.join(ScopeType.values)}")
    scope_key = names.scope_key(scope_type, scope_key)
    if scope_type == ScopeType.PLATFORM:
        if tenant is not None or scope_key not in ("", EACH):
            raise FieldError("scope_key", "the platform has no tenant and no key: it is everything")
        scope_key = ""
    elif scope_type == ScopeType.TENANT:
        tenant, scope_key = _tenant_scope(scope_key, tenant)
    elif not scope_key:
        raise FieldError("scope_key", f"name the {scope_type}, or * for each one separately")
    elif tenant is None and scope_key != EACH:
        raise FieldError("tenant", f"name the tenant whose {scope_type} {scope_key!r} this is")
    elif scope_type == ScopeType.KEY:
        # A rotated key may be named by its own prefix, too.
        rotated = ApiKey.objects.filter(tenant=tenant, prefix=scope_key).exclude(rotated_from="").first()
        scope_key = rotated.scope_key if rotated else scope_key
    return {"tenant": tenant, "scope_type": scope_type, "scope_key": scope_key}


def stored_keys(text: str, *, field: str = "scope_key") -> tuple[str, ...]:
    """Under which keys of a scope a rule may be stored that somebody looks for by one. Raises FieldError.

    As `stored_scope` has them: a name in all its spellings, and of a rotated key the first one's prefix.
    """
    found = names.spellings_of_key(text, field=field)
    rotated = ApiKey.objects.filter(prefix__in=found).exclude(rotated_from="")
    return tuple(dict.fromkeys((*found, *rotated.values_list("rotated_from", flat=True))))


def _tenant_scope(scope_key: str, tenant: Tenant | None) -> tuple[Tenant | None, str]:
    if tenant is None and scope_key == EACH:
        return None, EACH
    if tenant is None and scope_key:
        tenant = Tenant.objects.filter(slug=scope_key).first()
        if tenant is None:
            raise FieldError("scope_key", f"there is no tenant {scope_key!r}")
    if tenant is None:
        raise FieldError("tenant", "name the tenant, or give scope_key * for each tenant separately")
    if scope_key not in ("", tenant.slug):
        raise FieldError("scope_key", f"must be empty or {tenant.slug!r}, like the tenant")
    return tenant, tenant.slug
