"""Signing in to the console: wrong tries, the second factor, and how long a session lasts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_otp.oath import TOTP
from django_otp.plugins.otp_totp.models import TOTPDevice

from config import second_factor
from governance.audit import Actor
from governance.models import AuditEntry
from tests import factories

pytestmark = pytest.mark.django_db
LOGIN, CODE, PAGE = "/admin/login/", "/admin/login/code/", "/admin/second-factor/"
PASSWORD = "seventeen-llamas"


@pytest.fixture
def olga() -> User:
    return factories.person("olga", "operator", password=PASSWORD)


def sign_in(client: Client, password: str = PASSWORD, *, address: str = "192.0.2.1", **more: str) -> Any:
    return client.post(LOGIN, {"username": "olga", "password": password, **more}, REMOTE_ADDR=address)


def is_in(client: Client) -> bool:
    return bool(client.get("/admin/").status_code == 200)


def prove(client: Client) -> None:
    """Gives the password once more, which setting up a second factor begins with."""
    assert client.post(PAGE, {"password": PASSWORD}).status_code == 302


def code_of(user: User, *, at: float | None = None) -> str:
    totp = TOTP(TOTPDevice.objects.get(user=user).bin_key)
    totp.time = time.time() if at is None else at
    return f"{totp.token():06}"


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel("2026-03-10T12:00:00+00:00", tick=False) as travelling:
        yield travelling


class TestTries:
    def test_after_five_wrong_ones_the_name_waits_at_that_address(self, olga: User, clock: Any) -> None:
        client = Client()
        for _ in range(4):
            assert sign_in(client, "wrong").status_code == 200
        locked = sign_in(client, "wrong")
        assert (locked.status_code, locked["Retry-After"]) == (429, "900")
        page = locked.content.decode()
        assert "Too many tries" in page
        assert "Try again in 15\xa0minutes" in page
        assert "12:15:00 UTC" in page

        clock.shift(600)
        assert sign_in(client).status_code == 429
        assert not is_in(client)
        assert sign_in(Client(), address="192.0.2.2").status_code == 302
        clock.shift(301)
        assert sign_in(client).status_code == 302
        assert is_in(client)

    def test_the_address_is_the_connections_whatever_a_header_says(self, olga: User) -> None:
        client = Client()
        for number in range(5):
            client.post(
                LOGIN,
                {"username": "olga", "password": "wrong"},
                headers={"x-forwarded-for": f"198.51.100.{number}"},
                REMOTE_ADDR="192.0.2.1",
            )
        assert sign_in(client).status_code == 429

    @pytest.mark.parametrize(
        "addresses",
        [
            [f"2001:db8:0:1:{number}::7" for number in range(5)],
            ["2001:db8:0:1::7", "2001:DB8:0:1::8", "2001:db8::1:0:0:0:9", "2001:db8:0:1::a", "2001:db8:0:1:ffff::b"],
            ["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201", "192.0.2.1", "192.0.2.1"],
        ],
    )
    def test_a_network_of_one_owner_is_one_address(self, olga: User, addresses: list[str]) -> None:
        assert [sign_in(Client(), "wrong", address=one).status_code for one in addresses] == [200] * 4 + [429]
        assert sign_in(Client(), address=addresses[0]).status_code == 429
        for other in ("2001:db8:0:2::7", "::ffff:192.0.2.2", "192.0.2.3"):
            assert sign_in(Client(), address=other).status_code == 302

    def test_who_comes_over_a_socket_of_this_machine_is_counted_too(self, olga: User) -> None:
        assert [sign_in(Client(), "wrong", address="").status_code for _ in range(5)] == [200] * 4 + [429]

    def test_a_name_is_counted_however_it_is_written_and_whatever_browser_it_is(self, olga: User) -> None:
        client = Client()
        written = ["olga", " olga ", "\N{FULLWIDTH LATIN SMALL LETTER O}lga", "olga\N{NO-BREAK SPACE}", "\u2092lga"]
        tries = [
            client.post(
                LOGIN,
                {"username": name, "password": "wrong"},
                REMOTE_ADDR="192.0.2.1",
                headers={"user-agent": f"browser {number}"},
            ).status_code
            for number, name in enumerate(written)
        ]
        assert tries == [200, 200, 200, 200, 429]
        assert sign_in(client).status_code == 429

    def test_an_address_that_tries_ever_new_names_waits_and_no_password_is_hashed(
        self, olga: User, clock: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.SIGN_IN_TRIES_PER_ADDRESS = 7
        hashed = []
        monkeypatch.setattr(User, "set_password", lambda user, password: hashed.append(user.get_username()))

        def tried(name: str, address: str = "192.0.2.1") -> Any:
            clock.shift(60)
            return Client().post(LOGIN, {"username": name, "password": "wrong"}, REMOTE_ADDR=address)

        answers = [tried(f"nobody-{number}") for number in range(9)]
        assert [answer.status_code for answer in answers] == [200] * 7 + [429] * 2
        assert hashed == [""] * 7
        # The first of seven was eight minutes ago.
        assert answers[-1]["Retry-After"] == str(900 - 8 * 60)
        assert sign_in(Client()).status_code == 429
        assert tried("nobody", "192.0.2.2").status_code == 200
        clock.shift(400)
        assert sign_in(Client()).status_code == 302

    def test_whom_an_address_knows_is_not_locked_with_it_and_has_five_tries(
        self, olga: User, clock: Any, settings: Any
    ) -> None:
        settings.SIGN_IN_TRIES_PER_ADDRESS = 7
        factories.person("otto", "operator", password=PASSWORD)

        def tried(name: str, password: str = "wrong") -> int:
            return int(
                Client().post(LOGIN, {"username": name, "password": password}, REMOTE_ADDR="192.0.2.1").status_code
            )

        assert sign_in(Client()).status_code == 302
        assert sign_in(Client(), address="192.0.2.2").status_code == 302
        assert [tried(f"nobody-{number}") for number in range(8)] == [200] * 7 + [429]
        # He signs in from there for the first time, and she does not.
        assert tried("otto", PASSWORD) == 429
        assert tried(" olga ", PASSWORD) == 302
        clock.shift(60)
        assert [tried("olga") for _ in range(5)] == [200] * 4 + [429]
        locked = sign_in(Client())
        assert (locked.status_code, locked["Retry-After"]) == (429, "900")
        clock.shift(timedelta(days=settings.SIGN_INS_DAYS + 1))
        assert [tried(f"nobody-{number}") for number in range(8)] == [200] * 7 + [429]
        assert tried("olga", PASSWORD) == 429

    def test_a_sign_in_begins_the_count_anew(self, olga: User) -> None:
        for _ in range(3):
            client = Client()
            for _ in range(4):
                sign_in(client, "wrong")
            assert sign_in(client).status_code == 302

    def test_both_outcomes_are_kept_and_owners_alone_read_them(self, olga: User) -> None:
        client = Client()
        sign_in(client, "wrong")
        sign_in(client)
        assert [row.username for row in AccessFailureLog.objects.all()] == ["olga"]
        assert [(row.username, row.ip_address) for row in AccessLog.objects.all()] == [("olga", "192.0.2.1")]
        assert client.get("/admin/axes/accesslog/").status_code == 403
        owner = Client()
        owner.force_login(factories.person("ona", "owner"))
        for model in ("accesslog", "accessfailurelog", "accessattempt"):
            assert "olga" in owner.get(f"/admin/axes/{model}/").content.decode() or model == "accessattempt"

    def test_no_password_and_no_code_is_kept(self, olga: User) -> None:
        TOTPDevice.objects.create(user=olga, confirmed=True)
        known, fresh, codes = "seventeen-alpacas-x", "the-new-secret-1", ("zzzz9999", "000000")
        olga.set_password(known)
        olga.save()
        browser = Client()
        browser.post("/admin/login/", {"username": "olga", "password": "not-hers-at-all"})
        browser.post("/admin/login/", {"username": "olga", "password": known})
        browser.post("/admin/login/code/", {"code": codes[0]})
        signed_in = Client()
        signed_in.force_login(olga)
        changed = {"old_password": known, "new_password1": fresh, "new_password2": fresh, "code": codes[1]}
        signed_in.post("/admin/password_change/", changed)
        kept = [f"{row.get_data} {row.post_data}" for row in AccessAttempt.objects.all()]
        assert kept
        assert not [text for text in kept for secret in (known, fresh, *codes, "not-hers") if secret in text]

    def test_an_owner_unlocks_a_name(self, olga: User) -> None:
        client, owner = Client(), Client()
        for _ in range(5):
            sign_in(client, "wrong")
        owner.force_login(factories.person("ona", "owner"))
        page = owner.get("/admin/axes/accessattempt/").content.decode()
        row = re.findall(r"accessattempt/(\d+)/change", page)[0]
        chosen = {"action": "forget_selected", "_selected_action": [row], "_confirmed": "yes", "reason": "it is her"}
        assert owner.post("/admin/axes/accessattempt/", chosen).status_code == 302
        assert sign_in(client).status_code == 302
        assert AuditEntry.objects.get(action="sign_in.unlock").actor == "ona"


class TestSecondFactor:
    @pytest.fixture
    def codes(self, olga: User) -> list[str]:
        """olga's recovery codes; her app's first code was used a while ago."""
        second_factor.begun(olga)
        by, now = Actor("olga", user=olga), timezone.now()
        made = second_factor.confirm(user=olga, code=code_of(olga), by=by, now=now)
        TOTPDevice.objects.update(last_t=-1)
        assert made is not None
        return made

    def test_is_set_up_on_a_page_that_shows_picture_and_secret_and_then_the_codes(self, olga: User) -> None:
        client = Client()
        client.force_login(olga)
        prove(client)
        page = client.get(PAGE)
        assert "<svg" in page.content.decode()
        assert second_factor.secret_of(TOTPDevice.objects.get()) in page.content.decode()
        assert "no-store" in page["Cache-Control"]
        session = client.session.session_key
        assert "not right" in client.post(PAGE, {"code": "000000"}).content.decode()
        TOTPDevice.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
        done = client.post(PAGE, {"code": code_of(olga)}).content.decode()
        assert len(re.findall(r"<span>[a-z2-7]{8}</span>", done)) == 10
        assert client.session.session_key != session
        assert AuditEntry.objects.get().action == "second_factor.set_up"

    def test_the_password_alone_lets_nobody_in(self, olga: User, codes: list[str]) -> None:
        client = Client()
        half = sign_in(client, next="/admin/governance/budget/")
        assert (half.status_code, half["Location"]) == (302, CODE)
        assert not is_in(client)
        assert client.get("/api/budgets").status_code == 401
        done = client.post(CODE, {"code": code_of(olga)})
        assert (done.status_code, done["Location"]) == (302, "/admin/governance/budget/")
        assert is_in(client)

    def test_nobody_is_led_to_another_site(self, olga: User, codes: list[str]) -> None:
        client = Client()
        sign_in(client, next="https://evil.example/")
        assert client.post(CODE, {"code": code_of(olga)})["Location"] == reverse("admin:index")

    def test_a_code_is_good_once(self, olga: User, codes: list[str]) -> None:
        for code in (code_of(olga), codes[0]):
            outcomes = []
            for _ in range(2):
                client = Client()
                sign_in(client)
                outcomes.append(client.post(CODE, {"code": code}).status_code)
                TOTPDevice.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
            assert outcomes == [302, 200]

    def test_wrong_codes_count_as_wrong_passwords_do(self, olga: User, codes: list[str]) -> None:
        client = Client()
        sign_in(client)
        answers = [client.post(CODE, {"code": "000000"}, REMOTE_ADDR="192.0.2.1").status_code for _ in range(6)]
        assert answers == [200, 200, 200, 200, 429, 429]
        assert sign_in(Client()).status_code == 429

    def test_half_way_ends_after_a_while_and_with_another_password(self, olga: User, codes: list[str]) -> None:
        client = Client()
        sign_in(client)
        assert client.get(CODE).status_code == 200
        with time_machine.travel(timezone.now() + timedelta(seconds=301), tick=False):
            assert client.get(CODE)["Location"] == LOGIN
        olga.set_password("eighteen-llamas")
        olga.save()
        assert client.get(CODE)["Location"] == LOGIN
        assert Client().get(CODE)["Location"] == LOGIN

    def test_is_renewed_and_removed_with_a_code_alone(self, olga: User, codes: list[str]) -> None:
        client = Client()
        client.force_login(olga)
        assert "10 recovery codes are left" in client.get(PAGE).content.decode()
        assert "not right" in client.post(PAGE, {"code": "aaaaaaaa", "remove": ""}).content.decode()
        second_factor.StaticDevice.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
        renewed = client.post(PAGE, {"code": codes[0], "renew": ""}).content.decode()
        assert codes[1] not in renewed
        assert client.post(PAGE, {"code": code_of(olga), "remove": ""}).status_code == 302
        assert not second_factor.is_set_up(olga)

    def test_wrong_codes_of_who_is_signed_in_count_too(self, olga: User, codes: list[str]) -> None:
        client = Client()
        client.force_login(olga)
        tries = [{"code": "000000", "remove": ""}] * 6
        assert [client.post(PAGE, act).status_code for act in tries] == [200, 200, 200, 200, 429, 429]
        TOTPDevice.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
        assert client.post(PAGE, {"code": code_of(olga), "remove": ""}).status_code == 429
        assert second_factor.is_set_up(olga)

    def test_a_session_alone_sets_none_up_and_sees_no_secret(self, olga: User) -> None:
        client, thief = Client(), Client()
        client.force_login(olga)
        prove(client)
        assert "<svg" in client.get(PAGE).content.decode()
        secret = second_factor.secret_of(TOTPDevice.objects.get())
        thief.force_login(olga)
        for body in ({}, {"code": code_of(olga)}, {"password": "wrong"}, {"password": "wrong", "code": code_of(olga)}):
            page = thief.post(PAGE, body).content.decode()
            assert "Enter your password first" in page
            assert "<svg" not in page
            assert secret not in page
        assert not second_factor.is_set_up(olga)
        tries = [thief.post(PAGE, {"password": "wrong"}).status_code for _ in range(3)]
        assert tries == [200, 200, 429]

    def test_who_had_the_session_before_does_not_go_on_with_it(self, olga: User) -> None:
        client, thief = Client(), Client()
        client.force_login(olga)
        thief.cookies = client.cookies.copy()
        assert is_in(thief)
        prove(client)
        assert is_in(client)
        assert not is_in(thief)

    def test_what_was_begun_before_the_password_was_given_is_forgotten(self, olga: User) -> None:
        begun = second_factor.begun(olga)
        client = Client()
        client.force_login(olga)
        prove(client)
        assert second_factor.secret_of(begun) not in client.get(PAGE).content.decode()

    def test_the_password_counts_as_given_for_a_while(self, olga: User, clock: Any) -> None:
        client = Client()
        client.force_login(olga)
        prove(client)
        clock.shift(599)
        assert "<svg" in client.get(PAGE).content.decode()
        clock.shift(2)
        assert "Enter your password first" in client.get(PAGE).content.decode()

    def test_nobody_removes_their_own_as_an_owner(self) -> None:
        me = factories.person("ona", "owner", password=PASSWORD)
        TOTPDevice.objects.create(user=me, confirmed=True)
        client = Client()
        client.force_login(me)
        for written in (f"{me.pk}", f"0{me.pk}", f"+{me.pk}"):
            path = reverse("admin:auth_user_remove_second_factor", args=[written])
            assert client.post(path, {"_confirmed": "yes", "reason": "mine"})["Location"] == PAGE
        assert second_factor.is_set_up(me)

    def test_an_owner_removes_a_lost_one_and_says_why(self, olga: User, codes: list[str]) -> None:
        owner = Client()
        owner.force_login(factories.person("ona", "owner"))
        path = reverse("admin:auth_user_remove_second_factor", args=[olga.pk])
        assert owner.post(path, {"_confirmed": "yes", "reason": "lost her phone"}).status_code == 302
        assert not second_factor.is_set_up(olga)
        assert AuditEntry.objects.get(action="second_factor.remove").reason == "lost her phone"

    def test_where_it_is_required_nothing_else_opens_before(self, olga: User, settings: Any) -> None:
        settings.REQUIRE_TOTP = True
        client = Client()
        sign_in(client)
        for headers in ({}, {"authorization": "Bearer sg_x"}):
            assert client.get("/admin/", headers=headers)["Location"] == PAGE
            assert client.get("/admin/governance/budget/", headers=headers)["Location"] == PAGE
        assert client.get("/api/budgets", headers={"authorization": "Bearer sg_x"}).status_code == 401
        for headers in ({}, {"authorization": "Basic eA=="}):
            refused = client.get("/api/budgets", headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "second_factor_required")
        assert client.get(PAGE).status_code == 200
        prove(client)
        client.get(PAGE)
        client.post(PAGE, {"code": code_of(olga)})
        assert is_in(client)
        assert client.get("/api/budgets").status_code == 200


class TestOwnPassword:
    PATH = "/admin/password_change/"
    NEW = {"new_password1": "eighteen-llamas", "new_password2": "eighteen-llamas"}

    @pytest.fixture
    def client(self, olga: User) -> Client:
        client = Client()
        client.force_login(olga)
        return client

    def test_is_changed_with_the_old_one_and_kept_in_the_audit_trail(self, client: Client, olga: User) -> None:
        other = Client()
        other.force_login(olga)
        assert client.post(self.PATH, {"old_password": PASSWORD, **self.NEW}).status_code == 302
        assert is_in(client)
        assert not is_in(other)
        row = AuditEntry.objects.get()
        assert (row.action, row.actor, row.target) == ("user.password", "olga", "user olga")
        assert sign_in(Client(), "eighteen-llamas").status_code == 302

    def test_wrong_old_ones_count_as_they_do_at_the_sign_in(self, client: Client) -> None:
        tries = [client.post(self.PATH, {"old_password": "wrong", **self.NEW}).status_code for _ in range(5)]
        assert tries == [200, 200, 200, 200, 429]
        assert client.post(self.PATH, {"old_password": PASSWORD, **self.NEW}).status_code == 429
        assert sign_in(Client(), "eighteen-llamas", address="192.0.2.9").status_code == 200

    def test_takes_a_code_of_who_has_a_second_factor(self, client: Client, olga: User) -> None:
        device = TOTPDevice.objects.create(user=olga, confirmed=True)
        given = {"old_password": PASSWORD, **self.NEW}
        for more in ({}, {"code": ""}, {"code": "000000"}):
            assert client.post(self.PATH, {**given, **more}).status_code == 200
        assert olga.check_password(PASSWORD)
        TOTPDevice.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
        # What is wrong elsewhere uses no code up.
        short = {"new_password1": "short", "new_password2": "short"}
        code = code_of(olga)
        assert client.post(self.PATH, {**given, **short, "code": code}).status_code == 200
        assert client.post(self.PATH, {**given, "code": code}).status_code == 302
        device.refresh_from_db()
        assert device.last_t > 0

    def test_is_not_changed_on_the_page_for_others(self) -> None:
        me = factories.person("ona", "owner", password=PASSWORD)
        client = Client()
        client.force_login(me)
        given = {"password1": "eighteen-llamas", "password2": "eighteen-llamas", "usable_password": "true"}
        for written in (f"{me.pk}", f"0{me.pk}", f"+{me.pk}"):
            path = reverse("admin:auth_user_password_change", args=[me.pk]).replace(f"/{me.pk}/", f"/{written}/")
            assert client.post(path, given)["Location"] == self.PATH
        me.refresh_from_db()
        assert me.check_password(PASSWORD)

    def test_one_given_to_somebody_is_kept_however_the_address_is_written(self, olga: User) -> None:
        client = Client()
        client.force_login(factories.person("ona", "owner"))
        path = reverse("admin:auth_user_password_change", args=[olga.pk]).replace(f"/{olga.pk}/", f"/+{olga.pk}/")
        given = {"password1": "eighteen-llamas", "password2": "eighteen-llamas", "usable_password": "true"}
        assert client.post(path, given).status_code == 302
        assert AuditEntry.objects.get().target == "user olga"


class TestSessions:
    @pytest.fixture
    def client(self, olga: User, clock: Any) -> Client:
        client = Client()
        client.force_login(olga)
        return client

    def test_one_that_nobody_uses_ends(self, client: Client, clock: Any) -> None:
        clock.shift(1_799)
        assert is_in(client)
        clock.shift(1_799)
        assert is_in(client)
        clock.shift(1_801)
        assert not is_in(client)
        assert client.get("/api/budgets").status_code == 401

    def test_what_the_page_asks_for_by_itself_is_no_use(self, client: Client, clock: Any) -> None:
        live = reverse("admin:overview-live")
        for _ in range(3):
            clock.shift(599)
            assert client.get(live, headers={"hx-request": "true"}).status_code == 200
        clock.shift(10)
        over = client.get(live, headers={"hx-request": "true"})
        assert (over["HX-Redirect"], over.content) == (LOGIN, b"")

    def test_one_that_is_used_ends_all_the_same(self, client: Client, clock: Any) -> None:
        for _ in range(24):
            clock.shift(1_790)
            assert is_in(client)
        clock.shift(1_790)
        assert not is_in(client)

    @pytest.mark.parametrize("change", ["role", "superuser", "staff", "tenant"])
    def test_one_whose_user_may_do_something_else_ends(self, client: Client, olga: User, change: str) -> None:
        assert is_in(client)
        if change == "role":
            olga.groups.set(Group.objects.filter(name="viewer"))
        elif change == "tenant":
            olga.groups.set(Group.objects.filter(name="tenant staff"))
        else:
            User.objects.update(**{f"is_{change}": change == "superuser"})
        assert not is_in(client)

    def test_a_sign_in_has_another_name_than_what_was_before(self, olga: User) -> None:
        client = Client()
        client.get(LOGIN)
        client.session["x"] = 1
        before = client.session.session_key
        sign_in(client)
        assert client.session.session_key != before
