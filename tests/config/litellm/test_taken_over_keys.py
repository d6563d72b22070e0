"""A key that was issued by LiteLLM, in the hands of an unmodified client of which the base URL alone is changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from governance.models import ApiKey, SpendEntry
from llm.catalogue import snapshot
from llm.models import Model, Price
from tests.config.litellm.answers import digest, folder, import_litellm, key, team
from tests.fakes import openai_api
from tests.product import Product
from tests.servers import served

# Another in each test: a process remembers for a while whose a key is.
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}


@pytest.fixture
def openai_fake(settings: Any) -> Iterator[openai_api.OpenAI]:
    fake = openai_api.OpenAI()
    with served(fake) as url:
        settings.OPENAI_API_BASE, settings.OPENAI_API_KEY = f"{url}/v1", fake.key
        yield fake
    snapshot.forget()


def test_an_agent_goes_on_with_its_key_and_its_budget(product: Product, tmp_path: Path) -> None:
    text = "sk-made-by-litellm-0001"
    keys = [key(text, key_alias="bot", max_budget=0.0001, budget_duration="1d")]
    import_litellm(folder(tmp_path, teams=[team()], keys=keys), "--yes")

    with openai.OpenAI(base_url=f"{product.url}/v1", api_key=text, max_retries=0) as client:
        answer = client.chat.completions.create(model="mistral-small-latest", **ASKED)
        assert answer.choices[0].message.content
        entry = SpendEntry.objects.get()
        bot = ApiKey.objects.get(digest=digest(text))
        assert (str(entry.tenant), str(entry.agent), entry.key) == ("acme", "bot", bot)

        # What LiteLLM allowed the key is what it may spend here.
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="mistral-large-latest", **(ASKED | {"max_tokens": 8000}))
        assert caught.value.status_code == 402


def test_a_name_that_came_over_reaches_its_provider_as_the_name_of_the_model(
    openai_fake: openai_api.OpenAI, product: Product, tmp_path: Path
) -> None:
    text = "sk-made-by-litellm-0002"
    row = Model(provider="openai", name="gpt-5-mini", kinds=["chat"])
    row.save()
    for unit in ("input", "output"):
        Price(model=row, unit=unit, picos_per_unit=1_000_000).save()
    models = [{"model_name": "fast", "litellm_params": {"model": "openai/gpt-5-mini"}}]
    import_litellm(folder(tmp_path, teams=[team()], keys=[key(text)], models={"data": models}), "--yes")

    snapshot.forget()

    with openai.OpenAI(base_url=f"{product.url}/v1", api_key=text, max_retries=0) as client:
        assert client.chat.completions.create(model="fast", **ASKED).choices
    assert [sent.body["model"] for sent in openai_fake.seen] == ["gpt-5-mini"]


def test_a_key_that_was_blocked_there_is_none_here(product: Product, tmp_path: Path) -> None:
    text = "sk-made-by-litellm-0003"
    import_litellm(folder(tmp_path, teams=[team()], keys=[key(text, key_alias="bot", blocked=True)]), "--yes")

    assert product.chat(text).status_code == 401
