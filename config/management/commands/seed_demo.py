"""`manage.py seed_demo`"""

import json
import secrets
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import CommandParser
from django.utils import timezone

from config import demo
from governance import ledger
from governance.actions import people, tenancy
from governance.actions.people import Grants
from governance.management.terminal import TerminalCommand
from governance.models import Agent, ApiKey
from governance.models.tenancy import Role, digest_of

OPERATOR = "admin"
CURL = """curl -s {url}/v1/chat/completions \\
  -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
  -d '{{"model": "mistral-small-latest", "max_tokens": 100, "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


class Command(TerminalCommand):
    help = (
        "Add three tenants with agents, budgets, keys and thirty days of spend, and an operator for the console. "
        "A second run adds nothing and prints the same login and keys."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, help="port of the printed address (default: that of APP_URL)")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be added")
        parser.add_argument("--json", action="store_true", help="print the address, login and keys as JSON")

    def handle(self, *, port: int | None, dry_run: bool, **options: Any) -> None:
        url = f"http://127.0.0.1:{port}" if port else settings.APP_URL
        if dry_run:
            self.stdout.write(self._plan())
            return
        now = timezone.now()
        kept = Kept(settings.VAR_DIR / "demo.json")
        agents = demo.cast(now=now)
        if demo.needs_history():
            demo.write_history(agents, now=now, tell=self._progress)
            ledger.roll_windows(now=now)
        login = {"user": OPERATOR, "password": operator(kept)}
        keys = {str(agent): key_of(agent, kept) for group in agents.values() for agent in group}
        kept.save()
        if options["json"]:
            self.stdout.write(json.dumps({"url": url, "login": login, "keys": keys}))
        else:
            self.stdout.write(_told(url, login, keys))

    def _plan(self) -> str:
        names = ", ".join(company.slug for company in demo.COMPANIES)
        history = f"{demo.DAYS} days of spend" if demo.needs_history() else "no spend: there is some already"
        return f"Would add {names}, each with {', '.join(demo.HABITS)}; {len(demo.BUDGETS)} budgets; {history}."

    def _progress(self, day: int) -> None:
        if day % 5 == 0:
            # Not on stdout: that is for the result.
            sys.stderr.write(f"Demo data: day {day} of {demo.DAYS}\n")


class Kept:
    """The demo's secrets, in a file that only its owner reads, so that a second run prints them again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.values: dict[str, str] = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            self.values = {}

    def save(self) -> None:
        self.path.touch(mode=0o600)
        self.path.write_text(json.dumps(self.values, indent=2))


def operator(kept: Kept) -> str:
    """The password of the console's first user. One that somebody changed is theirs, and not known here."""
    password = kept.values.setdefault("password", secrets.token_urlsafe(12))
    user = User.objects.filter(username=OPERATOR).first()
    if user is None:
        owner = User(username=OPERATOR)
        owner.set_password(password)
        people.create(user=owner, grants=Grants(is_superuser=True), by=demo.BY, now=timezone.now())
        return password
    return password if user.check_password(password) else "(as you set it)"


def key_of(agent: Agent, kept: Kept) -> str:
    """The agent's demo key: the one of an earlier run while it works, else a new one."""
    text = kept.values.get(str(agent), "")
    known = ApiKey.objects.filter(digest=digest_of(text), agent=agent).first()
    if known is None or not known.is_usable(timezone.now()):
        text, _ = tenancy.issue_key(
            role=Role.AGENT, tenant=agent.tenant, agent=agent, name="demo", by=demo.BY, now=timezone.now()
        )
        kept.values[str(agent)] = text
    return text


def _told(url: str, login: dict[str, str], keys: dict[str, str]) -> str:
    width = max(map(len, keys))
    lines = [
        f"Console   {url}/admin/   user {login['user']}   password {login['password']}",
        f"API docs  {url}/api/docs",
        "",
        "A key for each agent:",
        *(f"  {name:<{width}}  {key}" for name, key in keys.items()),
        "",
        "Try a call:",
        CURL.format(url=url, key=next(iter(keys.values()))),
    ]
    return "\n".join(lines)
