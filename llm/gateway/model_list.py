"""The list of models as `GET /v1/models` sends it."""

from __future__ import annotations

from typing import Any

import orjson

from llm.catalogue.snapshot import Catalogue
from llm.rules.pricing import Entry


class ModelList:
    """Made once for a catalogue and the providers that have no key: it is the same for every caller."""

    def __init__(self) -> None:
        self._of: tuple[Catalogue | None, frozenset[str]] = None, frozenset()
        self._bytes = b""

    def of(self, catalogue: Catalogue, missing: frozenset[str]) -> bytes:
        """JSON of the models whose provider is none of `missing`, each under every name that it is called by."""
        if self._of[0] is not catalogue or self._of[1] != missing:
            named = catalogue.callable_names()
            cards = [card(entry, name) for name, entry in named if entry.rates and entry.provider not in missing]
            self._bytes = orjson.dumps({"object": "list", "data": cards})
            self._of = catalogue, missing
        return self._bytes


def card(entry: Entry, name: str) -> dict[str, Any]:
    """`root` is the model that a name stands for."""
    abilities = entry.capabilities
    return {
        "id": name,
        "root": entry.id,
        "object": "model",
        "created": 0,
        "owned_by": entry.owned_by,
        "type": "base",
        "aliases": entry.aliases,
        "max_context_length": entry.context_tokens or 0,
        "capabilities": {
            "completion_chat": "chat" in abilities,
            "completion_fim": "fim" in abilities,
            "function_calling": "tools" in abilities,
            "vision": "vision" in abilities,
            "fine_tuning": False,
            "classification": "moderation" in abilities,
        },
    }
