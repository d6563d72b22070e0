"""Callbacks for LangChain: every call of a model in a chain or a graph is held before it is made, and settled after.

    model.invoke(question, config={"callbacks": [GovernorCallback(governor)]})

A refusal stops the call and comes out of `invoke` as it is: Refused. Needs langchain-core, to be of use and not to be
loaded.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from spend_governor_client.common import OnError
from spend_governor_client.errors import GovernorError
from spend_governor_client.plain import Governor, Hold
from spend_governor_client.runs import MAX_TOKENS, Begun, Runs, base_of, bound_of, unsettled, usage_in
from spend_governor_client.tied import AsyncGovernor, AsyncHold
from spend_governor_client.values import Usage, usage_of

CALLBACKS = "langchain_core.callbacks"


class GovernorCallback(base_of(CALLBACKS, "BaseCallbackHandler")):  # type: ignore[misc]
    """For chains that are run plainly, and for those run in a loop too, where it waits in a thread.

    `max_tokens` is held where a call names no bound of its own, `model` where it names none. What else is given goes
    into each reservation: `agent`, `user`, `session`, `task`, `ttl_s`, `patience_s`.
    """

    # LangChain logs what a callback raises and goes on, unless it says this.
    raise_error = True

    def __init__(
        self,
        governor: Governor,
        *,
        model: str | None = None,
        max_tokens: int = MAX_TOKENS,
        on_error: OnError = "release",
        **reserve: Any,
    ) -> None:
        super().__init__()
        self._governor = governor
        self._runs: Runs[Hold] = Runs(model=model, max_tokens=max_tokens, on_error=on_error, reserve=reserve)

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: Any, **told: Any) -> None:
        self._begin(str(run_id), _begun(messages, told))

    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: Any, **told: Any) -> None:
        self._begin(str(run_id), _begun(prompts, told))

    def on_llm_new_token(self, token: Any, *, run_id: Any, **told: Any) -> None:
        self._runs.spend(str(run_id))

    def on_llm_end(self, response: Any, *, run_id: Any, **told: Any) -> None:
        if (hold := self._runs.end(str(run_id))) is None:
            return
        hold.keep()
        try:
            hold.settle(usage=usage_of_result(response))
        except (GovernorError, ValueError) as error:
            unsettled(hold, error)

    def on_llm_error(self, error: BaseException, *, run_id: Any, **told: Any) -> None:
        hold = self._runs.end(str(run_id))
        if hold is not None and self._runs.is_given_back(hold, error):
            # The run's own failure is what is to be seen; an unreleased hold expires.
            with suppress(GovernorError):
                hold.release()

    def _begin(self, run: str, begun: Begun) -> None:
        wanted = self._runs.wanted(begun)
        hold = self._governor.reserve(**wanted)
        if (refused := self._runs.too_short(hold, wanted)) is not None:
            hold.release()
            raise refused
        self._runs.begin(run, hold)


class AsyncGovernorCallback(base_of(CALLBACKS, "AsyncCallbackHandler")):  # type: ignore[misc]
    """The same with an AsyncGovernor, for chains that are run in its loop (`ainvoke`, `astream`)."""

    raise_error = True

    def __init__(
        self,
        governor: AsyncGovernor,
        *,
        model: str | None = None,
        max_tokens: int = MAX_TOKENS,
        on_error: OnError = "release",
        **reserve: Any,
    ) -> None:
        super().__init__()
        self._governor = governor
        self._runs: Runs[AsyncHold] = Runs(model=model, max_tokens=max_tokens, on_error=on_error, reserve=reserve)

    async def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: Any, **told: Any) -> None:
        await self._begin(str(run_id), _begun(messages, told))

    async def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: Any, **told: Any) -> None:
        await self._begin(str(run_id), _begun(prompts, told))

    async def on_llm_new_token(self, token: Any, *, run_id: Any, **told: Any) -> None:
        self._runs.spend(str(run_id))

    async def on_llm_end(self, response: Any, *, run_id: Any, **told: Any) -> None:
        if (hold := self._runs.end(str(run_id))) is None:
            return
        hold.keep()
        try:
            await hold.settle(usage=usage_of_result(response))
        except (GovernorError, ValueError) as error:
            unsettled(hold, error)

    async def on_llm_error(self, error: BaseException, *, run_id: Any, **told: Any) -> None:
        hold = self._runs.end(str(run_id))
        if hold is not None and self._runs.is_given_back(hold, error):
            with suppress(GovernorError):
                await hold.release()

    async def _begin(self, run: str, begun: Begun) -> None:
        wanted = self._runs.wanted(begun)
        hold = await self._governor.reserve(**wanted)
        if (refused := self._runs.too_short(hold, wanted)) is not None:
            await hold.release()
            raise refused
        self._runs.begin(run, hold)


def usage_of_result(response: Any) -> Usage:
    """What a run's result says it used: as its provider says it, or as LangChain writes it on the message.

    Raises ValueError where neither does: some streams have no usage unless they are asked for it.
    """
    told = (getattr(response, "llm_output", None) or {}).get("token_usage")
    if told:
        with suppress(ValueError):
            return usage_of({"usage": told})
    for answers in response.generations:
        # Several answers to one question have one usage, which each of them says.
        for answer in answers[:1]:
            found = usage_in(getattr(getattr(answer, "message", None), "usage_metadata", None))
            if found is not None:
                return found
    raise ValueError("the answer has no usage")


def _begun(inputs: Any, told: dict[str, Any]) -> Begun:
    asked, known = told.get("invocation_params") or {}, told.get("metadata") or {}
    answers = asked.get("n")
    return Begun(
        inputs=[inputs, asked.get("tools") or [], asked.get("functions") or []],
        model=asked.get("model") or asked.get("model_name") or known.get("ls_model_name"),
        max_tokens=bound_of(asked, {"max_tokens": known.get("ls_max_tokens")}),
        answers=answers if isinstance(answers, int) else 1,
    )
