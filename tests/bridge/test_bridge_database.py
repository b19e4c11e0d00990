"""Settings and identity of a bridge whose state is in a database: the same at all instances, also with empty homes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from s2connect import Role
from s2connect.bridge.bridge import Bridge
from s2connect.bridge.config_file import load
from s2connect.bridge.problems import BridgeFileError
from s2connect.endpoint.copying import copy_to_database, copy_to_home
from s2connect.errors import ConfigurationError, HomeMoved, UsageError
from s2connect.events import Notice
from s2connect.store.postgresql.sealing import KEY_VARIABLE
from tests.endpoint.conftest import Wan, wan
from tests.postgresql import STORE_KEYS, Cluster
from tests.store.store_examples import pairing, token
from tests.waits import until

__all__ = ["wan"]

ROUTE = '[[route]]\nname = "{}"\n[route.devices]\ntype = "s2-connect"\n[route.manager]\ntype = "s2-connect"\n'


@pytest.fixture
def directory(wan: Wan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    wan.config(Role.CEM, "localhost")
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(STORE_KEYS[0]).decode())
    return tmp_path


def file(directory: Path, home: str, more: str = "", route: str = "customers") -> Path:
    made = directory / f"{home}.toml"
    made.write_text(
        f'home = "{home}"\n[page]\nenabled = false\n[endpoint]\ndeployment = "WAN"\nhost = "localhost"\nport = 0\n'
        'bind = "127.0.0.1"\ncertificate = "localhost.pem"\nprivate_key = "localhost.key"\n'
        f'trust_anchors = "public-ca.pem"\nvault = "files"\n{more}{ROUTE.format(route)}'
    )
    return made


async def test_a_bridge_goes_into_the_database_and_back_and_its_instances_are_one_bridge(
    directory: Path, postgresql_cluster: Cluster
) -> None:
    url = postgresql_cluster.new_database()
    store = f'store = "{url}"\n'
    alone = file(directory, "home")
    async with Bridge.open(load(alone)[0]) as bridge:
        identity = bridge.id, bridge.routes["customers"].devices.node.id  # type: ignore[attr-defined]
        await bridge.endpoint._state.store.save_pairing(pairing(), token("a"))

    first = file(directory, "home", store + 'instance = "a"\n')
    with pytest.raises(UsageError, match="pairings of this bridge are in") as refused:
        async with Bridge.open(load(first)[0]):
            pass
    assert "s2connect store copy --to" in str(refused.value.hint)

    assert await copy_to_database(directory / "home", url, STORE_KEYS, None) == 1
    with pytest.raises(HomeMoved):
        async with Bridge.open(load(file(directory, "home"))[0]):
            pass
    other = file(directory, "empty", store + 'instance = "b"\n')
    first = file(directory, "home", store + 'instance = "a"\n')
    async with Bridge.open(load(first)[0]) as a, Bridge.open(load(other)[0]) as b:
        for one in (a, b):
            node = one.routes["customers"].devices.node.id  # type: ignore[attr-defined]
            assert (one.id, node) == identity
        assert len(await b.endpoint.pairings()) == 1
    with pytest.raises(BridgeFileError, match='the route "customers" is gone'):
        load(file(directory, "empty", store, "others"))
    with pytest.raises(ConfigurationError, match='the route "customers" is gone'):
        async with Bridge.open(load(file(directory, "third", store, "others"))[0]):
            pass

    name = url.partition("@/")[2].partition("?")[0]
    theirs = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}'"
    await until(lambda: not postgresql_cluster.sql(theirs))  # they have ended when the server has noticed
    assert await copy_to_home(directory / "home", url, STORE_KEYS) == 1
    async with Bridge.open(load(file(directory, "home"))[0]) as bridge:
        assert bridge.id == identity[0]


async def test_two_instances_that_begin_at_once_make_one_identity(directory: Path, postgresql: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        files = [file(directory, f"h{n}", f'store = "{postgresql}"\ninstance = "i{n}"\n') for n in range(3)]
        opening = (stack.enter_async_context(Bridge.open(load(one)[0])) for one in files)
        bridges = await asyncio.gather(*opening)
        assert len({bridge.id for bridge in bridges}) == 1
        nodes = {node.alias for bridge in bridges for node in bridge.endpoint.config.nodes}
        assert len(nodes) == 1


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('store = "postgresql://db/lan"\n', "line 13: store needs deployment WAN"),
        ('store = "postgresql://u:secret@db/s2"\n', "line 13: store: a URL with a password belongs in the environment"),
        ('store = "mysql://db/s2"\n', "line 13: store: This is no URL of a PostgreSQL database"),
        ('store = "postgresql://db/s2"\ninstance = "a b"\n', "line 14: instance: "),
        ('balancers = ["nonsense"]\n', "line 13: balancers: "),
        ("balancers_only = true\n", "line 13: balancers_only needs balancers"),
        ('instance_url = "wss://{instance}.example"\n', "line 13: instance_url needs store"),
        ("drain_rate = 0\n", "line 13: drain_rate: "),
        ('store_key_file = "missing"\n', "line 13: store_key_file: there is no file"),
    ],
)
def test_mistakes_are_named_with_their_lines(directory: Path, lines: str, told: str) -> None:
    made = file(directory, "home", lines)
    if "lan" in lines:
        made.write_text(made.read_text().replace('"WAN"', '"LAN"'))
    with pytest.raises(BridgeFileError) as refused:
        load(made)
    assert told in "\n".join(map(str, refused.value.problems)), refused.value.problems


def test_static_mqtt_with_several_instances_needs_one_name_and_devices_that_all_of_them_know(directory: Path) -> None:
    made = file(directory, "home", 'store = "postgresql://db/s2"\n[mqtt]\nurl = "mqtts://broker.example"\n')
    peer = 'type = "mqtt"\nid = "0d4c9a1e-3f7b-4a1e-8c55-9b9f3f0e7c12"\nprotection = "plain"\n'
    text = made.read_text().replace('[route.manager]\ntype = "s2-connect"\n', f"[route.manager]\n{peer}")
    made.write_text(text)
    with pytest.raises(BridgeFileError, match=r'\[mqtt\] needs a gateway: .* gateway = "s2-gateway"'):
        load(made)
    made.write_text(f'{text}client_id = "program"\n')
    load(made)
    named = text.replace("[mqtt]\n", '[mqtt]\ngateway = "s2-gateway"\n')
    for client_id, is_warned in (("", False), ("s2-gateway-{instance}", False), ("s2-gateway", True)):
        line = f'client_id = "{client_id}"\n' if client_id else ""
        made.write_text(named.replace("[mqtt]\n", f"[mqtt]\n{line}"))
        assert any("{instance}" in str(problem) for problem in load(made)[1]) is is_warned
    by_path = '[route.devices]\ntype = "plain-server"\nport = 8099\npath = "/{id}"\n'
    made.write_text(named.replace('[route.devices]\ntype = "s2-connect"\n', by_path))
    with pytest.raises(BridgeFileError, match="path: with store only the instance to which such a device comes"):
        load(made)


async def test_an_instance_whose_routes_are_not_those_of_another_one_says_which(
    directory: Path, postgresql: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = f'store = "{postgresql}"\ninstance = '
    one, same = (file(directory, name, f'{store}"{name}"\n') for name in "ab")
    other = file(directory, "c", f'{store}"c"\n')
    barn = ROUTE.format("barn").replace('name = "barn"', 'name = "barn"\nid = "6a5bd1b6-6d7e-4a5c-9d0e-0f5f7b1f2a31"')
    other.write_text(other.read_text() + barn)
    async with Bridge.open(load(one)[0]), Bridge.open(load(same)[0]):
        assert "routes" not in caplog.text
        async with Bridge.open(load(other)[0]) as third:
            assert "not those of the one that began last: missing there barn. Give all" in caplog.text
            happened = third.endpoint.events()
            await third.reload(load(file(directory, "c", f'{store}"c"\n'))[0])
            sentences = []
            async for event in happened:
                if isinstance(event, Notice) and event.kind == "instances_differ":
                    sentences.append(event.sentence)
                    break
            assert "missing here barn" in sentences[0]
        caplog.clear()
    async with Bridge.open(load(other)[0]):
        assert "began last" not in caplog.text, "no other one runs"
