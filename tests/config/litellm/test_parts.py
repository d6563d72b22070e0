"""How an import is done: a plan writes nothing and waits for nobody, and each part is done as a whole or not at all."""

from __future__ import annotations

import io
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from config.litellm import export, files, mapping, steps
from governance.actions import rate_limits, tenancy
from governance.audit import Actor
from governance.models import ApiKey, AuditEntry, Budget, RateLimit, Tenant
from governance.rules.errors import Conflict
from tests import factories as make
from tests.config.litellm.answers import RECORDED, digest, folder, import_litellm, key, report, team

BY = Actor("ada")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "PAUSE_S", 0)


def planned(path: str) -> steps.ImportPlan:
    found = export.of(files.read([Path(path)]), left={})
    known = steps.known_here((each.digest for each in found.keys), now=timezone.now())
    return steps.plan(mapping.of(found, known, others_to="", now=timezone.now()), known)


def many(path: Path, keys: int, **fields: Any) -> str:
    return folder(
        path,
        teams=[team(max_budget=1000, budget_duration="30d"), team("t2", "Globex")],
        keys=[
            key(f"sk-{each}", key_alias=f"bot {each}", max_budget=1, budget_duration="1d", rpm_limit=60, **fields)
            for each in range(keys)
        ],
    )


@pytest.mark.django_db
def test_a_dry_run_sends_no_statement_that_writes(tmp_path: Path) -> None:
    import_litellm(str(RECORDED), "--yes")
    writes: list[str] = []

    def look(execute: Any, sql: str, *args: Any) -> Any:
        if not sql.startswith(("SELECT", "SAVEPOINT", "RELEASE")):
            writes.append(sql)
        return execute(sql, *args)

    with connection.execute_wrapper(look):
        import_litellm(str(RECORDED), "--dry-run")
        import_litellm(many(tmp_path, 3), "--dry-run")
    assert not writes


@pytest.mark.sqlite_only
@pytest.mark.django_db(transaction=True)
def test_a_dry_run_takes_no_lock_of_a_file(tmp_path: Path) -> None:
    """Beside somebody who holds it, for whom it would wait half a minute."""
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert report(many(tmp_path, 2), "--dry-run")["created"] == 9
    finally:
        other.close()


@pytest.mark.django_db
def test_a_part_is_a_customer_with_some_of_its_keys_and_what_each_may_spend(tmp_path: Path) -> None:
    found = planned(many(tmp_path, 2 * steps.KEYS_IN_A_PART + 1))

    assert [part.name for part in found.parts] == ["customer acme", "keys of acme", "keys of acme", "customer globex"]
    tables = [[step.table for step in part.steps] for part in found.parts]
    of_a_key = ["keys", "budgets", "rate_limits"]
    assert tables[0] == ["tenants", "budgets", *(steps.KEYS_IN_A_PART * of_a_key)]
    assert tables[2] == of_a_key


@pytest.mark.django_db(transaction=True)
def test_broken_off_it_goes_on_where_it_was_and_half_of_a_part_is_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, create, left = many(tmp_path, steps.KEYS_IN_A_PART + 2), rate_limits.create, [steps.KEYS_IN_A_PART + 1]

    def fail(**values: Any) -> RateLimit:
        if not left[0]:
            raise Conflict("", "Somebody was first.")
        left[0] -= 1
        return create(**values)

    monkeypatch.setattr(rate_limits, "create", fail)
    with pytest.raises(CommandError, match=r"keys of acme: Somebody was first\. .* \(1 of 3 parts\); run it again"):
        import_litellm(answers, "--yes")
    # No key of the part that broke off, nor a limit of one.
    assert ApiKey.objects.count() == RateLimit.objects.count() == steps.KEYS_IN_A_PART
    assert Budget.objects.count() == 1 + steps.KEYS_IN_A_PART

    monkeypatch.setattr(rate_limits, "create", create)
    assert report(answers, "--yes")["created"] == 7
    assert import_litellm(answers).endswith("Nothing differs.\n")


class Killed(BaseException):
    """As a process is between two parts."""


@pytest.mark.django_db
@pytest.mark.parametrize("into", [(), ("--into", "acme")])
def test_broken_off_and_run_again_it_ends_with_the_names_that_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into: tuple[str, ...]
) -> None:
    """Of two who have one name both are marked, also where one of them is here already when the other comes."""
    if into:
        make.agent("bot", of=make.tenant("acme"))
    several = range(steps.KEYS_IN_A_PART + 2)
    keys = [key(f"k{each}", key_alias="bot" if each in (0, several[-1]) else f"a{each}") for each in several]
    globexes = [team("t2", "Globex"), team("t3", "Globex")]
    answers = folder(tmp_path, teams=[team(), *globexes], keys=keys)
    said = {change["name"] for change in report(answers, *into, "--dry-run")["changes"]}
    apply = steps._apply
    for parts in (1, 2, 3):
        left = [parts]

        def some(part: steps.ImportPart, *, left: list[int] = left, **values: Any) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            apply(part, **values)

        monkeypatch.setattr(steps, "_apply", some)
        with suppress(Killed):
            import_litellm(answers, *into, "--yes")
    monkeypatch.setattr(steps, "_apply", apply)
    import_litellm(answers, *into, "--yes")

    names = {f"tenant {slug}" for slug in Tenant.objects.values_list("slug", flat=True)}
    assert names | {f"key {each.prefix} of {each.agent}" for each in ApiKey.objects.all()} == said
    assert import_litellm(answers, *into).endswith("Nothing differs.\n")


@pytest.mark.django_db
def test_what_is_changed_by_somebody_else_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    found = planned(folder(tmp_path, teams=[team()], keys=[key(key_alias="bot")]))
    acme = tenancy.create_tenant(slug="globex", by=BY, now=timezone.now())
    bot = tenancy.create_agent(tenant=acme, slug="bot", by=BY, now=timezone.now())
    tenancy.adopt_key(digest=digest("sk-one"), tenant=acme, agent=bot, by=BY, now=timezone.now())

    with pytest.raises(Conflict, match="This key is here already"):
        steps.apply(found, by=BY, clock=timezone.now)
    assert not Tenant.objects.filter(slug="acme").exists()


@pytest.mark.django_db
def test_each_act_says_that_an_import_made_it(tmp_path: Path) -> None:
    import_litellm(many(tmp_path, 1), "--yes")

    acts = AuditEntry.objects.filter(reason=steps.REASON).values_list("action", flat=True)
    assert sorted(acts) == ["budget.create", "budget.create", "rate_limit.create", "tenant.import", "tenant.import"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("stderr", "says"), [(Terminal(), "1 of 2 parts applied\n2 of 2 parts applied\n"), (io.StringIO(), "")]
)
def test_at_a_terminal_it_says_how_far_it_is(tmp_path: Path, stderr: io.StringIO, says: str) -> None:
    call_command("import_litellm", many(tmp_path, 1), "--yes", stdout=io.StringIO(), stderr=stderr)
    assert stderr.getvalue() == says
