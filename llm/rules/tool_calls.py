"""Tool calls: ids that each provider takes, and the parts in which streams bring them. Pure."""

from __future__ import annotations

import hashlib
import re
import string
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import orjson

# What each takes for the id of a call. Mistral: `protocol/instruct/validator.py` of mistral-common; the others by their
# API references and what they answer to anything else.
MISTRALS_IDS = re.compile(r"[a-zA-Z0-9]{9}")
ANTHROPICS_IDS = re.compile(r"[a-zA-Z0-9_-]{1,64}")
OPENAIS_IDS = re.compile(r".{1,40}", re.DOTALL)
_DIGITS = string.digits + string.ascii_letters
_MADE_LENGTH = 9
# A client that knows of no id sends one of these.
_NO_ID = ("", "null")
_OWN = frozenset({"id", "index", "type", "function"})
# What a chunk says of the answer that it is a part of, and what that may come to where each of many says it again.
_HEAD = ("id", "object", "created", "model")
_MOST_HEAD_BYTES = 64 * 1024
_FUNCTIONS_OWN = frozenset({"name", "arguments"})


def with_ids(
    messages: Sequence[Mapping[str, Any]], taken: re.Pattern[str], *, may_recur: bool = True
) -> list[Mapping[str, Any]]:
    """The messages with ids of the form `taken`, one for each call, the same in a call and in its result.

    An id that fits stays; unless it `may_recur`, that of the first message which has it. Any other becomes nine letters
    and digits, the same ones in every request of a conversation, so that prompts stay what a provider has in its cache.
    A result without an id is that of the next call.
    """
    # The ids that a call may not have any more.
    used: set[str] = set()
    found: list[Mapping[str, Any]] = []
    # The calls of the last message that made any: their own ids -> the ids they go by, as far as they have no result.
    waiting: dict[str, deque[str]] = {}
    for at, message in enumerate(messages):
        role = message.get("role")
        if role == "assistant" and message.get("tool_calls"):
            used = set() if may_recur else used
            calls, waiting = _renamed(message["tool_calls"], at, taken, used)
            found.append({**message, "tool_calls": calls})
        elif role == "tool" and (id := _result_id(message, waiting, taken)):
            found.append({**message, "tool_call_id": id})
        else:
            found.append(message)
    return found


def unanswered(messages: Sequence[Mapping[str, Any]], *, between: Collection[str] = ()) -> tuple[str, str] | None:
    """(field, what is wrong) where a call has no result or a result no call; messages of roles `between` may part them.

    Every provider wants the results of a message's calls right after it, one for each; their ids are `with_ids`'.
    """
    # Ids of calls without a result so far, with the field of each.
    waiting: dict[str, str] = {}
    for at, message in enumerate(messages):
        role = message.get("role")
        if role in between:
            continue
        if role == "tool":
            id = message.get("tool_call_id")
            if not isinstance(id, str) or waiting.pop(id, None) is None:
                return f"messages.{at}.tool_call_id", "is of no call of the message before its results."
            continue
        if waiting:
            break
        for number, call in enumerate(message.get("tool_calls") or ()):
            waiting[call["id"]] = f"messages.{at}.tool_calls.{number}"
    field = next(iter(waiting.values()), "")
    return (field, "has no result: send a message of the role `tool` for it, right after it.") if field else None


def from_functions(messages: list[Any]) -> list[Any]:
    """Calls in OpenAI's former way, a `function_call` and a message of the role `function`, as they are made today."""
    found: list[Any] = []
    id = ""
    for at, message in enumerate(messages):
        if not isinstance(message, dict):
            found.append(message)
        elif isinstance(called := message.get("function_call"), dict) and not message.get("tool_calls"):
            id = f"call_{at}"
            rest = {name: value for name, value in message.items() if name != "function_call"}
            found.append({**rest, "tool_calls": [{"id": id, "type": "function", "function": called}]})
        elif message.get("role") == "function":
            found.append({**message, "role": "tool", "tool_call_id": id})
        else:
            found.append(message)
    return found


def _renamed(
    calls: Sequence[Mapping[str, Any]], at: int, taken: re.Pattern[str], used: set[str]
) -> tuple[list[Mapping[str, Any]], dict[str, deque[str]]]:
    renamed: list[Mapping[str, Any]] = []
    waiting: dict[str, deque[str]] = {}
    for number, call in enumerate(calls):
        own = _id_of(call.get("id"))
        id = _fitting(own, taken) if own else ""
        if not id or id in used:
            id = _made(f"{at} {number} {own}")
        used.add(id)
        waiting.setdefault(own, deque()).append(id)
        renamed.append({**call, "id": id})
    return renamed, waiting


def _result_id(message: Mapping[str, Any], waiting: dict[str, deque[str]], taken: re.Pattern[str]) -> str:
    own = _id_of(message.get("tool_call_id"))
    known = own if own in waiting or own else next(iter(waiting), "")
    if known not in waiting:
        return _fitting(own, taken) if own else ""
    id = waiting[known].popleft()
    if not waiting[known]:
        del waiting[known]
    return id


def _id_of(value: Any) -> str:
    text = str(value) if isinstance(value, str | int) else ""
    return "" if text in _NO_ID else text


def _fitting(id: str, taken: re.Pattern[str]) -> str:
    return id if taken.fullmatch(id) else _made(id)


def _made(of: str) -> str:
    number = int.from_bytes(hashlib.sha256(of.encode(errors="surrogatepass")).digest()[:8])
    digits = []
    for _ in range(_MADE_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(digits)


def text_of(arguments: Any) -> str:
    """Arguments as they should be, a text: of anything else its JSON."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else orjson.dumps(arguments).decode()


class CallParts:
    """The tool calls of one answer while a stream brings them, with whatever fields a provider adds of its own.

    Endpoints number them as they like: all alike, or not at all; some repeat the id, or the name, in each part.
    """

    def __init__(self) -> None:
        self._by_position: dict[int, _Call] = {}
        self._most_position = -1
        # Where a part belongs is looked up, not searched for: an answer may have a hundred thousand calls.
        self._last: dict[int | None, _Call] = {}
        self._named: dict[tuple[int | None, str], _Call] = {}
        # Bytes of all that has come.
        self.text_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._by_position)

    def took(self, part: Any) -> bool:
        """Take a part in; False for what is no part of a function's call."""
        if not isinstance(part, dict):
            return False
        call, function = self._continued(part), part.get("function")
        if not isinstance(function, dict) and (function is not None or call is None or part.get("custom")):
            return False
        number = _whole(part.get("index"))
        if call is None:
            is_free = number is not None and number not in self._by_position
            position = number if number is not None and is_free else self._most_position + 1
            call = self._by_position[position] = _Call(position)
            self._most_position = max(self._most_position, position)
        self.text_bytes += call.add(part)
        for place in (number, None):
            self._last[place] = call
            self._named[place, call.id] = call
        return True

    def whole(self) -> list[dict[str, Any]]:
        """The calls as they have come to be, in their order."""
        return [call.whole() for _, call in sorted(self._by_position.items())]

    def _continued(self, part: Mapping[str, Any]) -> _Call | None:
        """The call that a part belongs to; None where another begins with it."""
        number, id = _whole(part.get("index")), part.get("id")
        last = self._last.get(number)
        if not isinstance(id, str) or not id:
            return None if last is None or last.is_over(part) else last
        if known := self._named.get((number, id)):
            return known
        # One that had no id before has this one.
        return last if last is not None and not last.id and number is not None else None


class _Call:
    def __init__(self, position: int) -> None:
        self.position = position
        self.id = ""
        self._name = ""
        self._arguments: list[str] = []
        self._more: dict[str, Any] = {}
        self._functions_more: dict[str, Any] = {}

    def add(self, part: Mapping[str, Any]) -> int:
        """Take a part in; the bytes of it."""
        function = part.get("function") or {}
        if isinstance(id := part.get("id"), str):
            self.id = id or self.id
        self._name = text_of(function.get("name")) or self._name
        if arguments := text_of(function.get("arguments")):
            self._arguments.append(arguments)
        more = {name: value for name, value in part.items() if name not in _OWN and value is not None}
        functions_more = {n: value for n, value in function.items() if n not in _FUNCTIONS_OWN and value is not None}
        self._more |= more
        self._functions_more |= functions_more
        written = text_of(function.get("name")) + arguments
        size = len(written.encode(errors="surrogatepass"))
        return size + sum(len(orjson.dumps(added)) for added in (more, functions_more) if added)

    def is_over(self, part: Mapping[str, Any]) -> bool:
        """Whether a part without an id begins another call: by its name, once this one has arguments."""
        function = part.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not name or not self._name or not self._arguments:
            return False
        return name != self._name or (self._arguments[-1].endswith("}") and _is_object("".join(self._arguments)))

    def whole(self) -> dict[str, Any]:
        # Who calls with nothing may leave it at that; clients read an object.
        function = {"name": self._name, "arguments": "".join(self._arguments) or "{}", **self._functions_more}
        return {"id": self.id, "type": "function", "function": function, "index": self.position, **self._more}


def with_text_arguments(answer: Any) -> bool:
    """Make texts, which clients read, of what tools are called with in an answer or a chunk. Whether any was none.

    What a whole call lacks is an empty object; a part of a call may well say nothing of it.
    """
    changed = False
    for function, nothing in _functions(answer):
        called_with = function.get("arguments")
        if not isinstance(called_with, str):
            function["arguments"] = nothing if called_with is None else text_of(called_with)
            changed = True
    return changed


def before_end(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """Take the calls out of a chunk that ends their answers: the chunks to send before it, one for each call.

    The helpers of OpenAI's clients tell that a call is whole when the next one comes, or when what comes behind it ends
    the answer. A text beside calls goes with the first. So many that saying whose they are would take the most of it go
    in one chunk. `chunk` is as clients read it, see `answers.complete`.
    """
    ending = [one for one in chunk["choices"] if one.get("finish_reason") and one["delta"].get("tool_calls")]
    if not ending:
        return []
    choices = []
    for choice in ending:
        probabilities = {"logprobs": choice.pop("logprobs")} if "logprobs" in choice else {}
        choices.append({"index": choice["index"], "delta": choice["delta"], "finish_reason": None, **probabilities})
        choice["delta"] = {}
    head = {name: chunk[name] for name in _HEAD}
    apart = [part for choice in choices for part in _call_by_call(choice)]
    if len(apart) * len(orjson.dumps(head)) > _MOST_HEAD_BYTES:
        return [{**head, "choices": choices}]
    return [{**head, "choices": [part]} for part in apart]


def _call_by_call(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    first, *others = choice["delta"]["tool_calls"]
    yield {**choice, "delta": {**choice["delta"], "tool_calls": [first]}}
    for call in others:
        yield {"index": choice["index"], "delta": {"tool_calls": [call]}, "finish_reason": None}


def complete(message: dict[str, Any], *, is_whole: bool, id: str) -> bool:
    """Have the `tool_calls` of a message, or of a part of one, be what clients read as such; whether any were not.

    What is no call, or in a whole message one of nothing, goes. A call without an id gets one that is made of `id`.
    """
    given = message["tool_calls"]
    listed = given if isinstance(given, list) else [given]
    made = (_completed(call, number, is_whole=is_whole, id=id) for number, call in enumerate(listed))
    found = [call for call in made if call is not None]
    if found == given:
        return False
    message["tool_calls"] = found
    if not found:
        del message["tool_calls"]
    return True


def _completed(call: Any, number: int, *, is_whole: bool, id: str) -> dict[str, Any] | None:
    if not isinstance(call, dict):
        return None
    function = call.get("function")
    if not isinstance(function, dict):
        if isinstance(call.get("custom"), dict):
            return call
        function = {}
    name, arguments = text_of(function.get("name")), text_of(function.get("arguments"))
    if is_whole and not name:
        return None
    found = {**call, "function": {**function, "name": name, "arguments": arguments or ("{}" if is_whole else "")}}
    # A part of a call may well say nothing of its id.
    if own := _id_of(call.get("id")) or (_made(f"{id} {number}") if name else ""):
        found["id"] = own
    if _whole(call.get("index")) is None and (not is_whole or "index" in call):
        found["index"] = number
    if is_whole and not isinstance(call.get("type"), str):
        found["type"] = "function"
    return found


def _functions(answer: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """The functions that are called, each with the text of no arguments."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        for name, nothing in (("message", "{}"), ("delta", "")):
            message = choice.get(name) if isinstance(choice, dict) else None
            calls = message.get("tool_calls") if isinstance(message, dict) else None
            for call in calls if isinstance(calls, list) else ():
                if isinstance(call, dict) and isinstance(call.get("function"), dict):
                    yield call["function"], nothing


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
