"""What LiteLLM's rows say that has no place here, counted by the sentence that says so. Pure.

What is known is told in words of its own. Any other field that holds something is told by its name, as a newer LiteLLM
may limit calls by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from config.litellm.rows import LitellmRow
from governance.rules import names

# What is read of rows, is told in words of its own, or says nothing of what may be called and spent.
_OF_ALL = {
    *("budget_duration", "budget_limits", "budget_reset_at", "max_budget", "soft_budget", "spend", "total_spend"),
    *("max_parallel_requests", "model_max_budget", "models", "policies", "rpm_limit", "tpd_limit", "tpm_limit"),
    *("metadata", "model_spend", "org_id", "organization_id"),
    *("created_at", "created_by", "updated_at", "updated_by"),
}
_KNOWN: Mapping[str, set[str]] = {
    "teams": {
        *("team_id", "team_alias", "blocked", "team_memberships", "team_member_permissions", "keys", "keys_count"),
        *("admins", "members", "members_count", "members_with_roles", "allow_team_guardrail_config"),
    },
    "users": {
        *("user_id", "user_alias", "user_email", "user_role", "sso_user_id", "team_id", "teams", "key_count"),
        *("password_reset_required", "last_breach_check_at"),
    },
    "keys": {
        *(
            "token",
            "blocked",
            "budget_id",
            "litellm_budget_table",
            "key_alias",
            "key_name",
            "key_type",
            "expires",
            "user_id",
            "team_id",
            "project_id",
        ),
        *("allowed_routes", "aliases", "auto_rotate", "key_rotation_at", "last_rotation_at", "rotation_count"),
        *("rotation_interval", "last_active", "last_refreshed_at", "settings_updated_at", "soft_budget_cooldown"),
        # Of others, which the API puts beside them.
        *("api_key", "created_by_user", "organization_alias", "project_alias", "team_alias", "user"),
        *("user_email", "user_role"),
    },
    "budgets": {"budget_id", "temp_budget_increase", "temp_budget_expiry"},
    "customers": {"user_id", "alias", "blocked", "budget_id", "litellm_budget_table"},
}
_KNOWN_METADATA = {
    *("end_user_budget_id", "guardrails", "model_max_budget", "model_rpm_limit", "model_tpm_limit", "policies"),
    *("tags", "team_member_budget_id", "temp_budget_expiry", "temp_budget_increase", "throttle_on_budget_exceeded"),
    "tpd_limit",
}

# The rows of a table, by their ids.
ById = Mapping[str, LitellmRow]


def of(rows: Mapping[str, ById], tables: Mapping[str, Sequence[LitellmRow]]) -> dict[str, int]:
    """Of the rows that could be read; `tables` are all that were given."""
    return {sentence: count for sentence, count in (_in_words(rows, tables) | _by_name(rows)).items() if count}


def _by_name(rows: Mapping[str, ById]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for table, known in _KNOWN.items():
        notes: dict[str, None] = {}
        noted = 0
        for row in rows[table].values():
            for name, value in row.values.items():
                if value and name not in _OF_ALL | known:
                    counted[f"{table} with {names.printable(name)}: nothing here does what LiteLLM does by it"] += 1
            found = [
                name for name, value in _metadata(row).items() if name not in _KNOWN_METADATA and value is not None
            ]
            notes |= dict.fromkeys(found)
            noted += bool(found)
        told = names.printable(", ".join(sorted(notes)))
        counted[f"{table} with metadata that nothing here goes by: {told}"] = noted
    return dict(counted)


def _in_words(rows: Mapping[str, ById], tables: Mapping[str, Sequence[LitellmRow]]) -> dict[str, int]:
    teams, keys = list(rows["teams"].values()), list(rows["keys"].values())
    limited = [row for table in _KNOWN for row in rows[table].values()]

    def having(rows: Iterable[LitellmRow], name: str) -> int:
        return sum(bool(row.values.get(name)) for row in rows)

    def noting(*named: str) -> int:
        return sum(bool(_metadata(row).get(name)) for row in limited for name in named)

    members = [each for row in teams for each in row.inner_rows("team_memberships")]
    unsaid = [] if "budgets" in tables else [row for row in keys if "budget_id" not in row.values]
    organizations = {str(row.values.get("organization_id") or row.values.get("org_id") or "") for row in limited} - {""}
    return {
        "keys whose answer does not say which budget they share: give --database": sum(
            not row.values.get("litellm_budget_table") for row in unsaid
        ),
        "lists of allowed models: every model can be called here by whoever has the budget for it": having(
            limited, "models"
        ),
        "budgets and rates by model: here they are for all models together": having(limited, "model_max_budget")
        + noting("model_rpm_limit", "model_tpm_limit", "model_max_budget"),
        "ceilings of parallel requests: ceilings here are a minute's": having(limited, "max_parallel_requests"),
        "ceilings of tokens a day: a budget for a day bounds their cost": having(limited, "tpd_limit")
        + noting("tpd_limit"),
        "raises for a time: an operator can make one in the console": noting("temp_budget_increase")
        + having(limited, "temp_budget_increase"),
        "keys that are slowed once their budget is used up: here they are refused": noting(
            "throttle_on_budget_exceeded"
        ),
        "budgets that a key gives to end users: a budget for each user can be made": noting("end_user_budget_id"),
        "budgets of a team's members: the key of each can have one": having(members, "budget_id")
        + noting("team_member_budget_id"),
        "tags for calls: calls say x-task, x-session or x-user": noting("tags"),
        "guardrails and policies: what a call says is not looked into": noting("guardrails", "policies")
        + having(limited, "policies"),
        "names of models that a key has for itself": having(keys, "aliases"),
        "keys that LiteLLM rotates by itself: rotate them in the console": having(keys, "auto_rotate"),
        "organisations: a customer stands under the platform's budgets alone": max(
            len(tables.get("organizations", ())), len(organizations)
        ),
        "projects between teams and keys": len(rows["projects"]),
    }


def _metadata(row: LitellmRow) -> Mapping[str, object]:
    found = row.values.get("metadata")
    return found if isinstance(found, dict) else {}
