"""What the scripts of this folder share. A script reads cells from its standard input, one a line, as

    <base URL> <key> <cell>

and prints, a JSON line each, what its client showed: `content`, `finish_reason` and `tool` (its name and arguments) of
an answer, or `error` (the class), `status` and `code` of what it raised. Of an answer that came by the client's helper
for streams also what was `told` on the way. By hand:

    echo "http://127.0.0.1:8000 $KEY stream" | .venv/bin/python tests/clients/python/openai_client.py
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MODEL = "mistral-small-latest"
# One that the catalogue does not know, for the cell that is refused because of it.
UNPRICED_MODEL = "mistral-unheard-of"
MAX_TOKENS = 200
QUESTION = "Match this invoice."
MESSAGES = [{"role": "user", "content": QUESTION}]
# Sent under the same Idempotency-Key.
OTHER_MESSAGES = [{"role": "user", "content": "Match another invoice."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "match_invoice",
        "description": "Match an invoice with its order.",
        "parameters": {
            "type": "object",
            "properties": {"number": {"type": "integer"}},
            "required": ["number"],
        },
    },
}
TEXTS = ["An invoice.", "An order."]
CODE = "def total(invoice):"
DOCUMENT = "https://example.com/invoice.pdf"
# A second of silence: 16 bits, 8 kHz.
AUDIO = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 16036, b"WAVEfmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", 16000) + (
    bytes(16000)
)
# Sizes of an image's base64; the second is over the gateway's limit.
IMAGE_BYTES = {"large": 30_000_000, "413": 34_000_000}
IDEMPOTENCY_KEY = "one-key-for-two-requests"

Seen = Mapping[str, Any]
# Makes a cell's calls: (base URL, key, cell) to what the client showed.
Client = Callable[[str, str, str], Seen]


def run(client: Client, *, errors: tuple[type[Exception], ...], describe: Callable[[Any], Seen]) -> None:
    """Answer every line. `describe` tells status and code of the client's own `errors`; any other is just named."""
    for line in sys.stdin:
        url, key, cell = line.split()
        try:
            seen = client(url, key, cell)
        except errors as error:
            seen = named(error) | describe(error)
        except Exception as error:
            seen = named(error)
        print(json.dumps(seen), flush=True)


def named(error: Exception) -> dict[str, Any]:
    kind = type(error)
    return {"error": f"{kind.__module__}.{kind.__qualname__}", "message": str(error)}


def messages(cell: str) -> list[dict[str, Any]]:
    if cell not in IMAGE_BYTES:
        return MESSAGES
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * IMAGE_BYTES[cell]}}
    return [{"role": "user", "content": [{"type": "text", "text": QUESTION}, image]}]


def model(cell: str) -> str:
    return UNPRICED_MODEL if cell == "400" else MODEL


def streams(cell: str) -> bool:
    return cell.endswith("stream")


def code_in(body: str) -> str | None:
    """The code that the gateway wrote, for clients that hand the answer's text on."""
    try:
        code = json.loads(body)["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, str) else None


def collected(deltas: Iterator[Any]) -> Seen:
    """What a stream of OpenAI-shaped chunks adds up to."""
    content, finish_reason, names, arguments = "", None, "", ""
    for chunk in deltas:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            finish_reason = choice.finish_reason or finish_reason
            for call in choice.delta.tool_calls or ():
                names += call.function.name or ""
                arguments += call.function.arguments or ""
    return {"content": content, "finish_reason": finish_reason, "tool": called(names, arguments)}


def called(name: str, arguments: Any) -> dict[str, Any] | None:
    if not name:
        return None
    return {"name": name, "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments}
