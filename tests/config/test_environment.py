"""Typed readers of environment variables: what they take, and the sentence they stop start-up with."""

import base64
import os
import secrets
import string
import traceback
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote, urlsplit

import environ
import pytest
from django.core.exceptions import ImproperlyConfigured

from config import environment


def env(**values: str) -> environ.Env:
    made = environment.Environment()
    made.ENVIRON = values
    return made


def told(error: Exception) -> str:
    """As a log has it, with what led to it."""
    return "".join(traceback.format_exception(error))


# What a URL reads otherwise, what shells, compose and django-environ take for a variable, and blanks.
ANY_PASSWORD = "$a@b:c/d#e?f%41+g=h \\$'\"é "


class TestEnvironment:
    def test_a_file_gives_the_value_and_wins(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text(f"{ANY_PASSWORD}\n")
        given = env(SECRET_KEY="other", SECRET_KEY_FILE=f"{tmp_path}/key")

        assert given.str("SECRET_KEY") == ANY_PASSWORD

    def test_an_empty_name_of_a_file_is_none(self) -> None:
        assert env(SECRET_KEY="other", SECRET_KEY_FILE="").str("SECRET_KEY") == "other"

    @pytest.mark.parametrize("content", [None, b"\xff\xfe"])
    def test_what_cannot_be_read_names_the_variable_and_shows_nothing(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / "key"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ImproperlyConfigured, match=r"^SECRET_KEY_FILE must be a file of text .*key'\.$") as raised:
            environment.secret(env(SECRET_KEY_FILE=str(path)), "SECRET_KEY")
        assert "0xff" not in told(raised.value)

    def test_a_value_that_begins_with_a_dollar_is_no_variables_name(self) -> None:
        assert environment.secret(env(SECRET_KEY="$HOME", HOME="other"), "SECRET_KEY") == "$HOME"


class TestWithPassword:
    @pytest.mark.parametrize(
        ("url", "wanted"),
        [
            ("redis://redis:6379/0", "redis://:a%40%2F@redis:6379/0"),
            ("rediss://user@redis", "rediss://user:a%40%2F@redis"),
            ("redis://user:@redis", "redis://user:a%40%2F@redis"),
            ("redis://:own@redis", "redis://:own@redis"),
            ("", ""),
        ],
    )
    def test_it_is_put_in_where_there_is_none(self, url: str, wanted: str) -> None:
        assert environment.with_password(url, "a@/") == wanted
        assert environment.with_password(url, "") == url

    def test_any_characters_arrive(self) -> None:
        assert unquote(urlsplit(environment.with_password("redis://h", ANY_PASSWORD)).password or "") == ANY_PASSWORD


class TestBoolean:
    @pytest.mark.parametrize("raw", ["true", "1", "YES", "on", " true "])
    def test_true(self, raw: str) -> None:
        assert environment.boolean(env(DEBUG=raw), "DEBUG", default=False) is True

    @pytest.mark.parametrize("raw", ["false", "0", "No", "off", ""])
    def test_false(self, raw: str) -> None:
        assert environment.boolean(env(DEBUG=raw), "DEBUG", default=True) is False

    def test_missing_is_the_default(self) -> None:
        assert environment.boolean(env(), "DEBUG", default=True) is True

    def test_anything_else_names_the_variable(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="DEBUG must be true or false, not 'maybe'"):
            environment.boolean(env(DEBUG="maybe"), "DEBUG", default=False)


class TestFile:
    def test_a_file_that_is_there(self, tmp_path: Path) -> None:
        path = tmp_path / "routing.yaml"
        path.write_text("")
        assert environment.file(env(ROUTER_CONFIG=f" {path} "), "ROUTER_CONFIG") == path

    def test_missing_is_none(self) -> None:
        assert environment.file(env(), "ROUTER_CONFIG") is None
        assert environment.file(env(ROUTER_CONFIG="change-me"), "ROUTER_CONFIG") is None

    def test_what_is_no_file_names_the_variable(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "none.yaml"):
            with pytest.raises(ImproperlyConfigured, match="ROUTER_CONFIG must be a file that can be read"):
                environment.file(env(ROUTER_CONFIG=str(path)), "ROUTER_CONFIG")


class TestFilesByModel:
    def test_each_model_has_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "tekken.json"
        path.write_text("")
        found = environment.files_by_model(env(T=f" small = {path} ,openai/gpt={path}"), "T")
        assert found == {"small": path, "openai/gpt": path}
        assert environment.files_by_model(env(), "T") == {}

    @pytest.mark.parametrize("raw", ["small", "small=", "={0}", "small={0}/none", "small={0}", "a={0}/t,a={0}/t"])
    def test_anything_else_names_the_variable_and_the_part(self, tmp_path: Path, raw: str) -> None:
        (tmp_path / "t").write_text("")
        with pytest.raises(ImproperlyConfigured, match=r"T must give each model once, with a file .*; not '"):
            environment.files_by_model(env(T=raw.format(tmp_path)), "T")


class TestApiKeys:
    def test_a_key_is_one_plain_word(self) -> None:
        assert environment.api_key(env(OPENAI_API_KEY=" sk-1 "), "OPENAI_API_KEY") == "sk-1"

    @pytest.mark.parametrize("values", [{}, {"OPENAI_API_KEY": ""}, {"OPENAI_API_KEY": "change-me"}])
    def test_missing_is_none(self, values: dict[str, str]) -> None:
        assert environment.api_key(env(**values), "OPENAI_API_KEY") == ""

    @pytest.mark.parametrize("raw", ["sk-secret sk-other", "sk-secret\nx: y", "sk-secrét"])
    def test_anything_else_names_the_variable_and_not_its_value(self, raw: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="OPENAI_API_KEY must be the key alone") as stopped:
            environment.api_key(env(OPENAI_API_KEY=raw), "OPENAI_API_KEY")
        assert "secr" not in str(stopped.value)


class TestApiBases:
    def test_a_base_has_no_slash_at_its_end(self) -> None:
        found = environment.api_base(env(OPENAI_API_BASE="https://x.example/v1/"), "OPENAI_API_BASE", default="")
        assert found == "https://x.example/v1"

    @pytest.mark.parametrize(
        "raw", ["https://u:secret@x.example", "https://x.example/v1?a=b", "https:///v1", "x.example"]
    )
    def test_anything_else_names_the_variable(self, raw: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="OPENAI_API_BASE must be a URL"):
            environment.api_base(env(OPENAI_API_BASE=raw), "OPENAI_API_BASE", default="")


class TestSecrets:
    def test_a_placeholder_counts_as_missing(self) -> None:
        assert environment.secret(env(MISTRAL_API_KEY="change-me"), "MISTRAL_API_KEY") == ""

    def test_several_while_rotating(self) -> None:
        found = environment.secrets(env(STRIPE_WEBHOOK_SECRET="whsec_a, whsec_b,"), "STRIPE_WEBHOOK_SECRET")

        assert found == ["whsec_a", "whsec_b"]

    @pytest.mark.parametrize("values", [{}, {"SECRET_KEY": ""}, {"SECRET_KEY": "change-me"}])
    def test_secret_key_is_needed_without_debug(self, values: dict[str, str], tmp_path: Path) -> None:
        with pytest.raises(ImproperlyConfigured, match="SECRET_KEY is missing"):
            environment.secret_key(env(**values), debug=False, var_dir=tmp_path)

    def test_with_debug_a_secret_key_is_made_once_and_kept_from_others(self, tmp_path: Path) -> None:
        first = environment.secret_key(env(), debug=True, var_dir=tmp_path)

        assert len(first) >= 50
        assert environment.secret_key(env(), debug=True, var_dir=tmp_path) == first
        assert (tmp_path / "secret_key").stat().st_mode & 0o077 == 0

    def test_the_made_key_was_never_open_to_others_nor_half_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[int, int]] = []
        link = os.link

        def watched(draft: str, path: Path) -> None:
            link(draft, path)
            seen.append((path.stat().st_mode & 0o777, len(path.read_text())))

        monkeypatch.setattr(os, "link", watched)
        before = os.umask(0)
        try:
            environment.secret_key(env(), debug=True, var_dir=tmp_path)
        finally:
            os.umask(before)
        assert [(mode, length >= 50) for mode, length in seen] == [(0o600, True)]
        assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]

    @pytest.mark.parametrize(
        "weak",
        [
            *("a", "x" * 64, "ab" * 40, "abcdefghijkl" * 6, "0123456789" * 6, "987654321" * 7, "acegikmoqsuwy" * 5),
            *(string.ascii_letters + string.digits, "correct-horse-" * 5, "a" * 60 + "b3R7xZq9"),
            *("django-insecure-7h1s-15-l0ng-and-r4nd0m-enough-for-a-t3st", "r4nd0m-but-short!"),
        ],
    )
    def test_a_secret_key_that_can_be_guessed_is_refused_without_debug(self, weak: str, tmp_path: Path) -> None:
        with pytest.raises(ImproperlyConfigured, match="SECRET_KEY is weak") as stopped:
            environment.secret_key(env(SECRET_KEY=weak), debug=False, var_dir=tmp_path)
        assert weak == "a" or weak not in str(stopped.value)
        assert environment.secret_key(env(SECRET_KEY=weak), debug=True, var_dir=tmp_path) == weak

    def test_a_random_secret_is_never_taken_for_one_that_can_be_guessed(self) -> None:
        for _ in range(300):
            for made in (secrets.token_urlsafe(38), secrets.token_hex(25), base64.b64encode(os.urandom(48)).decode()):
                assert not environment.is_weak_key(made), made
            assert environment.token(env(T=secrets.token_urlsafe(16)), "T", debug=False)

    @pytest.mark.parametrize(
        "weak", ["short", "abababababababababab", "12345678901234567890", "abcdefghijklmnopqrstuvw"]
    )
    def test_a_token_that_can_be_guessed_is_refused_without_debug(self, weak: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="METRICS_TOKEN is weak"):
            environment.token(env(METRICS_TOKEN=weak), "METRICS_TOKEN", debug=False)
        with pytest.raises(ImproperlyConfigured, match="S is weak"):
            environment.tokens(env(S=f"whsec_1234567890abcdef, {weak}"), "S", debug=False)
        assert environment.token(env(METRICS_TOKEN=weak), "METRICS_TOKEN", debug=True) == weak
        assert environment.token(env(), "METRICS_TOKEN", debug=False) == ""


class TestMeters:
    UNITS = ("microdollars", "tokens")

    def test_each_meter_has_its_unit(self) -> None:
        found = environment.meters(env(M="cost:microdollars, used:tokens"), "M", units=self.UNITS)
        assert found == {"cost": "microdollars", "used": "tokens"}
        assert environment.meters(env(), "M", units=self.UNITS) == {}

    @pytest.mark.parametrize("raw", ["cost", "cost:euros", ":tokens", "a:tokens,a:tokens"])
    def test_malformed_names_the_variable_and_the_units(self, raw: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"M must name each meter once.*microdollars, tokens"):
            environment.meters(env(M=raw), "M", units=self.UNITS)


class TestUrl:
    def test_a_trailing_slash_goes(self) -> None:
        assert environment.url(env(APP_URL="https://x.test/"), "APP_URL", default="") == "https://x.test"

    @pytest.mark.parametrize("raw", ["x.test", "ftp://x.test", "http://", "http://x:port", "http://[::1"])
    def test_malformed_names_the_variable(self, raw: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="APP_URL must be a URL that starts with http:// or https://"):
            environment.url(env(APP_URL=raw), "APP_URL", default="")

    @pytest.mark.parametrize(
        "raw", ["redis//:hunter2@h:6379", "redi://u:hunter2@h", "redis://:hunter2@h:port/0", "redis://:hunter2/0"]
    )
    def test_malformed_shows_no_password(self, raw: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="REDIS_URL must be a URL that starts with redis://") as raised:
            environment.url(env(REDIS_URL=raw), "REDIS_URL", default="", schemes=("redis",))
        assert "hunter2" not in told(raised.value)

    def test_redis_over_a_socket(self) -> None:
        found = environment.url(
            env(REDIS_URL="unix:///run/redis.sock"), "REDIS_URL", default="", schemes=("redis", "unix")
        )

        assert found == "unix:///run/redis.sock"


class TestMail:
    @pytest.mark.parametrize(
        "raw", ["smtp://u:hunter2#3@h:587", "smtp+tls://u:hunter2/3@h", "hunter2", "smpt://u:hunter2@h"]
    )
    def test_malformed_shows_no_password(self, raw: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="EMAIL_URL must look like") as raised:
            environment.mail(env(EMAIL_URL=raw), "EMAIL_URL")
        assert "hunter2" not in told(raised.value)


class TestAlertUrls:
    @pytest.mark.parametrize("raw", ["mailto:a@b.test,slack: hunter2"])
    def test_malformed_names_the_part_alone(self, raw: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="its part 2 must be a URL") as raised:
            environment.alert_urls(env(ALERT_URLS=raw), "ALERT_URLS")
        assert "hunter2" not in told(raised.value)


class TestProxy:
    @pytest.mark.parametrize("raw", ["http://u:hunter2#3@h:3128", "socks5://u:hunter2@h", "hunter2"])
    def test_malformed_shows_no_password(self, raw: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="UPSTREAM_PROXY must be the http://") as raised:
            environment.proxy(env(UPSTREAM_PROXY=raw), "UPSTREAM_PROXY")
        assert "hunter2" not in told(raised.value)


class TestStripeKey:
    @pytest.mark.parametrize("raw", ["sk_test_1", "rk_live_1", "", "change-me"])
    def test_secret_and_restricted_keys(self, raw: str) -> None:
        expected = "" if raw == "change-me" else raw
        assert environment.stripe_key(env(STRIPE_SECRET_KEY=raw), "STRIPE_SECRET_KEY") == expected

    def test_a_publishable_one_is_refused_and_not_shown(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="STRIPE_SECRET_KEY is a publishable key") as raised:
            environment.stripe_key(env(STRIPE_SECRET_KEY="pk_live_hunter2"), "STRIPE_SECRET_KEY")
        assert "hunter2" not in str(raised.value)


class TestRaw:
    def test_a_value_that_begins_with_a_dollar_sign_is_that_value(self) -> None:
        key = "$" + secrets.token_urlsafe(50)
        found = env(METRICS_TOKEN=key, SECRET_KEY=key)

        assert environment.token(found, "METRICS_TOKEN", debug=False) == key
        assert environment.secret_key(found, debug=False, var_dir=Path()) == key


class TestRead:
    def test_a_named_file_that_is_not_there_stops_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(ImproperlyConfigured, match="ENV_FILE must be a file that can be read"):
            environment.read(tmp_path / "governor.env", is_named=True)

    def test_what_nobody_named_may_be_missing(self, tmp_path: Path) -> None:
        environment.read(tmp_path / ".env", is_named=False)


class TestDollars:
    def test_an_amount(self) -> None:
        assert environment.dollars(env(DEFAULT_DAILY_BUDGET="2.50"), "DEFAULT_DAILY_BUDGET", default="10") == Decimal(
            "2.50"
        )

    def test_empty_is_none(self) -> None:
        assert environment.dollars(env(DEFAULT_DAILY_BUDGET=""), "DEFAULT_DAILY_BUDGET", default="10") is None

    @pytest.mark.parametrize("raw", ["0", "-1", "ten", "NaN", "Infinity", "1,5"])
    def test_malformed_names_the_variable(self, raw: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="DEFAULT_DAILY_BUDGET must be a positive number of dollars"):
            environment.dollars(env(DEFAULT_DAILY_BUDGET=raw), "DEFAULT_DAILY_BUDGET", default="10")


class TestChoice:
    def test_a_number(self) -> None:
        found = environment.choice(env(STATUS="429"), "STATUS", choices=(402, 429), default=402)

        assert found == 429

    def test_a_word_in_either_case(self) -> None:
        assert environment.choice(env(LEVEL="info"), "LEVEL", choices=("INFO", "DEBUG"), default="DEBUG") == "INFO"

    def test_anything_else_names_the_variable_and_the_choices(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="STATUS must be one of 402, 429, not '500'"):
            environment.choice(env(STATUS="500"), "STATUS", choices=(402, 429), default=402)


class TestSeconds:
    @pytest.mark.parametrize("raw", ["59", "-900", "900.5", "15m", "٣"])
    def test_malformed_names_the_variable(self, raw: str) -> None:
        with pytest.raises(ImproperlyConfigured, match="RESERVATION_TTL_S must be a whole number of seconds, 60 or"):
            environment.seconds(env(RESERVATION_TTL_S=raw), "RESERVATION_TTL_S", default=900, minimum=60)


class TestDirectory:
    def test_is_made(self, tmp_path: Path) -> None:
        found = environment.directory(env(VAR_DIR=f"{tmp_path}/a/b"), "VAR_DIR", default=tmp_path)

        assert found.is_dir()

    def test_is_closed_to_others_whether_made_or_found(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            made = environment.directory(env(VAR_DIR=f"{tmp_path}/made"), "VAR_DIR", default=tmp_path)
            (tmp_path / "found").mkdir(mode=0o755)
            found = environment.directory(env(VAR_DIR=f"{tmp_path}/found"), "VAR_DIR", default=tmp_path)
        finally:
            os.umask(before)
        assert made.stat().st_mode & 0o777 == found.stat().st_mode & 0o777 == 0o700

    def test_one_that_everybody_shares_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        shared = tmp_path / "tmp"
        shared.mkdir()
        shared.chmod(0o1777)
        with pytest.raises(ImproperlyConfigured, match="VAR_DIR must be a folder of its own"):
            environment.directory(env(VAR_DIR=str(shared)), "VAR_DIR", default=tmp_path)
        assert shared.stat().st_mode & 0o7777 == 0o1777

    def test_a_file_in_its_place_names_the_variable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()

        with pytest.raises(ImproperlyConfigured, match="VAR_DIR must be a folder that can be made"):
            environment.directory(env(VAR_DIR=f"{tmp_path}/file"), "VAR_DIR", default=tmp_path)


class TestAddresses:
    def test_addresses_networks_and_all(self) -> None:
        found = environment.addresses(env(P="127.0.0.1, 10.0.0.0/8,::1, *"), "P")
        assert found == ["127.0.0.1", "10.0.0.0/8", "::1", "*"]
        assert environment.addresses(env(), "P") == []

    def test_malformed_names_the_variable(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"P must be addresses or networks .*; not 'proxy'"):
            environment.addresses(env(P="proxy"), "P")
