"""The providers of this installation, by the names that the catalogue gives them."""

from __future__ import annotations

from collections.abc import Mapping

from django.conf import settings

from llm import catalog
from llm.providers import Provider
from llm.providers.mistral import Mistral

DEFAULT = "mistral"


class Providers:
    """Every provider that has a key, open while the gateway runs."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = dict(providers)

    def __getitem__(self, name: str) -> Provider:
        return self._providers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._providers

    def of(self, model: str) -> Provider:
        """The provider that serves a model, by any of its names; the default one for an unknown model."""
        entry = catalog.current().resolve(model)
        return self._providers[DEFAULT if entry is None else entry.provider]

    def upstream_id(self, model: str) -> str:
        """The model's name as its provider knows it: an alias stays one."""
        return model.removeprefix(f"{self.of(model).name}/")

    async def open(self) -> None:
        for provider in self._providers.values():
            await provider.open()

    async def close(self) -> None:
        for provider in self._providers.values():
            await provider.close()


def configured() -> Providers:
    """The providers that the settings name."""
    mistral = Mistral(api_base=settings.MISTRAL_API_BASE, api_key=settings.MISTRAL_API_KEY or "sandbox")
    return Providers({mistral.name: mistral})
