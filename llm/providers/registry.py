"""The providers of this installation, by the names that the catalogue gives them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from django.conf import settings

from llm.catalogue import snapshot
from llm.catalogue.snapshot import Catalogue
from llm.models import ProviderEndpoint
from llm.providers import Provider
from llm.providers.anthropic import Anthropic
from llm.providers.endpoints import Endpoint
from llm.providers.mistral import Mistral
from llm.providers.openai_compatible import OpenAICompatible
from llm.rules.pricing import DEFAULT_PROVIDER

log = logging.getLogger(__name__)

MISTRALS_OWN = "https://api.mistral.ai"
# What operators change is in force after this many seconds, in every process.
RENEW_PERIOD_S = 5.0

_MADE_BY: Mapping[str, Callable[..., Provider]] = {
    ProviderEndpoint.Kind.OPENAI_COMPATIBLE: OpenAICompatible,
    ProviderEndpoint.Kind.OPENAI: partial(OpenAICompatible, native=True),
    ProviderEndpoint.Kind.ANTHROPIC: Anthropic,
}


def _made(endpoint: Endpoint) -> Provider:
    extra = {"extra_fields": endpoint.extra_fields} if endpoint.extra_fields else {}
    return _MADE_BY[endpoint.kind](
        name=endpoint.name,
        api_base=endpoint.base_url,
        api_key=endpoint.api_key,
        public_only=not settings.PRIVATE_ENDPOINTS,
        **extra,
    )


class Providers:
    """Every provider that has a key, open while the gateway runs.

    Those of the environment stay; those that operators keep in the database come, change and go. Of two with one name
    the database's counts.
    """

    def __init__(self, fixed: Mapping[str, Provider]) -> None:
        self._fixed = dict(fixed)
        self._added: dict[Endpoint, Provider] = {}
        self._by_name = dict(fixed)
        # No longer called, but for the calls that are still under way.
        self._leaving: list[Provider] = []
        self._unconfigured: tuple[Catalogue | None, frozenset[str]] = (None, frozenset())
        # Fields of a chat that some endpoint takes, and nobody else knows.
        self.extra_fields: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> Provider:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterable[str]:
        return iter(sorted(self._by_name))

    def unconfigured(self) -> frozenset[str]:
        """Providers that the catalogue names and that have no key here: what they serve cannot be called."""
        catalogue = snapshot.current()
        if self._unconfigured[0] is not catalogue:
            named = {entry.provider for entry in catalogue}
            self._unconfigured = (catalogue, frozenset(named - self._by_name.keys()))
        return self._unconfigured[1]

    async def open(self) -> None:
        for provider in self._by_name.values():
            await provider.open()

    async def close(self) -> None:
        for provider in [*self._fixed.values(), *self._added.values(), *self._leaving]:
            await provider.close()

    async def keep_current(self, read: Callable[[], Awaitable[Iterable[Endpoint]]]) -> None:
        """Follow what operators change, without a restart."""
        while True:
            await asyncio.sleep(RENEW_PERIOD_S)
            try:
                await self.renew(await read())
            except Exception:
                log.exception("the providers could not be read; the known ones stay")

    async def renew(self, endpoints: Iterable[Endpoint]) -> None:
        """Call these endpoints from now on, besides the environment's. Calls under way end where they began."""
        await self._let_go()
        wanted = list(endpoints)
        if wanted == list(self._added):
            return
        added: dict[Endpoint, Provider] = {}
        for endpoint in wanted:
            known = self._added.get(endpoint)
            if known is None:
                known = _made(endpoint)
                await known.open()
            added[endpoint] = known
        self._leaving += [provider for endpoint, provider in self._added.items() if endpoint not in added]
        self._added = added
        self._by_name = self._fixed | {endpoint.name: provider for endpoint, provider in added.items()}
        self._unconfigured = (None, frozenset())
        self.extra_fields = frozenset[str]().union(*(endpoint.extra_fields for endpoint in wanted))
        log.info("providers: %s", ", ".join(sorted(self._by_name)))

    async def _let_go(self) -> None:
        """Close what left a period ago or more, and has no call under way."""
        idle = [provider for provider in self._leaving if not provider.busy]
        self._leaving = [provider for provider in self._leaving if provider.busy]
        for provider in idle:
            await provider.close()


def configured() -> Providers:
    """The providers that the environment names and has a key for."""
    return Providers({provider.name: provider for provider in _of_the_environment()})


def everything(endpoints: Iterable[Endpoint]) -> dict[str, Provider]:
    """The providers of the environment and these endpoints, none of them open."""
    return {provider.name: provider for provider in _of_the_environment()} | {
        endpoint.name: _made(endpoint) for endpoint in endpoints
    }


@dataclass(frozen=True, slots=True)
class EnvironmentsProvider:
    """A provider that the environment may configure: settings `{setting}_API_BASE` and `{setting}_API_KEY`."""

    name: str
    setting: str
    made_by: Callable[..., Provider]

    @property
    def base_url(self) -> str:
        return str(getattr(settings, f"{self.setting}_API_BASE"))

    @property
    def variable(self) -> str:
        return f"{self.setting}_API_KEY"

    @property
    def has_key(self) -> bool:
        return bool(getattr(settings, self.variable))

    @property
    def is_configured(self) -> bool:
        # Somewhere else than at Mistral's own, such as the sandbox, no key may be needed.
        return self.has_key or (self.name == DEFAULT_PROVIDER and self.base_url != MISTRALS_OWN)

    def make(self) -> Provider:
        return self.made_by(
            name=self.name, api_base=self.base_url, api_key=getattr(settings, self.variable) or "sandbox"
        )


ENVIRONMENTS = (
    EnvironmentsProvider("mistral", "MISTRAL", Mistral),
    EnvironmentsProvider("mistral-eu", "MISTRAL_EU", Mistral),
    EnvironmentsProvider("mistral-us", "MISTRAL_US", Mistral),
    EnvironmentsProvider("openai", "OPENAI", partial(OpenAICompatible, native=True)),
    EnvironmentsProvider("anthropic", "ANTHROPIC", Anthropic),
)


def _of_the_environment() -> Iterable[Provider]:
    return (each.make() for each in ENVIRONMENTS if each.is_configured)
