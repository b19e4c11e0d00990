"""The contract of a store, for each implementation with each vault."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import keyring
import pytest

from s2connect.errors import NotPaired, StorageUnavailable
from s2connect.model.common import EndpointDescription, NodeId
from s2connect.model.secret import MAX_SECRET_CHARACTERS, AccessToken
from s2connect.store import sqlite
from s2connect.store.base import MAX_CANDIDATE_TOKENS, Pin, Record, Replaced, Store, Vault, token_digest
from s2connect.store.memory import MemoryStore
from s2connect.store.sqlite import SqliteStore
from s2connect.store.vault import FileVault, KeyringVault
from tests.postgresql import STORE_KEYS
from tests.store.keyring_backend import DictionaryKeyring
from tests.store.store_examples import (
    CLIENT,
    SERVER,
    active_digest,
    contents,
    key,
    pairing,
    stands,
    token,
    was_unpaired,
)

TOMBSTONES = 5


@pytest.fixture(params=["memory", "sqlite+files", "sqlite+keyring", "postgresql"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    monkeypatch.setattr(sqlite, "MAX_TOMBSTONES", TOMBSTONES)
    before = keyring.get_keyring()
    opened: Store
    vault: Vault
    if request.param == "memory":
        opened = MemoryStore()
    elif request.param == "postgresql":
        opened = await open_postgresql(request.getfixturevalue("postgresql"), monkeypatch)
    else:
        if request.param == "sqlite+files":
            vault = FileVault(tmp_path / "vault")
        else:
            keyring.set_keyring(DictionaryKeyring())
            vault = KeyringVault("contract")
        opened = await SqliteStore.open(tmp_path / "state.db", vault)
    yield opened
    await opened.close()
    keyring.set_keyring(before)


async def open_postgresql(url: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    from s2connect.store.postgresql import rows
    from s2connect.store.postgresql.store import PostgresqlStore

    monkeypatch.setattr(rows, "MAX_TOMBSTONES", TOMBSTONES)
    return await PostgresqlStore.open(url, STORE_KEYS)


@pytest.mark.rule("PAIR-10", "PAIRC-06")
@pytest.mark.parametrize("role", [CLIENT, SERVER])
@pytest.mark.parametrize("confirmed", [True, False])
async def test_a_saved_pairing_is_read_back_whole(store: Store, role: object, confirmed: bool) -> None:
    saved = pairing(1, SERVER if role is SERVER else CLIENT, confirmed=confirmed)
    await store.save_pairing(saved, token("a"))
    assert await store.pairings() == [saved]


async def test_a_pairing_without_anything_optional_is_read_back_whole(store: Store) -> None:
    saved = dataclasses.replace(
        pairing(1), initiate_session_url=None, pin=None, peer_endpoint=EndpointDescription(), paired_at=0.0
    )
    await store.save_pairing(saved, token("a"))
    assert await store.pairings() == [saved]


async def test_pairings_are_listed_oldest_first_whatever_the_clock_says(store: Store) -> None:
    first, second, third = pairing(3), pairing(1, SERVER), dataclasses.replace(pairing(2), paired_at=1.0)
    for saved in (first, second, third):
        await store.save_pairing(saved, token("a"))
    assert await store.pairings() == [first, second, third]
    assert await store.pairings(newest=2) == [second, third]
    assert await store.pairings(third.key.local, confirmed=True, newest=1) == [third]
    await store.save_pairing(first, token("b"))
    assert await store.pairings() == [second, third, first]


async def test_some_of_the_pairings_are_listed_by_node_role_and_confirmation(store: Store) -> None:
    client, server = pairing(1), pairing(2, SERVER)
    begun = pairing(3, SERVER, confirmed=False)
    for saved in (client, server, begun):
        await store.save_pairing(saved, token("a"))
    assert await store.pairings(role=CLIENT) == [client]
    assert await store.pairings(client.key.local, role=SERVER) == [server, begun]
    assert await store.pairings(confirmed=True) == [client, server]
    assert await store.pairings(role=SERVER, confirmed=False) == [begun]
    assert await store.pairings(NodeId(UUID(int=7)), role=SERVER) == []


async def test_one_peer_may_be_paired_with_two_of_our_nodes(store: Store) -> None:
    other = NodeId(UUID(int=7))
    second = dataclasses.replace(pairing(1), key=key(1, other))
    await store.save_pairing(pairing(1), token("a"))
    await store.save_pairing(second, token("b"))
    assert await store.candidate_tokens(pairing(1)) == [token("a")]
    assert await store.candidate_tokens(second) == [token("b")]
    await store.remove_pairing(pairing(1), tombstone=True)
    assert await store.pairings() == [second]
    assert not await was_unpaired(store, second.key)


@pytest.mark.rule("SES-06")
async def test_a_communication_server_keeps_the_digest_and_a_communication_client_the_token(store: Store) -> None:
    await store.save_pairing(pairing(1, CLIENT), token("a"))
    await store.save_pairing(pairing(2, SERVER), token("b"))
    assert await store.candidate_tokens(pairing(1)) == [token("a")]
    assert await active_digest(store, pairing(1)) is None
    with pytest.raises(NotPaired):
        await store.candidate_tokens(pairing(2))
    # Of the Base64 text, by the sha256sum of coreutils.
    expected = "a02c9b073c1af070f286cac3deadd23b7e3efef3c948ea8d53708f0a66ee575a"
    assert (await active_digest(store, pairing(2)) or b"").hex() == expected


@pytest.mark.rule("SESC-01", "SESC-02")
async def test_pending_tokens_follow_the_active_one_each_once(store: Store) -> None:
    await store.save_pairing(pairing(), token("a"))
    for name in ("b", "c", "b", "a"):
        await store.add_pending_token(pairing(1), token(name))
    assert await store.candidate_tokens(pairing(1)) == [token("a"), token("b"), token("c")]


@pytest.mark.rule("SESC-01")
async def test_all_candidates_of_a_pairing_can_be_saved_with_it(store: Store) -> None:
    await store.save_pairing(pairing(), token("a"), token("b"), token("c"))
    assert await store.candidate_tokens(pairing(1)) == [token("a"), token("b"), token("c")]


@pytest.mark.rule("SESC-01", "SESC-03")
async def test_the_token_that_was_accepted_is_kept_alone(store: Store) -> None:
    await store.save_pairing(pairing(), token("a"))
    await store.add_pending_token(pairing(1), token("b"))
    await store.add_pending_token(pairing(1), token("c"))
    await store.keep_token(pairing(1), token("b"))
    assert await store.candidate_tokens(pairing(1)) == [token("b")]


@pytest.mark.rule("SESC-02")
async def test_beyond_the_bound_the_oldest_and_the_newest_tokens_stay(store: Store) -> None:
    await store.save_pairing(pairing(), token("0"))
    for number in range(1, MAX_CANDIDATE_TOKENS + 3):
        await store.add_pending_token(pairing(1), token(str(number)))
    kept = ["0", *(str(number) for number in range(4, MAX_CANDIDATE_TOKENS + 3))]
    assert await store.candidate_tokens(pairing(1)) == [token(name) for name in kept]


async def test_eight_of_the_longest_tokens_can_be_kept(store: Store) -> None:
    longest = [type(token(""))(f"{number}".rjust(4, "A") * 1024) for number in range(MAX_CANDIDATE_TOKENS)]
    await store.save_pairing(pairing(), longest[0])
    for candidate in longest[1:]:
        await store.add_pending_token(pairing(1), candidate)
    assert await store.candidate_tokens(pairing(1)) == longest


@pytest.mark.parametrize("saved", [None, pairing(1, SERVER), pairing(1, CLIENT, confirmed=False)])
async def test_a_token_is_never_lost_silently_where_there_is_no_such_pairing(store: Store, saved: object) -> None:
    if saved is not None:
        await store.save_pairing(saved, token("a"))  # type: ignore[arg-type]  # parametrised
    with pytest.raises(NotPaired):
        await store.add_pending_token(pairing(1), token("b"))
    with pytest.raises(NotPaired):
        await store.keep_token(pairing(1), token("b"))
    with pytest.raises(NotPaired):
        await store.candidate_tokens(pairing(1))


@pytest.mark.rule("SES-03")
async def test_activating_a_token_voids_the_one_before(store: Store) -> None:
    await store.save_pairing(pairing(1, SERVER), token("a"))
    assert await store.activate_token(pairing(1), token_digest(token("b")), 1e9)
    assert await active_digest(store, pairing(1)) == token_digest(token("b"))
    assert not await store.activate_token(pairing(1, confirmed=False), bytes(32), 1e9)
    assert not await store.activate_token(pairing(2), bytes(32), 1e9)
    assert await active_digest(store, pairing(2)) is None


async def test_a_communication_client_has_no_active_digest(store: Store) -> None:
    await store.save_pairing(pairing(1, CLIENT), token("a"))
    assert not await store.activate_token(pairing(1), bytes(32), 1e9)
    assert await active_digest(store, pairing(1)) is None


@pytest.mark.rule("PAIRC-06")
@pytest.mark.parametrize("role", [CLIENT, SERVER])
async def test_an_unconfirmed_pairing_stands_beside_the_confirmed_one(store: Store, role: object) -> None:
    role = SERVER if role is SERVER else CLIENT
    old, new = pairing(1, role), pairing(1, role, confirmed=False)
    await store.save_pairing(old, token("old"))
    await store.save_pairing(new, token("void"))
    await store.save_pairing(new, token("new"))
    assert await store.pairings() == [old, new]
    if role is CLIENT:
        await store.add_pending_token(pairing(1, confirmed=False), token("next"))
        assert await store.candidate_tokens(pairing(1)) == [token("old")]
        assert await store.candidate_tokens(pairing(1, confirmed=False)) == [token("new"), token("next")]
    else:
        assert await store.activate_token(new, token_digest(token("next")), 1e9)
        assert await active_digest(store, old) == token_digest(token("old"))
        assert await active_digest(store, new) == token_digest(token("next"))


@pytest.mark.rule("PAIRC-06", "ROLE-05")
async def test_confirming_replaces_the_confirmed_pairing_and_unpairs_others(store: Store) -> None:
    new = pairing(1, confirmed=False)
    await store.save_pairing(pairing(1), token("old"))
    await store.save_pairing(new, token("new"))
    await store.save_pairing(pairing(2), token("other"))
    await store.save_pairing(pairing(2, SERVER, confirmed=False), token("never"))
    replaced = await store.confirm_pairing(new, alone=True)
    assert replaced == [
        Replaced(pairing(2), (token("other"),)),
        Replaced(pairing(2, SERVER, confirmed=False)),
    ]
    assert await store.pairings() == [stands(new)]
    assert await store.candidate_tokens(new) == [token("new")]
    with pytest.raises(NotPaired):
        await store.candidate_tokens(pairing(1))
    assert [await was_unpaired(store, key(n)) for n in (1, 2, 3)] == [False, True, False]


@pytest.mark.rule("ROLE-01")
async def test_confirming_leaves_other_peers_alone_where_a_node_may_have_many(store: Store) -> None:
    new = pairing(1, confirmed=False)
    await store.save_pairing(pairing(2), token("other"))
    await store.save_pairing(new, token("new"))
    assert await store.confirm_pairing(new) == []
    assert await store.pairings() == [pairing(2), stands(new)]
    assert not await was_unpaired(store, key(2))


async def test_the_pairings_of_another_node_of_ours_are_left_alone(store: Store) -> None:
    other = dataclasses.replace(pairing(2), key=key(2, NodeId(UUID(int=7))))
    await store.save_pairing(other, token("other"))
    assert await store.save_pairing(pairing(1), token("a"), alone=True) == []
    assert await store.pairings() == [other, pairing(1)]


async def test_confirming_keeps_the_place_in_the_list(store: Store) -> None:
    await store.save_pairing(pairing(1, confirmed=False), token("a"))
    await store.save_pairing(pairing(2), token("b"))
    await store.confirm_pairing(pairing(1, confirmed=False))
    assert await store.pairings() == [stands(pairing(1, confirmed=False)), pairing(2)]


@pytest.mark.rule("PAIRC-06")
async def test_confirming_says_what_it_did(store: Store) -> None:
    new, later = pairing(1, confirmed=False), dataclasses.replace(pairing(1, confirmed=False), paired_at=2e9)
    await store.save_pairing(new, token("a"))
    assert await store.confirm_pairing(new) == []
    assert await store.confirm_pairing(new) is None, "it was confirmed before"
    await store.save_pairing(pairing(2), token("b"))
    for gone in (later, pairing(3, confirmed=False)):
        with pytest.raises(NotPaired):
            await store.confirm_pairing(gone, alone=True)
    assert await store.pairings() == [stands(new), pairing(2)]
    assert await store.candidate_tokens(new) == [token("a")]


@pytest.mark.rule("ROLE-06", "SES-03", "SESC-02")
async def test_who_works_with_a_pairing_that_was_replaced_meanwhile_spoils_nothing(store: Store) -> None:
    for role in (CLIENT, SERVER):
        old = pairing(1, role)
        new = dataclasses.replace(old, paired_at=2e9)
        await store.save_pairing(old, token("old"))
        await store.save_pairing(new, token("new"))
        before = await contents(store, [key(1)])
        for spoils in (store.add_pending_token(old, token("x")), store.keep_token(old, token("x"))):
            with pytest.raises(NotPaired):
                await spoils
        assert not await store.activate_token(old, bytes(32), 1e9)
        assert not await store.remove_pairing(old, tombstone=True)
        assert not await store.drop_unconfirmed(old)
        await store.set_pin(old, Pin(bytes(32)))
        with pytest.raises(NotPaired):
            await store.confirm_pairing(old, alone=True)
        assert await contents(store, [key(1)]) == before


@pytest.mark.rule("PAIRC-06")
async def test_dropping_an_unconfirmed_pairing_leaves_the_confirmed_one(store: Store) -> None:
    await store.save_pairing(pairing(1), token("a"))
    await store.save_pairing(pairing(1, confirmed=False), token("b"))
    await store.drop_unconfirmed(pairing(1, confirmed=False))
    await store.drop_unconfirmed(pairing(1, confirmed=False))
    assert await store.pairings() == [pairing(1)]
    assert await store.candidate_tokens(pairing(1)) == [token("a")]
    assert not await was_unpaired(store, key(1))


@pytest.mark.rule("ROLE-06")
async def test_pairing_again_replaces_the_pairing_of_the_same_pair_and_clears_its_tombstone(store: Store) -> None:
    unconfirmed = pairing(1, confirmed=False)
    await store.save_pairing(pairing(1), token("a"))
    await store.remove_pairing(pairing(1), tombstone=True)
    assert await was_unpaired(store, key(1))
    await store.save_pairing(unconfirmed, token("b"))
    assert await was_unpaired(store, key(1))
    await store.save_pairing(pairing(1, SERVER), token("c"))
    assert not await was_unpaired(store, key(1))
    await store.save_pairing(pairing(1), token("d"), alone=True)
    assert not await was_unpaired(store, key(1))
    # Which of the two the peer has, its first session shows.
    assert await store.pairings_of(key(1)) == [pairing(1), unconfirmed]
    assert await store.candidate_tokens(pairing(1)) == [token("d")]
    assert await store.candidate_tokens(unconfirmed) == [token("b")]
    assert await active_digest(store, pairing(1)) is None


@pytest.mark.rule("ROLE-05")
async def test_a_new_pairing_unpairs_the_replaced_ones_with_a_tombstone(store: Store) -> None:
    await store.save_pairing(pairing(1), token("a"))
    await store.add_pending_token(pairing(1), token("z"))
    await store.save_pairing(pairing(2, confirmed=False), token("b"))
    replaced = await store.save_pairing(pairing(3), token("c"), alone=True)
    assert replaced == [
        Replaced(pairing(1), (token("a"), token("z"))),
        Replaced(pairing(2, confirmed=False), (token("b"),)),
    ]
    assert await store.pairings() == [pairing(3)]
    assert [await was_unpaired(store, key(n)) for n in (1, 2, 3, 4)] == [True, True, False, False]


async def test_an_unconfirmed_pairing_must_not_replace_others(store: Store) -> None:
    await store.save_pairing(pairing(1), token("a"))
    with pytest.raises(ValueError, match="unconfirmed"):
        await store.save_pairing(pairing(2, confirmed=False), token("b"), alone=True)
    assert await store.pairings() == [pairing(1)]


@pytest.mark.rule("SES-05")
@pytest.mark.parametrize("tombstone", [True, False])
async def test_removing_takes_one_pairing_and_its_secrets(store: Store, tombstone: bool) -> None:
    other = pairing(1, SERVER, confirmed=False)
    await store.save_pairing(pairing(1), token("a"))
    await store.save_pairing(other, token("b"))
    assert await store.remove_pairing(pairing(1), tombstone=tombstone)
    assert await store.pairings() == [other]
    assert await was_unpaired(store, key(1)) is tombstone
    assert await store.remove_pairing(other, tombstone=tombstone)
    with pytest.raises(NotPaired):
        await store.candidate_tokens(pairing(1))
    assert await active_digest(store, other) is None
    assert await was_unpaired(store, key(1)) is tombstone
    assert not await store.remove_pairing(pairing(1), tombstone=True)


async def test_who_was_never_paired_gets_no_tombstone(store: Store) -> None:
    assert not await store.remove_pairing(pairing(1), tombstone=True)
    assert not await was_unpaired(store, key(1))


async def test_of_too_many_tombstones_the_oldest_goes(store: Store) -> None:
    async def unpair(number: int) -> None:
        await store.save_pairing(pairing(number, SERVER), token("a"))
        await store.remove_pairing(pairing(number, SERVER), tombstone=True)

    for number in (0, 1, 2, 3, 4, 0, 5):
        await unpair(number)
    assert [number for number in range(7) if await was_unpaired(store, key(number))] == [0, 2, 3, 4, 5]


@pytest.mark.rule("SES-02")
async def test_descriptions_are_updated_one_by_one(store: Store) -> None:
    await store.save_pairing(pairing(1), token("a"))
    await store.save_pairing(pairing(1, confirmed=False), token("b"))
    node = pairing(1).peer.model_copy(update={"user_defined_name": "Attic"})
    endpoint = EndpointDescription(name="new.local")
    await store.update_descriptions(key(1), node=node, endpoint=None)
    assert [p.peer for p in await store.pairings()] == [node, node]
    assert [p.peer_endpoint for p in await store.pairings()] == [pairing(1).peer_endpoint] * 2
    await store.update_descriptions(key(1), node=None, endpoint=endpoint)
    await store.update_descriptions(key(2), node=node, endpoint=endpoint)
    assert [(p.peer, p.peer_endpoint) for p in await store.pairings()] == [(node, endpoint)] * 2


@pytest.mark.rule("TRUST-07")
async def test_a_pin_is_completed_with_the_certificate(store: Store) -> None:
    await store.save_pairing(pairing(1), token("a"))
    await store.save_pairing(pairing(1, confirmed=False), token("b"))
    pin = Pin(bytes(range(32)), b"\x30\x82\x00")
    await store.set_pin(pairing(1), pin)
    await store.set_pin(pairing(2), pin)
    assert [p.pin for p in await store.pairings()] == [pin, pairing(1).pin]
    await store.set_pin(pairing(1, confirmed=False), pin)
    assert [p.pin for p in await store.pairings()] == [pin, pin]


@pytest.mark.rule("SES-01", "PAIRC-06")
async def test_a_record_is_all_that_decides_on_a_session_request(store: Store) -> None:
    assert await store.record(key(1)) == Record()
    confirmed, unconfirmed = pairing(1, SERVER), pairing(1, SERVER, confirmed=False)
    await store.save_pairing(confirmed, token("a"))
    await store.save_pairing(unconfirmed, token("b"))
    digests = token_digest(token("a")), token_digest(token("b"))
    assert await store.record(key(1)) == Record(
        (confirmed, digests[0]), (unconfirmed, digests[1]), unpaired=False, issued_at=confirmed.paired_at
    )
    await store.remove_pairing(confirmed, tombstone=True)
    assert await store.record(key(1)) == Record(unconfirmed=(unconfirmed, digests[1]), unpaired=True)
    await store.drop_unconfirmed(unconfirmed)
    assert await store.record(key(1)) == Record(unpaired=True)


@pytest.mark.rule("SES-03")
async def test_activations_at_once_each_have_their_own_answer(store: Store) -> None:
    for number in range(0, 40, 2):
        await store.save_pairing(pairing(number, SERVER), token("a"))
    digests = {number: token_digest(token(str(number))) for number in range(40)}
    answers = await asyncio.gather(
        *(store.activate_token(pairing(n, SERVER), digest, 1e9) for n, digest in digests.items())
    )
    assert answers == [number % 2 == 0 for number in range(40)]
    for number in range(0, 40, 2):
        assert await active_digest(store, pairing(number, SERVER)) == digests[number]


async def test_many_operations_at_once_lose_nothing(store: Store) -> None:
    numbers = range(10)
    await asyncio.gather(*(store.save_pairing(pairing(n), token("0")) for n in numbers))
    names = [str(n) for n in range(1, MAX_CANDIDATE_TOKENS)]
    await asyncio.gather(*(store.add_pending_token(pairing(n), token(name)) for name in names for n in numbers))
    for n in numbers:
        assert set(await store.candidate_tokens(pairing(n))) == {token(name) for name in ("0", *names)}
    await asyncio.gather(*(store.remove_pairing(pairing(n), tombstone=False) for n in numbers))
    assert await store.pairings() == []


CALLS: list[Callable[[Store], object]] = [
    lambda store: store.pairings(),
    lambda store: store.save_pairing(pairing(), token("a")),
    lambda store: store.confirm_pairing(pairing(1)),
    lambda store: store.drop_unconfirmed(pairing(1, confirmed=False)),
    lambda store: store.candidate_tokens(pairing(1)),
    lambda store: store.add_pending_token(pairing(1), token("a")),
    lambda store: store.keep_token(pairing(1), token("a")),
    lambda store: store.record(key(1)),
    lambda store: store.activate_token(pairing(1), bytes(32), 1e9),
    lambda store: store.remove_pairing(pairing(1), tombstone=True),
    lambda store: store.update_descriptions(key(1), node=None, endpoint=None),
    lambda store: store.set_pin(pairing(1), Pin(bytes(32))),
]


async def test_a_closed_store_refuses_everything(store: Store) -> None:
    await store.close()
    await store.close()
    for call in CALLS:
        with pytest.raises(StorageUnavailable, match="closed"):
            await call(store)  # type: ignore[misc]  # operations differ in what they return


@pytest.mark.rule("SES-04", "SEC-03")
async def test_the_longest_tokens_of_a_peer_fit_in(store: Store) -> None:
    """Eight of 4 KiB each, of characters that JSON escapes."""
    await store.save_pairing(pairing(1, CLIENT), AccessToken('"' * MAX_SECRET_CHARACTERS))
    for number in range(1, MAX_CANDIDATE_TOKENS):
        await store.add_pending_token(pairing(1, CLIENT), AccessToken(f"{number}" + "\\" * (MAX_SECRET_CHARACTERS - 1)))
    assert len(await store.candidate_tokens(pairing(1, CLIENT))) == MAX_CANDIDATE_TOKENS


@pytest.mark.rule("SES-07")
async def test_it_is_remembered_when_a_token_was_issued(store: Store) -> None:
    await store.save_pairing(pairing(1, SERVER), token("a"))
    assert (await store.record(key(1))).issued_at == pairing(1, SERVER).paired_at
    await store.activate_token(pairing(1, SERVER), token_digest(token("b")), 1.9e9)
    assert (await store.record(key(1))).issued_at == 1.9e9


async def test_pairings_are_read_page_by_page_and_none_comes_twice(store: Store) -> None:
    made = [pairing(number) for number in range(5)]
    for number, one in enumerate(made):
        await store.save_pairing(one, token(str(number)))
    first = await store.page(2)
    await store.save_pairing(pairing(9), token("meanwhile"))
    second = await store.page(2, before=first.before)
    third = await store.page(2, before=second.before)
    assert [first.pairings, second.pairings, third.pairings] == [made[3:], made[1:3], made[:1]]
    assert third.before is None
    assert (await store.page(6)).before is None
    assert await store.counts() == {made[0].key.local: 6}
    assert (await store.page(2, local=NodeId(UUID(int=7)))).pairings == []


async def test_a_pairing_is_found_by_the_beginning_of_its_peers_id(store: Store) -> None:
    made = [pairing(1), pairing(2)]
    for one in made:
        await store.save_pairing(one, token("a"))
    whole = str(made[0].key.remote)
    assert await store.beginning_with(whole) == made[:1]
    assert await store.beginning_with(whole[:10]) == made
    assert await store.beginning_with(whole, local=made[0].key.local) == made[:1]
    assert await store.beginning_with(whole, local=made[0].key.remote) == []
    for nothing in ("7", "Battery", "", "-", whole[:8] + whole[9:], whole + "0"):
        assert await store.beginning_with(nothing) == []
