"""Which calls of models a LiteLLM key may make: what LiteLLM's `route_checks.py` says of its routes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

# What every key here may call. The last two are LiteLLM's other names for it.
_CHATS = (
    "/chat/completions",
    "/v1/chat/completions",
    "/engines/model/chat/completions",
    "/openai/deployments/model/chat/completions",
)
_MESSAGES = ("/v1/messages",)
_OTHERS = tuple(
    f"{version}{path}"
    for version in ("", "/v1")
    for path in (
        "/completions",
        "/embeddings",
        "/responses",
        "/audio/transcriptions",
        "/audio/speech",
        "/images/generations",
        "/images/edits",
        "/videos",
        "/moderations",
        "/rerank",
        "/ocr",
        "/realtime",
        "/batches",
    )
)
_GEMINIS = ("/v1beta/models/model:generateContent", "/models/model:generateContent")
_ALL = (*_CHATS, *_MESSAGES, *_OTHERS, *_GEMINIS)
# Names that stand for many routes.
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "llm_api_routes": _ALL,
    "openai_routes": (*_CHATS, *_OTHERS),
    "anthropic_routes": _MESSAGES,
    "google_routes": _GEMINIS,
}
_UNBOUND = {"llm_api_routes", "*", "/*"}


class ModelRoutes(StrEnum):
    ALL = "all"
    # Chats, and not all of the others.
    SOME = "some"
    # Calls of models, but no chats.
    NO_CHATS = "no chats"
    NONE = "none"


def of(allowed: Sequence[str]) -> ModelRoutes:
    """No route at all is no bound."""
    if not allowed or _UNBOUND.intersection(allowed):
        return ModelRoutes.ALL
    if any(_may_call(route, allowed) for route in _CHATS):
        return ModelRoutes.SOME
    return ModelRoutes.NO_CHATS if any(_may_call(route, allowed) for route in _ALL) else ModelRoutes.NONE


def _may_call(route: str, allowed: Sequence[str]) -> bool:
    """By name, by what it begins with, by a group, or by a pattern."""
    return any(
        route == each
        or route.startswith(f"{each}/")
        or route in _GROUPS.get(each, ())
        or (each.endswith("*") and route.startswith(each[:-1]))
        for each in allowed
    )
