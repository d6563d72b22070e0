"""The description of /v1 in the OpenAPI document, made of what the data plane itself goes by.

Its paths and answers are those of the routes, the fields of a request those of the tables in `llm.rules`, its errors
are made by the functions that make them for clients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from django.conf import settings

from governance import idempotency as kept
from governance.rules import names, refusals
from governance.rules.decision import Reason, State
from llm.gateway import errors
from llm.gateway import idempotency as repeats
from llm.gateway.routes import CHAT, EMBEDDINGS, FIM, MODERATIONS, OCR, ROUTES, TRANSCRIPTIONS, Route
from llm.rules import client_requests, request_fields, transcription
from llm.rules.request_checks import MOST_TOKENS

Schema = dict[str, Any]
TAG = "v1"
OBJECT: Schema = {"type": "object"}
TEXT: Schema = {"type": "string"}
DOLLARS: Schema = {"type": "string", "format": "decimal"}

# What a caller may be answered before its key is known, and because of it.
KNOWN_CALLERS = (
    errors.sent_twice("authorization"),
    errors.unauthorized(""),
    errors.forbidden(""),
    errors.ledger_unavailable(),
    errors.internal(),
    errors.headers_too_slow(),
    errors.headers_too_large(0, 0),
)
# A call may also be refused by each row of the table of refusals.
CALLS = (
    *KNOWN_CALLERS,
    errors.too_many_agents(0),
    errors.unsupported("", param=""),
    *(errors.of_body(kind, "") for kind in errors.BODIES),
    *(repeats.refusal(kind()) for kind in (kept.KeyMalformed, kept.KeyReused, kept.TooManyKept, kept.StillRunning)),
    errors.upstream(429, "upstream_rate_limit", ""),
    errors.upstream(502, "upstream_failed", ""),
    errors.upstream(503, "breaker_open", ""),
    errors.upstream(504, "upstream_timeout", ""),
)
# With these a model's API says something of the request; its own words are passed on.
RELAYED = (400, 404, 409, 413, 422)

MESSAGE: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": sorted(client_requests.ROLES)},
        "content": {"type": ["string", "array", "null"], "items": OBJECT},
        "tool_calls": {"type": ["array", "null"], "items": {"type": "object", "required": ["function"]}},
    },
}
TOKENS: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_TOKENS}
# Of the fields whose values are looked at here; all others go on to the model's API as they are.
VALUES: Mapping[str, Schema] = {
    "model": {"type": "string", "minLength": 1, "maxLength": names.KINDS["model"].most},
    "messages": {"type": "array", "minItems": 1, "items": MESSAGE},
    "prompt": TEXT,
    "suffix": {"type": ["string", "null"]},
    "document": OBJECT,
    "max_tokens": TOKENS,
    "max_completion_tokens": TOKENS,
    "stream": {"type": "boolean"},
    "n": {"type": ["integer", "null"], "minimum": 1, "maximum": client_requests.MAX_N},
    "tools": {"type": ["array", "null"], "items": OBJECT},
    "metadata": {"type": ["object", "null"]},
    "user": {"type": ["string", "null"]},
    "prompt_mode": {"type": ["string", "null"]},
    "reasoning_effort": {"type": ["string", "null"]},
    "prediction": {"type": ["object", "null"]},
    "response_format": {
        "type": ["object", "null"],
        "properties": {"type": {"enum": sorted(client_requests.FORMATS)}},
    },
}
INPUTS: Mapping[str, Schema] = {
    "embedding": {"type": ["string", "array"], "minItems": 1, "description": "A text or texts, or tokens of them."},
    "moderation": {"type": ["string", "array"], "minItems": 1, "description": "A text or texts, or messages."},
}
# What a request cannot do without, by its kind, and one that is answered.
NEEDED: Mapping[str, tuple[str, ...]] = {
    CHAT.kind: ("model", "messages"),
    FIM.kind: ("model", "prompt"),
    EMBEDDINGS.kind: ("model", "input"),
    MODERATIONS.kind: ("model", "input"),
    OCR.kind: ("model", "document"),
    TRANSCRIPTIONS.kind: ("model",),
}
STREAMING = (CHAT.kind, FIM.kind)
HELLO = [{"role": "user", "content": "Hello"}]
EXAMPLES: Mapping[str, dict[str, Any]] = {
    CHAT.path: {"model": "mistral-small-latest", "messages": HELLO, "max_tokens": 50},
    FIM.path: {"model": "codestral-latest", "prompt": "def add(a, b):", "suffix": "", "max_tokens": 50},
    EMBEDDINGS.path: {"model": "mistral-embed", "input": ["Hello"]},
    MODERATIONS.path: {"model": "mistral-moderation-latest", "input": ["Hello"]},
    "/chat/moderations": {"model": "mistral-moderation-latest", "input": [HELLO]},
    OCR.path: {
        "model": "mistral-ocr-latest",
        "document": {"type": "document_url", "document_url": "https://example.com/one.pdf"},
        "pages": [0],
    },
}

# What an answer's headers say of the call. Names are in ASCII, what is not of it percent-encoded.
ANSWER_HEADERS: Mapping[str, str] = {
    "x-request-id": "Names the call, also in the ledger.",
    "x-model-requested": "The model that was asked for.",
    "x-model-served": "The model that answers.",
    "x-downgrade-reason": "Why it is another one.",
    "x-tools-disabled": "Tools that were taken away near the limit.",
    "x-max-tokens-default": "The length that was set where the request had none.",
    "x-max-tokens-clamped": "The length that the budget was enough for.",
    "x-reserved-usd": "What was held for the call.",
    "x-request-cost-usd": "What it cost; a stream says it in its last event, as `usage.cost_usd`.",
    "x-budget-scope": "The tightest budget of those that the key is shown; percent-encoded, as all names in headers.",
    "x-budget-state": "How that one stands.",
    "x-budget-limit-usd": "Its limit.",
    "x-budget-remaining-usd": "What is left of it.",
    "x-budget-resets-at": "When its window ends.",
    "x-budget-runs-out-at": "When it is used up before that, as it was last forecast; absent where nobody knows.",
    "server-timing": "Milliseconds in the gateway, and until the model began to answer.",
}

ERROR: Schema = {
    "type": "object",
    "description": "Any error of the data plane: flat as Mistral's clients read it, and in `error` as OpenAI's do.",
    "required": ["object", "message", "type", "param", "code", "error"],
    "properties": {
        "object": {"const": "error"},
        "message": TEXT,
        "type": TEXT,
        "param": {"type": ["string", "null"]},
        "code": TEXT,
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": TEXT,
                "type": TEXT,
                "param": {"type": ["string", "null"]},
                "code": TEXT,
                "metadata": {
                    "type": "object",
                    "description": "The budget that refused, as far as the key is shown it. `upgrade_url`: where to buy"
                    " more; `raise_url`: where to ask operators for more; null where that cannot be.",
                },
            },
        },
    },
}
MODEL: Schema = {
    "type": "object",
    "required": ["id", "root", "object", "created", "owned_by", "aliases", "max_context_length", "capabilities"],
    "properties": {
        "id": TEXT,
        "root": {"type": "string", "description": "The model that an alias stands for."},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": TEXT,
        "type": TEXT,
        "aliases": {"type": "array", "items": TEXT},
        "max_context_length": {"type": "integer"},
        "capabilities": {"type": "object", "additionalProperties": {"type": "boolean"}},
    },
}
BUDGET: Schema = {
    "type": "object",
    "description": "The tightest budget of the caller; its amounts are there where the tenant shows them.",
    "required": ["object", "state", "scope", "allowed"],
    "properties": {
        "object": {"const": "budget"},
        "state": {"enum": [*(state.value for state in State), None]},
        "scope": {"type": ["string", "null"]},
        "window": TEXT,
        "allowed": {"type": "boolean", "description": "Whether a call that costs nothing would be let through."},
        "currency": {"const": "usd"},
        "limit": DOLLARS,
        "spent": DOLLARS,
        "reserved": DOLLARS,
        "remaining": DOLLARS,
        "resets_at": {"type": ["string", "null"], "format": "date-time"},
        "runs_out_at": {
            "type": ["string", "null"],
            "format": "date-time",
            "description": "As it was last forecast; null where it lasts, and where nobody knows.",
        },
        "calls_left": {"type": ["integer", "null"], "description": "At the usual cost; null where none is known."},
        "upgrade_url": {"type": ["string", "null"]},
    },
}
COMPONENTS: Mapping[str, Schema] = {"V1Error": ERROR, "V1Model": MODEL, "V1Budget": BUDGET}


def describe(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A POSTPROCESSING_HOOK of drf-spectacular: adds /v1 to the document of /api."""
    result["components"]["schemas"] |= COMPONENTS
    for path, route in ROUTES.items():
        result["paths"][path] = {"post": _call(path, route)}
    result["paths"] |= {
        "/v1/models": {"get": _read("models_list", "The models that can be called.", _models())},
        "/v1/models/{id}": {"get": _read("models_get", "One of them.", _ref("V1Model"), named="id")},
        "/v1/budget": {"get": _read("budget", BUDGET["description"], _ref("V1Budget"), names_itself=True)},
    }
    return result


def statuses() -> frozenset[int]:
    """All statuses of errors that a call may be answered, but for what a model's API has to say of a request."""
    return frozenset(error.status for error in CALLS) | {status for status, _ in _refusals()}


def _call(path: str, route: Route) -> Schema:
    answer = {"application/json": {"schema": _answer(route)}}
    if route.kind in STREAMING:
        answer["text/event-stream"] = {"schema": TEXT}
    return {
        "operationId": f"v1_{route.path.strip('/').replace('/', '_')}",
        "description": f"A {route.kind} call, held for before it is sent on and charged when it is answered.",
        "tags": [TAG],
        "security": [{"key": []}],
        "parameters": _parameters(),
        "requestBody": {"required": True, "content": _request(route)},
        "responses": {
            "200": {
                "description": "What the model answers.",
                "headers": {name: {"description": says, "schema": TEXT} for name, says in ANSWER_HEADERS.items()},
                "content": answer,
            },
            **_errors([*((error.status, error.code) for error in CALLS), *_refusals()], relayed=RELAYED),
            "4XX": {
                "description": "What else the model's API refuses a request with, as it came.",
                "content": {"application/json": {"schema": OBJECT}},
            },
        },
    }


def _read(name: str, says: str, schema: Schema, *, named: str = "", names_itself: bool = False) -> Schema:
    found = [(error.status, error.code) for error in (*KNOWN_CALLERS, errors.too_many_requests(""))]
    parameters = _naming() if names_itself else []
    if named:
        found.append((404, errors.not_found("").code))
        parameters.append({"name": named, "in": "path", "required": True, "schema": TEXT})
    return {
        "operationId": f"v1_{name}",
        "description": says,
        "tags": [TAG],
        "security": [{"key": []}],
        "parameters": parameters,
        "responses": {
            "200": {"description": says, "content": {"application/json": {"schema": schema}}},
            **_errors(found),
        },
    }


def _refusals() -> list[tuple[int, str]]:
    # Tools that an agent runs itself are none of the gateway's calls.
    rows = [row for row in refusals.TABLE if row.reason is not Reason.TOOL_NOT_PRICED]
    return [(row.answered(over_budget_status=settings.OVER_BUDGET_STATUS), row.code) for row in rows]


def _errors(found: Iterable[tuple[int, str]], *, relayed: Collection[int] = ()) -> dict[str, Schema]:
    codes: dict[int, list[str]] = {status: [] for status in relayed}
    for status, code in found:
        codes.setdefault(status, []).append(code)
    return {str(status): _error(status, codes[status], relayed=status in relayed) for status in sorted(codes)}


def _error(status: int, codes: Collection[str], *, relayed: bool) -> Schema:
    ours = _ref("V1Error")
    says = [f"`code` may be {', '.join(dict.fromkeys(codes))}."] if codes else []
    if relayed:
        says.append("A model's API that refuses the request says so in its own words.")
    schema = {"anyOf": [ours, OBJECT]} if relayed else ours
    return {"description": " ".join(says), "content": {"application/json": {"schema": schema}}}


def _answer(route: Route) -> Schema:
    """An answer holds what was asked for, or says at least what it used: it is the model's."""
    return {
        "type": "object",
        "properties": {"usage": OBJECT},
        "anyOf": [{"required": [route.answer_in]}, {"required": ["usage"]}],
    }


def _request(route: Route) -> Schema:
    if route.kind == TRANSCRIPTIONS.kind:
        return {"multipart/form-data": {"schema": _form()}}
    fields = request_fields.KNOWN[route.kind] - client_requests.REFUSED.keys()
    schema = {
        "type": "object",
        "description": "Other fields are refused, but for those that an operator's endpoint takes.",
        "required": list(NEEDED[route.kind]),
        "properties": {name: _value(route.kind, name) for name in sorted(fields)},
    }
    return {"application/json": {"schema": schema, "example": EXAMPLES[route.path]}}


def _value(kind: str, name: str) -> Schema:
    return dict(INPUTS[kind] if name == "input" else VALUES.get(name, {}))


def _form() -> Schema:
    """Other fields are relayed, too."""
    values: dict[str, Schema] = {"model": VALUES["model"], "file": {"type": "string", "format": "binary"}}
    return {
        "type": "object",
        "required": list(NEEDED[TRANSCRIPTIONS.kind]),
        "properties": {name: values.get(name, TEXT) for name in transcription.ONCE if name != "stream"},
    }


def _models() -> Schema:
    return {
        "type": "object",
        "required": ["object", "data"],
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("V1Model")}},
    }


def _naming() -> list[Schema]:
    """Headers that say whom a call is for."""
    return [_header(f"x-{kind}", f"The {kind} that the call is for.") for kind in names.OF_A_CALL]


def _parameters() -> list[Schema]:
    return [
        *_naming(),
        _header("x-strategy", "One of the routing file's: it chooses the model."),
        {
            **_header("x-allow-downgrade", "Whether another model may answer."),
            "schema": {"enum": ["true", "false"]},
        },
        _header(kept.HEADER, "Names the request: sent again within 24 hours it is answered as before, charged once."),
        _header("traceparent", "W3C's, for what is told of the call."),
    ]


def _header(name: str, says: str) -> Schema:
    return {"name": name, "in": "header", "description": says, "schema": TEXT}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
