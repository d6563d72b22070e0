"""A callback for LlamaIndex: every call of a model is held before it is made, and settled after.

    Settings.callback_manager = CallbackManager([GovernorCallback(governor)])

A refusal stops the call and comes out of it as it is: Refused. Needs llama-index-core, to be of use and not to be
loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from spend_governor_client.common import OnError
from spend_governor_client.errors import GovernorError
from spend_governor_client.plain import Governor, Hold
from spend_governor_client.runs import MAX_TOKENS, Begun, Runs, base_of, bound_of, unsettled
from spend_governor_client.values import Usage, usage_of

MODEL_CALLED = "llm"
# What LlamaIndex says a model gives at most where nobody has said it.
NOT_SAID = 256


@dataclass(frozen=True)
class _Call:
    """A call of a model that is heard of; `text` is the last that is said to it."""

    event: str
    is_chat: bool
    text: str


# Of this thread or task: the call that was heard of last.
_latest: ContextVar[_Call | None] = ContextVar("spend_governor_client.llama_index", default=None)


class GovernorCallback(base_of("llama_index.core.callbacks.base_handler", "BaseCallbackHandler")):  # type: ignore[misc]
    """`max_tokens` is held where a model has no bound of its own, `model` where it does not say its name. What else is
    given goes into each reservation: `agent`, `user`, `session`, `task`, `ttl_s`, `patience_s`.

    LlamaIndex has no callbacks for a loop: there one of these waits for the gateway, twice a call, as plain code does.
    """

    def __init__(
        self,
        governor: Governor,
        *,
        model: str | None = None,
        max_tokens: int = MAX_TOKENS,
        on_error: OnError = "release",
        **reserve: Any,
    ) -> None:
        self.event_starts_to_ignore: tuple[Any, ...] = ()
        self.event_ends_to_ignore: tuple[Any, ...] = ()
        self._governor = governor
        self._runs: Runs[Hold] = Runs(model=model, max_tokens=max_tokens, on_error=on_error, reserve=reserve)
        self._open: set[str] = set()

    def on_event_start(
        self,
        event_type: Any,
        payload: Mapping[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",
        **told: Any,
    ) -> str:
        if event_type != MODEL_CALLED or payload is None:
            return event_id
        call = _heard(event_id, payload)
        if self._is_the_same_call(call):
            return event_id
        wanted = self._runs.wanted(_begun(payload))
        hold = self._governor.reserve(**wanted)
        if (refused := self._runs.too_short(hold, wanted)) is not None:
            hold.release()
            raise refused
        self._runs.begin(event_id, hold)
        self._open.add(event_id)
        _latest.set(call)
        return event_id

    def on_event_end(
        self, event_type: Any, payload: Mapping[str, Any] | None = None, event_id: str = "", **more: Any
    ) -> None:
        self._open.discard(event_id)
        if event_type != MODEL_CALLED or (hold := self._runs.end(event_id)) is None:
            return
        told = payload or {}
        if (failure := told.get("exception")) is not None:
            if self._runs.is_given_back(hold, failure):
                # The call's own failure is what is to be seen; an unreleased hold expires.
                with suppress(GovernorError):
                    hold.release()
            return
        hold.keep()
        try:
            hold.settle(usage=usage_of_response(told.get("response") or told.get("completion")))
        except (GovernorError, ValueError) as problem:
            unsettled(hold, problem)

    def start_trace(self, trace_id: str | None = None) -> None:
        pass

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None:
        pass

    def _is_the_same_call(self, call: _Call) -> bool:
        """Whether a call is the inside of the one that was heard of before it.

        Many integrations complete a prompt by a chat with that as its message, or the other way round, and both are
        told of. They are one call, and held once.
        """
        outer = _latest.get()
        if outer is None or outer.event not in self._open or outer.is_chat == call.is_chat:
            return False
        return outer.text in call.text or call.text in outer.text


def usage_of_response(response: Any) -> Usage:
    """What a response says it used: as its provider says it, or beside it. Raises ValueError where neither does."""
    raw = getattr(response, "raw", None)
    if raw is not None:
        with suppress(ValueError):
            return usage_of(raw)
    beside = getattr(response, "additional_kwargs", None) or {}
    return usage_of({"usage": beside if "prompt_tokens" in beside else None})


def _heard(event: str, payload: Mapping[str, Any]) -> _Call:
    messages = payload.get("messages")
    if messages is None:
        return _Call(event, False, str(payload.get("formatted_prompt") or ""))
    return _Call(event, True, str(getattr(messages[-1], "content", messages[-1]) or "") if messages else "")


def _begun(payload: Mapping[str, Any]) -> Begun:
    asked, model = payload.get("additional_kwargs") or {}, payload.get("serialized") or {}
    most = model.get("num_output")
    return Begun(
        inputs=[payload.get("messages") or payload.get("formatted_prompt"), asked.get("tools") or []],
        model=asked.get("model") or model.get("model") or model.get("model_name"),
        max_tokens=bound_of(asked, model, {"max_tokens": None if most == NOT_SAID else most}),
    )
