"""Two of LiteLLM's teams, users or keys never come to one name here, whatever they call themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.management import CommandError

from config.litellm import mapping
from config.litellm.export import LitellmExport, LitellmHolder, LitellmKey, LitellmLimits
from config.litellm.mapping import KnownHere, LitellmMapping
from config.litellm.routes import ModelRoutes
from governance.models import Agent, ApiKey, Budget, Tenant
from governance.models.tenancy import adopted_prefix
from tests import factories as make
from tests.config.litellm.answers import digest, folder, import_litellm, key, left, report, team

pytestmark = pytest.mark.django_db

NOTHING = LitellmLimits(None, "", None, 0, None, None)
TAKEN_NAME = "a name that would be another's here: give it another at LiteLLM"


def owners() -> dict[str, str]:
    return {str(key.name): str(key.agent) for key in ApiKey.objects.all()}


def mapped(
    *names: tuple[str, str],
    keys: tuple[tuple[str, str], ...] = (),
    mark: Callable[[str], str] = lambda of: "ext_0000" + digest(of)[:8],
) -> LitellmMapping:
    """Of teams (id, alias), with keys (text, alias) of the first."""
    export = LitellmExport(
        teams=[LitellmHolder(id, alias, NOTHING) for id, alias in names],
        keys=[
            LitellmKey(digest(text), alias, "", names[0][0], "", NOTHING, None, False, ModelRoutes.ALL)
            for text, alias in keys
        ],
    )
    known = KnownHere({}, frozenset(), {}, [], lambda slug: {}, mark, lambda name: None, lambda name: ())
    return mapping.of(export, known, others_to="", now=make.NOON)


@pytest.mark.parametrize("alias", ["日本", "Acme"])
def test_a_team_that_calls_itself_as_another_is_marked_does_not_join_it(tmp_path: Path, alias: str) -> None:
    # As whoever knows the other's id could mark it, were there no secret in a mark.
    guessed = digest("team:t1")[:8]
    teams = [
        team("t1", alias, max_budget=5000, budget_duration="30d"),
        team("t2", "Acme"),
        team("e1", f"{'team' if alias == '日本' else 'acme'} {guessed}", max_budget=1, budget_duration="30d"),
    ]
    keys = [key("sk-v", key_alias="v", team_id="t1"), key("sk-e", key_alias="e", team_id="e1")]
    import_litellm(folder(tmp_path, teams=teams, keys=keys), "--yes")

    tenants = {name: agent.partition("/")[0] for name, agent in owners().items()}
    assert tenants["v"] != tenants["e"]
    budget = Budget.objects.get(tenant__slug=tenants["v"])
    assert budget.limit_nanos == make.nanos("5000")


def test_who_would_still_have_anothers_name_has_none_and_both_are_told() -> None:
    mark = f"acme {digest('team:t1')[:8]}"
    found = mapped(("t1", "Acme"), ("t2", "ACME"), ("e1", mark))

    assert [customer.source for customer in found.customers] == ["team:t2"]
    told = [each.what for each in found.not_taken if each.why == TAKEN_NAME]
    assert told == ["Acme (team:t1)", f"{mark} (team:e1)"]


def test_two_keys_never_come_to_one_agent() -> None:
    mark = digest(digest("sk-v"))[:8]
    found = mapped(("t1", "Acme"), keys=(("sk-v", "bot"), ("sk-w", "BOT"), ("sk-e", f"bot-{mark}")))

    [acme] = found.customers
    assert [each.digest for each in acme.keys] == [digest("sk-w")]
    why = "a key whose agent would have another's name here: give it another alias"
    assert [each.what for each in found.not_taken if each.why == why] == ["bot", f"bot-{mark}"]


def test_a_name_of_a_customer_who_came_over_is_taken(tmp_path: Path) -> None:
    import_litellm(folder(tmp_path, teams=[team()], keys=[key(key_alias="v")]), "--yes")
    keys = [key(key_alias="v"), key("sk-e", key_alias="e", team_id="e1")]
    import_litellm(folder(tmp_path, teams=[team(), team("e1", "acme")], keys=keys), "--yes")

    assert owners()["v"] == "acme/v"
    assert owners()["e"].startswith("acme-")


# Who is here already


def test_a_customer_who_is_here_already_is_joined_where_that_is_said_alone(tmp_path: Path) -> None:
    make.agent("bot", of=make.tenant("acme"))
    answers = folder(tmp_path, teams=[team(max_budget=5)], keys=[key(key_alias="bot")])
    found = report(answers, "--yes")

    assert not found["changes"]
    assert left(found)["a customer of that name is here already: say --into and its slug to join it"] == ["acme"]
    assert left(found)["a key whose customer is left out"] == ["bot"]
    found = report(answers, "--into", "acme", "--yes")
    assert [change["action"] for change in found["changes"]] == ["changed", "created", "created"]
    assert owners() == {"bot": "acme/bot"}
    assert not left(report(answers, "--yes"))


def test_an_agent_who_is_here_is_joined_by_no_key_unless_that_is_said(tmp_path: Path) -> None:
    import_litellm(folder(tmp_path, teams=[team()], keys=[key(key_alias="first")]), "--yes")
    make.agent("bot", of=Tenant.objects.get(slug="acme"))
    keys = [key(key_alias="first"), key("sk-two", key_alias="bot")]
    import_litellm(folder(tmp_path, teams=[team()], keys=keys), "--yes")
    assert owners()["bot"].startswith("acme/bot-")

    # And none whom another key names, whatever is said.
    keys.append(key("sk-three", key_alias="first"))
    import_litellm(folder(tmp_path, teams=[team()], keys=keys[1:]), "--into", "acme", "--yes")
    assert Agent.objects.filter(keys__digest=digest("sk-three")).get().slug.startswith("first-")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--others-to", "acme"], "--others-to: 'acme' is a team or user of LiteLLM's"),
        (["--into", "globex"], "--into: there is no tenant 'globex'"),
    ],
)
def test_options_that_would_join_two_are_refused(tmp_path: Path, args: list[str], says: str) -> None:
    keys = [key(key_alias="bot"), key("sk-cron", key_alias="cron", team_id=None)]
    answers = folder(tmp_path, teams=[team()], keys=keys)
    with pytest.raises(CommandError, match=says):
        import_litellm(answers, *args, "--yes")
    import_litellm(answers, "--yes")
    with pytest.raises(CommandError, match=says):
        import_litellm(answers, *args, "--yes")


def test_a_mark_is_made_with_a_secret() -> None:
    marks = {customer.slug for customer in mapped(("t1", "Acme"), ("t2", "Acme"), mark=adopted_prefix).customers}
    assert marks == {f"acme-{adopted_prefix(f'team:{id}')[-8:]}" for id in ("t1", "t2")}


def test_the_customer_of_keys_of_nobody_may_be_here_already(tmp_path: Path) -> None:
    make.tenant("own")
    answers = folder(tmp_path, teams=[team()], keys=[key("sk-cron", key_alias="cron", team_id=None)])
    import_litellm(answers, "--others-to", "own", "--yes")

    assert owners() == {"cron": "own/cron"}
    # A team of that name is another customer from then on.
    teams = [team(), team("t2", "Own")]
    import_litellm(folder(tmp_path, teams=teams), "--yes")
    assert Tenant.objects.filter(slug__startswith="own-").exists()
