"""The console's playground: what would happen to a call that one thinks of. Nothing is sent, reserved or written.

It is asked as `POST /api/decisions` asks: the same form, the same prices, the same decision. A prompt is counted as the
gateway counts it. A tenant's own staff asks for its own tenant, and is told of wider limits what its keys are told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from governance import ledger, ports
from governance.api import decisions
from governance.api.decisions import DecisionRequest
from governance.console import display
from governance.console.base import has_role, may, reader
from governance.console.pages import ConsolePage
from governance.ledger.results import LedgerError
from governance.models import ApiKey, Budget, RateLimit, Tenant
from governance.models.budgets import ScopeType
from governance.models.tenancy import Role
from governance.rules import money, price_sentence, refusals, remedies
from governance.rules.calls import Caller
from governance.rules.decision import Action, Call, Decision, Quote, WindowView
from governance.rules.errors import FieldError
from governance.rules.visibility import Audience
from llm.catalogue import snapshot
from llm.queries import prompts
from llm.queries.prompts import PromptRefused

LONGEST_PROMPT = 20_000
# More keys than this are not offered by name.
MOST_KEYS = 200
# Fields of the form, and what the address may say of them.
FIELDS = ("tenant", "key", "agent", "user", "model", "input_tokens", "prompt", "max_tokens", "tools")
WORDS = {"input_tokens": "Input tokens", "max_tokens": "Most output tokens", "tenant": "Customer"}
TONES = {Action.ALLOW: "active", Action.HARD_STOP: "stopped", Action.IN_FLIGHT: "stopped"}
VERDICTS = {
    Action.ALLOW: "It would go as it is asked for",
    Action.WARN: "It would go, announced as near a budget's cap",
    Action.DEGRADE: "It would go to a cheaper model",
    Action.DISABLE_TOOLS: "It would go without some of its tools",
    Action.HARD_STOP: "It would be refused",
    Action.IN_FLIGHT: "It would have to wait",
}


@dataclass(frozen=True, slots=True)
class AskedCall:
    """What a call is about, as it was typed, and what is wrong with it."""

    typed: Mapping[str, str]
    allow_downgrade: bool
    errors: tuple[tuple[str, str], ...] = ()
    tenant: Tenant | None = None
    key: ApiKey | None = None

    @property
    def is_complete(self) -> bool:
        return bool(self.typed["model"] and (self.typed["prompt"] or self.typed["input_tokens"]))


class _NotFound(Exception):
    """Whose call it is cannot be said; `field` is the one at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class BudgetVerdict:
    """A budget that was looked at, and what it would do. What its reader may not know is a dash."""

    name: str
    link: str
    state: str
    spent: SafeString | str
    reserved: SafeString | str
    limit: SafeString | str
    remaining: SafeString | str
    words: str
    tone: str


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    by = reader(request)
    asked = _asked(request, by.tenant, now)
    audience = Audience(is_tenants=by.tenant is not None)
    page: dict[str, Any] = {
        "typed": asked.typed,
        "allow_downgrade": asked.allow_downgrade,
        "is_bound": by.tenant is not None,
        "models": ports.model_names(),
        "keys": _keys(by.tenant, now).order_by("-id")[:MOST_KEYS] if may(request, "governance.view_apikey") else [],
        "tenants": [] if by.tenant else Tenant.objects.order_by("slug").values_list("slug", flat=True)[:200],
        "longest_prompt": LONGEST_PROMPT,
        "errors": asked.errors,
    }
    if asked.errors or not asked.is_complete or asked.tenant is None:
        return page
    try:
        call = _call(asked, asked.tenant, audience)
        decision = ledger.dry_run(_caller(asked, asked.tenant), call, now=now)
    except PromptRefused as error:
        return page | {"errors": [("Prompt", str(error))]}
    except (FieldError, LedgerError) as error:
        return page | {"errors": [("", str(error))]}
    shown = answer(decision, call, audience=audience, now=now)
    return page | {"answer": shown, "needs_key": asked.key is None and _has_limits_of_keys(asked.tenant)}


def _keys(tenant: Tenant | None, now: datetime) -> QuerySet[ApiKey]:
    """Those that models can be called with; a tenant's own."""
    rows = ApiKey.objects.filter(role__in=(Role.TENANT, Role.AGENT), revoked_at=None).exclude(expires_at__lte=now)
    return (rows.filter(tenant=tenant) if tenant else rows).select_related("tenant", "agent")


def _has_limits_of_keys(tenant: Tenant) -> bool:
    """Whether some limits cannot be asked without a key, which every real call has."""
    of_keys = Q(scope_type=ScopeType.KEY, enabled=True) & (Q(tenant=tenant) | Q(tenant=None))
    return Budget.objects.filter(of_keys).exists() or RateLimit.objects.filter(of_keys).exists()


def _asked(request: HttpRequest, bound_to: Tenant | None, now: datetime) -> AskedCall:
    sent = request.POST if request.method == "POST" else request.GET
    typed = {name: sent.get(name, "").strip() for name in FIELDS}
    typed["max_tokens"] = typed["max_tokens"] if typed["max_tokens"] or "max_tokens" in sent else "512"
    # A box that is not ticked is not sent; without a form there is none.
    allow_downgrade = "allow_downgrade" in sent or not typed["model"] or request.method != "POST"
    if bound_to is not None:
        typed["tenant"] = bound_to.slug
    if not typed["model"]:
        return AskedCall(typed, allow_downgrade)
    errors: list[tuple[str, str]] = []
    tenant, key = bound_to, None
    if typed["prompt"] and typed["input_tokens"]:
        errors.append(("Prompt", "give either it or a number of input tokens, not both."))
    if len(typed["prompt"]) > LONGEST_PROMPT:
        errors.append(("Prompt", f"has at most {LONGEST_PROMPT:,} letters here."))
    if not typed["prompt"] and not typed["input_tokens"]:
        if request.method == "POST":
            errors.append(("Input tokens", "give them, or a prompt."))
        return AskedCall(typed, allow_downgrade, tuple(errors))
    try:
        tenant, key = _whose(typed, bound_to, now)
    except _NotFound as error:
        errors.append((error.field, str(error)))
    serializer = DecisionRequest(data=_body(typed, allow_downgrade))
    if not serializer.is_valid():
        errors += [
            (WORDS.get(name, str(name).replace("_", " ").capitalize()), _first(why))
            for name, why in serializer.errors.items()
        ]
    return AskedCall(typed, allow_downgrade, tuple(errors), tenant, key)


def _whose(typed: dict[str, str], bound_to: Tenant | None, now: datetime) -> tuple[Tenant, ApiKey | None]:
    """Whose call it is, and by which key, which says the customer and the agent itself. Raises _NotFound."""
    if "\0" in typed["tenant"] + typed["key"]:
        raise _NotFound("Key" if "\0" in typed["key"] else "Customer", "is no name.")
    if not typed["key"]:
        tenant = bound_to or Tenant.objects.filter(slug=typed["tenant"]).first()
        if tenant is None:
            found = typed["tenant"]
            word = f'there is no customer "{found[:60]}".' if found else "name the one whose call it is."
            raise _NotFound("Customer", word)
        return tenant, None
    key = _keys(bound_to, now).filter(prefix=typed["key"]).first()
    if key is None or key.tenant is None or typed["tenant"] not in ("", key.tenant.slug):
        raise _NotFound("Key", "models are called with no key of this customer that begins so.")
    typed["tenant"] = key.tenant.slug
    typed["agent"] = key.agent.slug if key.agent else typed["agent"]
    return key.tenant, key


def _first(why: Any) -> str:
    while isinstance(why, list | dict):
        why = next(iter(why.values() if isinstance(why, dict) else why))
    return str(why)


def _body(typed: Mapping[str, str], allow_downgrade: bool) -> dict[str, Any]:
    """As `POST /api/decisions` takes it; in the place of a prompt stands a number of tokens that is not looked at."""
    tools = [name.strip() for name in typed["tools"].split(",") if name.strip()]
    body: dict[str, Any] = {
        "model": typed["model"],
        "tools": tools,
        "allow_downgrade": allow_downgrade,
        "input_tokens": _number(typed["input_tokens"]) if typed["input_tokens"] else 0,
    }
    if typed["max_tokens"]:
        body["max_tokens"] = _number(typed["max_tokens"])
    return body | {name: typed[name] for name in ("agent", "user") if typed[name]}


def _number(text: str) -> int | str:
    """Of digits with their thousands separated or not; anything else as it is, for the form to refuse."""
    digits = text.replace(",", "")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else text


def _valid(asked: AskedCall) -> dict[str, Any]:
    serializer = DecisionRequest(data=_body(asked.typed, asked.allow_downgrade))
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def _caller(asked: AskedCall, tenant: Tenant) -> Caller:
    said = _valid(asked)
    return Caller(
        tenant_id=tenant.pk,
        tenant=tenant.slug,
        agent=said.get("agent", ""),
        key_id=asked.key.pk if asked.key else None,
        key_prefix=asked.key.scope_key if asked.key else "",
        user=said.get("user", ""),
    )


def _call(asked: AskedCall, tenant: Tenant, audience: Audience) -> Call:
    """Raises PromptRefused."""
    said = _valid(asked)
    if not asked.typed["prompt"]:
        return decisions.call_of(said, _caller(asked, tenant), audience)
    found = prompts.read(
        model=said["model"],
        prompt=asked.typed["prompt"],
        max_tokens=said.get("max_tokens"),
        default_max_tokens=tenant.default_max_tokens,
        tools=said["tools"],
        forced_tool=said["forced_tool"],
    )
    return found.call(allow_downgrade=said["allow_downgrade"], shows_amounts=audience.show_amounts)


def answer(decision: Decision, call: Call, *, audience: Audience, now: datetime) -> dict[str, Any]:
    """A decision in sentences."""
    asked = call.quote(call.model)
    refusal = None if decision.allowed else _refusal(decision, audience)
    return {
        "verdict": VERDICTS[decision.action],
        "tone": TONES.get(decision.action, "warned"),
        "action": decision.action.value,
        "refusal": refusal,
        "would_pass": ""
        if decision.allowed
        else remedies.sentence(remedies.remedy(decision, now=now), audience=audience),
        "model": _model_sentence(decision, call),
        "hold": _hold_sentence(decision.quote) if decision.quote else "",
        "needs": _needs(decision, call.model, asked) if not decision.allowed else [],
        "clamp": _clamp_sentence(decision, call),
        "downgrades": [_downgrade_sentence(step, audience) for step in decision.downgrades],
        "taken": ", ".join(decision.disabled_tools),
        "kept": ", ".join(name for name in call.tools if name not in decision.disabled_tools),
        "amount": display.exact(decision.quote.cost_nanos) if decision.quote else "",
        "budgets": [_budget(view, decision, decision.wanted or asked, audience) for view in decision.views],
        "limited_by": decision.limited_by.scope if decision.limited_by else "",
    }


def _refusal(decision: Decision, audience: Audience) -> refusals.Refusal:
    return refusals.refusal(decision, over_budget_status=settings.OVER_BUDGET_STATUS, audience=audience)


def _model_sentence(decision: Decision, call: Call) -> str:
    entry = snapshot.resolve(decision.model)
    means = f", which is {entry.id}" if entry is not None and entry.id != decision.model else ""
    if not decision.allowed:
        return ""
    if decision.model != call.model:
        return f"{decision.model}{means}, in the place of {call.model}."
    return f"{decision.model}{means}, as it was asked for."


def _needs(decision: Decision, model: str, asked: Quote | None) -> list[tuple[str, str]]:
    """(model, sum) at the model that is asked for, and at the one that it would need the least at."""
    least = decision.wanted
    quotes = [asked, least if least is not None and least.model != model else None]
    return [(quote.model, _hold_sentence(quote)) for quote in quotes if quote is not None]


def _hold_sentence(quote: Quote) -> str:
    """The most that it can cost as the sum that it is, rounded up to a nanodollar."""
    parts = []
    if quote.input_tokens:
        picos = quote.fixed_picos // quote.input_tokens
        parts.append(f"{quote.input_tokens:,} in × {price_sentence.a_million(picos)}/M")
    if quote.max_tokens:
        answers = f"{quote.answers} × " if quote.answers > 1 else ""
        each = quote.picos_per_output_token // quote.answers
        parts.append(f"{answers}{quote.max_tokens:,} out × {price_sentence.a_million(each)}/M")
    return f"{' + '.join(parts) or 'Nothing'} = {display.dollars(quote.cost_nanos) if not parts else _exactly(quote)}"


def _exactly(quote: Quote) -> str:
    return f"${money.format_dollars(quote.cost_nanos)}"


def _clamp_sentence(decision: Decision, call: Call) -> str:
    if not decision.clamped or decision.quote is None:
        return ""
    return f"Its answer would be kept to {decision.quote.max_tokens:,} tokens, which is what the money covers."


def _downgrade_sentence(step: Any, audience: Audience) -> str:
    window = audience.window(step.view)
    share = f" from {step.share_e4 / 100:g}% on" if audience.is_own(window.scope) else ""
    return f"{window.name} moves {', '.join(sorted(step.rule.sources))} to {step.rule.to}{share}."


def _budget(view: WindowView, decision: Decision, judged: Quote | None, audience: Audience) -> BudgetVerdict:
    shown = audience.window(view)
    words, tone = _judged(view, decision, judged) if audience.sees_amounts(view.scope) else ("not told to you", "off")
    is_mine = shown.is_own and view.budget_id
    return BudgetVerdict(
        name=shown.name,
        link=reverse("admin:governance_budget_change", args=[view.budget_id]) if is_mine else "",
        state=str(shown.state or ""),
        spent=display.exact(shown.settled_nanos),
        reserved=display.exact(shown.reserved_nanos),
        limit=display.exact(shown.limit_nanos),
        remaining=display.exact(shown.remaining_nanos),
        words=words,
        tone=tone,
    )


def _judged(view: WindowView, decision: Decision, quote: Quote | None) -> tuple[str, str]:
    """What one budget by itself does to the call: at the model asked for, or where it would need the least."""
    if quote is None:
        return "nothing to judge: the model has no price", "off"
    cost = display.dollars(quote.cost_nanos)
    if view.spent_out:
        return "refuses: all of it is spent", "stopped"
    if not view.would_admit_alone(quote.cost_nanos):
        missing = display.dollars(quote.cost_nanos - view.room_nanos - view.reserved_nanos)
        return f"has no room for {cost} (at {quote.model}): {missing} more than is left", "stopped"
    if not view.admits(quote.cost_nanos):
        return f"has room for {cost} once calls in flight give back what they hold", "stopped"
    acts = [f"moves it to {step.rule.to}" for step in decision.downgrades if step.view is view]
    removed = sorted(view.policy.disabled_tools & set(decision.disabled_tools))
    if removed and view.pressed_by(quote.cost_nanos):
        acts.append(f"takes {', '.join(removed)} away")
    if acts:
        return " and ".join(acts), "warned"
    if view.pressed_by(quote.cost_nanos):
        return "lets it through, announced: the hold reaches its soft cap", "warned"
    after = display.dollars(max(0, view.room_nanos - quote.cost_nanos))
    return f"has room: {after} left beside the hold", "active"


PAGE = ConsolePage(
    title="Playground",
    path="models/playground/",
    name="playground",
    template="console/playground.html",
    context=context,
    permission=has_role,
)
