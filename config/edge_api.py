"""What the edge answers to a request of /api before its view does, in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from config import gate
from llm.gateway import errors

# Of a header section, before it is known what it is for; in the words of /v1.
CONNECTIONS = (errors.headers_too_slow(), errors.headers_too_large(0, 0))
BODIES = [{"$ref": f"#/components/schemas/{name}"} for name in ("ErrorBody", "V1Error")]


def describe(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A POSTPROCESSING_HOOK of drf-spectacular: each operation may be answered so, whatever it takes."""
    codes: dict[str, list[str]] = {}
    for number, code in (*gate.REFUSALS, *((error.status, error.code) for error in CONNECTIONS)):
        codes.setdefault(str(number), []).append(code)
    own = {str(error.status) for error in CONNECTIONS}
    for path, operations in result["paths"].items():
        for operation in operations.values() if path.startswith(gate.API) else ():
            answers = operation["responses"]
            for status, known in codes.items():
                schema = {"anyOf": BODIES} if status in own else BODIES[0]
                answer = answers.setdefault(status, {"description": "", "content": {}})
                _add(answer, schema, f"Of any request, `error.code` may be {', '.join(dict.fromkeys(known))}.")
            operation["responses"] = dict(sorted(answers.items()))
    return result


def _add(answer: dict[str, Any], schema: dict[str, Any], says: str) -> None:
    """Where a status has a body of its own already, either may come."""
    answer["description"] = f"{answer['description']} {says}".strip()
    content = answer.setdefault("content", {}).setdefault("application/json", {"schema": schema})
    if content["schema"] != schema:
        content["schema"] = {"anyOf": [content["schema"], schema]}
