"""Which providers there are: the environment's, and those that operators add, change and take away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llm.providers import ProviderError, registry
from llm.providers.anthropic import Anthropic
from llm.providers.endpoints import Endpoint
from llm.providers.http import Connection, HttpAnswer
from llm.providers.openai_compatible import OpenAICompatible
from tests.fakes.openai_api import OpenAI
from tests.servers import served

GROQ = Endpoint("groq", "openai_compatible", "https://api.groq.com/openai/v1", "sk-secret")


@pytest.fixture
def keys(settings: Any) -> Any:
    settings.MISTRAL_API_BASE = "https://api.mistral.ai"
    for name in ("MISTRAL", "MISTRAL_EU", "MISTRAL_US", "OPENAI", "ANTHROPIC"):
        setattr(settings, f"{name}_API_KEY", "")
    return settings


def names() -> list[str]:
    return sorted(registry.everything(()))


def test_without_keys_there_are_no_providers(keys: Any) -> None:
    assert names() == []


def test_the_sandbox_needs_no_key(keys: Any) -> None:
    keys.MISTRAL_API_BASE = "http://127.0.0.1:8010"
    assert names() == ["mistral"]


def test_every_provider_with_a_key_is_there_and_shows_none(keys: Any) -> None:
    for name in ("MISTRAL", "MISTRAL_EU", "MISTRAL_US", "OPENAI", "ANTHROPIC"):
        setattr(keys, f"{name}_API_KEY", "sk-secret")
    assert names() == ["anthropic", "mistral", "mistral-eu", "mistral-us", "openai"]
    providers = registry.everything(())
    assert "api.eu.mistral.ai" in repr(providers["mistral-eu"])
    assert "sk-secret" not in str(providers) + str([provider.connection for provider in providers.values()])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "made"), [("openai", OpenAICompatible), ("openai_compatible", OpenAICompatible), ("anthropic", Anthropic)]
)
def test_each_kind_has_its_class(keys: Any, kind: str, made: type) -> None:
    endpoint = Endpoint("x", kind, "https://example.com/v1", "k")
    assert type(registry.everything([endpoint])["x"]) is made


async def test_what_operators_change_is_followed(keys: Any) -> None:
    providers = registry.configured()
    await providers.open()
    await providers.renew([GROQ])
    first = providers["groq"]
    await providers.renew([GROQ])
    assert providers["groq"] is first
    await providers.renew([Endpoint("groq", GROQ.kind, GROQ.base_url, "sk-new")])
    assert providers["groq"] is not first
    await providers.renew([])
    assert "groq" not in providers
    await providers.close()


async def test_a_call_under_way_ends_where_it_began(keys: Any) -> None:
    fake = OpenAI(key="sk-secret", pause_s=0.05)
    with served(fake) as url:
        providers = registry.configured()
        await providers.renew([Endpoint("own", "openai", f"{url}/v1", "sk-secret")])
        own = providers["own"]
        body = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
        answer = await own.send("/chat/completions", body, content_type="application/json", request_id="r")
        for _ in range(3):
            await providers.renew([])
        assert own.busy
        assert b"[DONE]" in b"".join([chunk async for chunk in answer.chunks()])
        answer.close()
        await providers.renew([])
        assert not own.busy
        assert own.connection._session is None  # type: ignore[attr-defined]
        await providers.close()


async def test_a_call_that_waits_for_its_answer_is_under_way(keys: Any) -> None:
    fake = OpenAI(key="sk-secret", head_after_s=0.3)
    with served(fake) as url:
        providers = registry.configured()
        await providers.renew([Endpoint("own", "openai", f"{url}/v1", "sk-secret")])
        own = providers["own"]
        sent = {"content_type": "application/json", "request_id": "r"}
        call = asyncio.create_task(own.send("/chat/completions", b'{"model": "m", "messages": []}', **sent))
        while not fake.seen:
            await asyncio.sleep(0.01)
        for _ in range(3):
            await providers.renew([])
        assert own.busy
        answer = await call
        assert await answer.read()
        answer.close()
        # One that is given up while it waits is none any more.
        call = asyncio.create_task(own.send("/chat/completions", b'{"model": "m", "messages": []}', **sent))
        await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.wait([call])
        assert not own.busy
        await providers.renew([])
        with pytest.raises(ProviderError):
            await own.send("/chat/completions", b"{}", **sent)
        assert not own.busy
        await providers.close()


async def test_an_answer_is_closed_once(keys: Any) -> None:
    with served(OpenAI(key="k")) as url:
        provider = OpenAICompatible(name="own", api_base=f"{url}/v1", api_key="k")
        await provider.open()
        answer = await provider.send("/embeddings", b'{"model": "m"}', content_type="application/json", request_id="r")
        assert isinstance(answer, HttpAnswer)
        answer.close()
        answer.close()
        assert not provider.busy
        await provider.close()


@pytest.mark.parametrize("private_allowed", [True, False])
async def test_a_name_that_leads_into_a_private_network_is_not_called(keys: Any, private_allowed: bool) -> None:
    keys.PRIVATE_ENDPOINTS = private_allowed
    fake = OpenAI(key="sk-secret")
    with served(fake) as url:
        # "localhost" stands for a public name whose owner has it resolve to an address inside.
        base = url.replace("127.0.0.1", "localhost") + "/v1"
        provider = registry.everything([Endpoint("own", "openai", base, "sk-secret")])["own"]
        await provider.open()
        if private_allowed:
            assert await provider.list_models() == ["gpt-5-mini"]
        else:
            with pytest.raises(ProviderError) as refused:
                await provider.send("/chat/completions", b"{}", content_type="application/json", request_id="r")
            assert (refused.value.code, refused.value.sent) == ("upstream_unreachable", False)
            with pytest.raises(ProviderError):
                await provider.list_models()
            assert fake.seen == []
        await provider.close()


async def test_a_list_of_models_may_have_other_names() -> None:
    fake = OpenAI()
    fake.next += [(200, {}, {"models": [{"name": "command-a"}, {"id": "x"}]}), (200, {}, {"data": []})]
    with served(fake) as url:
        connection = Connection(base=url + "/v1", headers={"authorization": f"Bearer {fake.key}"})
        assert await connection.list_models("/models", under="models", named="name") == ["command-a"]
        with pytest.raises(ProviderError):
            await connection.list_models("/models", under="models", named="name")
