"""Every route of the data plane: in which unit it is held for, what it is charged, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import wave
from typing import Any

import httpx2 as httpx
import pytest

from governance.models import Reservation, SpendEntry
from llm.gateway.routes import ROUTES
from llm.rules import sse
from llm.sandbox import service
from tests import factories as make
from tests.factories import nanos
from tests.llm.gateway.test_chat import chunks_of, entry, nothing_is_held
from tests.product import Product

PICTURE = {"type": "image_url", "image_url": "https://example.com/invoice.png"}
PDF = {"type": "document_url", "document_url": "https://example.com/invoice.pdf"}

PNG = {"type": "image_url", "image_url": "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()}


def wav(seconds: float, *, rate: int = 8_000) -> bytes:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(int(seconds * rate) * 2))
    return sound.getvalue()


def transcribe(
    product: Product, key: str, audio: bytes | None = None, *, model: str = "voxtral-mini-latest", **fields: str
) -> httpx.Response:
    return httpx.post(
        product.url + "/v1/audio/transcriptions",
        data={"model": model, **fields},
        files={} if audio is None else {"file": ("call.wav", audio)},
        headers={"authorization": f"Bearer {key}"},
        timeout=30,
    )


def held_nanos() -> int:
    return Reservation.objects.get().amount_nanos


@pytest.fixture
def key(product: Product) -> str:
    make.budget("5.00")
    return product.key()


def test_ten_embedding_tokens_are_held_for_and_charged(product: Product, key: str) -> None:
    response = product.post("/v1/embeddings", key, model="mistral-embed", input=["x" * 32])
    usage = response.json()["usage"]
    # 100 nanodollars a token.
    assert usage["prompt_tokens"] == 10
    assert (entry().cost_nanos, entry().certainty, entry().input_tokens) == (1_000, "confirmed", 10)
    assert held_nanos() >= entry().cost_nanos
    assert nanos(response.headers["x-request-cost-usd"]) == 1_000
    assert nothing_is_held()


def test_the_numbers_of_an_embedding_are_not_looked_at_one_by_one(
    product: Product, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, answer_bytes = [], sse.answer_bytes
    monkeypatch.setattr(sse, "answer_bytes", lambda answer: looked.append(answer) or answer_bytes(answer))
    assert product.post("/v1/embeddings", key, model="mistral-embed", input=["x" * 32]).status_code == 200
    assert looked == []
    messages = [{"role": "user", "content": "Hi"}]
    assert product.post("/v1/chat/completions", key, model="mistral-small-latest", messages=messages).status_code == 200
    assert len(looked) == 1


def test_code_is_filled_in_and_charged_by_its_tokens(product: Product, key: str) -> None:
    response = product.post("/v1/fim/completions", key, model="codestral-latest", prompt="def f(", max_tokens=50)
    usage = response.json()["usage"]
    # codestral: 300 nanodollars an input token, 900 an output token.
    assert entry().cost_nanos == usage["prompt_tokens"] * 300 + usage["completion_tokens"] * 900 > 0
    assert held_nanos() >= entry().cost_nanos


def test_code_that_is_filled_in_as_a_stream_carries_its_cost(product: Product, key: str) -> None:
    response = product.post("/v1/fim/completions", key, model="codestral-latest", prompt="def f(", stream=True)
    last = chunks_of(response.text)[-1]
    assert nanos(last["usage"]["cost_usd"]) == entry().cost_nanos > 0
    assert entry().certainty == "confirmed"
    # The tenant's own bound was put on a call that had none.
    assert product.sandbox.requests[-1].body["max_tokens"] == 4_096


@pytest.mark.parametrize(
    ("path", "input"),
    [
        ("/v1/moderations", ["An invoice."]),
        ("/v1/chat/moderations", [[{"role": "user", "content": "An invoice."}]]),
    ],
)
def test_moderation_is_counted_though_it_is_free(product: Product, key: str, path: str, input: Any) -> None:
    response = product.post(path, key, model="mistral-moderation-latest", input=input)
    assert response.json()["results"]
    assert (entry().cost_nanos, entry().certainty) == (0, "confirmed")
    assert entry().input_tokens > 0
    assert product.sandbox.requests[-1].path == path


@pytest.mark.parametrize(
    ("fields", "unit", "nanos_a_page"),
    [({}, "page", 4_000_000), ({"document_annotation_format": {"type": "json_object"}}, "annotated_page", 5_000_000)],
)
def test_documents_are_charged_by_the_page(
    product: Product, key: str, fields: dict[str, Any], unit: str, nanos_a_page: int
) -> None:
    response = product.post("/v1/ocr", key, model="mistral-ocr-latest", document=PDF, pages=[0, 1, 2], **fields)
    assert response.status_code == 200
    assert (entry().unit, entry().units, entry().certainty) == (unit, 3, "confirmed")
    assert entry().cost_nanos == held_nanos() == 3 * nanos_a_page


def test_a_document_whose_pages_are_not_listed_is_held_for_at_its_longest(product: Product, key: str) -> None:
    product.post("/v1/ocr", key, model="mistral-ocr-latest", document=PDF)
    assert held_nanos() == 1_000 * 4_000_000
    assert (entry().units, entry().cost_nanos) == (2, 8_000_000)


@pytest.mark.parametrize(
    ("fields", "pages"),
    [
        ({"document": PNG}, 1),
        # What is behind an address may be a PDF, whatever it is called.
        ({"document": PICTURE}, 1_000),
        ({"document": PICTURE, "pages": [0]}, 1),
        ({"document": PDF, "pages": ["0-999"]}, 1_000),
        ({"document": PDF, "pages": "9-0"}, 1_000),
    ],
)
def test_a_document_is_held_for_as_many_pages_as_it_may_have(
    product: Product, key: str, fields: dict[str, Any], pages: int
) -> None:
    product.post("/v1/ocr", key, model="mistral-ocr-latest", **fields)
    assert held_nanos() == pages * 4_000_000


def test_pages_beyond_those_listed_are_charged_at_the_hold(
    product: Product, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = {"model": "mistral-ocr-4-1", "pages": [], "usage_info": {"pages_processed": "300"}}
    monkeypatch.setitem(service._ROUTES, "/v1/ocr", lambda *_: json.dumps(answered).encode())  # type: ignore[attr-defined]
    product.post("/v1/ocr", key, model="mistral-ocr-latest", document=PDF, pages=[0])
    assert (entry().reason, entry().cost_nanos, entry().certainty) == ("usage_implausible", 4_000_000, "estimated")
    assert held_nanos() == 4_000_000


def test_audio_is_held_for_by_the_minute_and_charged_by_the_second(product: Product, key: str) -> None:
    response = transcribe(product, key, wav(2.5))
    assert response.json()["text"]
    # 0.003 dollars a minute.
    assert (entry().unit, entry().units, entry().certainty) == ("audio_second", 3, "confirmed")
    assert (entry().cost_nanos, held_nanos()) == (3 * 50_000, 60 * 50_000)
    assert nanos(response.headers["x-request-cost-usd"]) == 150_000


def test_audio_that_is_no_wav_is_held_for_at_its_longest(product: Product, key: str) -> None:
    """Hours of silence are a few bytes of FLAC."""
    assert transcribe(product, key, b"fLaC" + bytes(40)).status_code == 200
    assert held_nanos() == 10_800 * 50_000


def test_a_form_goes_on_as_what_was_read_in_it_and_nothing_else(product: Product, key: str) -> None:
    form = b"\r\n".join(
        [
            b"--x",
            b"X-More: 1",
            b'content-disposition: form-data; name="language"',
            b"",
            b"en",
            b"--x",
            b'Content-Disposition: form-data; name="model"',
            b"",
            b"voxtral-mini-latest",
            b"--x",
            b'Content-Disposition: form-data; filename="a"; name=file',
            b"",
            wav(1),
            b"--x--",
            b"",
        ]
    )
    kind = 'multipart/form-data; charset=utf-8; boundary="x"'
    headers = {"authorization": f"Bearer {key}", "content-type": kind}
    url = product.url + "/v1/audio/transcriptions"
    assert httpx.post(url, content=form, headers=headers).status_code == 200
    received = product.sandbox.requests[-1]
    boundary = received.headers["content-type"].removeprefix("multipart/form-data; boundary=").encode()
    assert received.raw.split(b"--" + boundary) == [
        b"",
        b'\r\nContent-Disposition: form-data; name="language"\r\n\r\nen\r\n',
        b'\r\nContent-Disposition: form-data; name="model"\r\n\r\nvoxtral-mini-latest\r\n',
        b'\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + wav(1) + b"\r\n",
        b"--\r\n",
    ]


def test_a_forms_model_is_named_as_its_provider_knows_it(product: Product, key: str) -> None:
    audio = wav(1)
    response = transcribe(product, key, audio, model="mistral/voxtral-mini-2602", language="en")
    assert response.status_code == 200
    received = product.sandbox.requests[-1].body
    assert received == {"model": "voxtral-mini-2602", "language": "en", "file": audio}


def test_a_large_recording_passes(product: Product, key: str) -> None:
    audio = wav(950, rate=16_000)
    assert len(audio) > 30_000_000
    assert transcribe(product, key, audio).status_code == 200
    assert (entry().units, entry().cost_nanos) == (950, 950 * 50_000)


@pytest.mark.parametrize("source", ["file_url", "file_id"])
def test_audio_elsewhere_is_refused_or_held_for_at_its_longest(
    product: Product, key: str, settings: Any, source: str
) -> None:
    def ask() -> httpx.Response:
        return httpx.post(
            product.url + "/v1/audio/transcriptions",
            files={"model": (None, "voxtral-mini-latest"), source: (None, "https://example.com/a.mp3")},
            headers={"authorization": f"Bearer {key}"},
            timeout=30,
        )

    refused = ask()
    assert (refused.status_code, refused.json()["code"], refused.json()["param"]) == (400, "unbounded_input", source)
    settings.UNBOUNDED_INPUTS = "reserve_full_context"
    assert ask().status_code == 200
    assert held_nanos() == 10_800 * 50_000


def test_a_recording_over_the_limit_and_a_stream_are_clear_refusals(product: Product, key: str, settings: Any) -> None:
    settings.TRANSCRIPTION_MAX_SECONDS = 2
    too_long = transcribe(product, key, wav(3))
    streamed = transcribe(product, key, wav(1), stream="true")
    as_text = transcribe(product, key, wav(1), response_format="text")
    json_body = product.post("/v1/audio/transcriptions", key, model="voxtral-mini-latest", file_url="https://e.com/a")
    answers = [(answer.status_code, answer.json()["code"]) for answer in (too_long, streamed, as_text, json_body)]
    assert answers == [
        (400, "audio_too_long"),
        (400, "stream_not_supported"),
        (400, "invalid_value"),
        (400, "invalid_content_type"),
    ]
    assert not product.sandbox.requests
    assert nothing_is_held()


@pytest.mark.parametrize("part", [PDF, {"type": "file", "file_id": "f"}])
def test_documents_in_chats_are_refused_or_held_for_as_all_that_the_model_reads(
    product: Product, settings: Any, part: dict[str, Any]
) -> None:
    make.budget("5.00")
    key = product.key()
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What is due?"}]}]
    assert product.chat(key, messages=messages).json()["code"] == "unbounded_input"
    settings.UNBOUNDED_INPUTS = "reserve_full_context"
    assert product.chat(key, messages=messages).status_code == 200
    # mistral-large reads 256,000 tokens.
    assert held_nanos() == 256_000 * 500 + 100 * 1_500
    audio = [{"type": "input_audio", "input_audio": "AAAA"}, part]
    refused = product.chat(key, messages=[{"role": "user", "content": audio}])
    assert refused.json()["code"] == "unbounded_input"


def test_tools_that_run_at_the_provider_are_held_for_by_policy_alone(product: Product, key: str, settings: Any) -> None:
    tools = [{"type": "document_library", "library_ids": ["l"]}]
    assert product.chat(key, tools=tools).json()["param"] == "tools.0.type"
    settings.UNBOUNDED_INPUTS = "reserve_full_context"
    assert product.chat(key, tools=tools).status_code == 200
    assert held_nanos() == 256_000 * 500 + 100 * 1_500


def test_a_file_at_the_provider_is_nobodys_to_read_but_by_policy(product: Product, key: str, settings: Any) -> None:
    body = {"model": "mistral-ocr-latest", "document": {"type": "file", "file_id": "f"}, "pages": [0]}
    assert product.post("/v1/ocr", key, **body).json()["param"] == "document.file_id"
    settings.UNBOUNDED_INPUTS = "reserve_full_context"
    assert product.post("/v1/ocr", key, **body).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/batch/jobs", "/v1/batch/jobs/7", "/v1/batch/jobs/7/cancel", "/v1/batch", "/v1/batch/jobs/"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_batch_jobs_are_refused_by_name(product: Product, key: str, path: str, method: str) -> None:
    response = httpx.request(method, product.url + path, headers={"authorization": f"Bearer {key}"})
    assert (response.status_code, response.json()["code"]) == (403, "batch_not_allowed")
    assert not product.sandbox.requests


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files",
        "/v1/agents/completions",
        "/v1/conversations",
        "/v1/responses",
        "/v1/audio/speech",
        "/v1/classifications",
        "/v1/fine_tuning/jobs",
        "/v1/libraries",
        "/v1/ocr/x",
        "/v1//ocr",
    ],
)
def test_nothing_else_passes_ungoverned(product: Product, key: str, path: str) -> None:
    response = product.post(path, key, model="mistral-small-latest", input="Hi")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert path.rstrip("/") in response.json()["message"]
    # What is meant for an address that lacks its /v1 is not said of one that has it.
    assert "this would be /v1." not in response.json()["message"]
    assert not product.sandbox.requests


@pytest.mark.parametrize("path", sorted(ROUTES))
def test_a_model_of_another_kind_is_a_400_that_says_so(product: Product, key: str, path: str) -> None:
    wrong = "mistral-embed" if "embeddings" not in path else "mistral-ocr-latest"
    body = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "a", "input": "a", "document": PDF}
    response = (
        transcribe(product, key, wav(1), model=wrong)
        if "audio" in path
        else product.post(path, key, model=wrong, **body)
    )
    assert (response.status_code, response.json()["code"]) == (400, "model_not_capable")
    assert not SpendEntry.objects.exists()


@pytest.mark.parametrize("path", sorted(ROUTES))
def test_no_model_is_called_beyond_the_budget(product: Product, path: str) -> None:
    make.budget("0.000001")
    key = product.key()
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"model": "mistral-large-latest", "messages": [{"role": "user", "content": "Hi"}]},
        "/v1/fim/completions": {"model": "codestral-latest", "prompt": "def"},
        "/v1/embeddings": {"model": "mistral-embed", "input": "x" * 100},
        "/v1/ocr": {"model": "mistral-ocr-latest", "document": PICTURE},
    }
    if path not in bodies and "audio" not in path:
        pytest.skip("moderation is free")
    response = transcribe(product, key, wav(1)) if "audio" in path else product.post(path, key, **bodies[path])
    assert (response.status_code, response.json()["code"]) == (402, "budget_exhausted")
    assert not product.sandbox.requests


def test_a_form_sent_again_under_its_idempotency_key_is_charged_once(product: Product, key: str) -> None:
    """Clients make a new boundary each time."""
    answers = [
        httpx.post(
            product.url + "/v1/audio/transcriptions",
            data={"model": "voxtral-mini-latest"},
            files={"file": ("call.wav", wav(1))},
            headers={"authorization": f"Bearer {key}", "idempotency-key": "one"},
        )
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["x-idempotent-replay"] == "true"
    assert SpendEntry.objects.count() == 1


@pytest.mark.parametrize("has_key", [True, False])
def test_every_path_answers_a_head_alike(product: Product, key: str, has_key: bool) -> None:
    """As FastAPI does, which Mistral's API is made with: a GET brings no HEAD along. What there is not stays a 404."""
    headers = {"authorization": f"Bearer {key}"} if has_key else {}
    reads = ["/v1/models", "/v1/models/mistral-small-latest", "/v1/budget"]
    for path, allowed in [*((path, "GET") for path in reads), *((path, "POST") for path in ROUTES)]:
        answer = httpx.head(product.url + path, headers=headers)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (405, allowed, b"")
    assert httpx.head(f"{product.url}/v1/nothing", headers=headers).status_code == 404
    assert not product.sandbox.requests
