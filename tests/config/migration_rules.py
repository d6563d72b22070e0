"""What a migration does to those who work beside it: which locks hold up calls, and what the version before cannot do
any more. Written after squawk's and strong_migrations' rules, for Django's operations on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, ValidateConstraint
from django.db import migrations as m
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ModelState, ProjectState
from django.db.models import NOT_PROVIDED, CheckConstraint, Field, ManyToManyField

OURS = ("governance", "llm", "billing")
# The last migrations of the first release. What is in it was made before there was anybody to hold up.
FIRST_RELEASE = {"governance": 7, "llm": 5, "billing": 6}
# Tables of at most thousands of rows, which are read through in a moment. All others may have millions.
SMALL = {
    *("tenant", "agent", "apikey", "budget", "allowance", "ratelimit", "purgedspend", "emergencystop"),
    *("plan", "billingaccount", "billingperiod", "topup", "catalogentry", "stripecheck", "striperun", "usagemeter"),
    *("model", "modelalias", "price", "providerendpoint"),
}


def found() -> Iterator[tuple[str, str]]:
    """("governance.0011", "AddIndex spendentry.entry_unbudgeted locks …") for each operation of a later release."""
    loader = MigrationLoader(None)
    state = ProjectState()
    for key in _in_order(loader):
        migration = loader.graph.nodes[key]
        made: set[str] = set()
        for operation in migration.operations:
            before = state.clone()
            operation.state_forwards(migration.app_label, state)
            if isinstance(operation, m.CreateModel):
                made.add(operation.name.lower())
            if migration.app_label in OURS and int(migration.name[:4]) > FIRST_RELEASE[migration.app_label]:
                model = str(getattr(operation, "model_name", "")).lower()
                for said in () if model in made else judge(operation, migration.app_label, before, state):
                    yield f"{migration.app_label}.{migration.name[:4]}", f"{type(operation).__name__} {said}"


def _in_order(loader: MigrationLoader) -> Iterator[tuple[str, str]]:
    seen: set[tuple[str, str]] = set()
    for leaf in loader.graph.leaf_nodes():
        for key in loader.graph.forwards_plan(leaf):
            if key not in seen:
                seen.add(key)
                yield key


def judge(operation: Operation, app: str, before: ProjectState, after: ProjectState) -> Iterator[str]:
    model = str(getattr(operation, "model_name", "")).lower()
    large = model not in SMALL
    match operation:
        case AddIndexConcurrently() | AddConstraintNotValid() | ValidateConstraint():
            return
        case m.AddIndex() if large:
            yield f"{model}.{operation.index.name} locks out writes while it is built: AddIndexConcurrently"
        case m.AddConstraint() if large and isinstance(operation.constraint, CheckConstraint):
            yield f"{model}.{operation.constraint.name} locks while all rows are read: AddConstraintNotValid"
        case m.AddConstraint() if large:
            yield f"{model}.{operation.constraint.name} locks while its index is built: make that concurrently before"
        case m.AddField():
            yield from _added(operation.field, f"{model}.{operation.name}", large=large)
        case m.AlterField():
            old, new = (_field(state.models[app, model], operation.name) for state in (before, after))
            yield from _altered(old, new, f"{model}.{operation.name}", large=large)
        case m.RenameField():
            old = _field(before.models[app, model], operation.old_name)
            new = _field(after.models[app, model], operation.new_name)
            if (old.db_column or operation.old_name) != (new.db_column or operation.new_name):
                yield f"{model}.{operation.old_name} takes a column away from the version before"
        case m.RemoveField():
            if not isinstance(_field(before.models[app, model], operation.name), ManyToManyField):
                yield f"{model}.{operation.name} takes a column away from the version before"
        case m.RenameModel() | m.AlterModelTable() | m.DeleteModel():
            yield from _renamed(operation, app, before, after)
        case m.RunPython() | m.RunSQL():
            yield "does what no rule knows: say what it reads, writes and locks"


def _added(field: Field[Any, Any], name: str, *, large: bool) -> Iterator[str]:
    if not isinstance(field, ManyToManyField) and not field.null and field.db_default is NOT_PROVIDED:
        yield f"{name} has no default in the database: the version before cannot write the table"
    if large and (field.unique or field.db_index):
        yield f"{name} locks out writes while its index is built: add that concurrently"


def _altered(old: Field[Any, Any], new: Field[Any, Any], name: str, *, large: bool) -> Iterator[str]:
    if old.null and not new.null:
        yield f"{name} may not be null any more, which the version before may write"
    is_longer = (new.max_length or 0) >= (old.max_length or 0)
    same_type = old.get_internal_type() == new.get_internal_type() and is_longer
    if large and (not same_type or (old.null and not new.null)):
        yield f"{name} locks while all rows are read or written anew"
    if large and (new.unique, new.db_index) != (old.unique, old.db_index):
        yield f"{name} locks while its index is built"


def _renamed(operation: Any, app: str, before: ProjectState, after: ProjectState) -> Iterator[str]:
    def tables(state: ProjectState) -> set[str]:
        ours = {key: model for key, model in state.models.items() if key[0] == app}
        return {model.options.get("db_table") or f"{app}_{name}" for (_, name), model in ours.items()}

    for gone in sorted(tables(before) - tables(after)):
        yield f"{gone} takes a table away from the version before"


def _field(model: ModelState, name: str) -> Field[Any, Any]:
    return model.fields[name]
