"""What a model's API has been asked, and what that cost it, by its own count. Pure.

Of equal keys in a request it takes the first, whatever the case of their letters, as some parsers do.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PICOS_A_NANO = 1_000
# Picodollars a token of input, cached input and output, by the beginnings of models' names. A model that is in no
# row is as dear as the dearest.
RATES: Mapping[str, tuple[int, int, int]] = {
    "ministral-3b": (100_000, 10_000, 100_000),
    "ministral-8b": (150_000, 15_000, 150_000),
    "ministral-14b": (200_000, 20_000, 200_000),
    "mistral-small": (150_000, 15_000, 600_000),
    "mistral-large": (500_000, 50_000, 1_500_000),
    "mistral-medium": (1_500_000, 150_000, 7_500_000),
    "codestral": (300_000, 30_000, 900_000),
    "mistral-embed": (100_000, 100_000, 0),
}
SERVED = {"mistral-small-latest": "mistral-small-2603"}
# Of each answer, where nobody says how many.
TOKENS_UNASKED = 200
# What a chat template adds, at least.
TOKENS_A_MESSAGE, TOKENS_A_REQUEST = 4, 8
# Fields whose values no model reads.
_UNREAD = frozenset(
    """model stream stream_options max_tokens max_completion_tokens max_output_tokens temperature top_p n best_of seed
    random_seed stop user metadata logprobs top_logprobs presence_penalty frequency_penalty parallel_tool_calls
    tool_choice safe_prompt service_tier prompt_mode reasoning_effort enable_thinking thinking_budget""".split()  # noqa: SIM905
)
# Texts of a message that are its template's, not the prompt's.
_TEMPLATE = frozenset({"role", "type"})
_MAX_TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@dataclass
class Entry:
    """One request, as this API has paid for it. Times in seconds since 1970; `gone_at`: its peer was seen to leave.

    `aborted`: the connection ended before the answer was whole, by whichever side. `unsent_tokens` are those of
    `output_tokens` that were generated and then stayed here: their bytes were still queued, or the peer had gone.
    `cached_tokens` are part of `prompt_tokens`.
    """

    number: int
    path: str
    model: str
    key: str
    label: str
    answer: str
    body: bytes
    body_bytes: int
    request_id: str
    prompt_tokens: int
    cached_tokens: int
    rates: tuple[int, int, int]
    output_tokens: int = 0
    unsent_tokens: int = 0
    planned_tokens: int = 0
    usage_told: bool = False
    began_at: float = 0.0
    ended_at: float | None = None
    gone_at: float | None = None
    aborted: bool = False

    @property
    def cost_nanos(self) -> int:
        """Rounded half up, once."""
        return self._nanos(self.output_tokens)

    @property
    def sent_nanos(self) -> int:
        """What it would have cost without `unsent_tokens`."""
        return self._nanos(self.output_tokens - self.unsent_tokens)

    @property
    def planned_nanos(self) -> int:
        """What it will have cost when it has ended, unless its peer leaves."""
        return self._nanos(self.planned_tokens) if self.is_running else self.cost_nanos

    def _nanos(self, output_tokens: int) -> int:
        input_picos, cached_picos, output_picos = self.rates
        picos = (self.prompt_tokens - self.cached_tokens) * input_picos
        picos += self.cached_tokens * cached_picos + output_tokens * output_picos
        return (2 * picos + PICOS_A_NANO) // (2 * PICOS_A_NANO)

    @property
    def is_running(self) -> bool:
        return self.ended_at is None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "body": None,
            "rates": list(self.rates),
            "cost_nanos": self.cost_nanos,
            "sent_nanos": self.sent_nanos,
        }


@dataclass
class Books:
    """All that was asked of one upstream. Written by its loop alone; may be read from any thread."""

    rates: Mapping[str, tuple[int, int, int]] = field(default_factory=lambda: dict(RATES))
    # Of models whose price rises with the prompt: above how many tokens, and at which rates all of a call is then.
    longer: Mapping[str, tuple[int, tuple[int, int, int]]] = field(default_factory=dict)
    keeps_bodies: bool = True
    entries: list[Entry] = field(default_factory=list)

    @property
    def spent_nanos(self) -> int:
        return sum(entry.cost_nanos for entry in list(self.entries))

    @property
    def running(self) -> int:
        return sum(entry.is_running for entry in list(self.entries))

    @property
    def input_tokens(self) -> int:
        return sum(entry.prompt_tokens for entry in list(self.entries))

    @property
    def output_tokens(self) -> int:
        return sum(entry.output_tokens for entry in list(self.entries))

    def spent_by_key(self) -> dict[str, int]:
        """Nanodollars for each `x-user` header, else the body's `user`, else "": see `key_of`."""
        spent: dict[str, int] = {}
        for entry in list(self.entries):
            spent[entry.key] = spent.get(entry.key, 0) + entry.cost_nanos
        return spent

    def rates_of(self, model: str, prompt_tokens: int) -> tuple[int, int, int]:
        for name, (above, rates) in self.longer.items():
            if model.startswith(name) and prompt_tokens > above:
                return rates
        known = [name for name in self.rates if model.startswith(name)]
        return self.rates[max(known, key=len)] if known else max(self.rates.values(), key=lambda rates: rates[2])

    def to_json(self, since: int = 0) -> dict[str, Any]:
        return {
            **self.totals(),
            "spent_by_key": self.spent_by_key(),
            "entries": [entry.to_json() for entry in self.entries[since:]],
        }

    def totals(self) -> dict[str, int]:
        entries = list(self.entries)
        return {
            "calls": len(entries),
            "running": sum(entry.is_running for entry in entries),
            "spent_nanos": sum(entry.cost_nanos for entry in entries),
            "planned_nanos": sum(entry.planned_nanos for entry in entries),
        }


class FirstKeys(dict[str, Any]):
    """A JSON object of which the first of equal keys counts, whatever the case of its letters."""


def first_keys(pairs: list[tuple[str, Any]]) -> FirstKeys:
    read = FirstKeys()
    for name, value in pairs:
        read.setdefault(name.lower(), value)
    return read


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def payload(self) -> dict[str, Any]:
        """An empty one where the body is no JSON object."""
        try:
            read = json.loads(self.body, object_pairs_hook=first_keys)
        except ValueError:
            return {}
        return read if isinstance(read, dict) else {}


def first_request(read: bytes) -> tuple[Request, bytes] | None:
    """The first of the requests in what has been read, and the rest; None while it is not whole."""
    end = read.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = read[:end].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    rest = read[end + 4 :]
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body, taken = dechunked(rest)
    else:
        taken = int(headers.get("content-length", "0"))
        body = rest[:taken] if len(rest) >= taken else None
    if body is None:
        return None
    method, target, _ = first.split(" ", 2)
    return Request(method, target, headers, body), rest[taken:]


def dechunked(rest: bytes) -> tuple[bytes | None, int]:
    """A chunked body and how many bytes it took; None while it is not whole."""
    body, at = b"", 0
    while (line_end := rest.find(b"\r\n", at)) >= 0:
        size = int(rest[at:line_end].split(b";")[0], 16)
        at = line_end + 2 + size + 2
        if len(rest) < at:
            break
        if size == 0:
            return body, at
        body += rest[line_end + 2 : at - 2]
    return None, 0


def json_response(said: Any) -> bytes:
    data = json.dumps(said).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data)


def strings_in(value: Any, leave_out: frozenset[str] = frozenset()) -> Iterator[str]:
    """Every text at any depth, but for the values of some keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name not in leave_out:
                yield from strings_in(part, leave_out)
    elif isinstance(value, list):
        for part in value:
            yield from strings_in(part, leave_out)


def prompt_tokens(request: Request, counts: str) -> int:
    """ "texts": a token a byte of every text that a model may read, and what a template adds; "raw": a token a byte of
    the body; "quarter": one for four bytes of it, as of ordinary prose."""
    if counts == "raw":
        return len(request.body)
    if counts == "quarter":
        return max(1, len(request.body) // 4)
    payload, tokens = request.payload, TOKENS_A_REQUEST
    for name, value in payload.items():
        if name == "messages":
            tokens += TOKENS_A_MESSAGE * (len(value) if isinstance(value, list) else 1)
            tokens += sum(len(text.encode("utf-8", "replace")) for text in strings_in(value, _TEMPLATE))
        elif name in ("prompt", "suffix", "input"):
            tokens += sum(len(text.encode("utf-8", "replace")) for text in strings_in(value))
        elif name not in _UNREAD:
            tokens += len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))
    return tokens


def whole_number(value: Any) -> int | None:
    """A number as a lenient API reads it: also a whole float, and digits."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    with contextlib.suppress(ValueError, OverflowError):
        return max(0, int(float(value)))
    return None


def asked_tokens(payload: Mapping[str, Any]) -> int | None:
    """The most that one answer may have; of several spellings the largest."""
    asked = [number for name in _MAX_TOKENS if (number := whole_number(payload.get(name))) is not None]
    return max(asked, default=None)


def key_of(request: Request) -> str:
    if user := request.headers.get("x-user"):
        return user
    user = request.payload.get("user")
    return user if isinstance(user, str) else ""
