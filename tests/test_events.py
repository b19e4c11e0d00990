"""Events and what the log says of them."""

from __future__ import annotations

from uuid import UUID

import pytest

from s2connect.events import MAX_ENDED, EventHub, Paired, PairingFailed, Unpaired, UnpairedBy
from s2connect.model.common import NodeDescription, NodeId
from s2connect.model.log_limiter import PERIOD
from s2connect.model.roles import CommunicationRole
from tests.store.store_examples import pairing


@pytest.mark.rule("SEC-03")
def test_attempts_that_fail_do_not_fill_the_log_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    hub, made = EventHub(clock=lambda: now), pairing(1)
    news = hub.follow()
    failed = PairingFailed(node=made.key.local, peer=made.peer, reason="wrong_code")
    for _ in range(500):
        hub.publish(failed)
    assert [line.endswith(": wrong_code") for line in caplog.messages] == [True]
    assert len(news._waiting) == 500, "an application hears of each"
    now += PERIOD
    hub.publish(failed)
    assert caplog.messages[-1].endswith("wrong_code (499 more such lines were not logged)")


def test_pairings_that_have_ended_are_remembered_until_they_are_made_again_and_their_number_is_bounded() -> None:
    hub, one, other = EventHub(), pairing(1), pairing(2)
    node = one.key.local
    paired = [Paired(node=node, peer=p.peer, communication_role=CommunicationRole.SERVER) for p in (one, other)]

    def ended(by: UnpairedBy, peer: NodeDescription) -> None:
        hub.publish(Unpaired(node=node, peer=peer, by=by))

    hub.publish(paired[0])
    ended(UnpairedBy.REPLACED, one.peer)
    assert not hub.ended, "it was replaced by one with the same peer"
    ended(UnpairedBy.PEER, one.peer)
    ended(UnpairedBy.US, one.peer)
    assert [event.by for event in hub.ended] == [UnpairedBy.US], "the last end of a pair"
    hub.publish(paired[0])
    assert not hub.ended
    hub.publish(paired[1])
    ended(UnpairedBy.REPLACED, one.peer)
    assert [event.peer for event in hub.ended] == [one.peer], "another energy manager has taken its place"
    for number in range(3 * MAX_ENDED):
        ended(UnpairedBy.PEER, one.peer.model_copy(update={"id": NodeId(UUID(int=number))}))
    assert len(hub.ended) == MAX_ENDED
