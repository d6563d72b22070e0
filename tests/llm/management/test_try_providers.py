"""`manage.py try_providers`"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from llm.sandbox import Sandbox
from tests.fakes.anthropic_api import Anthropic
from tests.servers import served

pytestmark = pytest.mark.django_db


@pytest.fixture
def anthropic(settings: Any, sandbox: Sandbox, sandbox_url: str) -> Iterator[Anthropic]:
    fake = Anthropic()
    settings.MISTRAL_API_BASE = sandbox_url
    with served(fake) as url:
        settings.ANTHROPIC_API_BASE, settings.ANTHROPIC_API_KEY = url, fake.key
        yield fake


def run(*arguments: str) -> list[dict[str, Any]]:
    out = StringIO()
    call_command("try_providers", *arguments, "--json", stdout=out)
    tried: list[dict[str, Any]] = json.loads(out.getvalue())
    return tried


def test_every_provider_with_a_key_is_tried(anthropic: Anthropic) -> None:
    tried = run()
    assert [(one["provider"], one["works"]) for one in tried] == [("anthropic", True), ("mistral", True)]
    assert tried[1]["models"] > 5


def test_one_that_fails_ends_with_a_status(anthropic: Anthropic, capsys: pytest.CaptureFixture[str]) -> None:
    anthropic.key = "another"
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("try_providers", "anthropic", stdout=out)
    assert ended.value.code == 1
    assert out.getvalue() == "anthropic: It answered with status 401.\n"


def test_one_that_cannot_be_reached(settings: Any) -> None:
    settings.MISTRAL_API_BASE = "http://127.0.0.1:1"
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("try_providers", stdout=out)
    assert out.getvalue() == "mistral: It cannot be reached.\n"


def test_a_name_that_is_unknown() -> None:
    with pytest.raises(CommandError, match="no provider groq"):
        call_command("try_providers", "groq")
