"""The file of a bridge: what it says, and every mistake with its line."""

from __future__ import annotations

import base64
import re
import shutil
import string
import tomllib
from pathlib import Path
from uuid import UUID

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from s2connect.bridge import config as config_module
from s2connect.bridge.config import BridgeConfig, MqttDevices, PlainServerDevices
from s2connect.bridge.config_file import instance_of, load
from s2connect.bridge.link_state import TABLE
from s2connect.bridge.problems import BridgeFileError, Problems, lines_of
from s2connect.cli import main
from s2connect.errors import ConfigurationError
from s2connect.messages.enums import Check
from s2connect.model.common import NodeId
from tests.bridge.route_fixtures import private_file

BRIDGE = NodeId(UUID(int=7))
HEAD = 'home = "bridge-home"\n'
NODES = """
[[route]]
name = "house"
[route.devices]
type = "s2-connect"
[route.manager]
type = "s2-connect"
"""


def read(tmp_path: Path, text: str) -> BridgeConfig:
    return load(written(tmp_path, text))[0]


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "bridge.toml"
    file.write_text(text)
    return file


def mistakes(tmp_path: Path, text: str) -> list[tuple[int, str]]:
    with pytest.raises(BridgeFileError) as raised:
        load(written(tmp_path, text))
    return [(problem.line, problem.what) for problem in raised.value.problems if problem.fatal]


def one(tmp_path: Path, text: str) -> tuple[int, str]:
    (found,) = mistakes(tmp_path, text)
    return found


def test_the_shortest_file_joins_devices_and_energy_manager_by_s2_connect(tmp_path: Path) -> None:
    config, warnings = load(written(tmp_path, HEAD + NODES))
    assert not warnings
    assert config.home == tmp_path / "bridge-home"
    (route,) = config.routes
    assert (route.name, route.check) == ("house", Check.ENVELOPE)
    assert route.devices.type == route.manager.type == "s2-connect"


BROKER = '[mqtt]\nurl = "mqtts://broker.example"\n'


@pytest.mark.parametrize("side", ["devices", "manager"])
def test_a_broker_that_no_route_uses_is_a_warning_with_the_line_that_helps(tmp_path: Path, side: str) -> None:
    _, warnings = load(written(tmp_path, HEAD + BROKER + NODES))
    (warning,) = warnings
    line = 'protocols = ["X-MQTT5-0", "WebSocket"]'
    assert str(warning).startswith("line 2: warning: no route uses this broker"), warning
    assert line in warning.what
    mended = NODES.replace(f'[route.{side}]\ntype = "s2-connect"', f'[route.{side}]\ntype = "s2-connect"\n{line}')
    assert mended != NODES
    assert load(written(tmp_path, HEAD + BROKER + mended))[1] == []


def test_the_id_of_a_route_comes_of_its_name_and_can_be_given(tmp_path: Path) -> None:
    (route,) = read(tmp_path, HEAD + NODES).routes
    assert route.id_in(BRIDGE) == route.id_in(BRIDGE) != route.id_in(NodeId(UUID(int=8)))
    own = "6a5bd1b6-6d7e-4a5c-9d0e-0f5f7b1f2a31"
    (route,) = read(tmp_path, HEAD + NODES.replace('"house"', f'"house"\nid = "{own}"')).routes
    assert str(route.id_in(BRIDGE)) == own


def test_files_are_beside_the_file_that_names_them(tmp_path: Path) -> None:
    private_file(tmp_path / "token", "t")
    text = """
[[route]]
name = "old"
[route.devices]
type = "plain-server"
port = 8081
device = [{ name = "Heat pump/1", token_file = "token" }]
[route.manager]
type = "plain-client"
url = "wss://cem.example/{id}"
token_file = "token"
"""
    (route,) = read(tmp_path, HEAD + text).routes
    assert isinstance(route.devices, PlainServerDevices)
    assert route.devices.device[0].token_file == tmp_path / "token"
    assert route.devices.device[0].at == "/Heat-pump-1"
    assert len(route.files) == 2


def test_all_mistakes_are_named_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = """home = "bridge-home"
hme = 3

[endpoint]
port = "8443"
prot = 1

[[route]]
name = "house"
check = "rulez"
[route.devices]
type = "s2-conect"
[route.manager]
type = "plain-client"
url = "ws://10.0.0.3/{id}"

[[route]]
name = "old"
[route.devices]
type = "plain-server"
port = 8081
[[route.devices.device]]
name = "A"
tokenfile = "x"
"""
    found = dict(mistakes(tmp_path, text))
    assert found[2] == "hme is unknown; did you mean home?"
    assert found[5] == "port: has to be a whole number"
    assert found[6] == "prot is unknown; did you mean port?"
    assert found[10].startswith("check: has to be 'envelope'")
    assert found[12].startswith('"s2-conect" is no type of [route.devices]; did you mean "s2-connect"?')
    assert "allow_unencrypted" in found[15]
    assert found[17].startswith("[route.manager] is missing")
    assert found[24] == "tokenfile is unknown; did you mean token_file?"
    assert len(found) == 8


BY_PATH = (
    HEAD + '[[route]]\nname = "a"\n[route.devices]\ntype = "plain-server"\nport = 8081\n{}\n'
    '[route.manager]\ntype = "s2-connect"\n'
)
MISTAKES = {
    "no home": (NODES, 1, "home is missing"),
    "no route": (HEAD, 1, "there is no route"),
    "not TOML": (HEAD + "x = \n", 2, "not TOML"),
    "file of nobody": (
        HEAD + '[endpoint]\ncertificate = "~no-such-user/x.pem"\nprivate_key = "bridge.toml"\n' + NODES,
        3,
        "no file",
    ),
    "missing file": (HEAD + '[endpoint]\ncertificate = "no.pem"\nprivate_key = "bridge.toml"\n' + NODES, 3, "no file"),
    "half a pair": (HEAD + '[endpoint]\ncertificate = "bridge.toml"\n' + NODES, 3, "belong together"),
    "a proxy of https": (HEAD + '[proxy]\nurl = "https://proxy:3128"\n' + NODES, 3, "looks like http://"),
    "a broker without TLS": (HEAD + '[mqtt]\nurl = "mqtt://broker"\n' + NODES, 3, "url"),
    "a password without a user": (
        HEAD + '[mqtt]\nurl = "mqtts://broker"\npassword_file = "secret"\n' + NODES,
        4,
        "no username",
    ),
    "two routes of a name": (HEAD + NODES + NODES.replace("house", "House"), 11, "another route has this name"),
    "a static route without broker": (
        HEAD
        + NODES.replace('[route.manager]\ntype = "s2-connect"', '[route.manager]\ntype = "mqtt"\n')
        + 'id = "6a5bd1b6-6d7e-4a5c-9d0e-0f5f7b1f2a31"\nprotection = "plain"\n',
        8,
        "needs the broker",
    ),
    "a faulty static route without broker": (
        HEAD + NODES.replace('[route.manager]\ntype = "s2-connect"', '[route.manager]\ntype = "mqtt"\nid = 3\n'),
        8,
        "needs the broker",
    ),
    "a type that is a list": (HEAD + NODES.replace('type = "s2-connect"', "type = []", 1), 6, "is no type"),
    "a name that no file can have": (
        HEAD + f'[endpoint]\ntrust_anchors = "{"y" * 300}"\n' + NODES,
        3,
        "there is no file",
    ),
    "a port twice": (
        HEAD + "[metrics]\nport = 8443\n" + NODES,
        3,
        "something else of this file listens there",
    ),
    "an open port": (
        HEAD + '[[route]]\nname = "a"\n[route.devices]\ntype = "s2-connect"\n'
        '[route.manager]\ntype = "plain-server"\nport = 8081\nhost = "*"\n',
        9,
        "other machines come in without TLS",
    ),
    "one path for all": (
        HEAD + '[[route]]\nname = "a"\n[route.devices]\ntype = "s2-connect"\n'
        '[route.manager]\ntype = "plain-server"\nport = 8081\npath = "/s2"\n',
        9,
        "every device has a path",
    ),
    "no devices": (
        HEAD + '[[route]]\nname = "a"\n[route.devices]\ntype = "plain-server"\nport = 8081\ndevice = []\n'
        '[route.manager]\ntype = "s2-connect"\n',
        7,
        "there is no device",
    ),
    "a template without an id": (
        BY_PATH.format('path = "/s2"'),
        7,
        "path: it has /{id} once",
    ),
    "a template with a part of an id": (
        BY_PATH.format('path = "/s2-{id}"'),
        7,
        "path: it has /{id} once",
    ),
    "a token for nobody": (
        BY_PATH.format('token_file = "secret"\n[[route.devices.device]]\nname = "A"'),
        7,
        "this is for devices by path",
    ),
    "a login without a colon": (
        BY_PATH.format('login_file = "secret"\npath = "/{id}"'),
        7,
        "does not hold user:password",
    ),
    "a device twice": (
        HEAD + '[[route]]\nname = "a"\n[route.manager]\ntype = "s2-connect"\n[route.devices]\ntype = "plain-client"\n'
        '[[route.devices.device]]\nname = "A"\nurl = "ws://localhost/a"\n'
        '[[route.devices.device]]\nname = "A"\nurl = "ws://localhost/b"\n',
        11,
        "another device has this id",
    ),
    "an unreadable secret": (
        HEAD + '[[route]]\nname = "a"\n[route.devices]\ntype = "s2-connect"\n[route.manager]\ntype = "plain-client"\n'
        'url = "wss://cem.example/{id}"\ntoken_file = "bridge.toml"\n',
        9,
        "token_file",
    ),
}


@pytest.mark.parametrize(("login", "warned"), [("s2:secret", True), ("s2:" + "x" * 16, False)])
def test_a_password_that_can_be_guessed_is_a_warning(tmp_path: Path, login: str, *, warned: bool) -> None:
    private_file(tmp_path / "login", login)
    file = written(tmp_path, BY_PATH.format('path = "/s2/{id}"\nlogin_file = "login"'))
    config, warnings = load(file)
    assert [problem.line for problem in warnings if "may be guessed" in problem.what] == [8] * warned
    assert isinstance(config.routes[0].devices, PlainServerDevices)
    assert config.routes[0].devices.max_devices == 100


def test_an_open_port_for_any_device_is_a_warning(tmp_path: Path) -> None:
    text = BY_PATH.format('path = "/s2/{id}"\nhost = "*"\nallow_unencrypted = true')
    _, warnings = load(written(tmp_path, text))
    assert any("can pose as any device" in problem.what for problem in warnings)


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, case: str) -> None:
    text, line, words = MISTAKES[case]
    private_file(tmp_path / "secret", "s")
    written(tmp_path, text).chmod(0o644)
    found = mistakes(tmp_path, text)
    assert [number for number, what in found if words in what] == [line], found


def test_what_is_allowed_but_unwise_is_a_warning(tmp_path: Path) -> None:
    text = """
[[route]]
name = "old"
[route.devices]
type = "plain-server"
port = 8081
host = "*"
allow_unencrypted = true
[[route.devices.device]]
name = "A"
[route.manager]
type = "s2-connect"
"""
    config, warnings = load(written(tmp_path, HEAD + text))
    assert config.routes
    assert [problem.line for problem in warnings] == [9, 10]
    assert all(str(problem).startswith(f"line {problem.line}: warning: ") for problem in warnings)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"home = 'x'\n\xff")
    with pytest.raises(BridgeFileError, match="line 2: this is not UTF-8"):
        load(tmp_path / "bytes.toml")


def test_static_devices_need_a_secret_or_say_that_they_have_none(tmp_path: Path) -> None:
    broker = '[mqtt]\nurl = "mqtts://broker.example"\n'
    device = """
[[route]]
name = "m"
[route.devices]
type = "mqtt"
[[route.devices.device]]
name = "A"
id = "6a5bd1b6-6d7e-4a5c-9d0e-0f5f7b1f2a31"
[route.manager]
type = "s2-connect"
"""
    assert one(tmp_path, HEAD + broker + device)[1].startswith("secret_file is missing")
    (route,) = read(
        tmp_path, HEAD + broker + device.replace("[route.manager]", 'protection = "plain"\n[route.manager]')
    ).routes
    assert isinstance(route.devices, MqttDevices)
    assert route.devices.device[0].key == "6a5bd1b6-6d7e-4a5c-9d0e-0f5f7b1f2a31"


def test_lines_are_found_past_strings_comments_and_nested_values() -> None:
    text = '''# [no]
a = """
b = 1 # not a key
"""   # end
[t] # comment = 1
c = [ # list
  "x = ]", # ]
  { d = "}" },
]
"e f" = 'g = 1'
[[r]]
h.i = 1
[r.s]
j = 2
[[r]]
[[r.k]]
l = 3
'''
    tomllib.loads(text)
    lines = lines_of(text)
    expected = {
        ("a",): 2,
        ("t",): 5,
        ("t", "c"): 6,
        ("t", "e f"): 10,
        ("r", 0): 11,
        ("r", 0, "h", "i"): 12,
        ("r", 0, "s", "j"): 14,
        ("r", 1): 15,
        ("r", 1, "k", 0, "l"): 17,
    }
    assert {place: lines[place] for place in expected} == expected
    problems = Problems(text)
    problems.add(("t", "c", 1, "d"), "inside an array")
    problems.add(("nothing", "here"), "nowhere")
    assert [problem.line for problem in problems.found] == [6, 1]


@given(st.text(alphabet=string.printable, max_size=200))
def test_every_file_of_toml_has_its_lines_found(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = lines_of(text.replace("\r\n", "\n"))
    assert all((key,) in lines for key in data)


REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_table_of_states_in_the_documentation_is_the_one_in_force() -> None:
    text = (REPOSITORY / "docs" / "bridge.md").read_text("utf-8")
    section = text.split("## States of a link")[1].split("Every state but")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|([^|]*)\|$", section, re.MULTILINE)
    shown = {state: set(re.findall(r"`(\w+)`", following)) for state, following in rows}
    assert shown == {str(state): {str(after) for after in events.values()} for state, events in TABLE.items()}


def test_every_setting_is_in_the_documentation() -> None:
    text = (REPOSITORY / "docs" / "bridge.md").read_text("utf-8")
    models = [m for m in vars(config_module).values() if isinstance(m, type) and issubclass(m, config_module.Section)]
    models.remove(config_module.RouteConfig)  # its own settings are those of RouteSection
    assert len(models) > 10
    for name in {field for model in models for field in model.model_fields}:
        assert f"`{name}`" in text or f"`[[route.devices.{name}]]`" in text, name


def test_a_file_names_its_instance_whatever_else_it_says(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    for text, name in [('[endpoint]\ninstance = "b"\n', "b"), ("[endpoint]\n", ""), ("endpoint = 3\n", ""), ("", "")]:
        file.write_text(text, "utf-8")
        assert instance_of(file) == name


@pytest.mark.parametrize("name", ["bridge-building.toml", "bridge-cloud.toml", "cluster/bridge.toml"])
def test_the_examples_can_be_used(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    certificates = trustme.CA()
    identity = certificates.issue_cert("s2.example.com", "*.i.s2.example.com")
    for directory in ("secrets", "tls"):
        (tmp_path / directory).mkdir(mode=0o700)
    for secret in ("broker.password", "heat-pump.token"):
        private_file(tmp_path / "secrets" / secret, "a secret")
    for secret in ("cloud.secret", "programs.secret", "store.key"):
        private_file(tmp_path / "secrets" / secret, base64.b64encode(bytes(32)).decode())
    for authority in ("secrets/charger-ca.pem", "tls/broker-ca.pem"):
        certificates.cert_pem.write_to_path(tmp_path / authority)
    identity.private_key_pem.write_to_path(tmp_path / "tls" / "privkey.pem")
    for pem in identity.cert_chain_pems:
        pem.write_to_path(tmp_path / "tls" / "fullchain.pem", append=True)
    shutil.copy(REPOSITORY / "examples" / name, tmp_path)
    file = tmp_path / Path(name).name
    config, warnings = load(file)
    assert config.routes
    assert all("without TLS" in problem.what for problem in warnings)
    assert (config.endpoint.store is None, name) != (True, "cluster/bridge.toml")
    assert main(["bridge", "check", str(file)]) == 0, capsys.readouterr()
