"""Answers that nobody can read: whether a model worked for them all the same, and what it wrote. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from llm.rules.answers import read_json
from llm.rules.sse import choices_of

# Names that answers of a model have, in whatever dialect. A page of a proxy, or an empty object, has none.
_SIGNS = re.compile(
    rb"""["'](?:choices|usage|usage_info|message|content|delta|output|candidates|embedding|data|results|pages|text"""
    rb"""|segments|completion)["']\s*:""",
)

# Names that only answers have: an error has a message too, and may quote the request.
_ANSWERS = re.compile(
    rb"""["'](?:choices|usage|usage_info|candidates|stop_reason)["']\s*:|["']type["']\s*:\s*["']message["']"""
)

# A quotation mark, as it is, as JSON or HTML write it; and what gives a name its value, in whatever language.
_QUOTE = r"(?:[\"'`]|u002[27]|&(?:quot|apos|#0?3[49]|#x2[27]);)"
_END = rf"\\{{0,8}}{_QUOTE}"
_IS = r"\s{0,8}(?:=>|[:=])"
# Of those, and of an answer's other names, what may stand in a text: these in quotation marks, ...
_NAMES = (
    r"choices|usage|usage_?info|usage_?metadata|candidates|completion|delta|generation|reasoning_content"
    r"|generated_?text|output_?text"
)
# ... and these without, for nobody says them but of an answer.
_ODD_NAMES = (
    r"(?:finish|stop|done|completion)_?reason|usage_?metadata|completion_?tokens|output_?tokens"
    r"|(?:candidates|generation|output)_?token_?count|eval_count|predicted_n"
)
QUOTED_ANSWER = re.compile(
    rf"{_QUOTE}(?:{_NAMES}){_END}{_IS}|(?:{_QUOTE}|(?<![\w.]))(?:{_ODD_NAMES})(?:{_END})?{_IS}"
    rf"|{_QUOTE}role{_END}{_IS}\s{{0,8}}\\{{0,8}}{_QUOTE}(?:assistant|model){_END}"
    # YAML has no marks; and the first field of what a model wrote.
    rf"|(?<![\w.])choices:\s{{0,8}}\n\s{{0,8}}-\s"
    rf"|\b(?:message|content)(?:{_END})?{_IS}\s{{0,8}}[{{(\[](?:\s|\\){{0,8}}{_QUOTE}?(?:content|parts|tool_calls)\b"
    rf"|{_QUOTE}tool_calls{_END}{_IS}\s{{0,8}}\[\s{{0,8}}{{|<\|channel\|>|<tool_call>",
    re.I,
)

# How pages of HTML begin, once what is said of their kind is over.
_PAGE = re.compile(
    rb"(?:<\?xml[^>]*>\s*|<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|title|h1|center)\b", re.I | re.S
)
# A line of a stream, whose data nobody can read either.
_LINE_START = re.compile(rb"^(?:data|event|id):\s*", re.M)
_JSON_START = re.compile(r"""[\[{]\s*["\[{]""")
# What somebody says who is no model: a few words, or a small object of them.
_LONGEST_SENTENCE, _LONGEST_WORD = 200, 40
_ONE_WORD = 16

# Of JSON: texts, where they end and where they do not, and what opens and closes.
_MARK = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.S)
# So much is read of it, in bytes; what comes after that counts as what nobody can read.
MOST_READ = 1024 * 1024
_LINE_END = re.compile(r"[\r\n]")
_STARTS = ("{", "[", '"')
_CLOSERS = {"[": "]", "{": "}"}
_HALF_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{0,3}$")
_HALF_WORD = re.compile(r"[-+.\w]+$")
# Longer than any of both.
_END_LETTERS = 64


def readable(data: bytes, *, most_bytes: int = MOST_READ) -> tuple[Any, int]:
    """What JSON that breaks off holds, as if it ended there, and the bytes behind that, which nobody can read.

    None and all of its bytes where nothing can be read. No more than `most_bytes` are read of it. Never raises.
    """
    text = data[:most_bytes].decode("utf-8", "replace")
    if not text.startswith(_STARTS):
        return None, len(data)
    end, open_ends = _balanced(text)
    rest_bytes = len(text[end:].encode()) + max(0, len(data) - most_bytes)
    for begun in _mended(text[:end]):
        try:
            return json.loads(begun + open_ends, strict=False), rest_bytes
        except (ValueError, RecursionError):
            continue
    return None, len(data)


def _balanced(text: str) -> tuple[int, str]:
    """Where the JSON that a text begins with ends, or breaks, and what closes it there."""
    closers: list[str] = []
    end = len(text.rstrip())
    for found in _MARK.finditer(text):
        mark = found[0]
        if mark in _CLOSERS:
            closers.append(_CLOSERS[mark])
        elif mark in ("]", "}"):
            if not closers or closers[-1] != mark:
                end = found.start()
                break
            closers.pop()
            if not closers:
                end = found.end()
                break
        elif len(mark) < 2 or not mark.endswith('"'):
            # A text without its end, nor half a sign at it. What follows a line's end, which no JSON has in a text, is
            # somebody else's.
            end = found.start() + len(_LINE_END.split(mark, maxsplit=1)[0])
            break
    return end, "".join(reversed(closers))


def _mended(text: str) -> Iterator[str]:
    """A text that breaks off with what may lack at its end, in ten ways at most: it may be long."""
    start, end = text[:-_END_LETTERS], text[-_END_LETTERS:]
    # In a text, in a name, behind one, before a value; and without the half of what came last.
    ways = (
        (end, ('"', "", '":null', ":null", "null")),
        (_HALF_ESCAPE.sub("", end), ('"', '":null')),
        (end.rstrip(" \t\r\n,"), ("",)),
        (_HALF_WORD.sub("", end), ("", "null")),
    )
    ends = dict.fromkeys(left + ending for left, endings in ways for ending in endings)
    return (start + each for each in ends)


def shows_work(body: bytes) -> bool:
    """Whether a body with status 200 may be what is left of a model's answer, and so have cost money.

    Nothing at all may be, and whatever nobody can read; a page in HTML, an empty object or a sentence is somebody
    else's answer.
    """
    said = body.strip()
    if not said or _SIGNS.search(said) is not None:
        return True
    return _PAGE.match(said.removeprefix(b"\xef\xbb\xbf")) is None and not _is_sentence(said)


def is_answer(found: Any) -> bool:
    """Whether JSON, as far as it could be read, is an answer of a chat, or a message of Anthropic's.

    What merely has names that answers have may be an echo of the request, or a document of whatever.
    """
    if not isinstance(found, dict):
        return False
    if found.get("type") == "message" and isinstance(found.get("content"), list):
        return True
    return any(isinstance(choice.get(name), dict) for choice in choices_of(found) for name in ("message", "delta"))


def begins_answer(body: bytes, answer_in: str) -> bool:
    """Whether a body under an error's status that broke off may be the beginning of an answer.

    Without a sign of one its status is believed. `answer_in` is the field that holds what was asked for.
    """
    asked_for = rb"""["']%s["']\s*:""" % re.escape(answer_in.encode())
    return _ANSWERS.search(body) is not None or re.search(asked_for, body) is not None


def _is_sentence(said: bytes) -> bool:
    """Whether a body is short, plain text, in words."""
    try:
        text = _LINE_START.sub(b"", said).decode().strip()
    except UnicodeDecodeError:
        return False
    words = text.split()
    if len(text) > _LONGEST_SENTENCE or not text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return False
    if _JSON_START.match(text) and read_json(text.encode()) is None:
        # An answer, perhaps, that goes on where nobody saw it.
        return False
    if text.startswith("<") or '\\"' in text or not words:
        # Markup of nobody knows what, or JSON inside a text.
        return False
    return max(map(len, words)) <= (_ONE_WORD if len(words) == 1 else _LONGEST_WORD)
