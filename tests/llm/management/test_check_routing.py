"""`manage.py check_routing`"""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from llm.catalogue import snapshot
from llm.models import Model

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fresh_catalogue():
    snapshot.forget()
    yield
    snapshot.forget()


def run(*arguments: object) -> str:
    out = StringIO()
    call_command("check_routing", *map(str, arguments), stdout=out)
    return out.getvalue()


def test_it_says_what_the_products_own_file_means():
    said = run()
    assert "mistral-small-latest [workhorse]: tier 4, $0.15/$0.6 a million; chat json reasoning tools vision" in said
    assert "judgment-based: judgment-based, threshold 40" in said
    assert "mistral-medium-latest ($1.5/$7.5 a million) -> mistral-large-2512 ($0.5/$1.5 a million) -> " in said


def test_the_file_in_force_is_the_operators(tmp_path, settings):
    settings.ROUTER_CONFIG = tmp_path / "routing.yaml"
    settings.ROUTER_CONFIG.write_text(
        "pool: [{id: mistral-large-latest, tags: [mine], enabled: false}, {id: codestral-latest}]"
    )
    said = run()
    assert said.startswith(str(settings.ROUTER_CONFIG))
    assert "mistral-large-latest [mine]: tier 5, switched off, $0.5/$1.5 a million" in said


def test_json():
    said = json.loads(run("--json"))
    small = next(model for model in said["pool"] if model["name"] == "mistral-small-latest")
    assert (small["model"], small["usd_per_million_output"]) == ("mistral-small-2603", "0.6")
    assert said["chains"]["code"] == ["codestral-latest", "mistral-small-latest"]
    assert said["strategies"]["quality"]["models"][0] == "mistral-medium-latest"


def test_a_model_that_is_not_served_now_is_marked(tmp_path):
    Model.objects.filter(name="mistral-small-2603").update(status="retired")
    snapshot.forget()
    assert "mistral-small-latest [workhorse]: tier 4, not served now" in run()


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text("pool:\n- {id: mistral-smal}\n")
    return path


def test_a_mistake_is_told_with_its_place(bad):
    with pytest.raises(CommandError, match=rf"{bad}:2:8: The catalogue has no model 'mistral-smal'; did you") as said:
        run(bad)
    assert said.value.returncode == 1


def test_a_mistake_as_json(bad, capsys):
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("check_routing", str(bad), "--json", stdout=out)
    assert ended.value.code == 1
    error = json.loads(out.getvalue())["error"]
    assert (error["file"], error["line"], error["column"]) == (str(bad), 2, 8)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(CommandError, match="cannot be read"):
            run(path)


def test_a_new_file_can_be_checked_while_the_one_in_force_is_bad(bad, tmp_path, settings):
    settings.ROUTER_CONFIG = bad
    good = tmp_path / "good.yaml"
    good.write_text("pool: [{id: codestral-latest}]")
    assert "codestral-latest" in run(good)
