"""Typed readers of environment variables that stop start-up with a sentence naming the variable."""

import ipaddress
import os
import re
import secrets as random_secrets
import stat
import tempfile
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from governance.rules import money

# What `.env.example` puts where a real value must go; leaving it there is the same as leaving it out.
PLACEHOLDER = "change-me"
# A secret that a machine can guess is none: fewer characters than this, fewer different ones, or most of them what one
# expects after those before. Django's checks of SECRET_KEY ask for the same length.
LEAST_KEY, LEAST_TOKEN, LEAST_DIFFERENT = 50, 16, 8
MADE_BY_STARTPROJECT = "django-insecure-"
_ORIGIN = re.compile(r"https?://[\w.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?", re.IGNORECASE)
Choice = TypeVar("Choice", int, str)


class Environment(environ.Env):  # type: ignore[misc]
    """The process's environment, in which `NAME_FILE` gives the value of `NAME` as a file, as secrets are mounted.

    Values are taken as they are: one that begins with `$` is no other variable's name.
    """

    def str(self, var: str, default: Any = "", multiline: bool = False) -> str:
        path = self.ENVIRON.get(f"{var}_FILE", "").strip()
        return _content(f"{var}_FILE", path) if path else self.ENVIRON.get(var, default)


def _content(name: str, path: str) -> str:
    """A file's text without the line end that editors and `openssl` leave."""
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError):
        # Neither the file's bytes nor more than its name, also in a traceback.
        raise ImproperlyConfigured(f"{name} must be a file of text that can be read, not {path!r}.") from None


def _raw(env: environ.Env, name: str, default: str) -> str:
    value: str = env.str(name, default).strip()
    return default if PLACEHOLDER in value else value


def read(path: str | Path, *, is_named: bool) -> None:
    """Take over the variables of a file, but for those that are set already. One that was named is there."""
    if is_named and not os.access(path, os.R_OK):
        raise ImproperlyConfigured(f"ENV_FILE must be a file that can be read, not {str(path)!r}.")
    environ.Env.read_env(path)


def directory(env: environ.Env, name: str, *, default: Path) -> Path:
    """A folder of the product's own, that exists afterwards, can be written to, and is closed to others."""
    path = Path(_raw(env, name, "") or default).expanduser().resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(f"{name} must be a folder that can be made: {error}.") from error
    if path.stat().st_mode & stat.S_ISVTX:
        raise ImproperlyConfigured(f"{name} must be a folder of its own, not {str(path)!r}, which everybody shares.")
    close_to_others(path, name)
    if not os.access(path, os.W_OK):
        raise ImproperlyConfigured(f"{name} must be a folder that can be written to, not {str(path)!r}.")
    return path


def close_to_others(path: Path, name: str) -> None:
    """Takes what group and others may do with a file or folder; whoever does not own it must have closed it."""
    mode = path.stat().st_mode
    try:
        if mode & 0o077:
            path.chmod(stat.S_IMODE(mode) & 0o700)
    except PermissionError as error:
        if mode & 0o007:
            raise ImproperlyConfigured(
                f"{name}: others may use {str(path)!r}, which is not ours to close. Run: chmod o= {path}"
            ) from error


def file(env: environ.Env, name: str) -> Path | None:
    """A file that can be read; None where none is named."""
    raw = _raw(env, name, "")
    if not raw:
        return None
    path = Path(raw).expanduser().absolute()
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ImproperlyConfigured(f"{name} must be a file that can be read, not {str(path)!r}.")
    return path


def files_by_model(env: environ.Env, name: str) -> dict[str, Path]:
    """`model=/path`, comma-separated: a file for each model."""
    found: dict[str, Path] = {}
    for part in names(env, name, default=[]):
        model, _, raw = (side.strip() for side in part.partition("="))
        path = Path(raw).expanduser().absolute()
        if not model or not raw or model in found or not path.is_file() or not os.access(path, os.R_OK):
            raise ImproperlyConfigured(
                f"{name} must give each model once, with a file that can be read, such as "
                f"mistral-small-2603=/srv/tekken.json,openai/gpt-4o=/srv/tokenizer.json; not {part!r}."
            )
        found[model] = path
    return found


def names(env: environ.Env, name: str, *, default: list[str]) -> list[str]:
    """A comma-separated list; empty or missing means the default."""
    return [part for raw in _raw(env, name, "").split(",") if (part := raw.strip())] or default


def origins(env: environ.Env, name: str) -> list[str]:
    """Origins of web pages, comma-separated, or * alone for any."""
    found = names(env, name, default=[])
    for part in found:
        if part != "*" and not _ORIGIN.fullmatch(part):
            raise ImproperlyConfigured(
                f"{name} must list origins such as https://app.example.com, without a path; not {part!r}."
            )
    return [part.lower() for part in found]


def mail(env: environ.Env, name: str) -> dict[str, Any]:
    """Django's settings of the server that sends e-mail. No message, nor what led to it, shows the URL's password."""
    raw = _raw(env, name, "")
    try:
        found = {key: value or "" for key, value in environ.Env.email_url_config(raw or "dummymail://").items()}
        usual = 465 if found.get("EMAIL_USE_SSL") else 587 if found.get("EMAIL_USE_TLS") else 25
        found["EMAIL_PORT"] = int(found["EMAIL_PORT"] or usual)
    except (ValueError, KeyError, TypeError, ImproperlyConfigured):
        raise ImproperlyConfigured(
            f"{name} must look like smtp+tls://user:password@host:587, smtp+ssl://user:password@host:465 or "
            "smtp://host:25; %40 stands for @ in a user's name."
        ) from None
    return found


def sender(app_url: str) -> str:
    """Whom e-mails are from where nobody says so: an address of the host that people open."""
    host = urlsplit(app_url).hostname or "localhost"
    return f"spend-governor@{'localhost' if ':' in host or host.replace('.', '').isdigit() else host}"


def alert_urls(env: environ.Env, name: str) -> list[str]:
    """URLs as Apprise takes them and `mailto:` addresses, comma-separated. No message shows one: they hold secrets."""
    raw = _raw(env, name, "")
    # A URL may hold commas; the next one begins with a scheme.
    found = [part for part in re.split(r"[,\s]+(?=[A-Za-z][A-Za-z0-9+.-]*:)", raw) if part]
    for number, part in enumerate(found, 1):
        if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:\S+$", part):
            raise ImproperlyConfigured(
                f"{name}: its part {number} must be a URL such as slack://..., or mailto:somebody@example.com."
            )
    return found


def boolean(env: environ.Env, name: str, *, default: bool) -> bool:
    raw = _raw(env, name, str(default)).lower()
    if raw in ("1", "true", "yes", "on"):
        return True
    if raw in ("0", "false", "no", "off", ""):
        return False
    raise ImproperlyConfigured(f"{name} must be true or false, not {raw!r}.")


def secret(env: environ.Env, name: str) -> str:
    """A secret, or "" where it is missing or still the placeholder."""
    return _raw(env, name, "")


def secrets(env: environ.Env, name: str) -> list[str]:
    return [part for raw in secret(env, name).split(",") if (part := raw.strip())]


def api_key(env: environ.Env, name: str) -> str:
    """A provider's key, which travels in a header; "" where it is missing or still the placeholder."""
    value = secret(env, name)
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ImproperlyConfigured(f"{name} must be the key alone, without blanks or line breaks.")
    return value


def stripe_key(env: environ.Env, name: str) -> str:
    """A secret or restricted key of Stripe's; not the publishable one, which stands beside it and may do nothing."""
    value = api_key(env, name)
    if value.startswith("pk_"):
        raise ImproperlyConfigured(f"{name} is a publishable key: it must be the one that starts with sk_ or rk_.")
    return value


def api_base(env: environ.Env, name: str, *, default: str) -> str:
    """The URL that an API's paths are added to."""
    value = url(env, name, default=default)
    if not urlsplit(value).hostname or "@" in value or "?" in value or "#" in value:
        raise ImproperlyConfigured(f"{name} must be a URL without user, password, query or fragment.")
    return value


def secret_key(env: environ.Env, *, debug: bool, var_dir: Path) -> str:
    """SECRET_KEY; in DEBUG a missing one is made once and kept under VAR_DIR. Elsewhere a weak one is refused."""
    key = secret(env, "SECRET_KEY")
    if key and (debug or not is_weak_key(key)):
        return key
    if key:
        raise ImproperlyConfigured(
            f"SECRET_KEY is weak: whoever guesses it is an owner. Set it to {LEAST_KEY} or more random characters, "
            "such as those of: openssl rand -base64 48."
        )
    if not debug:
        raise ImproperlyConfigured(
            "SECRET_KEY is missing: set it to 50 or more random characters, or set DEBUG=true to try things out."
        )
    path = var_dir / "secret_key"
    if not path.exists():
        _write_once(path, random_secrets.token_urlsafe(50))
    close_to_others(path, "VAR_DIR")
    return path.read_text()


def _write_once(path: Path, text: str) -> None:
    """A file that nobody else can read at any moment, nor anybody half-written; the first of two writers wins."""
    # Made with mode 0600.
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:
        draft.write(text)
        draft.flush()
        with suppress(FileExistsError):
            os.link(draft.name, path)


def is_weak_key(key: str) -> bool:
    return _is_guessed(key, least=LEAST_KEY) or key.startswith(MADE_BY_STARTPROJECT)


def _is_guessed(secret: str, *, least: int) -> bool:
    """Whether it is short, or would be without what repeats or goes on: "abcabcabc", "12345678", "aaaa"."""
    steps = [ord(after) - ord(before) for before, after in pairwise(secret)]
    # Three steps in a row that are nowhere else in it: a random secret has about as many as characters.
    surprises = len(set(zip(steps, steps[1:], steps[2:], strict=False)))
    return len(secret) < least or len(set(secret)) < LEAST_DIFFERENT or surprises < least // 2


def token(env: environ.Env, name: str, *, debug: bool) -> str:
    """A secret that opens something by itself; "" where there is none. Outside DEBUG a short one is refused."""
    value = secret(env, name)
    _refuse_weak_tokens([value] if value else [], name, debug=debug)
    return value


def tokens(env: environ.Env, name: str, *, debug: bool) -> list[str]:
    values = secrets(env, name)
    _refuse_weak_tokens(values, name, debug=debug)
    return values


def _refuse_weak_tokens(values: list[str], name: str, *, debug: bool) -> None:
    if not debug and any(_is_guessed(value, least=LEAST_TOKEN) for value in values):
        raise ImproperlyConfigured(f"{name} is weak: it must be {LEAST_TOKEN} or more random characters.")


def addresses(env: environ.Env, name: str) -> list[str]:
    """Addresses and networks, comma-separated, or * for all; none by default."""
    found = names(env, name, default=[])
    for part in found:
        try:
            if part != "*":
                ipaddress.ip_network(part)
        except ValueError as error:
            raise ImproperlyConfigured(
                f"{name} must be addresses or networks such as 127.0.0.1,10.0.0.0/8, or *; not {part!r}."
            ) from error
    return found


def url(env: environ.Env, name: str, *, default: str, schemes: tuple[str, ...] = ("http", "https")) -> str:
    value = _raw(env, name, default).rstrip("/")
    if value and not _is_url(value, schemes):
        starts = " or ".join(f"{scheme}://" for scheme in schemes)
        # Without the value: any part of it may be a password that is not at its place.
        raise ImproperlyConfigured(f"{name} must be a URL that starts with {starts}.")
    return value


def password(env: environ.Env, name: str) -> str:
    """A password of any characters, blanks included; "" where it is missing or still the placeholder."""
    value: str = env.str(name, "")
    return "" if PLACEHOLDER in value else value


def with_password(url: str, secret: str) -> str:
    """The URL with a password of any characters put in where it has none."""
    if not url or not secret or urlsplit(url).password:
        return url
    scheme, _, rest = url.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{user.removesuffix(':') if at else ''}:{quote(secret, safe='')}@{host}"


def proxy(env: environ.Env, name: str) -> str:
    """A proxy's URL, "none", or "" for what the environment says. No message shows it: it may hold a password."""
    value = _raw(env, name, "")
    if value.lower() == "none":
        return "none"
    if value and not (_is_url(value, ("http", "https")) and urlsplit(value).hostname):
        raise ImproperlyConfigured(f"{name} must be the http:// or https:// URL of a proxy, none, or empty.")
    return value


def _is_url(value: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(value)
        # Reading the port checks it.
        return parts.scheme in schemes and bool(parts.netloc or parts.path) and (parts.port or 1) > 0
    except ValueError:
        return False


def dollars(env: environ.Env, name: str, *, default: str) -> Decimal | None:
    """A positive amount of dollars; empty means none."""
    raw = _raw(env, name, default)
    if not raw:
        return None
    try:
        value = money.decimal(raw)
    except money.AmountError:
        value = Decimal(0)
    if value <= 0:
        raise ImproperlyConfigured(
            f"{name} must be a positive number of dollars such as 10 or 2.50, or empty for none; not {raw!r}."
        )
    return value


def meters(env: environ.Env, name: str, *, units: tuple[str, ...]) -> dict[str, str]:
    """`event_name:unit`, comma-separated: what each of Stripe's meters counts."""
    found: dict[str, str] = {}
    for part in names(env, name, default=[]):
        event_name, _, unit = part.partition(":")
        if not event_name or unit not in units or event_name in found or len(event_name) > 100:
            raise ImproperlyConfigured(
                f"{name} must name each meter once, as its event name, a colon and one of {', '.join(units)}, "
                f"such as llm_cost:{units[0]}; not {part!r}."
            )
        found[event_name] = unit
    return found


def percentage(env: environ.Env, name: str, *, default: int) -> int:
    """A whole percentage from 0 to 100."""
    return whole(env, name, default=default, maximum=100)


def whole(env: environ.Env, name: str, *, default: int, maximum: int, minimum: int = 0) -> int:
    """A whole number from `minimum` to `maximum`."""
    raw = _raw(env, name, str(default))
    if not (raw.isascii() and raw.isdecimal() and len(raw) <= 10 and minimum <= int(raw) <= maximum):
        raise ImproperlyConfigured(f"{name} must be a whole number from {minimum} to {maximum}, not {raw!r}.")
    return int(raw)


def exchange_rates(env: environ.Env, name: str) -> dict[str, Decimal]:
    """`currency=dollars`, comma-separated: what one unit of a currency is worth."""
    found: dict[str, Decimal] = {}
    for part in names(env, name, default=[]):
        currency, _, raw = part.partition("=")
        try:
            rate = money.decimal(raw.strip())
        except money.AmountError:
            rate = Decimal(0)
        if len(currency) != 3 or not currency.isalpha() or rate <= 0:
            raise ImproperlyConfigured(
                f"{name} must give dollars for one unit of each currency, such as eur=1.08,gbp=1.27; not {part!r}."
            )
        found[currency.lower()] = rate
    return found


def choice(env: environ.Env, name: str, *, choices: tuple[Choice, ...], default: Choice) -> Choice:
    """One of the choices, compared without regard to case."""
    raw = _raw(env, name, str(default))
    for option in choices:
        if raw.upper() == str(option).upper():
            return option
    raise ImproperlyConfigured(f"{name} must be one of {', '.join(map(str, choices))}, not {raw!r}.")


def seconds(env: environ.Env, name: str, *, default: int, minimum: int) -> int:
    raw = _raw(env, name, str(default))
    if not (raw.isascii() and raw.isdecimal() and len(raw) < 10 and int(raw) >= minimum):
        raise ImproperlyConfigured(f"{name} must be a whole number of seconds, {minimum} or more; not {raw!r}.")
    return int(raw)
