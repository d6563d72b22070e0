"""Alerts reach their receivers: once, signed, in order, also where a receiver or a worker was away."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from governance import alerts, ledger
from governance.actions import alert_channels, allowances, budgets
from governance.alerts import channels, outbox
from governance.alerts.channels import NotSent
from governance.alerts.messages import Message
from governance.models import Alert, AlertChannel, AlertDelivery, AlertNotice, BudgetEvent
from governance.rules import alerting
from governance.rules.errors import NotOpen
from governance.upkeep import telling
from tests import factories as make
from tests.factories import NOON
from tests.fakes.alert_receivers import MailSink, Receiver
from tests.governance.alerts.conftest import ADA, mail_to, webhook_to

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> Any:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spend(cost: str) -> None:
    op = make.reserving(cost)
    ledger.reserve(op, now=NOON)
    ledger.settle(make.settling(op.reservation_id, cost), now=NOON)


def test_a_threshold_is_told_once_by_mail_and_by_webhook_with_the_page_where_one_acts(
    hook: Receiver, mail: MailSink, clock: Clock
) -> None:
    budget = make.budget("1.00")
    _, secret = webhook_to(hook)
    mail_to("owner@example.com, second@example.com")
    spend("0.80")
    assert telling.run(clock=clock) == 2
    assert telling.run(clock=clock) == 0

    [(headers, body)] = hook.got
    assert Webhook(secret).verify(body.decode(), headers)["type"] == "alert.opened"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.decode().replace("0.80", "0.10"), headers)
    [data] = [each["data"] for each in hook.bodies]
    assert (data["kind"], data["severity"], data["tenant"]) == ("budget_threshold", "warning", "acme")
    assert data["facts"]["spent"] == "0.80"
    assert data["facts"]["threshold"] == "0.75"
    [told] = mail.got
    assert told["subject"] == "The daily budget of acme is at 75%"
    assert mail.recipients == [["owner@example.com", "second@example.com"]]
    text = told.get_body(("plain",))
    assert text is not None
    words = text.get_content()
    assert "$0.80 of $1.00 are spent (80%). It resets at 00:00 on 2026-03-11 (UTC)." in words
    assert f"http://127.0.0.1:8000/admin/governance/budget/{budget.pk}/change/" in words
    assert told["message-id"].startswith("<")
    assert told["auto-submitted"] == "auto-generated"


def test_a_channel_says_it_in_its_own_words_and_names_in_them_are_words(mail: MailSink, clock: Clock) -> None:
    budget = make.budget("1.00")
    text = "Hello {customer},\n{advice}\n\n{message}\n<b>Call</b> 555-0199 or see {link}"
    mail_to(subject_template="[{severity}] {title}", text_template=text)
    spend("0.80")
    assert telling.run(clock=clock) == 1
    [told] = mail.got
    assert told["subject"] == "[warning] The daily budget of acme is at 75%"
    plain, html = told.get_body(("plain",)), told.get_body(("html",))
    assert plain is not None
    assert html is not None
    link = f"http://127.0.0.1:8000/admin/governance/budget/{budget.pk}/change/"
    assert plain.get_content().splitlines() == [
        "Hello acme,",
        "",
        "$0.80 of $1.00 are spent (80%). It resets at 00:00 on 2026-03-11 (UTC).",
        f"<b>Call</b> 555-0199 or see {link}",
    ]
    shown = html.get_content()
    assert f'&lt;b&gt;Call&lt;/b&gt; 555-0199 or see <a href="{link}">{link}</a>' in shown
    assert "Hello acme,<br>" in shown
    assert "Sent by" not in shown


def test_a_digest_in_own_words_has_each_alert_in_them(mail: MailSink, clock: Clock) -> None:
    mail_to(text_template="* {title} ({link})")
    for subject in ("<b>{link}", "two"):
        alerts.report(kind="dead_letter", subject=subject, message="It failed.", now=NOON)
    assert telling.run(clock=clock) == 1
    [told] = mail.got
    plain, html = told.get_body(("plain",)), told.get_body(("html",))
    assert plain is not None
    assert html is not None
    page = "http://127.0.0.1:8000/admin/billing/stripeevent/"
    assert told["subject"] == "2 alerts, the gravest: An event of Stripe's was given up: <b>{link}"
    # What a name says is neither filled in nor markup.
    assert plain.get_content().splitlines() == [
        f"* An event of Stripe's was given up: <b>{{link}} ({page})",
        "",
        f"* An event of Stripe's was given up: two ({page})",
    ]
    assert "given up: &lt;b&gt;{link} (<a " in html.get_content()


def test_a_warning_says_when_it_runs_out_as_that_was_last_kept(hook: Receiver, clock: Clock) -> None:
    owner = make.tenant(time_zone="Europe/Paris")
    budget = make.budget("1.00", tenant=owner)
    webhook_to(hook)
    make.kept_forecast(budget, now=NOON, runs_out_in=timedelta(hours=3))
    spend("0.80")
    telling.run(clock=clock)
    [body] = hook.bodies
    assert body["data"]["message"] == (
        "$0.80 of $1.00 are spent (80%). At the usual pace it runs out about 16:00 on 2026-03-10 (Europe/Paris)."
        " It resets at 00:00 on 2026-03-11 (Europe/Paris)."
    )
    facts = body["data"]["facts"]
    assert (facts["runs_out_at"], facts["resets_at"]) == ("2026-03-10T15:00:00Z", "2026-03-10T23:00:00Z")
    spend("0.20")
    telling.run(clock=clock)
    assert "runs out" not in hook.bodies[-1]["data"]["message"]
    assert hook.bodies[-1]["data"]["facts"]["runs_out_at"] is None


def test_one_call_from_nothing_to_the_end_is_one_message(hook: Receiver, clock: Clock) -> None:
    make.budget("1.00")
    webhook_to(hook, min_severity="info")
    spend("1.00")
    assert BudgetEvent.objects.filter(untold=True).count() > 4
    telling.run(clock=clock)
    [body] = hook.bodies
    assert body["data"]["title"] == "Stopped: the daily budget of acme is used up"
    assert body["data"]["severity"] == "critical"


def test_a_call_that_is_too_large_for_the_rest_is_no_end_of_the_budget(hook: Receiver, clock: Clock) -> None:
    make.budget("1.00")
    webhook_to(hook)
    spend("0.40")
    ledger.reserve(make.reserving("0.70"), now=NOON)
    telling.run(clock=clock)
    spend("0.60")
    telling.run(clock=clock)
    small, end = (each["data"] for each in hook.bodies)
    assert (small["title"], small["severity"]) == (
        "A call was refused: the daily budget of acme has too little left",
        "critical",
    )
    assert small["message"] == (
        "$0.40 of $1.00 are spent (40%). A call that may cost more than what is left was refused; smaller ones go"
        " through. It resets at 00:00 on 2026-03-11 (UTC)."
    )
    assert end["title"] == "Stopped: the daily budget of acme is used up"
    assert "(100%). Calls under it are refused from now on." in end["message"]


def test_what_is_raised_or_reset_is_over_for_those_who_keep_incidents(
    hook: Receiver, mail: MailSink, clock: Clock
) -> None:
    budget = make.budget("1.00")
    webhook_to(hook)
    mail_to()
    spend("1.00")
    telling.run(clock=clock)
    budgets.change(budget=budget, changes={"limit_nanos": make.nanos("10.00")}, by=ADA, now=NOON + MINUTE)
    clock.now += MINUTE
    telling.run(clock=clock)
    began, over = (body["data"] for body in hook.bodies)
    assert (began["what"], over["what"]) == ("opened", "over")
    assert began["incident"] == over["incident"]
    assert over["title"] == "Over: The daily budget of acme"
    # Nobody is mailed that a budget has money.
    assert len(mail.got) == 1
    assert telling.run(clock=clock) == 0


def test_that_a_budget_is_deleted_or_switched_off_ends_its_incident(hook: Receiver, clock: Clock) -> None:
    budget = make.budget("1.00", window="lifetime")
    webhook_to(hook)
    spend("1.00")
    telling.run(clock=clock)
    assert not budgets.delete(budget=budget, by=ADA, now=NOON)
    telling.run(clock=clock)
    assert [body["data"]["what"] for body in hook.bodies] == ["opened", "over"]
    assert hook.bodies[-1]["data"]["message"] == "The budget was deleted, or is switched off."


def test_the_next_window_tells_again(hook: Receiver, clock: Clock) -> None:
    budget = make.budget("1.00")
    webhook_to(hook)
    spend("0.80")
    telling.run(clock=clock)
    budgets.reset(budget=budget, reason="a new day", by=ADA, now=NOON + MINUTE)
    telling.run(clock=clock)
    spend_at = NOON + 2 * MINUTE
    op = make.reserving("0.80")
    ledger.reserve(op, now=spend_at)
    ledger.settle(make.settling(op.reservation_id, "0.80"), now=spend_at)
    telling.run(clock=clock)
    assert [body["data"]["what"] for body in hook.bodies] == ["opened", "over", "opened"]


def test_a_receiver_that_is_down_for_an_hour_gets_it_once_when_it_is_back(hook: Receiver, clock: Clock) -> None:
    webhook_to(hook)
    alerts.report(kind="dead_letter", subject="evt_1", message="It failed twelve times.", now=NOON)
    hook.answers = [-1] * 1000
    tries = 0
    while clock.now < NOON + HOUR:
        telling.run(clock=clock)
        tries = AlertDelivery.objects.get().tries
        clock.now += timedelta(seconds=10)
    assert 8 <= tries <= 12
    channel = AlertChannel.objects.get()
    assert channel.failures == tries
    assert "cannot be reached" in channel.last_error
    hook.answers = []
    while not hook.got and clock.now < NOON + 2 * HOUR:
        telling.run(clock=clock)
        clock.now += timedelta(seconds=10)
    assert clock.now - NOON < HOUR + 16 * MINUTE
    for _ in range(10):
        telling.run(clock=clock)
        clock.now += 20 * MINUTE
    assert [body["data"]["title"] for body in hook.bodies] == ["An event of Stripe's was given up: evt_1"]


def test_three_failures_and_then_it_comes_once_under_one_id(hook: Receiver, clock: Clock) -> None:
    webhook_to(hook)
    alerts.report(kind="price_missing", subject="large", message="It is in use.", now=NOON)
    hook.answers = [500, 503, 302]
    for _ in range(12):
        telling.run(clock=clock)
        clock.now += MINUTE
    assert len(hook.got) == 4
    assert len({headers["webhook-id"] for headers, _ in hook.got}) == 1
    assert AlertDelivery.objects.get().state == "sent"


def test_what_nobody_takes_for_a_day_is_given_up_told_elsewhere_and_can_be_replayed(
    hook: Receiver, mail: MailSink, clock: Clock
) -> None:
    channel, _ = webhook_to(hook, areas=["billing"])
    mail_to(areas=["operations"])
    alerts.report(kind="dead_letter", subject="evt_1", message="It failed twelve times.", now=NOON)
    hook.answers = [500] * 100
    while clock.now < NOON + 27 * HOUR:
        telling.run(clock=clock)
        clock.now += 5 * MINUTE
    row = AlertDelivery.objects.get(channel=channel)
    assert (row.state, row.error) == ("dead", "It answers 500.")
    [told] = mail.got
    assert told["subject"] == "Alerts do not arrive: pager"
    hook.answers, hook.got = [], []
    alert_channels.replay(delivery=row, by=ADA, now=clock.now, reason="mended")
    telling.run(clock=clock)
    assert len(hook.got) == 1
    telling.run(clock=clock)
    assert [message["subject"] for message in mail.got][1:] == ["Over: Alerts do not arrive: pager"]


def test_a_message_that_is_refused_holds_up_no_other(hook: Receiver, clock: Clock, monkeypatch: Any) -> None:
    webhook_to(hook)
    taken = []

    def send(target: Any, message: Message) -> None:
        [alert] = message.data["alerts"]
        if alert["kind"] == "dead_letter":
            raise NotSent("It answers 500.")
        taken.append(alert["facts"]["subject"])

    monkeypatch.setattr(channels, "send", send)
    for number in range(3):
        alerts.report(kind="dead_letter", subject=f"evt_{number}", message="It failed twelve times.", now=NOON)
    alerts.report(kind="ledger_drift", subject="ledger", message="2 figures.", severity="critical", now=NOON)
    while clock.now < NOON + MINUTE:
        telling.run(clock=clock)
        clock.now += timedelta(seconds=10)
    assert taken == ["ledger"]
    # And long after they were refused first.
    clock.now += HOUR
    telling.run(clock=clock)
    alerts.report(kind="ledger_drift", subject="window", message="2 figures.", severity="critical", now=clock.now)
    for _ in range(6):
        telling.run(clock=clock)
        clock.now += timedelta(seconds=10)
    assert taken == ["ledger", "window"]


def test_what_a_receiver_that_is_away_was_told_for_a_day_is_given_up_one_after_another(
    hook: Receiver, clock: Clock
) -> None:
    channel, _ = webhook_to(hook)
    for number in range(3):
        alerts.report(kind="dead_letter", subject=f"evt_{number}", message="It failed twelve times.", now=NOON)
    telling.run(clock=clock)
    # As if each had waited for a day since.
    hook.answers = [-1] * 9
    AlertDelivery.objects.update(state="pending", sent_at=None, next_at=NOON, tries=1)
    AlertChannel.objects.update(failures=alerting.MOST_TRIES, retry_at=None)
    clock.now = NOON + timedelta(hours=25)
    for _ in range(3):
        telling.run(clock=clock)
        clock.now += HOUR + MINUTE
    assert {row.state for row in AlertDelivery.objects.filter(channel=channel)} == {"dead"}
    assert Alert.objects.get(kind="alerts_undelivered").subject == channel.name


def test_what_waits_for_a_moment_that_a_clock_was_ahead_of_does_not_wait(hook: Receiver, clock: Clock) -> None:
    webhook_to(hook)
    clock.now = NOON + timedelta(days=30)
    alerts.report(kind="dead_letter", subject="evt_1", message="It failed twelve times.", now=clock.now)
    hook.answers = [-1]
    telling.run(clock=clock)
    clock.now = NOON
    alerts.report(kind="ledger_drift", subject="", message="2 figures.", severity="critical", now=NOON)
    assert telling.run(clock=clock) == 1


def test_a_worker_that_died_over_a_message_leaves_it_to_the_next_one_under_the_same_id(
    hook: Receiver, clock: Clock
) -> None:
    webhook_to(hook)
    alerts.report(kind="dead_letter", subject="evt_1", message="It failed twelve times.", now=NOON)
    outbox.spread(now=NOON)
    [claimed] = outbox.claim(now=NOON)
    assert outbox._send(claimed) is None
    # It is dead, and never marks. Nobody else sends meanwhile.
    assert telling.run(clock=clock) == 0
    clock.now += outbox.LEASE
    assert telling.run(clock=clock) == 1
    assert len({headers["webhook-id"] for headers, _ in hook.got}) == 1
    # It was not dead, and marks late: the later claim has the word.
    outbox.mark(claimed, error=NotSent("It answers 500."), now=clock.now)
    assert AlertDelivery.objects.get().state == "sent"


def test_that_it_is_over_comes_after_that_it_began(hook: Receiver, clock: Clock) -> None:
    webhook_to(hook)
    alerts.report(kind="provider_unusable", subject="groq", message="No key.", now=NOON, severity="critical")
    hook.answers = [500]
    telling.run(clock=clock)
    alerts.clear(kind="provider_unusable", subject="groq", now=NOON)
    telling.run(clock=clock)
    assert len(hook.got) == 1
    for _ in range(3):
        clock.now += MINUTE
        telling.run(clock=clock)
    assert [body["data"]["what"] for body in hook.bodies] == ["opened", "opened", "over"]


def test_what_began_and_ended_before_anybody_was_told_is_no_open_incident(hook: Receiver, clock: Clock) -> None:
    webhook_to(hook)
    alerts.report(kind="provider_unusable", subject="groq", message="No key.", now=NOON, severity="critical")
    alerts.clear(kind="provider_unusable", subject="groq", now=NOON)
    telling.run(clock=clock)
    assert [body["data"]["what"] for body in hook.bodies] == ["opened", "over"]


def test_a_flood_is_one_mail_the_gravest_first(mail: MailSink, clock: Clock) -> None:
    mail_to()
    for number in range(40):
        alerts.report(kind="price_missing", subject=f"model-{number}", message="It is in use.", now=NOON)
    alerts.report(kind="ledger_drift", subject="", message="2 figures.", severity="critical", now=NOON)
    telling.run(clock=clock)
    [told] = mail.got
    assert told["subject"] == "41 alerts, the gravest: The ledger has drifted"
    text = told.get_body(("plain",))
    assert text is not None
    assert "And 16 more, the mildest: http://127.0.0.1:8000/admin/governance/alertdelivery/" in text.get_content()
    # A flood goes on as one mail a minute.
    alerts.report(kind="price_missing", subject="model-x", message="It is in use.", now=NOON)
    telling.run(clock=clock)
    assert len(mail.got) == 1
    clock.now += MINUTE
    telling.run(clock=clock)
    assert len(mail.got) == 2


def test_quiet_hours_hold_back_what_can_wait_and_nothing_else(mail: MailSink, clock: Clock) -> None:
    mail_to(quiet_from="08:00", quiet_until="14:00")
    alerts.report(kind="price_missing", subject="large", message="It is in use.", now=NOON)
    telling.run(clock=clock)
    assert mail.got == []
    alerts.report(kind="ledger_drift", subject="", message="2 figures.", severity="critical", now=NOON)
    telling.run(clock=clock)
    assert len(mail.got) == 1
    clock.now += 2 * HOUR
    telling.run(clock=clock)
    assert mail.got[1]["subject"] == "A model in use has no price: large"


def test_what_a_receiver_did_not_take_before_quiet_hours_waits_for_their_end(mail: MailSink, clock: Clock) -> None:
    mail_to(quiet_from="12:30", quiet_until="20:00")
    alerts.report(kind="price_missing", subject="large", message="It is in use.", now=NOON)
    mail.refuses = "451 come back later"
    telling.run(clock=clock)
    clock.now += 45 * MINUTE
    mail.refuses = ""
    telling.run(clock=clock)
    assert mail.got == []
    alerts.report(kind="ledger_drift", subject="", message="2 figures.", severity="critical", now=clock.now)
    telling.run(clock=clock)
    assert [told["subject"] for told in mail.got] == ["The ledger has drifted"]
    clock.now = NOON + 8 * HOUR
    telling.run(clock=clock)
    assert [told["subject"] for told in mail.got][1:] == ["A model in use has no price: large"]


def test_what_went_along_with_something_critical_breaks_quiet_hours_with_it(mail: MailSink, clock: Clock) -> None:
    mail_to(quiet_from="12:30", quiet_until="20:00")
    alerts.report(kind="price_missing", subject="large", message="It is in use.", now=NOON)
    alerts.report(kind="ledger_drift", subject="", message="2 figures.", severity="critical", now=NOON)
    mail.refuses = "451 come back later"
    telling.run(clock=clock)
    clock.now += 45 * MINUTE
    mail.refuses = ""
    telling.run(clock=clock)
    [told] = mail.got
    assert told["subject"] == "2 alerts, the gravest: The ledger has drifted"
    # A person sends it again, at any hour.
    row = AlertDelivery.objects.get(notice__kind="price_missing")
    alert_channels.replay(delivery=row, by=ADA, now=clock.now, reason="lost")
    assert telling.run(clock=clock) == 1


def test_quiet_hours_of_a_zone_that_is_gone_are_none(mail: MailSink, clock: Clock) -> None:
    channel = mail_to(quiet_from="08:00", quiet_until="14:00")
    alerts.report(kind="ledger_drift", subject="", message="2 figures.", severity="critical", now=NOON)
    outbox.spread(now=NOON)
    AlertChannel.objects.filter(pk=channel.pk).update(time_zone="Mars/Base")
    telling.run(clock=clock)
    assert AlertDelivery.objects.get().error == "It cannot be written; the log says why."


def test_that_it_is_over_waits_until_its_beginning_is_before_the_channels(hook: Receiver, clock: Clock) -> None:
    webhook_to(hook)
    alerts.report(kind="dead_letter", subject="evt_1", message="It failed twelve times.", now=NOON)
    alerts.clear(kind="dead_letter", subject="evt_1", now=NOON)
    opened, over = AlertNotice.objects.order_by("pk")
    # Another worker holds the beginning's row, which is skipped here.
    assert outbox._begun_elsewhere([over]) == {over.incident}
    assert outbox._begun_elsewhere([opened, over]) == set()


def test_a_customers_channel_hears_of_that_customer_alone_and_of_nothing_wider(mail: MailSink, clock: Clock) -> None:
    acme, other = make.tenant("acme"), make.tenant("other")
    mail_to("acme@example.com", "acme", tenant=acme, min_severity="info")
    mail_to("other@example.com", "other", tenant=other, min_severity="info")
    make.budget("1.00", tenant=acme)
    make.budget("1.00", scope_type="platform")
    spend("0.80")
    alerts.report(kind="ledger_drift", subject="", message="2 figures.", severity="critical", now=NOON, tenant=acme)
    telling.run(clock=clock)
    assert mail.recipients == [["acme@example.com"]]
    assert mail.got[0]["subject"] == "The daily budget of acme is at 75%"


def test_a_customers_channel_is_told_that_an_operator_acted_and_the_operators_who_it_was(
    mail: MailSink, hook: Receiver, clock: Clock
) -> None:
    acme = make.tenant()
    budget = make.budget("1.00", tenant=acme)
    webhook_to(hook, min_severity="info")
    theirs = mail_to("acme@example.com", "acme", tenant=acme, min_severity="info")
    spend("0.10")
    budgets.reset(budget=budget, reason="a launch", by=ADA, now=NOON)
    wrong = alerts.report(
        kind="velocity", subject="it", message="Fast.", now=NOON, tenant=acme, is_for_tenant=True, severity="critical"
    )
    telling.run(clock=clock)
    alerts.acknowledge(alert=wrong, by=ADA, now=NOON)
    clock.now += MINUTE
    telling.run(clock=clock)
    alert_channels.try_out(channel=theirs, by=ADA, clock=clock)
    told = [body["data"]["message"] for body in hook.bodies]
    assert any(words.endswith("Reason: a launch. By ada.") for words in told)
    assert "It was seen to. By ada." in told
    sent = "\n".join(str(each.get_body(("plain",))) for each in mail.got)
    assert sent.count("By an operator.") == 3
    assert "ada" not in sent


def test_a_channel_that_is_switched_off_gets_nothing_of_then_when_it_is_on_again(hook: Receiver, clock: Clock) -> None:
    channel, _ = webhook_to(hook)
    alerts.report(kind="dead_letter", subject="evt_1", message="It failed.", now=NOON)
    outbox.spread(now=NOON)
    alert_channels.change(channel=channel, changes={"enabled": False}, by=ADA, now=NOON)
    alerts.report(kind="dead_letter", subject="evt_2", message="It failed.", now=NOON)
    telling.run(clock=clock)
    with pytest.raises(NotOpen):
        alert_channels.try_out(channel=AlertChannel.objects.get(), by=ADA, clock=clock)
    with pytest.raises(NotOpen):
        alert_channels.replay(delivery=AlertDelivery.objects.get(), by=ADA, now=NOON)
    alert_channels.change(channel=channel, changes={"enabled": True}, by=ADA, now=NOON)
    telling.run(clock=clock)
    assert hook.got == []
    assert AlertDelivery.objects.get().state == "dropped"


def test_the_button_tries_a_channel_at_once_whatever_waits(hook: Receiver, clock: Clock) -> None:
    channel, _ = webhook_to(hook)
    alerts.report(kind="dead_letter", subject="evt_1", message="It failed.", now=NOON)
    hook.answers = [500, 500]
    telling.run(clock=clock)
    assert alert_channels.try_out(channel=channel, by=ADA, clock=clock).error == "It answers 500."
    tried = alert_channels.try_out(channel=channel, by=ADA, clock=clock)
    assert tried.state == "sent"
    assert hook.bodies[-1]["type"] == "alert.test"


def test_a_graver_repeat_is_told_once_and_a_repeat_is_not(hook: Receiver, clock: Clock) -> None:
    webhook_to(hook)
    for severity in ("warning", "warning", "critical", "warning", "critical"):
        alerts.report(kind="provider_disagrees", subject="openai", message="$1 more.", now=NOON, severity=severity)
        telling.run(clock=clock)
    assert [body["data"]["severity"] for body in hook.bodies] == ["warning", "critical"]


def test_what_comes_again_after_days_of_silence_is_told_again(hook: Receiver, clock: Clock) -> None:
    webhook_to(hook)
    for days in (0, 1, 3, 7):
        at = NOON + timedelta(days=days)
        alerts.report(kind="topup_checkout", subject="stripe", message=f"Day {days}.", now=at)
    assert telling.run(clock=clock) == 1
    alerts.report(kind="topup_checkout", subject="stripe", message="Soon after.", now=NOON + timedelta(days=8))
    assert telling.run(clock=clock) == 0
    alerts.report(kind="topup_checkout", subject="stripe", message="Again.", now=NOON + timedelta(days=12))
    assert telling.run(clock=clock) == 1
    assert [body["data"]["message"] for body in hook.bodies] == ["Day 7.", "Again."]
    assert len({body["data"]["incident"] for body in hook.bodies}) == 1


def test_what_was_done_about_it_is_in_the_message_that_waits_or_in_another_one(hook: Receiver, clock: Clock) -> None:
    webhook_to(hook)
    alerts.report(kind="anomaly", subject="a", message="It spends.", now=NOON)
    alerts.report(kind="anomaly", subject="a", message="It spends. It was paused.", is_news=True, now=NOON)
    telling.run(clock=clock)
    alerts.report(kind="anomaly", subject="a", message="It spends. It is degraded.", is_news=True, now=NOON)
    alerts.report(kind="anomaly", subject="a", message="It spends more.", now=NOON)
    telling.run(clock=clock)
    told = [(each["data"]["message"], each["data"]["incident"]) for each in hook.bodies]
    incident = told[0][1]
    assert told == [("It spends. It was paused.", incident), ("It spends. It is degraded.", incident)]


def test_what_is_kept_goes_after_ninety_days(hook: Receiver, clock: Clock) -> None:
    webhook_to(hook)
    alerts.report(kind="dead_letter", subject="evt_1", message="It failed.", now=NOON)
    telling.run(clock=clock)
    assert outbox.purge(now=NOON + outbox.KEPT) == 0
    assert outbox.purge(now=NOON + outbox.KEPT + MINUTE) == 1
    assert not AlertDelivery.objects.exists()


def test_channels_of_the_environment_come_and_go_with_it(settings: Any, mail: MailSink, clock: Clock) -> None:
    settings.ALERT_URLS = ["mailto:ops@example.com", "pagerduty://integration@key"]
    telling.run(clock=clock)
    by_name = {row.name: row for row in AlertChannel.objects.all()}
    assert by_name["ALERT_URLS 1"].target == "ops@example.com"
    assert by_name["ALERT_URLS 2"].is_pager
    assert "integration" not in str(by_name["ALERT_URLS 2"].__dict__)
    settings.ALERT_URLS = ["mailto:ops@example.com"]
    alerts.report(kind="dead_letter", subject="evt_1", message="It failed.", now=NOON)
    telling.run(clock=clock)
    assert mail.recipients == [["ops@example.com"]]
    assert not AlertChannel.objects.get(name="ALERT_URLS 2").enabled
    assert telling.run(clock=clock) == 0
    settings.ALERT_URLS = ["mailto:ops@example.com", "pagerduty://integration@key"]
    telling.run(clock=clock)
    assert AlertChannel.objects.get(name="ALERT_URLS 2").enabled


def test_channels_of_the_environment_stay_what_they_are_when_the_secret_key_is_replaced(
    settings: Any, mail: MailSink, clock: Clock
) -> None:
    settings.ALERT_URLS = ["mailto:ops@example.com"]
    telling.run(clock=clock)
    AlertChannel.objects.update(min_severity="critical")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "another" * 10, [settings.SECRET_KEY]
    telling.run(clock=clock)
    # And once the old one is forgotten.
    settings.SECRET_KEY_FALLBACKS = []
    telling.run(clock=clock)
    assert [(row.enabled, row.min_severity) for row in AlertChannel.objects.all()] == [(True, "critical")]


def test_a_raise_is_no_alarm(hook: Receiver, clock: Clock) -> None:
    budget = make.budget("1.00")
    webhook_to(hook)
    allowances.raise_limit(
        budget=budget, amount_nanos=make.nanos("1.00"), ends_at=NOON + HOUR, reason="a launch", by=ADA, now=NOON
    )
    telling.run(clock=clock)
    assert hook.got == []
    assert not AlertNotice.objects.filter(severity="warning").exists()


def test_what_is_long_over_is_no_news(hook: Receiver, clock: Clock) -> None:
    webhook_to(hook)
    make.budget("1.00")
    make.budget("1.00", window="lifetime")
    spend("0.80")
    clock.now += 25 * HOUR
    telling.run(clock=clock)
    # The day is over; a lifetime is not.
    assert [body["data"]["facts"]["window"] for body in hook.bodies] == ["lifetime"]


def test_what_is_done_to_a_channel_that_somebody_has_deleted_is_refused(
    hook: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _ = webhook_to(hook)
    delivery = alert_channels.try_out(channel=channel, by=ADA, clock=clock)
    alert_channels.delete(channel=AlertChannel.objects.get(), by=ADA, now=NOON)
    for act in (
        lambda: alert_channels.change(channel=channel, changes={"name": "b"}, by=ADA, now=NOON),
        lambda: alert_channels.rotate(channel=channel, by=ADA, now=NOON),
        lambda: alert_channels.delete(channel=channel, by=ADA, now=NOON),
        lambda: alert_channels.try_out(channel=channel, by=ADA, clock=clock),
        lambda: alert_channels.replay(delivery=delivery, by=ADA, now=NOON),
    ):
        with pytest.raises(NotOpen, match="deleted the channel"):
            act()
    # And while its message is under way.
    other, _ = webhook_to(hook, "another")
    monkeypatch.setattr(outbox, "send_first", lambda **_: AlertChannel.objects.get().delete())
    with pytest.raises(NotOpen, match="deleted the channel"):
        alert_channels.try_out(channel=other, by=ADA, clock=clock)


def test_a_trial_that_a_worker_is_spreading_waits_for_it(hook: Receiver, clock: Clock, monkeypatch: Any) -> None:
    channel, _ = webhook_to(hook)
    monkeypatch.setattr(outbox, "spread", lambda **_: 0)
    with pytest.raises(NotOpen, match="still under way"):
        alert_channels.try_out(channel=channel, by=ADA, clock=clock, waits_s=0)
