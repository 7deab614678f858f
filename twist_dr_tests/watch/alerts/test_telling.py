"""Who hears of an alert that is about a way to people itself."""

from __future__ import annotations

from twist_dr_tests.watch.alerts.mailbox import Webhook, webhook
from twist_dr_tests.watch.alerts.test_reconcile import HOUR, MINUTE, Place, hook, place, subject, titles

__all__ = ["hook", "place"]


def good_news_is_lost(place: Place, hook: Webhook) -> None:
    """The server is away for just the message that an alert is over; nothing else is wrong."""
    place.tick()
    place.ran()
    place.tick()
    hook.status = 500
    place.ran("succeeded")
    place.tick()
    place.tick()
    assert place.alerts().keys() == {"channel:chat"}
    hook.calls.clear()


def test_the_only_channel_is_tried_itself_after_an_hour_so_that_its_alert_ends_when_it_works_again(
    place: Place, hook: Webhook
) -> None:
    good_news_is_lost(place, hook)
    hook.status = 200
    for _ in range(10):
        place.tick()
    assert hook.calls == []
    place.tick(HOUR)
    assert titles(hook) == [subject("ERROR", "channel", "chat")]
    place.tick()
    assert place.alerts() == {}
    assert titles(hook)[1:] == [subject("RESOLVED", "channel", "chat")]


def test_the_only_channel_is_not_asked_at_each_tick_while_its_server_stays_away(place: Place, hook: Webhook) -> None:
    good_news_is_lost(place, hook)
    place.tick(HOUR)
    for _ in range(12):
        place.tick()
    assert place.alerts().keys() == {"channel:chat"}
    assert 1 <= len(hook.calls) <= 4


def test_a_pager_that_wants_only_the_worst_tells_of_no_other_channel_which_is_tried_itself(
    place: Place, hook: Webhook
) -> None:
    with webhook() as pager:
        place.channel("pager", pager.url, at_least="critical")
        good_news_is_lost(place, hook)
        hook.status = 200
        place.tick(HOUR + MINUTE)
        place.tick()
        assert place.alerts() == {} and pager.calls == []
