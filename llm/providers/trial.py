"""Trying out whether the providers' keys and addresses work. Costs nothing: the models are listed, none is called."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from llm.providers import Provider, ProviderError, endpoints, registry


@dataclass(frozen=True, slots=True)
class ProviderTrial:
    """How it went. `message` is a sentence for operators, without the key; `models` how many the key may use."""

    provider: str
    works: bool
    message: str
    models: int = 0


def try_out(*, only: str = "") -> list[ProviderTrial]:
    """Try every provider that has a key, or one; the environment's and the database's. Takes 15 seconds at most."""
    providers = registry.everything(endpoints.usable())
    chosen = [provider for name, provider in sorted(providers.items()) if only in ("", name)]
    return asyncio.run(_try_all(chosen))


async def _try_all(providers: Sequence[Provider]) -> list[ProviderTrial]:
    return list(await asyncio.gather(*map(_try, providers)))


async def _try(provider: Provider) -> ProviderTrial:
    try:
        ids = await provider.list_models()
    except ProviderError as error:
        return ProviderTrial(provider.name, False, str(error))
    return ProviderTrial(provider.name, True, f"It works: {len(ids)} models.", len(ids))
