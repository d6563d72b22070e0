"""LiteLLM's database, as its schema.prisma makes it: read as of one moment, and left as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from django.core.management import CommandError

from config.litellm import database
from governance.models import ApiKey, Budget, Tenant
from governance.rules import money
from llm.models import Model, ModelAlias
from tests import factories as make
from tests.config.litellm.answers import digest, import_litellm, left, report

pytestmark = [pytest.mark.postgres_only, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("at_noon")]

# Of each table what is read of it, beside something that is secret.
TABLES = """
CREATE SCHEMA litellm;
SET search_path TO litellm;
CREATE TABLE "LiteLLM_TeamTable" (team_id text PRIMARY KEY, team_alias text, organization_id text, members text[],
    metadata jsonb NOT NULL DEFAULT '{}', max_budget float8, soft_budget float8, spend float8 NOT NULL DEFAULT 0,
    models text[], max_parallel_requests int, tpm_limit int8, rpm_limit int8, budget_duration text,
    budget_reset_at timestamp(3), blocked bool NOT NULL DEFAULT false, model_max_budget jsonb DEFAULT '{}');
CREATE TABLE "LiteLLM_UserTable" (user_id text PRIMARY KEY, user_alias text, user_email text, password text,
    metadata jsonb NOT NULL DEFAULT '{}', max_budget float8, spend float8 NOT NULL DEFAULT 0, models text[],
    tpm_limit int8, rpm_limit int8, budget_duration text, budget_reset_at timestamp(3));
CREATE TABLE "LiteLLM_VerificationToken" (token text PRIMARY KEY, key_name text, key_alias text,
    spend float8 NOT NULL DEFAULT 0, expires timestamp(3), models text[], aliases jsonb NOT NULL DEFAULT '{}',
    user_id text, team_id text, metadata jsonb NOT NULL DEFAULT '{}', blocked bool, tpm_limit int8, rpm_limit int8,
    max_budget float8, budget_duration text, allowed_routes text[] DEFAULT '{}', budget_id text, budget_limits jsonb);
CREATE TABLE "LiteLLM_BudgetTable" (budget_id text PRIMARY KEY, max_budget float8, soft_budget float8, tpm_limit int8,
    rpm_limit int8, budget_duration text);
CREATE TABLE "LiteLLM_EndUserTable" (user_id text PRIMARY KEY, alias text, spend float8 NOT NULL DEFAULT 0,
    budget_id text, blocked bool NOT NULL DEFAULT false);
CREATE TABLE "LiteLLM_ProxyModelTable" (model_id text PRIMARY KEY, model_name text, litellm_params jsonb,
    model_info jsonb);
CREATE TABLE "LiteLLM_TeamMembership" (user_id text, team_id text, budget_id text);
CREATE TABLE "LiteLLM_TagTable" (tag_name text PRIMARY KEY, budget_id text);

INSERT INTO "LiteLLM_TeamTable" (team_id, team_alias, max_budget, spend, budget_duration, rpm_limit, models)
    VALUES ('t1', 'Acme', 0.1, 0.30000000000000004, '1d', 60, '{fast}');
INSERT INTO "LiteLLM_UserTable" (user_id, password) VALUES ('ada', 'scrypt:hush');
INSERT INTO "LiteLLM_VerificationToken" (token, key_name, key_alias, team_id, budget_id, expires)
    VALUES (%(one)s, 'sk-...-one', 'bot', 't1', 'b', '2031-01-01 12:00:00'), (%(two)s, NULL, 'own', NULL, NULL, NULL);
UPDATE "LiteLLM_VerificationToken" SET user_id = 'ada' WHERE key_alias = 'own';
INSERT INTO "LiteLLM_BudgetTable" VALUES ('b', 2.5, NULL, NULL, 10, '30d');
INSERT INTO "LiteLLM_EndUserTable" VALUES ('shop', NULL, 0, 'b', false);
INSERT INTO "LiteLLM_ProxyModelTable" VALUES ('m1', 'fast', '{"model": "c2Vhb", "api_key": "hush"}', '{"a": "hush"}');
INSERT INTO "LiteLLM_TeamMembership" VALUES ('ada', 't1', 'b');
"""


@pytest.fixture
def litellm_url(live_database: str) -> Iterator[str]:
    """The address as Prisma takes it, with parameters that PostgreSQL's own client does not have."""
    with psycopg.connect(live_database, autocommit=True) as direct:
        made = psycopg.ClientCursor(direct)
        made.execute(TABLES, {"one": digest("sk-one"), "two": digest("sk-two")})
        try:
            yield f"{live_database}&schema=litellm&connection_limit=5&pgbouncer=true"
        finally:
            direct.execute("DROP SCHEMA litellm CASCADE")


def test_the_database_comes_over_as_the_api_does(litellm_url: str) -> None:
    found = report("--database", litellm_url, "--yes")

    assert set(Tenant.objects.values_list("slug", flat=True)) == {"acme", "ada"}
    one = ApiKey.objects.get(digest=digest("sk-one"))
    assert (str(one.agent), one.expires_at and one.expires_at.isoformat()) == ("acme/bot", "2031-01-01T12:00:00+00:00")
    limits = {(each.scope, each.window): each.limit_nanos for each in Budget.objects.all()}
    assert limits == {("acme", "day"): make.nanos("0.1"), (f"acme key:{one.prefix}", "month"): make.nanos("2.5")}
    whys = left(found)
    assert whys["a model whose meaning its database seals: give the answer of /model/info too"] == ["fast"]
    assert whys["what was spent in LiteLLM's current window: here it begins at zero"] == ["acme ($0.300000001)"]
    counted = {each["why"]: each["count"] for each in found["not_taken_over"]}
    assert counted["budgets of a team's members: the key of each can have one"] == 1
    assert "hush" not in json.dumps(found)
    assert import_litellm("--database", litellm_url).endswith("Nothing differs.\n")


def test_a_file_beside_the_database_says_what_models_stand_for(
    litellm_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: object
) -> None:
    monkeypatch.setattr(settings, "LITELLM_DATABASE_URL", litellm_url)
    models = tmp_path / "models.json"
    models.write_text('{"data": [{"model_name": "fast", "litellm_params": {"model": "openai/gpt-5-mini"}}]}')
    Model(provider="openai", name="gpt-5-mini").save()
    import_litellm(str(models), "--database", "--yes")

    assert ModelAlias.objects.get(name="fast").model.name == "gpt-5-mini"


def test_nothing_can_be_written_there_and_no_password_is_read(litellm_url: str) -> None:
    tables, _ = database.read(litellm_url)

    assert "password" not in tables["users"][0].values
    assert set(tables["models"][0].values) == {"model_id", "model_name"}
    assert tables["users"][0].place == "LiteLLM_UserTable: row 1"


def change(url: str, *statements: LiteralString) -> None:
    with psycopg.connect(url.partition("&schema")[0], autocommit=True) as direct:
        direct.execute("SET search_path TO litellm")
        for each in statements:
            direct.execute(each)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("""UPDATE "LiteLLM_TeamTable" SET max_budget = 'NaN'""", "LiteLLM_TeamTable: row 1: max_budget: must be a"),
        ("""UPDATE "LiteLLM_TeamTable" SET metadata = '"{}"'""", "LiteLLM_TeamTable: row 1: metadata: must be an"),
        (
            """UPDATE "LiteLLM_VerificationToken" SET expires = 'infinity' WHERE key_alias = 'bot'""",
            "LiteLLM_VerificationToken: row ",
        ),
        (
            """INSERT INTO "LiteLLM_EndUserTable" VALUES ('', NULL, 0, 'b', false)""",
            "LiteLLM_EndUserTable: row 1: user_id: is needed",
        ),
    ],
)
def test_a_value_that_is_none_is_told_with_table_row_and_column_and_the_rest_comes_over(
    litellm_url: str, statement: LiteralString, says: str
) -> None:
    change(litellm_url, statement)
    [told] = left(report("--database", litellm_url, "--yes"))["a row that cannot be read"]
    assert told.startswith(says)
    assert ApiKey.objects.filter(digest=digest("sk-two")).exists()


def test_keys_of_a_blocked_project_are_left_out(litellm_url: str) -> None:
    change(
        litellm_url,
        'CREATE TABLE "LiteLLM_ProjectTable" (project_id text PRIMARY KEY, team_id text, blocked bool)',
        """INSERT INTO "LiteLLM_ProjectTable" VALUES ('p1', 't1', true)""",
        'ALTER TABLE "LiteLLM_VerificationToken" ADD project_id text',
        """UPDATE "LiteLLM_VerificationToken" SET project_id = 'p1' WHERE key_alias = 'bot'""",
    )
    found = left(report("--database", litellm_url, "--yes"))
    assert found["a key of a project that is blocked"] == ["bot"]
    assert not ApiKey.objects.filter(digest=digest("sk-one")).exists()


def test_end_users_of_whom_nothing_is_to_be_said_are_not_read(litellm_url: str) -> None:
    change(litellm_url, """INSERT INTO "LiteLLM_EndUserTable" SELECT 'u' || n FROM generate_series(1, 9) n""")
    tables, _ = database.read(litellm_url)
    assert [row.values["user_id"] for row in tables["customers"]] == ["shop"]


def test_an_infinite_budget_is_one_that_nobody_reaches(litellm_url: str) -> None:
    change(litellm_url, """UPDATE "LiteLLM_VerificationToken" SET max_budget = 'Infinity' WHERE key_alias = 'bot'""")
    import_litellm("--database", litellm_url, "--yes")
    key = ApiKey.objects.get(digest=digest("sk-one"))
    assert Budget.objects.get(scope_key=key.prefix).limit_nanos == money.MAX_LIMIT_NANOS


def test_keys_of_an_older_version_share_no_budgets(litellm_url: str) -> None:
    change(litellm_url, 'ALTER TABLE "LiteLLM_VerificationToken" DROP COLUMN budget_id')
    import_litellm("--database", litellm_url, "--yes")
    assert ApiKey.objects.filter(digest=digest("sk-one")).exists()


def test_what_has_a_budget_or_limits_and_no_place_here_is_counted(litellm_url: str) -> None:
    change(
        litellm_url,
        'CREATE TABLE "LiteLLM_OrganizationMembership" (user_id text, organization_id text, budget_id text)',
        """INSERT INTO "LiteLLM_OrganizationMembership" VALUES ('ada', 'o', 'b')""",
        'CREATE TABLE "LiteLLM_ModelAccessGroupBudgetTable" (access_group_name text, budget_id text)',
        """INSERT INTO "LiteLLM_ModelAccessGroupBudgetTable" VALUES ('g', 'b')""",
        'CREATE TABLE "LiteLLM_AgentsTable" (agent_id text, rpm_limit int)',
        """INSERT INTO "LiteLLM_AgentsTable" VALUES ('a', 5)""",
        'CREATE TABLE "LiteLLM_Config" (param_name text, param_value jsonb)',
        """INSERT INTO "LiteLLM_Config" VALUES ('litellm_settings', '{"max_budget": 100}'), ('x', '{"y": 1}')""",
    )
    counted = {each["why"]: each["count"] for each in report("--database", litellm_url, "--dry-run")["not_taken_over"]}
    for sentence in (
        "budgets of an organisation's members: a customer, or the key of each, can have one",
        "budgets of groups of models: here they are for all models together",
        "agents of LiteLLM's own, with limits of theirs",
        "settings that its database keeps, with limits for all",
    ):
        assert counted[sentence] == 1


def test_a_table_that_may_not_be_read_is_refused_and_not_taken_for_none(litellm_url: str) -> None:
    # As a role that every PostgreSQL has, and that has no rights to tables by itself.
    change(
        litellm_url,
        "GRANT USAGE ON SCHEMA litellm TO pg_monitor",
        "GRANT SELECT ON ALL TABLES IN SCHEMA litellm TO pg_monitor",
        'REVOKE SELECT ON "LiteLLM_TagTable" FROM pg_monitor',
    )
    with pytest.raises(CommandError, match="permission denied for table LiteLLM_TagTable"):
        import_litellm("--database", f"{litellm_url}&options=-c%20role%3Dpg_monitor", "--dry-run")


def test_a_database_that_is_not_litellms_is_refused(live_database: str) -> None:
    with pytest.raises(CommandError, match="there is no LiteLLM_TeamTable in its schema 'public'"):
        import_litellm("--database", live_database)
