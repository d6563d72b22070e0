"""What LiteLLM has and we cannot, or no longer has: told by name, and never silently none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from config.litellm import routes
from config.litellm.aliases import ANOTHERS
from config.litellm.routes import ModelRoutes
from governance.actions import budgets, tenancy
from governance.audit import Actor
from governance.models import ApiKey, Budget, RateLimit
from llm.catalogue import snapshot
from llm.models import Model, ModelAlias
from tests import factories as make
from tests.config.litellm.answers import digest, folder, import_litellm, key, left, report, team

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("at_noon")]

BY = Actor("ada")


def prefix(text: str) -> str:
    return ApiKey.objects.get(digest=digest(text)).prefix


# Routes


@pytest.mark.parametrize(
    ("allowed", "found"),
    [
        ([], ModelRoutes.ALL),
        (["llm_api_routes"], ModelRoutes.ALL),
        (["*"], ModelRoutes.ALL),
        (["openai_routes"], ModelRoutes.SOME),
        (["/v1/*"], ModelRoutes.SOME),
        (["/v1"], ModelRoutes.SOME),
        (["/chat/completions", "/embeddings"], ModelRoutes.SOME),
        (["/openai"], ModelRoutes.SOME),
        (["anthropic_routes"], ModelRoutes.NO_CHATS),
        (["/v1/messages"], ModelRoutes.NO_CHATS),
        (["/responses"], ModelRoutes.NO_CHATS),
        (["/audio/*"], ModelRoutes.NO_CHATS),
        (["/embeddings"], ModelRoutes.NO_CHATS),
        (["google_routes"], ModelRoutes.NO_CHATS),
        (["/v1/models"], ModelRoutes.NONE),
        (["/v1/mcp/server", "info_routes"], ModelRoutes.NONE),
        (["management_routes"], ModelRoutes.NONE),
        # No part of a name, as LiteLLM has it.
        (["/chat/comp"], ModelRoutes.NONE),
    ],
)
def test_which_calls_of_models_routes_allow(allowed: list[str], found: ModelRoutes) -> None:
    assert routes.of(allowed) is found


def test_a_key_that_is_held_to_routes_is_told_and_comes_over_where_it_may_chat_alone(tmp_path: Path) -> None:
    keys = [
        key("sk-chat", key_alias="chat", allowed_routes=["/chat/completions"]),
        key("sk-embed", key_alias="embed", allowed_routes=["/embeddings"]),
        key("sk-admin", key_alias="admin", allowed_routes=["/v1/mcp/server"]),
    ]
    found = left(report(folder(tmp_path, teams=[team()], keys=keys), "--yes"))

    assert found["routes that a key is held to: here it may call every route of models"] == ["chat"]
    why = "a key that is held to routes without chat completions, which every key may call here"
    assert found[why] == ["embed"]
    assert found["a key that may call no models, but administers LiteLLM"] == ["admin"]
    assert [key.name for key in ApiKey.objects.all()] == ["chat"]


# Users


def test_limits_of_users_that_hold_for_keys_of_teams_are_told(tmp_path: Path) -> None:
    users = [
        {"user_id": "ada", "rpm_limit": 5, "tpm_limit": 100},
        {"user_id": "bob", "user_alias": "Bob", "max_budget": 3},
        {"user_id": "eve", "rpm_limit": 0},
        {"user_id": "joe", "tpm_limit": 9},
    ]
    keys = [
        key("sk-ada", key_alias="ada's", user_id="ada"),
        key("sk-bob", key_alias="bob's", user_id="bob"),
        key("sk-own", key_alias="own", user_id="bob", team_id=None),
        key("sk-eve", key_alias="eve's", user_id="eve"),
        key("sk-joe", key_alias="joe's", user_id="joe", team_id=None),
    ]
    found = left(report(folder(tmp_path, teams=[team()], users={"users": users}, keys=keys), "--yes"))

    why = "a user's limits, by which LiteLLM bounds that user's keys of teams too: give each of these its own"
    assert found[why] == ["ada", "Bob"]
    # At LiteLLM not one call of it passes.
    assert found["a key of a user whose rate limit is 0: no call would pass"] == ["eve's"]
    assert not ApiKey.objects.filter(digest=digest("sk-eve")).exists()
    # Keys of their own are bounded by them here as well.
    assert Budget.objects.get().scope == "bob"
    assert RateLimit.objects.get().tokens_per_minute == 9


# Who and what is gone


def test_keys_and_customers_that_are_gone_there_are_told(tmp_path: Path) -> None:
    teams, keys = [team(), team("t2", "Globex")], [key(), key("sk-two", team_id="t2")]
    import_litellm(folder(tmp_path, teams=teams, keys=keys), "--yes")
    one, two = prefix("sk-one"), prefix("sk-two")
    found = left(report(folder(tmp_path, teams=teams[:1], keys=keys[:1]), "--yes"))
    assert found["a key that came over before and is not among those given: revoke it"] == [two]
    assert found["a customer that came over before and is not among those given: revoke its keys"] == ["globex"]

    tenancy.revoke_key(key=ApiKey.objects.get(prefix=two), by=BY, now=timezone.now())
    (tmp_path / "teams.json").unlink()
    found = left(report(str(tmp_path), "--yes"))
    # Of teams that were not given nobody knows whether they are gone.
    assert set(found) == {
        "a key whose team or user is left out, or is not among those given",
        "a key that is left out now, but came over before and works here: revoke it",
        "teams were not given: what they say is not known",
    }
    assert found["a key that is left out now, but came over before and works here: revoke it"] == [one]


def test_rows_that_cannot_be_read_are_not_told_to_be_gone(tmp_path: Path) -> None:
    teams = [team(), team("t2", "Globex")]
    keys = [key(), key("sk-two", team_id="t2")]
    import_litellm(folder(tmp_path, teams=teams, keys=keys), "--yes")
    odd = {"tpm_limit": -1}
    found = left(report(folder(tmp_path, teams=[team(), teams[1] | odd], keys=[keys[0] | odd, keys[1]]), "--yes"))

    assert set(found) == {
        "a row that cannot be read",
        "a key whose team or user is left out, or is not among those given",
    }


def test_of_two_rows_of_one_id_that_differ_the_last_counts_and_that_is_told(tmp_path: Path) -> None:
    keys = [key(max_budget=1), key(max_budget=1), key(max_budget=1000)]
    budgets = [{"budget_id": "b", "max_budget": 1}] * 2
    found = left(report(folder(tmp_path, teams=[team()], keys=keys, budgets=budgets), "--yes"))

    assert found == {"a row that is there twice, and says two things: the last counts": ["keys.json: row 3"]}
    assert Budget.objects.get().limit_nanos == make.nanos("1000")


def test_a_customer_who_is_here_and_is_joined_by_nobody_is_told(tmp_path: Path) -> None:
    make.tenant("acme")
    answers = folder(tmp_path, teams=[team(), team("t2", "ACME")])
    why = "--into without effect: nobody of that name alone comes over"

    assert left(report(answers, "--into", "acme", "--yes")) == {why: ["acme"]}


def test_limits_that_are_gone_there_are_told_and_those_of_somebody_here_are_not(tmp_path: Path) -> None:
    import_litellm(
        folder(
            tmp_path,
            teams=[team(max_budget=5, budget_duration="30d", rpm_limit=60)],
            keys=[key(max_budget=1, tpm_limit=1000)],
        ),
        "--yes",
    )
    make.budget("3", window="week")
    one = prefix("sk-one")
    answers = folder(tmp_path, teams=[team(max_budget=5, budget_duration="1d")], keys=[key()])
    told = left(report(answers, "--yes"))["a limit that came over before and is none at LiteLLM now: delete it"]

    assert sorted(told) == sorted(
        [
            "budget acme per month",
            "rate limit acme",
            f"budget acme key:{one} per lifetime",
            f"rate limit acme key:{one}",
        ]
    )


# What somebody changed here


def test_what_was_changed_or_deleted_here_stays_so_unless_it_is_said(tmp_path: Path) -> None:
    answers = folder(tmp_path, teams=[team(max_budget=1000, budget_duration="30d", rpm_limit=60)])
    import_litellm(answers, "--yes")
    budgets.change(budget=Budget.objects.get(), changes={"limit_nanos": make.nanos("5")}, by=BY, now=timezone.now())
    RateLimit.objects.all().delete()
    found = report(answers, "--yes")

    assert left(found) == {
        "a limit that is another here: it stays, unless --overwrite is said": [
            "budget acme per month (limit 5.00, at LiteLLM 1000.00)"
        ],
        "a limit that was deleted here: it stays so, unless --overwrite is said": ["rate limit acme"],
    }
    assert (Budget.objects.get().limit_nanos, RateLimit.objects.count()) == (make.nanos("5"), 0)
    assert not left(report(answers, "--yes", "--overwrite"))
    assert (Budget.objects.get().limit_nanos, RateLimit.objects.count()) == (make.nanos("1000"), 1)


# Budgets that are shared


def test_of_an_own_budget_and_a_shared_one_each_field_is_its_own_where_it_has_one(tmp_path: Path) -> None:
    shared = [
        {"budget_id": "b", "max_budget": 100, "budget_duration": "1d", "tpm_limit": 5},
        {"budget_id": "c", "max_budget": 100, "budget_duration": "30d"},
    ]
    keys = [
        key("sk-1", key_alias="own amount", max_budget=5, budget_id="b"),
        key("sk-2", key_alias="own duration", budget_duration="1d", budget_id="c"),
    ]
    import_litellm(folder(tmp_path, teams=[team()], keys=keys, budgets=shared), "--yes")

    limits = {budget.scope_key: (budget.window, budget.limit_nanos) for budget in Budget.objects.all()}
    assert limits == {prefix("sk-1"): ("day", make.nanos("5")), prefix("sk-2"): ("day", make.nanos("100"))}
    assert RateLimit.objects.get().scope_key == prefix("sk-1")


def test_keys_of_which_nobody_says_what_they_share_are_told(tmp_path: Path) -> None:
    keys = [{name: value for name, value in key().items() if name != "budget_id"}]
    found = left(report(folder(tmp_path, teams=[team()], keys=keys), "--yes"))

    assert "keys whose answer does not say which budget they share: give --database" in found


# Projects, and what has no place


def test_keys_of_a_blocked_project_are_left_out(tmp_path: Path) -> None:
    keys = [key("sk-1", key_alias="shut", project_id="p1"), key("sk-2", key_alias="open", project_id="p2")]
    found = left(report(folder(tmp_path, teams=[team()], keys=keys), "--dry-run"))
    why = "a key of a project that was not given: whether that is blocked is not known"
    assert found[why] == ["shut", "open"]

    projects = [{"project_id": "p1", "blocked": True}, {"project_id": "p2", "blocked": False}]
    found = left(report(folder(tmp_path, teams=[team()], keys=keys, projects=projects), "--yes"))
    assert found["a key of a project that is blocked"] == ["shut"]
    assert why not in found
    assert [key.name for key in ApiKey.objects.all()] == ["open"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"metadata": {"temp_budget_increase": 100}}, "raises for a time"),
        ({"tpd_limit": 1000}, "ceilings of tokens a day"),
        ({"metadata": {"throttle_on_budget_exceeded": True}}, "keys that are slowed once their budget is used up"),
        ({"metadata": {"end_user_budget_id": "b"}}, "budgets that a key gives to end users"),
        ({"metadata": {"model_max_budget": {"x": 1}}}, "budgets and rates by model"),
        ({"org_id": "o1"}, "organisations"),
        ({"agent_id": "a1"}, "keys with agent_id"),
        ({"access_group_ids": ["g"]}, "keys with access_group_ids"),
        ({"object_permission_id": "o"}, "keys with object_permission_id"),
        ({"budget_fallbacks": {"a": ["b"]}}, "keys with budget_fallbacks"),
        ({"router_settings": {"x": 1}}, "keys with router_settings"),
        ({"permissions": {"allow_pii_controls": False}}, "keys with permissions"),
        ({"of_a_newer_litellm": 5}, "keys with of_a_newer_litellm"),
        (
            {"metadata": {"enforced_params": ["user"], "cost\u202e": False}},
            "keys with metadata that nothing here goes by",
        ),
    ],
)
def test_what_has_no_place_here_is_counted(tmp_path: Path, fields: dict[str, Any], why: str) -> None:
    found = left(report(folder(tmp_path, teams=[team()], keys=[key(**fields)]), "--dry-run"))
    assert [told.partition(":")[0] for told in found] == [why]


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"teams": [team(metadata={"team_member_budget_id": "b"})]}, "budgets of a team's members"),
        ({"teams": [team(litellm_model_table={"model_aliases": {"a": "b"}})]}, "teams with litellm_model_table"),
        ({"teams": [team(model_id=5)]}, "teams with model_id"),
        ({"teams": [team(budget_id="b")]}, "teams with budget_id"),
        ({"users": {"users": [{"user_id": "ada", "blocked": True}]}}, "users with blocked"),
        ({"users": {"users": [{"user_id": "ada", "metadata": {"scim_active": False}}]}}, "users with metadata that"),
        ({"budgets": [{"budget_id": "b", "allowed_models": ["a"]}]}, "budgets with allowed_models"),
        ({"customers": [{"user_id": "shop", "allowed_model_region": "eu"}]}, "customers with allowed_model_region"),
    ],
)
def test_whatever_holds_something_and_is_not_known_here_is_told_by_name(
    tmp_path: Path, answers: dict[str, Any], why: str
) -> None:
    found = left(report(folder(tmp_path, **answers), "--dry-run"))
    [told] = found
    assert told.startswith(why)


def test_what_litellm_says_of_everybody_is_not_told(tmp_path: Path) -> None:
    """Of a key, team and user as LiteLLM makes them, with the fields that it fills in by itself."""
    made = {"created_at": "2026-01-05T09:12:44Z", "updated_at": "2026-01-05T09:12:44Z", "created_by": "ada"}
    keys = [key(key_type="default", last_active="2026-01-05T09:12:44Z", total_spend=4, rotation_count=2, **made)]
    users = [
        {"user_id": "ada", "user_role": "internal_user", "teams": ["t1"], "key_count": 1, "sso_user_id": "x"} | made
    ]
    teams = [
        team(members_with_roles=[{"user_id": "ada", "role": "admin"}], team_member_permissions=["/key/info"], **made)
    ]
    assert not left(report(folder(tmp_path, teams=teams, users={"users": users}, keys=keys), "--dry-run"))


# Models


@pytest.mark.parametrize(
    ("name", "params", "info", "why"),
    [
        ("own", {"base_url": "http://vllm.internal/v1"}, {}, "a model at an address of its own"),
        ("own", {"api_base": "http://vllm.internal/v1"}, {}, "a model at an address of its own"),
        ("own", {"litellm_credential_name": "vllm"}, {}, "a model at an address of its own"),
        ("own", {"aws_bedrock_runtime_endpoint": "http://x"}, {}, "a model at an address of its own"),
        ("own", {"vertex_location": "eu"}, {}, "a model at an address of its own"),
        ("own", {"use_litellm_proxy": True}, {}, "a model at an address of its own"),
        ("own", {"input_cost_per_token": 1e-9}, {}, "a model with a price of its own"),
        ("own", {"tiered_pricing": [{"x": 1}]}, {}, "a model with a price of its own"),
        ("own", {}, {"base_model": "azure/gpt-4o"}, "a model with a price of its own"),
        ("own", {"mock_response": "Hi"}, {}, "a model with settings of its own: mock_response"),
        ("own", {}, {"team_id": "t1", "team_public_model_name": "own"}, "a team's own model"),
        ("model_name_t1_0fe1", {}, {}, "a team's own model"),
    ],
)
def test_a_model_that_is_not_the_providers_as_everybody_has_it_is_no_alias(
    tmp_path: Path, name: str, params: dict[str, Any], info: dict[str, Any], why: str
) -> None:
    Model(provider="openai", name="gpt-5-mini").save()
    row = {"model_name": name, "litellm_params": {"model": "openai/gpt-5-mini"} | params, "model_info": info}
    plain = {"model_name": name, "litellm_params": {"model": "openai/gpt-5-mini", "rpm": 5}}
    found = left(report(folder(tmp_path, models={"data": [plain, row]}), "--yes"))

    ((told, named),) = found.items()
    assert told.startswith(why)
    assert named == [name]
    assert not ModelAlias.objects.filter(model__name="gpt-5-mini").exists()


def deployments(*models: tuple[str, str]) -> dict[str, Any]:
    return {"data": [{"model_name": name, "litellm_params": {"model": model}} for name, model in models]}


def meanings(*names: str) -> dict[str, str | None]:
    found = snapshot.read(now=timezone.now())
    return {name: (entry.id if (entry := found.resolve(name)) else None) for name in names}


def test_a_name_behind_its_provider_is_the_same_name(tmp_path: Path) -> None:
    for name in ("gpt-5-mini", "gpt-5"):
        Model(provider="openai", name=name).save()
    models = [("openai/fast", "gpt-5-mini"), ("fast", "gpt-5-mini"), ("openai/slow", "gpt-5-mini"), ("slow", "gpt-5")]
    answers = folder(tmp_path, models=deployments(*((name, f"openai/{model}") for name, model in models)))
    found = left(report(answers, "--yes"))

    aliases = ModelAlias.objects.filter(model__provider="openai").values_list("name", "model__name")
    assert set(aliases) == {("fast", "gpt-5-mini"), ("slow", "gpt-5")}
    assert found == {ANOTHERS: ["openai/slow"]}
    assert report(answers, "--yes")["created"] == 0


@pytest.mark.parametrize(
    ("here", "models", "told", "means"),
    [
        # Whoever calls "fast" here would be told that there is no such model.
        ("groq/llama", [("openai/fast", "openai/gpt-5-mini")], ["openai/fast"], {"fast": "groq/llama"}),
        # And so would who calls it at LiteLLM.
        (
            None,
            [("fast", "openai/gpt-5-mini"), ("groq/fast", "groq/llama")],
            ["groq/fast"],
            {"fast": "openai/gpt-5-mini", "groq/fast": None},
        ),
        # What it means there it cannot mean here: another would be called by it.
        (
            None,
            [("fast", "mistral/mistral-small-latest"), ("openai/fast", "openai/gpt-5-mini")],
            ["openai/fast"],
            {"fast": None},
        ),
        # Nobody calls a bare name, so none is taken.
        (
            None,
            [("openai/fast", "openai/gpt-5-mini"), ("groq/fast", "groq/llama")],
            None,
            {"openai/fast": "openai/gpt-5-mini", "groq/fast": "groq/llama"},
        ),
        # What stands behind a provider may look like another provider's name.
        (
            None,
            [("groq/openai/gpt-5-mini", "groq/llama")],
            ["groq/openai/gpt-5-mini"],
            {"openai/gpt-5-mini": "openai/gpt-5-mini"},
        ),
        # A bare name that Mistral has stays Mistral's.
        (
            None,
            [("openai/mistral-small-2603", "openai/gpt-5-mini")],
            None,
            {"openai/mistral-small-2603": "openai/gpt-5-mini", "mistral-small-2603": "mistral-small-2603"},
        ),
    ],
)
def test_a_name_behind_its_provider_takes_no_bare_name_away(
    tmp_path: Path,
    here: str | None,
    models: list[tuple[str, str]],
    told: list[str] | None,
    means: dict[str, str | None],
) -> None:
    Model(provider="openai", name="gpt-5-mini").save()
    llama = Model(provider="groq", name="llama")
    llama.save()
    if here:
        ModelAlias(name="fast", model=llama).save()
    answers = folder(tmp_path, models=deployments(*models))

    assert left(report(answers, "--yes")).get(ANOTHERS) == told
    assert meanings(*means) == means
    # What came over stays, and is told no second time.
    assert left(report(answers, "--yes")).get(ANOTHERS) == told


def test_a_bare_name_that_two_have_here_is_no_name_and_that_is_told(tmp_path: Path) -> None:
    Model(provider="openai", name="gpt-5-mini").save()
    for provider in ("groq", "azure"):
        model = Model(provider=provider, name="llama")
        model.save()
        ModelAlias(name="fast", model=model).save()
    answers = folder(tmp_path, models=deployments(("fast", "openai/gpt-5-mini")))

    assert left(report(answers, "--yes")) == {ANOTHERS: ["fast"]}
