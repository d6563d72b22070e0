"""What a refusal shows of work that was done before it: what was used, and what the model wrote. Pure.

Groq gives back what its model wrote where that was no call of a tool, or no JSON
(https://console.groq.com/docs/tool-use: `failed_generation`); some put a usage into their errors. Who stands in front
of others often quotes their error as a text.

What stands inside a text is a quotation, of the request or of what the model wrote: whoever asks, or has a model write,
decides what it says. So it is no usage and no count of anything; at most it says that there was work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from llm.rules import sse, unreadable, usage
from llm.rules.answers import read_json
from llm.rules.words_of_work import says_so

# What is looked at of an error: so many values, and texts of so many letters in all.
_MOST_VALUES, _MOST_LETTERS = 1_000, 1_000_000
# Texts that are looked for in a request, which may be long.
_MOST_LOOKS = 50
# What says what was used; where a refusal has it at its top, or in its `error`, it is read as an answer's.
_USAGES = frozenset({"usage", "usageMetadata", "usage_metadata", "x_groq"})
# Names of counts of what was written. Where no usage is read, they tell of it; a request is asked for none.
_COUNTS = re.compile(
    r"(?:completion|output|generated|generation|candidates|reasoning|thoughts)_token(?:s|_count)|eval_count|predicted_n"
)
# What a name in camel case is in snakes'.
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Behind a quotation, what ends it.
_ENDS = " \t\r\n.…'\"`’”»)>]"
# Groq's name of all that its model wrote.
_GENERATION = "failed_generation"
# Names of what a model has written.
_WRITTEN = re.compile(
    r"(?:failed|partial|raw|invalid|model)?_?(?:generations?|completions?|generated_?(?:text|content)?|outputs?"
    r"|output_text|choices|candidates)"
)
# Names that answers have for it, and some errors for other things: it is the request's where that has the same text.
_MAY_BE_WRITTEN = frozenset(
    """answer choice content delta function_call partial reasoning reasoning_content response text thinking
    tool_call tool_calls""".split()  # noqa: SIM905
)
# All that errors say of themselves. Where one stands in the place of an answer, any other text may be the model's.
_OF_ERRORS = frozenset(
    """@type cause code content_filter_result content_filter_results created ctx description detail details doc_url
    documentation_url domain error error_code error_type errors event_id hint id innererror instance links loc message
    metadata model model_slug msg name object param path prompt_filter_results provider provider_name raw reason reasons
    request_id retry_after service_tier severity source status status_code status_text success
    system_fingerprint timestamp title trace_id traceback type url user_id""".split()  # noqa: SIM905
)
# Names of what quotes the request. In the place of an answer that is asked; and a `body` may be the answer's anywhere.
_QUOTES = frozenset({"input", "body", "request", "messages", "prompt", "tools", "schema", "params"})


class AskedTexts:
    """The texts of a request, to know them again where a refusal quotes them; `body` makes what was sent."""

    def __init__(self, body: Callable[[], bytes], *, size_bytes: int = 0) -> None:
        self._make = body
        self.size_bytes = size_bytes
        self._looks = 0

    def has(self, text: str) -> bool:
        """Whether it holds a text, as it is or escaped. Of many texts it is not asked: they may be anybody's."""
        self._looks += 1
        return self._looks <= _MOST_LOOKS and any(form in self._body for form in (text.encode(), _escaped(text)))

    def has_json(self, value: Any) -> bool:
        return self.has(orjson.dumps(value).decode())

    def begins(self, text: str) -> bool:
        """Whether one of its texts begins with this one: what stands further on in it may be what it asks to write."""
        if self._body[:1] not in (b"{", b"["):
            # A form is no JSON: its texts stand in it as they are.
            return self.has(text)
        self._looks += 1
        starts = (mark + b'"' + _escaped(text) for mark in (b":", b"[", b","))
        return self._looks <= _MOST_LOOKS and any(start in self._body for start in starts)

    @cached_property
    def _body(self) -> bytes:
        # As JSON is written here: there are many ways to escape a letter.
        body = self._make()
        said = read_json(body)
        return body if said is None else orjson.dumps(said)


@dataclass(slots=True)
class ShownWork:
    """`counts`: parts of a refusal that say what was used, each to be read as an answer is; `text_bytes`: UTF-8 bytes
    that the model wrote; `is_told`: its words, or what it quotes, say that there was work which it does not show."""

    counts: list[dict[str, Any]] = field(default_factory=list)
    text_bytes: int = 0
    is_told: bool = False

    def __bool__(self) -> bool:
        return bool(self.counts or self.text_bytes or self.is_told)


class _Part(NamedTuple):
    """`is_error`: it is the refusal's own error, where endpoints put a usage; `is_quoted`: it stood in a text."""

    value: Any
    is_error: bool = False
    is_quoted: bool = False


def refusal(body: bytes) -> dict[str, Any]:
    """The body of a refusal as an object, to be looked at by `of`: a list, lines of JSON, or a text, are its error."""
    said = read_json(body)
    if isinstance(said, dict):
        return said
    if said is None and body.lstrip().startswith(b"{"):
        lines = [read_json(line) for line in body.splitlines() if line.strip()]
        said = lines if all(isinstance(line, dict) for line in lines) else None
    return {"error": body.decode(errors="replace") if said is None else said}


def of(*refusals: Any, asked: AskedTexts | None = None, is_answer: bool = False) -> ShownWork:
    """What the JSON of a refusal shows, or of several; a usage at its top is left to whoever reads answers.

    `asked`: of texts that may be the request's own those that it has show nothing. `is_answer`: it came in the place of
    an answer, so that what is not known to be an error's may be written. Of more than is looked at nobody knows what it
    shows.
    """
    said = [each for each in refusals if isinstance(each, Mapping)]
    model = next((each["model"] for each in said if each.get("model")), None)
    look = _Look(ShownWork(), asked or AskedTexts(bytes), is_answer=is_answer, model=model)
    tops = [{name: value for name, value in each.items() if name not in _USAGES} for each in said]
    waiting = [_Part(top, is_error=True) for top in tops]
    for _ in range(_MOST_VALUES):
        if not waiting:
            break
        waiting += [part for part in look.at(waiting.pop()) if isinstance(part.value, str | list | Mapping)]
    # Of what was generated, and is shown, words say nothing more.
    says_so = look.says_so and not look.shows_generation
    look.found.is_told = look.found.is_told or says_so or bool(waiting)
    return look.found


@dataclass(slots=True)
class _Look:
    """Notes in `found` what the parts of a refusal show; and what its words say, and whether it shows that as well."""

    found: ShownWork
    asked: AskedTexts
    is_answer: bool
    model: Any
    letters_left: int = _MOST_LETTERS
    says_so: bool = False
    shows_generation: bool = False

    def at(self, part: _Part) -> list[_Part]:
        """What in a part is still to be looked at."""
        if isinstance(part.value, list):
            return [part._replace(value=value) for value in part.value]
        if isinstance(part.value, Mapping):
            return [inner for name, value in part.value.items() for inner in self._field(part, name, value)]
        return self._words(part.value) if isinstance(part.value, str) else []

    def _field(self, part: _Part, name: str, value: Any) -> list[_Part]:
        known = _HUMP.sub("_", name).lower()
        if known in _QUOTES and (self.is_answer or known != "body"):
            self.found.is_told = self.found.is_told or (self.is_answer and not self._has_texts_of(value))
            return []
        if name in _USAGES and isinstance(value, Mapping) and value:
            if part.is_error and not part.is_quoted:
                self.found.counts.append({"model": self.model, name: value})
            else:
                self.found.is_told = True
        elif _COUNTS.fullmatch(known) and usage.count(value):
            self.found.is_told = True
        elif isinstance(value, str | list | dict) and self._is_written(known, value):
            text_bytes = 0 if part.is_quoted else sse.answer_bytes({"choices": [value]})
            self.found.text_bytes += text_bytes
            if text_bytes:
                self.shows_generation = self.shows_generation or name == _GENERATION
            else:
                self.found.is_told = self.found.is_told or bool(value) or name == _GENERATION
        else:
            return [part._replace(value=value, is_error=part.is_error and name == "error")]
        return []

    def _is_written(self, name: str, value: Any) -> bool:
        if _WRITTEN.fullmatch(name):
            return True
        may_be = name in _MAY_BE_WRITTEN or (self.is_answer and name not in _OF_ERRORS)
        return may_be and sse.answer_bytes({"choices": [value]}) > 0 and not self._is_own(value)

    def _is_own(self, value: Any) -> bool:
        """Whether it is the request's own: a text that begins one there, or JSON as it stands there."""
        return self.asked.begins(value) if isinstance(value, str) else self.asked.has_json(value)

    def _has_texts_of(self, value: Any) -> bool:
        """Whether the request has each text in a value."""
        return self.asked.has_json(value) or all(map(self.asked.has, _texts_in(value)))

    def _quotes_answer(self, text: str) -> bool:
        """Whether a text quotes an answer, cut or written as it may be, which is not the request's own.

        It is where the request has all of the quotation: its names alone can be guessed, or asked for.
        """
        signs = list(unreadable.QUOTED_ANSWER.finditer(text))
        if not signs:
            return False
        start = min(place for place in (signs[0].start(), text.find("{")) if place >= 0)
        ends = [end for end in (text.rfind("}") + 1, len(text)) if end >= signs[-1].end()]
        return not any(self.asked.has(text[start:end].rstrip(_ENDS)) for end in ends)

    def _words(self, text: str) -> list[_Part]:
        """Note what the words of a text say; of JSON that it quotes, the request's own says nothing."""
        self.letters_left -= len(text)
        if self.letters_left < 0:
            self.found.is_told = True
            return []
        start, end = text.find("{"), text.rfind("}") + 1
        quoted = read_json(text[start:end].encode()) if 0 <= start < end else None
        if not isinstance(quoted, dict):
            self._note_words(text)
            return []
        around = (text[:start], text[end:])
        if self.asked.has(text[start:end]) or self.asked.has_json(quoted):
            for words in around:
                self._note_words(words)
            return []
        self.says_so = self.says_so or says_so(text)
        self.found.is_told = self.found.is_told or any(map(unreadable.QUOTED_ANSWER.search, around))
        return [_Part(quoted, is_quoted=True)]

    def _note_words(self, text: str) -> None:
        self.says_so = self.says_so or says_so(text)
        self.found.is_told = self.found.is_told or self._quotes_answer(text)


def _texts_in(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | dict):
            waiting += value.values() if isinstance(value, dict) else value


def _escaped(text: str) -> bytes:
    return orjson.dumps(text)[1:-1]
