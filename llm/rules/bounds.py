"""A strict upper bound of a call's tokens and cost, before it is made. Pure.

A byte-level tokenizer never makes more tokens of a text than it has UTF-8 bytes, so bytes bound tokens; guesses such
as a quarter of the characters fall short by up to 16 times. To the bytes come the marks around messages and tools.
What has no bound (documents, audio, tools that run at the provider, pictures at a provider that does not say what they
cost) is refused with `UnboundedInput`, or counts as all that the model can read, where that is the policy.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import orjson

from llm.rules.estimates import PROMPTED, UNMEASURED, Estimate
from llm.rules.pricing import GUARDS, HIDDEN_PROMPT_TOKENS
from llm.rules.request_checks import MEDIA, holds_no_media
from llm.rules.usage import WRITE_1H_E2, WRITE_E2

DEFAULT_MAX_TOKENS = 4_096
TOKENS_PER_REQUEST = 8
TOKENS_PER_MESSAGE = 4
# Marks of a message with its role are up to 6 (ChatML and Llama's 5, harmony 6); the request's own cover the first two.
MORE_PER_LATER_MESSAGE = 2
# Field names and marks that a chat template puts around one tool, or one tool call.
TOKENS_PER_TOOL = 96
DEFAULT_OCR_PAGES = 1_000
# Texts of a request that no model reads; of numbers and flags, neither. All else counts by its bytes.
_UNREAD = frozenset(
    """model metadata stop user prompt_cache_key safety_identifier logit_bias stream_options
    service_tier""".split()  # noqa: SIM905
)
_COUNTED_ABOVE = ("messages", "tools")
# Words that switch a prompt of the provider's own on, whose size is known.
_MODES = ("prompt_mode", "reasoning_effort")
LONGEST_MODE = 16
_DETAILS = ("low", "high", "auto", "original")
_PICTURE_DATA = re.compile(r"data:image/(?:png|jpe?g);base64,(?P<data>.+)", re.DOTALL)
_PICTURE_MARKS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_PAGES = re.compile(r"[0-9]{1,6}(-[0-9]{1,6})?")
# Of a tool call and its function, what the tool is told; what else is there, providers add and want back.
_TOLD = frozenset({"function", "arguments"})
_FORMS: tuple[Literal["NFC", "NFKC"], ...] = ("NFC", "NFKC")
# Of each mark of JSON, where a template indents it: a line's end, blanks, and the one before what follows.
TOKENS_PER_INDENT = 3
_MARKS_OF_JSON = b"[]{},"
TOKENS_PER_ESCAPE = 5
_ESCAPED_BY_GO = (b"<", b">", b"&", "\u2028".encode(), "\u2029".encode())
_BOUNDED_PARTS = frozenset({"text", "thinking", "reference", "refusal"})


class UnboundedInput(ValueError):
    """The request holds something that has no upper bound of tokens. `param` names where."""

    def __init__(self, what: str, param: str) -> None:
        super().__init__(f"{what} cannot be bounded before the call, so it is not accepted")
        self.param = param


def chat(
    payload: Mapping[str, Any],
    *,
    default_max_tokens: int = DEFAULT_MAX_TOKENS,
    default_thinking_tokens: int = 0,
    reserve_unbounded: bool = False,
) -> Estimate:
    """The bound of a chat request in Mistral's shape (`dialect.Request.payload`). Raises UnboundedInput.

    `default_thinking_tokens` are for what models think, beside the default for what they answer.
    `reserve_unbounded`: what has no bound counts as the model's whole context; but for audio, which has another unit.
    """
    thinking_tokens = 0 if payload.get("max_tokens") else default_thinking_tokens
    try:
        return _bounded_chat(
            payload, default_max_tokens, thinking_tokens=thinking_tokens, reserve_unbounded=reserve_unbounded
        )
    except UnboundedInput:
        if not reserve_unbounded or _holds_audio(payload):
            raise
    return Estimate(
        kind="chat",
        text_tokens=0,
        max_tokens=payload.get("max_tokens") or default_max_tokens,
        n=payload.get("n") or 1,
        needs=_needs(payload, images=0, tools=bool(payload.get("tools"))),
        whole_context=True,
        thinking_tokens=thinking_tokens,
        echoed_bytes=_echoed_bytes(payload["messages"]),
        withheld_bytes=_withheld_bytes(payload),
    )


def _bounded_chat(
    payload: Mapping[str, Any], default_max_tokens: int, *, thinking_tokens: int, reserve_unbounded: bool
) -> Estimate:
    tokens, images = _read(payload)
    needs = _needs(payload, images=images, tools=bool(payload.get("tools")))
    if needs & PROMPTED:
        tokens += HIDDEN_PROMPT_TOKENS
    return Estimate(
        kind="chat",
        text_tokens=tokens,
        images=images,
        max_tokens=payload.get("max_tokens") or default_max_tokens,
        n=payload.get("n") or 1,
        needs=needs,
        reserve_unbounded=reserve_unbounded,
        texts=chat_texts(payload),
        thinking_tokens=thinking_tokens,
        echoed_bytes=_echoed_bytes(payload["messages"]),
        withheld_bytes=_withheld_bytes(payload),
    )


def _echoed_bytes(messages: Sequence[Mapping[str, Any]]) -> int:
    """Of a last message that the answer is to begin with (`prefix`)."""
    last = messages[-1] if messages else {}
    content = last.get("content") if last.get("prefix") else None
    texts = content if isinstance(content, list) else [{"text": content}]
    return sum(len(text.encode()) for part in texts if isinstance(text := part.get("text"), str))


def _withheld_bytes(payload: Mapping[str, Any]) -> int:
    """vLLM shows no end of a text that may begin with what it is to stop at."""
    stop = payload.get("stop")
    texts = stop if isinstance(stop, list) else [stop]
    longest = max((len(text.encode("utf-8", "surrogatepass")) for text in texts if isinstance(text, str)), default=0)
    return max(0, longest - 1)


def chat_texts(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """What messages say in plain text; not what tools answered, which templates quote as JSON."""
    contents = [message.get("content") for message in payload["messages"] if message.get("role") != "tool"]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    texts = contents + [part.get("text") for part in parts if part.get("type", "text") == "text"]
    return tuple(text for text in texts if isinstance(text, str))


def chat_text(payload: Mapping[str, Any]) -> int:
    """Text tokens of a chat's body as it leaves, in the shape that Mistral and OpenAI share. Raises UnboundedInput."""
    return _read(payload)[0]


def body_text(body: Mapping[str, Any]) -> int:
    """Text tokens of a body of any other shape, that holds no picture's data any more: all its JSON."""
    return _json_bytes(body) + TOKENS_PER_REQUEST


def _read(payload: Mapping[str, Any]) -> tuple[int, int]:
    """(tokens, images) of all that a model may read in a body."""
    tokens = TOKENS_PER_REQUEST
    images = 0
    for position, message in enumerate(payload["messages"]):
        message_tokens, message_images = _message(message, f"messages.{position}")
        tokens += message_tokens + TOKENS_PER_MESSAGE + (MORE_PER_LATER_MESSAGE if position > 1 else 0)
        images += message_images
    if tools := payload.get("tools"):
        tokens += _tools(tools)
    for key, value in payload.items():
        if key in _COUNTED_ABOVE or key in _UNREAD or not isinstance(value, str | list | dict):
            continue
        if key not in _MODES or not isinstance(value, str) or len(value) > LONGEST_MODE:
            tokens += _json_bytes({key: value})
    return tokens, images


def write_price_e2(payload: Mapping[str, Any]) -> int:
    """What an input token of a chat may cost at a provider that keeps prompts, in hundredths of its price.

    Whoever marks a part with `cache_control` may be charged for writing it, and all that is before it, into a cache.
    """
    marks = list(_cache_marks(payload))
    if not marks:
        return 100
    for_minutes = all(isinstance(mark, Mapping) and mark.get("ttl") in (None, "5m") for mark in marks)
    return WRITE_E2 if for_minutes else WRITE_1H_E2


def _cache_marks(payload: Mapping[str, Any]) -> Iterator[Any]:
    """Every `cache_control` in what a model reads."""
    waiting: list[Any] = [payload["messages"], payload.get("tools")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, Mapping):
            if value.get("cache_control") is not None:
                yield value["cache_control"]
            waiting += value.values()


def fim(payload: Mapping[str, Any], *, default_max_tokens: int = DEFAULT_MAX_TOKENS) -> Estimate:
    """The bound of a fill-in-the-middle request: `prompt` and `suffix`, read once for all of `n` answers."""
    texts = tuple(text for text in (payload.get("prompt"), payload.get("suffix")) if isinstance(text, str))
    tokens = TOKENS_PER_REQUEST + sum(map(_text_bytes, texts))
    return Estimate(
        kind="fim",
        text_tokens=tokens,
        max_tokens=payload.get("max_tokens") or default_max_tokens,
        n=payload.get("n") or 1,
        texts=texts,
        withheld_bytes=_withheld_bytes(payload),
    )


def embeddings(payload: Mapping[str, Any]) -> Estimate:
    """The bound of an embeddings request: its input only, for it writes nothing."""
    found = payload.get("input")
    if (tokens := _tokens_of(found)) is not None:
        lists = found if isinstance(found, list) and found and isinstance(found[0], list) else [found]
        return Estimate(kind="embedding", text_tokens=tokens, inputs=len(lists))
    texts = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return Estimate(
        kind="embedding",
        text_tokens=_inputs(found),
        texts=tuple(text for text in texts if isinstance(text, str)),
        inputs=max(1, len(texts)),
    )


def moderations(payload: Mapping[str, Any]) -> Estimate:
    """The bound of a moderation request, of texts or of conversations. Raises UnboundedInput for all but texts."""
    found = payload.get("input")
    _refuse_hidden("", found, "input")
    inputs = found if isinstance(found, list) else [found]
    return Estimate(kind="moderation", text_tokens=_inputs(found), inputs=max(1, len(inputs)))


def ocr(payload: Mapping[str, Any], *, max_pages: int = DEFAULT_OCR_PAGES, reserve_unbounded: bool = False) -> Estimate:
    """The pages that an OCR request lists, one for a picture, or `max_pages`; annotated ones have a price of their own.

    Raises UnboundedInput for a file at the provider, unless `reserve_unbounded`: whose it is, nobody here knows.
    """
    formats = (payload.get(name) for name in ("document_annotation_format", "bbox_annotation_format"))
    annotated = any(wanted is not None for wanted in formats)
    document = payload.get("document")
    if isinstance(document, Mapping) and document.get("file_id") and not reserve_unbounded:
        raise UnboundedInput("A file that is at the provider", "document.file_id")
    pages = 1 if _is_one_picture(document) else _listed_pages(payload.get("pages"))
    return Estimate(
        kind="ocr",
        text_tokens=0,
        unit="annotated_page" if annotated else "page",
        units=max_pages if pages is None else pages,
        most_units=max_pages,
        asked=frozenset({UNMEASURED} if pages is None else ()),
    )


def _message(message: Mapping[str, Any], param: str) -> tuple[int, int]:
    """(tokens, images) of one message: its content, and every other field by its bytes."""
    tokens = images = 0
    for key, value in message.items():
        if key == "role" or value is None or holds_no_media(key, value):
            continue
        _refuse_media(key, param)
        if key == "tool_calls":
            tokens += sum(_tool_call(call, f"{param}.tool_calls.{at}") for at, call in enumerate(value))
        elif key != "content":
            tokens += _json_bytes({key: value})
        elif isinstance(value, str):
            # Templates quote a tool's answer as JSON, which makes two bytes of a quote or a line's end.
            tokens += _json_bytes(value) if message.get("role") == "tool" else _text_bytes(value)
        else:
            for position, part in enumerate(value):
                part_tokens, part_images = _part(part, f"{param}.content.{position}")
                tokens += part_tokens
                images += part_images
    return tokens, images


def _refuse_media(key: str, param: str) -> None:
    """Some endpoints read more than text out of a message or part that says it is one."""
    if key in MEDIA:
        raise UnboundedInput(f"`{key}` in a place where only text is counted", f"{param}.{key}")


def _refuse_hidden(name: str, value: Any, param: str) -> None:
    """As `_refuse_media`, at any depth."""
    waiting = [(name, value)]
    while waiting:
        name, value = waiting.pop()
        _refuse_media(name, param)
        if isinstance(value, list):
            waiting += [("", inner) for inner in value]
        elif isinstance(value, Mapping):
            waiting += value.items()


def _part(part: Mapping[str, Any], param: str) -> tuple[int, int]:
    kind = part.get("type", "text")
    for key, value in part.items():
        if key != kind and not holds_no_media(key, value):
            _refuse_media(key, param)
    if kind == "image_url":
        return _picture(part, param), 1
    if kind not in _BOUNDED_PARTS:
        raise UnboundedInput(f"Content of type {kind!r}", param)
    if kind == "thinking":
        _refuse_nested(part.get("thinking"), param)
    return _json_bytes(part), 0


def _picture(part: Mapping[str, Any], param: str) -> int:
    """Tokens of what is in a picture's part beside the picture. Raises UnboundedInput for data that is no picture."""
    image = part.get("image_url")
    described = image if isinstance(image, Mapping) else {"url": image}
    url = str(described.get("url")).lower()
    if url.startswith("data:") and not url.startswith("data:image/"):
        # Some take whole documents and films here.
        raise UnboundedInput("Data that is no picture", param)
    known = {"url"} if url.startswith(("data:", "http://", "https://")) else set()
    if described.get("detail") in _DETAILS:
        known.add("detail")
    more = [item for item in part.items() if item[0] not in ("type", "image_url")]
    more += [item for item in described.items() if item[0] not in known]
    return _json_bytes(more) if more else 0


def _is_one_picture(document: Any) -> bool:
    """Whether a document of an OCR request has one page for sure: a PNG or JPEG that is in the request itself.

    What is behind an address, whatever it is called, may be a PDF; so may data that only says that it is a picture.
    """
    if not isinstance(document, Mapping) or document.keys() != {"type", "image_url"}:
        return False
    image = document["image_url"]
    url = image["url"] if isinstance(image, Mapping) and image.keys() == {"url"} else image
    found = _PICTURE_DATA.fullmatch(url) if isinstance(url, str) and document["type"] == "image_url" else None
    try:
        data = binascii.a2b_base64(found["data"], strict_mode=True) if found else b""
    except ValueError:
        return False
    # Readers of PDF look for their mark further on, too.
    return data.startswith(_PICTURE_MARKS) and b"%PDF" not in data


def _holds_audio(payload: Mapping[str, Any]) -> bool:
    contents = (message.get("content") for message in payload["messages"])
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return any(part.get("type") == "input_audio" for part in parts)


def _refuse_nested(thinking: Any, param: str) -> None:
    """Thinking holds parts of its own, which could hide one that has no bound."""
    for part in thinking if isinstance(thinking, list) else ():
        if isinstance(part, Mapping) and part.get("type", "text") not in (
            "text",
            "reference",
            "tool_reference",
        ):
            raise UnboundedInput(f"Thinking of type {part.get('type')!r}", f"{param}.thinking")


def _tools(tools: Sequence[Mapping[str, Any]]) -> int:
    for position, tool in enumerate(tools):
        kind = tool.get("type", "function")
        if kind != "function":
            raise UnboundedInput(f"A tool of type {kind!r}, which runs at the provider,", f"tools.{position}.type")
    return _json_bytes(tools) + len(tools) * TOKENS_PER_TOOL


def indents(tools: Any) -> int:
    """Tokens that tools have beside their bytes, where a template writes them indented, as Llama's does."""
    data = orjson.dumps(tools)
    return TOKENS_PER_INDENT * sum(data.count(mark) for mark in _MARKS_OF_JSON) if tools else 0


def escapes(value: Any) -> int:
    r"""Tokens that JSON has beside its bytes where Go writes it, as Ollama does: `<` is six letters there, `\u003c`."""
    data = orjson.dumps(value)
    return TOKENS_PER_ESCAPE * sum(data.count(mark) for mark in _ESCAPED_BY_GO) if value else 0


def _tool_call(call: Mapping[str, Any], param: str) -> int:
    """Arguments come as JSON inside a string: templates unpack it, and space it out."""
    function = call.get("function")
    for holder in (call, function if isinstance(function, Mapping) else {}):
        for name, value in holder.items():
            if name not in _TOLD:
                _refuse_hidden(name, value, param)
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    spaces = arguments.count(",") + arguments.count(":") if isinstance(arguments, str) else 0
    return _json_bytes(call) + spaces + TOKENS_PER_TOOL


def _needs(payload: Mapping[str, Any], *, images: int, tools: bool) -> frozenset[str]:
    response_format = payload.get("response_format")
    wants_json = isinstance(response_format, Mapping) and response_format.get("type", "text") != "text"
    reasons = payload.get("prompt_mode") == "reasoning" or payload.get("reasoning_effort") not in (
        None,
        "none",
    )
    flags = {"vision": images > 0, "tools": tools, "json": wants_json, "reasoning": reasons}
    flags |= {name: bool(payload.get(name)) for name in GUARDS}
    return frozenset(name for name, needed in flags.items() if needed)


def _inputs(value: Any) -> int:
    """Texts, or whole conversations, of an embeddings or moderation request."""
    if isinstance(value, str):
        return TOKENS_PER_REQUEST + _text_bytes(value)
    items = value if isinstance(value, list) else [value]
    return TOKENS_PER_REQUEST + sum(
        (_text_bytes(item) if isinstance(item, str) else _json_bytes(item)) + TOKENS_PER_REQUEST for item in items
    )


def _tokens_of(value: Any) -> int | None:
    """Of an input that is tokens already, one list of them or several: so many, and the marks of each."""
    lists = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    if not all(isinstance(one, list) and all(type(token) is int for token in one) for one in lists):
        return None
    return TOKENS_PER_REQUEST + sum(len(one) + TOKENS_PER_REQUEST for one in lists)


def _listed_pages(pages: Any) -> int | None:
    """How many pages `[0, 2]` or "0-3, 7" lists; None for anything else, which its reader could take for more."""
    if isinstance(pages, list):
        plain = all(type(page) is int and 0 <= page < 1_000_000 for page in pages)
        return (len(pages) or None) if plain and len(set(pages)) == len(pages) else None
    spans = [span.strip(" ") for span in pages.split(",")] if isinstance(pages, str) else [""]
    if not all(_PAGES.fullmatch(span) for span in spans):
        return None
    ends = [(int(first), int(last or first)) for first, _, last in (span.partition("-") for span in spans)]
    return sum(last - first + 1 for first, last in ends) if all(first <= last for first, last in ends) else None


def _text_bytes(text: str) -> int:
    """UTF-8 bytes of a text, as it is or in a normal form that tokenizers bring it to, whichever are most."""
    if text.isascii():
        return len(text)
    # Letter by letter: of a text with many marks in a row no normal form is made in any reasonable time, and what is
    # put together is never longer than its parts.
    return sum(times * _longest_bytes(letter) for letter, times in Counter(text).items())


@lru_cache(maxsize=16_384)
def _longest_bytes(letter: str) -> int:
    return max(len(form.encode()) for form in (letter, *(unicodedata.normalize(form, letter) for form in _FORMS)))


def _json_bytes(value: Any) -> int:
    """Bytes of `value` as a template writes it: JSON with a space after each comma and colon, at least."""
    data = orjson.dumps(value)
    size = len(data) if data.isascii() else _text_bytes(data.decode())
    return size + data.count(b",") + data.count(b":")
