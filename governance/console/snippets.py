"""Ready first calls for a new key: one for each client that people have, with the gateway's own address."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

from governance import ports
from governance.models.tenancy import Role

QUESTION = "Say hello in five words."
# What a first call asks for, as far as the catalogue has it: small and cheap.
USUAL_MODELS = ("mistral-small-latest", "ministral-8b-latest")
# Stands in a snippet where the model's name is; a page writes what is chosen there.
MODEL = "\N{REPLACEMENT CHARACTER}model"


@dataclass(frozen=True, slots=True)
class Snippet:
    """`parts`: its text around the model's name, once or more. `name` is an id, `title` for people."""

    name: str
    title: str
    parts: tuple[str, ...]


PYTHON_MISTRAL = """\
# pip install mistralai
from mistralai.client import Mistral

client = Mistral(
    api_key="{key}",
    server_url="{url}",
)
answer = client.chat.complete(
    model="{model}",
    messages=[{{"role": "user", "content": "{question}"}}],
)
print(answer.choices[0].message.content)
"""
PYTHON_OPENAI = """\
# pip install openai
from openai import OpenAI

client = OpenAI(
    api_key="{key}",
    base_url="{url}/v1",
)
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "{question}"}}],
)
print(answer.choices[0].message.content)
"""
NODE_OPENAI = """\
// npm install openai
import OpenAI from "openai";

const client = new OpenAI({{
  apiKey: "{key}",
  baseURL: "{url}/v1",
}});
const answer = await client.chat.completions.create({{
  model: "{model}",
  messages: [{{ role: "user", content: "{question}" }}],
}});
console.log(answer.choices[0].message.content);
"""
CURL = """\
curl {url}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{
    "model": "{model}",
    "messages": [{{"role": "user", "content": "{question}"}}]
  }}'
"""
CURL_API = """\
curl {url}/api/budgets \\
  -H "Authorization: Bearer {key}"
"""
CALLING = (
    ("mistralai-python", "mistralai (Python)", PYTHON_MISTRAL),
    ("openai-python", "openai (Python)", PYTHON_OPENAI),
    ("openai-node", "openai (Node)", NODE_OPENAI),
    ("curl", "curl", CURL),
)
READING = (("curl", "curl", CURL_API),)


def calls_models(role: str) -> bool:
    """Whether a key of the role calls models; the others ask the API."""
    return role in (Role.AGENT, Role.TENANT)


def of(key_text: str, role: str) -> list[Snippet]:
    """What the holder of a key may begin with."""
    chosen = CALLING if calls_models(role) else READING
    said = {"url": settings.APP_URL.rstrip("/"), "key": key_text, "question": QUESTION, "model": MODEL}
    return [Snippet(name, title, tuple(text.format(**said).split(MODEL))) for name, title, text in chosen]


def models() -> tuple[str, list[str]]:
    """(the model to begin with, all there are); an empty name where none is served."""
    known = list(ports.model_names())
    usual = next((name for name in USUAL_MODELS if name in known), known[0] if known else "")
    return usual, known
