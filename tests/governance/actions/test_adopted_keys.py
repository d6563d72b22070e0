"""Keys that were issued elsewhere, known by the SHA-256 of their text."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from governance.actions import tenancy
from governance.audit import Actor
from governance.models import ApiKey, AuditEntry
from governance.models.tenancy import digest_of
from governance.rules.errors import Conflict, FieldError, NotAllowed
from tests import factories as make

pytestmark = pytest.mark.django_db


def adopt(**fields: Any) -> ApiKey:
    agent = fields.pop("agent", None) or make.agent()
    given = {"digest": digest_of("sk-theirs"), "tenant": agent.tenant, "by": Actor("ada"), "now": make.NOON}
    return tenancy.adopt_key(agent=agent, **(given | fields))


def test_a_key_from_elsewhere_is_an_agents_and_audited() -> None:
    key = adopt(name="bot", expires_at=make.NOON + timedelta(days=1))

    assert (key.role, key.name, key.digest) == ("agent", "bot", digest_of("sk-theirs"))
    assert AuditEntry.objects.get(action="key.adopt").target == f"key {key.prefix}"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"digest": "sk-theirs"}, "digest"),
        ({"digest": digest_of("sk-theirs").upper()}, "digest"),
        ({"expires_at": make.NOON}, "expires_at"),
        ({"name": "x" * 900}, "name"),
    ],
)
def test_what_is_none_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        adopt(**fields)
    assert caught.value.field == field
    assert not ApiKey.objects.exists()


def test_an_agent_of_another_tenant_is_refused() -> None:
    with pytest.raises(FieldError, match="is not one of other"):
        adopt(tenant=make.tenant("other"))


def test_a_key_that_is_here_is_not_taken_twice() -> None:
    key = adopt()
    with pytest.raises(Conflict, match=f"here already, as {key.prefix}"):
        adopt(agent=key.agent)


def test_an_agents_key_takes_over_none() -> None:
    maker = make.key()[1]
    with pytest.raises(NotAllowed):
        adopt(agent=maker.agent, by=Actor("agent", key=maker))
