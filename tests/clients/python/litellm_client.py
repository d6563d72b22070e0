"""litellm's client (not its proxy), speaking Mistral's dialect."""

from __future__ import annotations

from typing import Any

import cells
import litellm
import openai


def call(url: str, key: str, cell: str) -> cells.Seen:
    request: dict[str, Any] = {
        "model": f"mistral/{cells.model(cell)}",
        "api_base": f"{url}/v1",
        "api_key": key,
        "messages": cells.MESSAGES,
        "max_tokens": cells.MAX_TOKENS,
    }
    if cell.startswith("tools"):
        request |= {"tools": [cells.TOOL], "tool_choice": "required"}
    if cell == "422":
        headers = {"idempotency-key": cells.IDEMPOTENCY_KEY}
        litellm.completion(**request, extra_headers=headers)
        request |= {"messages": cells.OTHER_MESSAGES, "extra_headers": headers}
    if cells.streams(cell):
        return cells.collected(litellm.completion(**request, stream=True))
    choice = litellm.completion(**request).choices[0]
    function = choice.message.tool_calls[0].function if choice.message.tool_calls else None
    return {
        "content": choice.message.content,
        "finish_reason": choice.finish_reason,
        "tool": cells.called(function.name, function.arguments) if function else None,
    }


def described(error: Any) -> cells.Seen:
    # The answer's text follows a name: "litellm.APIError: APIError: MistralException - {...}".
    return {"status": error.status_code, "code": cells.code_in(str(error).partition(" - ")[2])}


if __name__ == "__main__":
    # Its errors are OpenAI's, with classes of its own below.
    litellm.suppress_debug_info = True
    cells.run(
        call,
        errors=(openai.APIError,),
        describe=described,
    )
