"""The ways to call a model: for each path below /v1 how a request is read, bounded and counted. One row a route."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings

from governance.rules.calls import Usage
from governance.rules.json_bounds import JsonBounds
from llm.rules import bounds, client_requests, estimates, transcription, usage
from llm.rules.client_requests import Request
from llm.rules.estimates import Estimate
from llm.rules.request_bounds import RequestBounds

# What is longer than a document or sound may be is charged in full all the same, up to so many times that.
BELIEVED_TIMES = 4
# Of the largest answer, what a model can write: the rest is for vectors and pictures.
WRITTEN_SHARE = 8
# What counts an answer: (answer, the model that was asked, the unit of the estimate, what a token costs that is written
# into a cache for nobody says how long, in hundredths of one that is read).
ReadUsage = Callable[[Any, str, str, int], Usage | None]


@dataclass(frozen=True, slots=True)
class Route:
    """`parse` reads a body, its content type and the names of fields that some endpoint takes; `estimate` bounds a
    request (the number is the tenant's default `max_tokens`); `read_usage` counts what an answer, or a stream's event,
    says was used."""

    path: str
    kind: str
    parse: Callable[[bytes, str, frozenset[str]], Request]
    estimate: Callable[[Request, int], Estimate]
    read_usage: ReadUsage
    # The field that holds what was asked for, and whether that is a list of objects, or a text.
    answer_in: str = "choices"
    lists: bool = True
    # Whether that is vectors, of which there may be megabytes that nobody here needs to look at.
    has_vectors: bool = False
    # What is not counted in tokens may be held for at a likely length: as much as one call can use is believed.
    believes_most: bool = False
    # Units that an answer shows, whatever it says.
    shown_units: Callable[[Mapping[str, Any]], int] = lambda _: 0

    def most_units(self, estimate: Estimate) -> int:
        """Units at most that are believed of one call; of one that nobody has measured, beyond what is allowed too."""
        if estimates.UNMEASURED in estimate.asked:
            return BELIEVED_TIMES * max(estimate.held_units, estimate.most_units)
        return max(estimate.held_units, estimate.most_units if self.believes_most else 0)

    @property
    def most_bytes(self) -> int:
        """Of an answer that comes whole."""
        return settings.MAX_ANSWER_BYTES // (WRITTEN_SHARE if self.answer_in == "choices" else 1)

    def answered(self, answer: Mapping[str, Any]) -> bool:
        """Whether an answer holds what this route is asked for, or says that there is none."""
        said = answer.get(self.answer_in)
        if not isinstance(said, list):
            return not self.lists and isinstance(said, str)
        return self.lists and (not said or any(isinstance(one, dict) for one in said))


def _written(answer: Any, model: str, _: str, write_e2: int) -> Usage | None:
    return usage.read_tokens(answer, model=model, write_e2=write_e2)


def _tokens(answer: Any, model: str, _: str, write_e2: int) -> Usage | None:
    return usage.read_tokens(answer, model=model, writes=False, write_e2=write_e2)


def _pages(answer: Any, model: str, unit: str, _: int) -> Usage | None:
    return usage.read_pages(answer, model=model, unit=unit)


def _seconds(answer: Any, model: str, *_: Any) -> Usage | None:
    return transcription.read_seconds(answer, model=model)


def _reserves_unbounded() -> bool:
    return bool(settings.UNBOUNDED_INPUTS == "reserve_full_context")


def _bounds() -> RequestBounds:
    return RequestBounds(
        JsonBounds(
            depth=settings.MAX_JSON_DEPTH,
            values=settings.MAX_JSON_VALUES,
            fields=settings.MAX_JSON_FIELDS,
            characters=settings.MAX_TEXT_CHARACTERS,
        ),
        messages=settings.MAX_MESSAGES,
        parts=settings.MAX_CONTENT_PARTS,
        tools=settings.MAX_TOOLS,
    )


CHAT = Route(
    path="/chat/completions",
    kind="chat",
    parse=lambda body, _, extra: client_requests.parse(body, extra, _bounds()),
    estimate=lambda request, default: bounds.chat(
        request.payload,
        default_max_tokens=default,
        default_thinking_tokens=settings.DEFAULT_THINKING_TOKENS,
        reserve_unbounded=_reserves_unbounded(),
    ),
    read_usage=_written,
)
FIM = Route(
    path="/fim/completions",
    kind="fim",
    parse=lambda body, *_: client_requests.parse_other(body, kind="fim", bounds=_bounds()),
    estimate=lambda request, default: bounds.fim(request.payload, default_max_tokens=default),
    read_usage=_written,
)
EMBEDDINGS = Route(
    path="/embeddings",
    kind="embedding",
    parse=lambda body, *_: client_requests.parse_other(body, kind="embedding", bounds=_bounds()),
    estimate=lambda request, _: bounds.embeddings(request.payload),
    read_usage=_tokens,
    answer_in="data",
    has_vectors=True,
)
MODERATIONS = Route(
    path="/moderations",
    kind="moderation",
    parse=lambda body, *_: client_requests.parse_other(body, kind="moderation", bounds=_bounds()),
    estimate=lambda request, _: bounds.moderations(request.payload),
    read_usage=_tokens,
    answer_in="results",
)
OCR = Route(
    path="/ocr",
    kind="ocr",
    parse=lambda body, *_: client_requests.parse_other(body, kind="ocr", bounds=_bounds()),
    estimate=lambda request, _: bounds.ocr(
        request.payload, max_pages=settings.OCR_MAX_PAGES, reserve_unbounded=_reserves_unbounded()
    ),
    read_usage=_pages,
    answer_in="pages",
    shown_units=usage.shown_pages,
)
TRANSCRIPTIONS = Route(
    path="/audio/transcriptions",
    kind=transcription.KIND,
    parse=lambda body, content_type, _: transcription.parse(body, content_type),
    estimate=lambda request, _: transcription.estimate(
        request.payload,
        max_seconds=settings.TRANSCRIPTION_MAX_SECONDS,
        min_bitrate=settings.TRANSCRIPTION_MIN_BITRATE,
        reserve_unbounded=_reserves_unbounded(),
    ),
    read_usage=_seconds,
    answer_in="text",
    lists=False,
    believes_most=True,
    shown_units=transcription.shown_seconds,
)

ROUTES = {
    f"/v1{route.path}": route
    for route in (
        CHAT,
        FIM,
        EMBEDDINGS,
        MODERATIONS,
        replace(MODERATIONS, path="/chat/moderations"),
        OCR,
        TRANSCRIPTIONS,
    )
}

# What else there is below /v1, with names below it.
_VERSION = re.compile(r"v\d+\w*")
_READS = ("models", "budget", "batch")
# Addresses of the control plane, some of which end like ours.
_OTHERS = frozenset({"api", "admin", "billing", "metrics", "static"})


def meant(path: str) -> str:
    """The path below /v1 that one probably means which is none: without /v1, with more of it, or too many slashes."""
    parts = [part for part in path[:500].split("/") if part]
    if not parts or parts[0] in _OTHERS:
        return ""
    for start, part in enumerate(parts):
        if (found := f"/v1/{'/'.join(parts[start:])}") in ROUTES or part in _READS:
            return found
        if _VERSION.fullmatch(part) and part != "v1":
            # Another version is another API.
            return ""
    return "/v1" if parts[0] == "v1" else ""
