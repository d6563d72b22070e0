"""Where providers may be, and which variables may hold their keys."""

from __future__ import annotations

import pytest

from llm.rules import addresses


@pytest.mark.parametrize(
    "url",
    [
        "https://api.groq.com/openai/v1",
        "http://models.example.org:8000/v1",
        "https://8.8.8.8/v1",
        "https://[2001:4860:4860::8888]/v1",
    ],
)
def test_public_addresses_are_fine(url: str) -> None:
    assert addresses.problem_with_base(url, private_allowed=False) == ""


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:11434/v1",
        "http://LOCALHOST./v1",
        "http://vllm.internal/v1",
        "http://127.0.0.1:8000",
        "http://10.0.0.7/v1",
        "http://192.168.1.1",
        "http://169.254.169.254/latest",
        "http://[::1]/v1",
        "http://[fd00::1]/v1",
        "http://[::ffff:127.0.0.1]/v1",
        "http://[64:ff9b::7f00:1]/v1",
        "http://[2002:7f00:1::]/v1",
        "http://168.63.129.16/v1",
        "http://0.0.0.0",
        "http://2130706433/v1",
        "http://127.1/v1",
        "http://0x7f.0.0.1/v1",
    ],
)
def test_private_addresses_need_leave(url: str) -> None:
    assert "PRIVATE_ENDPOINTS" in addresses.problem_with_base(url, private_allowed=False)
    assert addresses.problem_with_base(url, private_allowed=True) == ""


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.groq.com/v1",
        "ftp://example.com",
        "file:///etc/passwd",
        "https://",
        "https://user:secret@example.com/v1",
        "https://example.com@evil.example/v1",
        "https://example.com/v1?key=1",
        "https://example.com/v1#a",
        "https://example.com:port/v1",
        "https://example.com /v1",
        "https://exämple.com/v1",
        "https://[::1/v1",
        "http://[v1.x]/",
        "http://[V1.fe80::a]/v1",
    ],
)
def test_other_than_plain_web_addresses_are_refused_everywhere(url: str) -> None:
    assert addresses.problem_with_base(url, private_allowed=True)


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("GROQ_API_KEY", True),
        ("SECRET_KEY", False),
        ("STRIPE_SECRET_KEY", False),
        ("DATABASE_URL", False),
        ("MISTRAL_API_KEY", False),
        ("OPENAI_API_KEY", False),
        ("groq_api_key", False),
        ("PATH", False),
    ],
)
def test_a_variable_of_a_key(name: str, fine: bool) -> None:
    assert (addresses.problem_with_variable(name) == "") is fine


@pytest.mark.parametrize(
    ("key", "fine"), [("sk-1", True), ("", True), ("a b", False), ("a\nx: y", False), ("ä", False)]
)
def test_a_key_is_one_plain_word(key: str, fine: bool) -> None:
    problem = addresses.problem_with_key(key)
    assert (problem == "") is fine
    assert not key or key not in problem


@pytest.mark.parametrize(
    "name", ["api.local", "printer.lan", "x.home.arpa", "a.b.internal", "localhost", "lan", "x.localhost"]
)
def test_names_of_private_networks_need_leave(name: str) -> None:
    for host in (name, name.upper(), f"{name}."):
        assert "PRIVATE_ENDPOINTS" in addresses.problem_with_base(f"http://{host}/v1", private_allowed=False)
    assert addresses.problem_with_base(f"http://{name}x.example.com/v1", private_allowed=False) == ""


@pytest.mark.parametrize(
    ("port", "fine"), [("", True), (":1", True), (":65535", True), (":0", False), (":65536", False)]
)
def test_a_port_is_one_that_can_be_called(port: str, fine: bool) -> None:
    assert (addresses.problem_with_base(f"https://example.com{port}/v1", private_allowed=False) == "") is fine


@pytest.mark.parametrize(
    "name",
    [
        "MISTRAL_API_KEY",
        "MISTRAL_EU_API_KEY",
        "MISTRAL_US_API_KEY",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
    ],
)
def test_a_providers_own_variable_is_named_as_taken(name: str) -> None:
    assert name in addresses.problem_with_variable(name)


def test_a_providers_name_is_small_words_with_dashes_and_no_zone_of_mistrals() -> None:
    assert [bool(addresses.NAME.fullmatch(name)) for name in ("groq", "my-vllm-2", "a")] == [True] * 3
    assert [bool(addresses.NAME.fullmatch(name)) for name in ("", "Groq", "2a", "a--b", "-a", "a-", "a_b", "a/b")] == [
        False
    ] * 8
    assert addresses.RESERVED_NAMES == ("mistral", "mistral-eu", "mistral-us")
