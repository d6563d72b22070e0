from collections.abc import Iterator

import pytest

from llm.sandbox import Sandbox
from tests.llm.servers import served


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[tuple[Sandbox, str]]:
    sandbox = Sandbox()
    with served(sandbox.app) as url:
        yield sandbox, url


@pytest.fixture
def sandbox(running_sandbox: tuple[Sandbox, str]) -> Sandbox:
    """The simulated Mistral, freshly reset; it listens at `sandbox_url`."""
    running_sandbox[0].reset()
    return running_sandbox[0]


@pytest.fixture
def sandbox_url(sandbox: Sandbox, running_sandbox: tuple[Sandbox, str]) -> str:
    return running_sandbox[1]
