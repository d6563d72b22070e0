"""Which requests may read a replica. What they read there is in tests/concurrency/test_replica.py."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpResponse
from django.test import RequestFactory
from django.urls import get_resolver, resolve

from config import replica_reads
from config.replica_reads import READS, ReplicaMiddleware


def test_each_name_is_that_of_a_path() -> None:
    resolver = get_resolver()
    console = resolver.namespace_dict["admin"][1]
    names = {name for name in resolver.reverse_dict if isinstance(name, str)}
    names |= {f"admin:{name}" for name in console.reverse_dict if isinstance(name, str)}
    assert names >= READS


def test_without_a_replica_there_is_no_such_middleware() -> None:
    with pytest.raises(MiddlewareNotUsed):
        ReplicaMiddleware(lambda request: HttpResponse())


@pytest.mark.parametrize(
    ("method", "path", "headers", "may"),
    [
        ("GET", "/api/spend", {}, True),
        ("HEAD", "/api/spend", {}, True),
        ("GET", "/api/spend/", {}, True),
        ("GET", "/api/no-such-path/", {}, False),
        ("GET", "/", {}, False),
        ("GET", "/admin/", {}, True),
        ("GET", "/admin/governance/refusedcall/", {}, True),
        ("POST", "/api/spend", {}, False),
        ("GET", "/api/budgets", {}, False),
        ("GET", "/api/keys", {}, False),
        ("GET", "/api/health", {}, False),
        ("GET", "/admin/governance/spendentry/1/change/", {}, False),
        ("GET", "/admin/governance/budget/add/", {}, False),
        ("GET", "/api/spend", {"cookie": "wrote=1"}, False),
        ("GET", "/api/spend", {"cache-control": "no-cache"}, False),
    ],
)
def test_what_only_looks_may_be_behind(method: str, path: str, headers: dict[str, str], may: bool) -> None:
    request: Any = RequestFactory().generic(method, path, headers=headers)
    request.resolver_match = resolve(path)
    assert replica_reads._may_be_behind(request) is may
