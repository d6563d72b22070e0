"""`manage.py import_litellm`: what comes over, that a second run changes nothing, and what is refused."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError
from django.utils import timezone

from config.litellm import steps
from config.litellm.mapping import CustomerWanted, LitellmMapping
from governance.actions import tenancy
from governance.audit import Actor
from governance.models import Agent, ApiKey, AuditEntry, Budget, RateLimit, Tenant
from governance.rules.errors import Conflict
from llm.models import Model, ModelAlias
from tests import factories as make
from tests.config.litellm.answers import RECORDED, digest, folder, import_litellm, key, left, report, team

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("at_noon")]

BY = Actor("ada")


def counts() -> tuple[int, ...]:
    return tuple(each.objects.count() for each in (Tenant, Agent, ApiKey, Budget, RateLimit, ModelAlias, AuditEntry))


def prefix(text: str) -> str:
    return ApiKey.objects.get(digest=digest(text)).prefix


# What comes over


def test_recorded_answers_come_over_with_their_keys_budgets_and_limits() -> None:
    told = import_litellm(str(RECORDED), "--yes")

    assert told.endswith("Applied: 15 created, 1 unchanged.\n")
    names = dict(Tenant.objects.values_list("slug", "name"))
    assert names == {
        "support": "Support",
        "research-tools": "Research & Tools",
        "ada-example-com": "ada@example.com",
    }
    keys = {
        key.digest: (str(key.agent), key.role, key.name, key.expires_at and key.expires_at.year)
        for key in ApiKey.objects.all()
    }
    assert keys == {
        digest("sk-support-chat-1111"): ("support/chat-bot", "agent", "Chat-Bot", None),
        digest("sk-support-mail-2222"): ("support/mail bot", "agent", "mail bot", 2031),
        digest("sk-research-3333"): ("research-tools/sk-...3333", "agent", "sk-...3333", None),
        digest("sk-ada-own-6666"): ("ada-example-com/notebook", "agent", "notebook", None),
    }
    chat, mail = prefix("sk-support-chat-1111"), prefix("sk-support-mail-2222")
    budgets = {
        (budget.scope, budget.window): (budget.limit_nanos, budget.alert_thresholds[0])
        for budget in Budget.objects.all()
    }
    assert budgets == {
        ("support", "month"): (make.nanos("100"), "0.8"),
        (f"support key:{chat}", "month"): (make.nanos("25"), "0.5"),
        # Of ten dollars 4.10 are spent; the soft budget is 4.90 of what is left.
        (f"support key:{mail}", "lifetime"): (make.nanos("5.90"), "0.8305"),
        ("research-tools", "lifetime"): (make.nanos("25"), "0.5"),
        ("ada-example-com", "week"): (make.nanos("20"), "0.5"),
    }
    limits = {str(each): (each.requests_per_minute, each.tokens_per_minute) for each in RateLimit.objects.all()}
    assert limits == {
        "support": (600, None),
        f"support key:{chat}": (60, 100_000),
        # The key has no rate of its own, so that of its budget counts.
        f"support key:{mail}": (30, None),
    }
    assert not ModelAlias.objects.filter(name="fast").exists()


def test_what_is_not_taken_over_is_told_with_its_reason() -> None:
    found = left(report(str(RECORDED), "--dry-run"))

    assert found["a key that is blocked"] == ["old-bot"]
    assert found["a key that has expired"] == ["trial"]
    assert found["a key of no team and no user: name a customer for these with --others-to"] == ["cron"]
    assert found["a key that may call no models, but administers LiteLLM"] == ["ops"]
    assert found["a session of somebody at LiteLLM's own pages"] == ["sk-...9999"]
    assert found["a team or user that is blocked, or whose rate limit is 0, with its keys"] == ["Closed"]
    assert found["a key whose team or user is left out, or is not among those given"] == ["closed-bot"]
    (other,) = found["a budget for '2h', which is no window here"]
    assert other.startswith("research-tools key:ext_")
    spent = found["what was spent in LiteLLM's current window: here it begins at zero"]
    assert spent[0] == "support ($12.50)"
    assert found["an end user's budget, as there are several customers whose user it may be"] == ["shop-17"]
    assert found["a model that is not in the catalogue: add it with its price"] == ["vision (openai/gpt-4o)"]
    (named_otherwise,) = [what for why, what in found.items() if why.startswith("a name of one's own for a model")]
    assert named_otherwise == ["fast (mistral/mistral-small-latest)"]
    assert found["a user's own budget, where no key is the user's own"] == ["Grace"]
    not_taken = report(str(RECORDED), "--dry-run")["not_taken_over"]
    counted = {each["why"].partition(":")[0]: each["count"] for each in not_taken}
    for what in ("organisations", "tags for calls", "guardrails and policies", "budgets of a team's members"):
        assert counted[what] == 1
    assert counted["lists of allowed models"] == 2


def test_a_dry_run_writes_nothing() -> None:
    before = counts()
    told = import_litellm(str(RECORDED), "--dry-run")

    assert told.endswith("Would be applied: 15 created, 1 unchanged.\n")
    assert counts() == before


def test_a_second_run_changes_nothing() -> None:
    import_litellm(str(RECORDED), "--yes")
    before = counts()
    again = report(str(RECORDED), "--yes")

    assert {change["action"] for change in again["changes"]} == {"unchanged"}
    assert not again["applied"]
    assert counts() == before
    assert import_litellm(str(RECORDED)).endswith("Nothing differs.\n")


def test_every_act_is_in_the_audit_trail() -> None:
    import_litellm(str(RECORDED), "--yes")

    acts = list(AuditEntry.objects.filter(actor__startswith="command line").values_list("action", flat=True))
    for action, times in (("tenant.create", 3), ("tenant.import", 3), ("agent.create", 4), ("key.adopt", 4)):
        assert acts.count(action) == times
    came = AuditEntry.objects.filter(action="tenant.import", target="tenant ada-example-com").get()
    assert (came.new, came.reason) == ({"litellm": "user:ada"}, "import_litellm")


def test_whoever_came_over_keeps_the_names_of_that_time(tmp_path: Path) -> None:
    import_litellm(folder(tmp_path, teams=[team()], keys=[key(key_alias="bot")]), "--yes")
    # Renamed there, in another order, and beside another of the same name.
    answers = {
        "teams": [team("t2", "Acme"), team("t1", "Acme Corp")],
        "keys": [key("sk-two", key_alias="bot", team_id="t1"), key(key_alias="robot")],
    }
    import_litellm(folder(tmp_path, **answers), "--yes")

    slugs = set(Tenant.objects.values_list("slug", flat=True))
    assert "acme" in slugs
    assert len(slugs) == 2
    agents = dict(Agent.objects.filter(tenant__slug="acme").values_list("keys__digest", "slug"))
    assert agents[digest("sk-one")] == "bot"
    assert agents[digest("sk-two")].startswith("bot-")


def test_two_of_one_name_are_told_apart_whatever_their_order(tmp_path: Path) -> None:
    teams = [team("t1", "Acme"), team("t2", "ACME!")]
    keys = [key(key_alias="Bot"), key("sk-two", key_alias="bot")]
    forwards = report(folder(tmp_path / "a", teams=teams, keys=keys), "--dry-run")
    backwards = report(folder(tmp_path / "b", teams=teams[::-1], keys=keys[::-1]), "--dry-run")

    names = {change["name"] for change in forwards["changes"]}
    assert names == {change["name"] for change in backwards["changes"]}
    assert len(names) == 4
    assert all("-" in name for name in names)


def test_keys_of_nobody_go_to_the_customer_that_is_named(tmp_path: Path) -> None:
    keys = [key(key_alias="cron", team_id=None)]
    import_litellm(folder(tmp_path, keys=keys), "--others-to", "own", "--yes")

    assert ApiKey.objects.get().tenant == Tenant.objects.get(slug="own")
    assert import_litellm(folder(tmp_path, keys=keys), "--others-to", "own").endswith("Nothing differs.\n")
    with pytest.raises(CommandError, match=r"--others-to: .*may not begin or end"):
        import_litellm(folder(tmp_path, keys=keys), "--others-to", " own", "--yes")


def test_a_limit_that_is_another_here_is_changed_where_that_is_said(tmp_path: Path) -> None:
    import_litellm(folder(tmp_path, teams=[team(max_budget=5, budget_duration="1d")]), "--yes")
    answers = folder(tmp_path, teams=[team(max_budget=7, budget_duration="1d")])
    found = left(report(answers, "--yes"))

    told = ["budget acme per day (limit 5.00, at LiteLLM 7.00)"]
    assert found["a limit that is another here: it stays, unless --overwrite is said"] == told
    assert Budget.objects.get().limit_nanos == make.nanos("5")
    told = import_litellm(answers, "--yes", "--overwrite")
    assert "~ budget acme per day\n    limit: $5.00 → $7.00\n" in told
    assert Budget.objects.get().limit_nanos == make.nanos("7")


def test_where_nothing_is_left_no_call_passes(tmp_path: Path) -> None:
    found = report(folder(tmp_path, teams=[team(max_budget=5, spend=6.5)]), "--yes")

    assert Budget.objects.get().limit_nanos == 1
    assert left(found)["a budget of which nothing is left: no call passes until its limit is raised"] == ["acme"]
    found = report(folder(tmp_path, teams=[team("t2", "Globex", max_budget=0, budget_duration="1d")]), "--yes")
    assert left(found)["a budget of which nothing is left: no call passes until its limit is raised"] == ["globex"]


def test_of_several_budgets_for_one_window_the_lowest_counts(tmp_path: Path) -> None:
    windows = [{"budget_duration": "24h", "max_budget": 3}, {"budget_duration": "1h", "max_budget": 1}]
    keys = [key(max_budget=5, budget_duration="1d", budget_limits=windows)]
    import_litellm(folder(tmp_path, teams=[team()], keys=keys), "--yes")

    limits = dict(Budget.objects.values_list("window", "limit_nanos"))
    assert limits == {"day": make.nanos("3"), "hour": make.nanos("1")}


def test_end_users_have_budgets_where_one_customer_alone_can_be_theirs(tmp_path: Path) -> None:
    budget = {"budget_id": "b", "max_budget": 1.5, "budget_duration": "1d", "rpm_limit": 10}
    customers = [
        {"user_id": "shop-17", "litellm_budget_table": budget},
        {"user_id": "shop\u202e18", "litellm_budget_table": budget},
        {"user_id": "shop-19", "budget_id": "gone"},
        {"user_id": "shop-20", "litellm_budget_table": budget | {"rpm_limit": 0}},
        {"user_id": "shop-21"},
    ]
    found = report(folder(tmp_path, teams=[team()], customers=customers), "--yes")

    assert Budget.objects.get().scope == "acme user:shop-17"
    assert RateLimit.objects.get().requests_per_minute == 10
    whys = left(found)
    assert whys["an end user's budget that is not among the budgets"] == ["shop-19"]
    assert [what for why, what in whys.items() if why.startswith("an end user whose name is none here")] == [
        ["shop\\u202e18"]
    ]
    assert whys["an end user whose rate limit is 0: refuse these calls where they are made"] == ["shop-20"]


def test_end_users_whose_names_are_one_here_have_the_lowest_of_their_limits(tmp_path: Path) -> None:
    def user(id: str, **fields: Any) -> dict[str, Any]:
        return {"user_id": id, "litellm_budget_table": {"budget_id": "b", "budget_duration": "1d"} | fields}

    customers = [
        user("shop 17", max_budget=1.5, rpm_limit=10),
        user("shop  17", max_budget=1, tpm_limit=500),
        user("Caf\u00e9", max_budget=2),
        user("Cafe\u0301", max_budget=3, budget_duration="7d", rpm_limit=4),
    ]
    found = report(folder(tmp_path, teams=[team()], keys=[key()], customers=customers), "--yes")

    limits = {(each.scope_key, each.window): each.limit_nanos for each in Budget.objects.all()}
    assert limits == {
        ("shop 17", "day"): make.nanos("1"),
        ("Café", "day"): make.nanos("2"),
        ("Café", "week"): make.nanos("3"),
    }
    ceilings = {each.scope_key: (each.requests_per_minute, each.tokens_per_minute) for each in RateLimit.objects.all()}
    assert ceilings == {"shop 17": (10, 500), "Café": (4, None)}
    told = left(found)["end users whose names are one here: the lowest of their limits is for all of them"]
    assert told == ["'shop 17', 'shop  17'", "'Café', 'Cafe\u0301'"]
    assert import_litellm(str(tmp_path)).endswith("Nothing differs.\n")


def test_a_key_that_moved_was_revoked_or_ends_otherwise_stays_as_it_is_and_that_is_told(tmp_path: Path) -> None:
    keys = [key(), key("sk-two", key_alias="two"), key("sk-three", key_alias="three"), key("sk-four", key_alias="four")]
    import_litellm(folder(tmp_path, teams=[team(), team("t2", "Globex")], keys=keys), "--yes")
    two = ApiKey.objects.get(digest=digest("sk-two"))
    tenancy.revoke_key(key=two, by=BY, now=timezone.now())
    keys[0]["team_id"], keys[2]["expires"], keys[3]["blocked"] = "t2", "2030-01-01T00:00:00Z", True
    before = counts()
    found = left(report(folder(tmp_path, teams=[team(), team("t2", "Globex")], keys=keys), "--yes"))

    assert found["a key that is here already, as acme's: it stays so"] == [prefix("sk-one")]
    assert found["a key that was revoked here, or has expired here: it stays so"] == [two.prefix]
    assert found["a key that ends at another time here: issue another, or rotate it"] == [prefix("sk-three")]
    assert found["a key that is left out now, but came over before and works here: revoke it"] == [prefix("sk-four")]
    assert counts() == before


# Models


@pytest.mark.parametrize(
    ("models", "why", "what"),
    [
        ([("fast", "mistral/no-such-model")], "a model that is not in the catalogue", "fast (mistral/no-such-model)"),
        ([("*", "openai/*")], "a name of many models", "*"),
        ([("fast", "")], "a model whose meaning its database seals", "fast"),
        ([("codestral-latest", "mistral/mistral-small-latest")], "a model's name that means codestral-2508 here", None),
        ([("a" * 101, "openai/gpt-5-mini")], "refused: name", None),
        ([("fast", "mistral/mistral-small-latest")], "a name of one's own for a model of Mistral's", None),
        ([("fast", "mistral-eu/mistral-small-latest")], "a name of one's own for a model of Mistral's", None),
    ],
)
def test_a_name_of_a_model_that_cannot_be_taken_over_is_told(
    tmp_path: Path, models: list[tuple[str, str]], why: str, what: str | None
) -> None:
    Model(provider="openai", name="gpt-5-mini").save()
    data = [{"model_name": name, "litellm_params": {"model": model}} for name, model in models]
    found = report(folder(tmp_path, models={"data": data}), "--yes")

    assert not found["changes"]
    ((told, named),) = left(found).items()
    assert told.startswith(why)
    assert what is None or named == [what]


def test_a_provider_beside_a_models_name_counts(tmp_path: Path) -> None:
    Model(provider="openai", name="gpt-5-mini").save()
    params = {"model": "gpt-5-mini", "custom_llm_provider": "openai"}
    data = [{"model_name": "quick", "litellm_params": params}] * 2
    import_litellm(folder(tmp_path, models={"data": data}), "--yes")

    assert ModelAlias.objects.get(name="quick").model.name == "gpt-5-mini"
    assert import_litellm(folder(tmp_path, models={"data": data})).startswith("= model name quick\n")


# Names that are none


def test_hostile_names_come_over_under_ids_and_are_shown_as_what_they_are(tmp_path: Path) -> None:
    teams = [team("t1", "Acme\u202e"), team("t2", "x" * 900), team("t3", "日本"), team("t4", "\x1b[2J")]
    keys = [key(key_alias="bot\x00"), key("sk-two", key_alias="*"), key("sk-three", key_alias="y" * 101)]
    told = import_litellm(folder(tmp_path, teams=teams, keys=keys), "--yes")

    assert all(slug.startswith("team-") for slug in Tenant.objects.values_list("slug", flat=True))
    assert Tenant.objects.get(name="日本")
    assert all(slug.startswith("key-") for slug in Agent.objects.values_list("slug", flat=True))
    assert "Acme\\u202e" in told
    assert not set(told) & {"\u202e", "\x1b", "\x00"}
    assert import_litellm(folder(tmp_path, teams=teams, keys=keys)).endswith("Nothing differs.\n")


# What cannot be read


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"teams": {"detail": "x"}}, "teams.json: must be a list of rows, or an object that has one as"),
        ({"teams": {"error": {"message": "no"}}}, "teams.json: is an error that LiteLLM answered with"),
        ({"keys": {"keys": ["88dc"]}}, "keys.json: row 1: must be an object: ask for keys with return_full_object"),
        ({"keys": {"keys": [], "current_page": 2, "total_pages": 3}}, "keys: page 1, 3 of 3 is missing: fetch each"),
        ({"users": {"users": [], "total": 2, "page": 1, "total_pages": 1}}, "users: there are 0 rows of 2"),
        # One page twice, under two names: the other key would be left behind.
        (
            {"keys": {"keys": [key(), key()], "total_count": 2, "current_page": 1, "total_pages": 1}},
            "keys: there are 1 rows of 2",
        ),
        (
            {
                "keys": [{name: value for name, value in key().items() if name != "budget_id"}],
                "budgets": [{"budget_id": "free", "max_budget": 1}],
            },
            "keys.json: row 1: budget_id: is not in this answer",
        ),
    ],
)
def test_answers_that_are_not_whole_are_refused(tmp_path: Path, answers: dict[str, Any], says: str) -> None:
    before = counts()
    with pytest.raises(CommandError) as caught:
        import_litellm(folder(tmp_path, **answers), "--yes")
    assert str(caught.value).startswith(says)
    assert counts() == before


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"teams": [team("t2", max_budget="5")]}, "teams.json: row 1: max_budget: must be a number"),
        ({"teams": [team("t2", max_budget=-5)]}, "teams.json: row 1: max_budget: must not be negative"),
        ({"teams": [team("t2", max_budget=-1e30)]}, "teams.json: row 1: max_budget: "),
        ({"teams": [team("t2", rpm_limit=1.5)]}, "teams.json: row 1: rpm_limit: must be a whole number, not 1.5"),
        ({"teams": [team("t2", tpm_limit=-1)]}, "teams.json: row 1: tpm_limit: must not be negative"),
        ({"teams": [team("t2", blocked="no")]}, "teams.json: row 1: blocked: must be true or false"),
        ({"teams": [team("t2", metadata="{}")]}, "teams.json: row 1: metadata: must be an object"),
        ({"teams": [team("t2", team_memberships=[1])]}, "teams.json: row 1: team_memberships: must be a list of"),
        ({"teams": [{"team_alias": "x"}]}, "teams.json: row 1: team_id: is needed"),
        ({"teams": [team(7)]}, "teams.json: row 1: team_id: must be text"),
        ({"teams": [team("\ud800")]}, "teams.json: row 1: team_id: has characters that no database keeps"),
        ({"teams": [team("t\x00")]}, "teams.json: row 1: team_id: has characters that no database keeps"),
        ({"keys": [key("sk-odd", team_id="\udfff")]}, "keys.json: row 1: team_id: has characters that no"),
        ({"keys": [key("sk-odd", team_id=None, user_id="a\x00")]}, "keys.json: row 1: user_id: has characters"),
        ({"users": {"users": [{"user_id": "ada", "max_budget": -1}]}}, "users.json: row 1: max_budget: must not be"),
        ({"keys": [key("sk-odd") | {"token": "sk-secret"}]}, "keys.json: row 1: token: must be 64 hexadecimal"),
        ({"keys": [key("sk-odd", expires="infinity")]}, "keys.json: row 1: expires: must be a time such as"),
        ({"keys": [key("sk-odd", allowed_routes="all")]}, "keys.json: row 1: allowed_routes: must be a list"),
        ({"keys": [key("sk-odd", metadata="{}")]}, "keys.json: row 1: metadata: must be an object"),
        ({"customers": [{"user_id": ""}]}, "customers.json: row 1: user_id: is needed"),
        ({"models": {"data": [{"litellm_params": {}}]}}, "models.json: row 1: model_name: is needed"),
        ({"projects": [{"project_id": "p", "blocked": 1}]}, "projects.json: row 1: blocked: must be true or false"),
    ],
)
def test_an_odd_row_is_told_with_its_place_and_nothing_else_is_left_out(
    tmp_path: Path, answers: dict[str, Any], says: str
) -> None:
    own = {"teams": [team()], "keys": [key()]}
    rows = {name: [*answers.get(name, []), *own.get(name, [])] for name in own}
    rows["keys"].append(key("sk-of-odd", team_id=None, user_id="ada"))
    found = report(folder(tmp_path, **(answers | rows)), "--yes")

    [told] = left(found)["a row that cannot be read"]
    assert told.startswith(says)
    assert "sk-secret" not in json.dumps(found)
    assert ApiKey.objects.filter(digest=digest("sk-one")).exists()
    # Of a user who cannot be read no budget is known: the keys do not come over without it.
    assert ApiKey.objects.filter(digest=digest("sk-of-odd")).exists() == ("users" not in answers)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("keys.json", "{", "keys.json: is not JSON: line 1"),
        ("keys.json", "[NaN]", "keys.json: is not JSON: NaN is no number"),
        ("keys.json", "[" * 100 + "]" * 100, "keys.json: "),
        ("keys.json", "\xff", "keys.json: is not JSON"),
        ("key.json", "[]", "key.json: the name must begin with one of teams, users, keys"),
        ("keysofmine.json", "[]", "keysofmine.json: the name must begin with one of"),
        ("other.txt", "", "has no file that ends with .json"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(CommandError) as caught:
        import_litellm(str(tmp_path))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "Name files of its API's answers, or --database"),
        (["/nowhere/keys.json"], "/nowhere/keys.json: No such file"),
        (["--database"], "--database: give the URL, or set LITELLM_DATABASE_URL"),
        (["--database", "mysql://root:hush@db/x"], "must be given as postgresql://"),
        (["--database", "postgresql://root:hu%sh@db/x"], "the address cannot be read"),
        (["--database", "postgresql://root:hush@127.0.0.1:1/x"], "LiteLLM's database: connection"),
    ],
)
def test_what_cannot_be_read_is_told_without_a_password(args: list[str], says: str) -> None:
    with pytest.raises(CommandError, match=says) as caught:
        import_litellm(*args)
    assert "hu%sh" not in str(caught.value)
    assert "hush" not in str(caught.value)


# Agreement


def test_without_a_terminal_it_needs_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = counts()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(CommandError, match="Nothing was applied: say --yes"):
        import_litellm(str(RECORDED))
    assert counts() == before


def test_what_has_changed_since_it_was_shown_is_not_done() -> None:
    wanted = LitellmMapping(customers=[CustomerWanted("acme", "Acme", "team:t1")])
    planned = steps.plan(wanted, steps.known_here([], now=make.NOON))
    make.tenant("acme")
    with pytest.raises(Conflict, match=r"customer acme: There is a tenant 'acme' already\. Something has changed"):
        steps.apply(planned, by=BY, clock=timezone.now)
    assert not AuditEntry.objects.exists()


def test_what_is_refused_leaves_nothing_behind_and_the_rest_is_done(tmp_path: Path) -> None:
    make.budget("5", source="default")
    answers = folder(tmp_path, teams=[team(max_budget=7, budget_duration="1d", rpm_limit=3)])
    found = report(answers, "--into", "acme", "--yes")

    (why,) = [why for why in left(found) if why.startswith("refused")]
    assert "DEFAULT_DAILY_BUDGET decides that" in why
    assert Budget.objects.get().limit_nanos == make.nanos("5")
    assert RateLimit.objects.get().requests_per_minute == 3


def test_json_is_one_document_with_everything() -> None:
    answer = json.loads(import_litellm(str(RECORDED), "--json", "--yes"))

    assert (answer["created"], answer["changed"], answer["unchanged"]) == (15, 0, 1)
    assert answer["applied"]
    assert all(each["count"] and each["why"] for each in answer["not_taken_over"])
