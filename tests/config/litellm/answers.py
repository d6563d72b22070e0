"""Answers of LiteLLM's API, as `tests/fixtures/litellm` has them, and such as a test wants."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from django.core.management import call_command

from tests.environment import ROOT

RECORDED = ROOT / "tests" / "fixtures" / "litellm"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def key(text: str = "sk-one", **fields: Any) -> dict[str, Any]:
    return {
        "token": digest(text),
        "key_name": f"sk-...{text[-4:]}",
        "team_id": "t1",
        "budget_id": None,
        "spend": 0.0,
    } | fields


def team(id: str = "t1", alias: str | None = "Acme", **fields: Any) -> dict[str, Any]:
    return {"team_id": id, "team_alias": alias, "spend": 0.0, "metadata": {}} | fields


def folder(path: Path, **answers: Any) -> str:
    """A folder with an answer in each file, where none is given an empty one."""
    nothing = {"teams": [], "keys": {"keys": []}, "users": {"users": []}, "models": {"data": []}, "customers": []}
    path.mkdir(exist_ok=True)
    for name, answer in (nothing | answers).items():
        (path / f"{name}.json").write_text(json.dumps(answer))
    return str(path)


def import_litellm(*args: str) -> str:
    told = io.StringIO()
    call_command("import_litellm", *args, stdout=told)
    return told.getvalue()


def report(*args: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(import_litellm(*args, "--json"))
    return answer


def left(answer: dict[str, Any]) -> dict[str, list[str]]:
    """What was not taken over, by the reason."""
    return {each["why"]: each["what"] for each in answer["not_taken_over"]}
