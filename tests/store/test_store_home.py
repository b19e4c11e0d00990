"""The state directory: where it is, its lock, its private files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from s2connect.errors import HomeInUse, InsecurePermissions, NotInitialised, StorageUnavailable
from s2connect.store.home import HOME_VARIABLE, Home, default_home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home")


def test_the_environment_names_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(HOME_VARIABLE, "~/s2")
    assert default_home() == tmp_path / "s2"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME_VARIABLE, "here")
    assert default_home() == tmp_path / "here"


@pytest.mark.skipif(sys.platform != "linux", reason="these are the conventions of Linux")
def test_otherwise_root_and_users_have_the_places_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, "")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_home() == Path("/var/lib/s2connect")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_home() == Path("/home/alice/.local/state/s2connect")


@pytest.mark.rule("SEC-02")
def test_a_home_is_created_with_its_parents_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "home"
    assert Home.create(path).path == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    Home.create(path)
    Home.open(path)


def test_a_home_that_is_missing_is_not_created_by_opening(tmp_path: Path) -> None:
    with pytest.raises(NotInitialised, match="s2connect setup"):
        Home.open(tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_file_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "home").write_bytes(b"")
    for use in (Home.open, Home.create):
        with pytest.raises(StorageUnavailable, match="is not a directory"):
            use(tmp_path / "home")


@pytest.mark.rule("SEC-02")
def test_a_home_that_others_can_read_is_refused(home: Home) -> None:
    home.path.chmod(0o755)
    for use in (Home.open, Home.create):
        with pytest.raises(InsecurePermissions, match=f"chmod 700 '{home.path}'"):
            use(home.path)


@pytest.mark.rule("SEC-02")
def test_files_are_private_and_replaced_whole(home: Home) -> None:
    assert home.read("config.json") is None
    for content in (b"{}", b"x" * 100_000, b""):
        home.write_private("config.json", content)
        assert home.read("config.json") == content
    assert stat.S_IMODE((home.path / "config.json").stat().st_mode) == 0o600
    assert [path.name for path in home.path.iterdir()] == ["config.json"]


@pytest.mark.rule("SEC-02")
def test_a_file_that_others_can_read_is_refused(home: Home) -> None:
    home.write_private("key.pem", b"x")
    (home.path / "key.pem").chmod(0o644)
    with pytest.raises(InsecurePermissions, match="chmod 600"):
        home.read("key.pem")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\0"])
def test_files_outside_the_home_have_no_name(home: Home, name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        home.read(name)
    with pytest.raises(ValueError, match="plain name"):
        home.write_private(name, b"")


def test_the_lock_excludes_others_until_it_is_let_go(home: Home) -> None:
    with home.lock():
        with pytest.raises(HomeInUse, match=f"The process {os.getpid()} is working with {home.path}"), home.lock():
            pass
        assert stat.S_IMODE((home.path / "lock").stat().st_mode) == 0o600
    with pytest.raises(RuntimeError, match="inside"), home.lock():
        raise RuntimeError("inside")
    with home.lock():
        pass


def test_the_lock_of_a_killed_process_is_free_at_once(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from s2connect.store.home import Home\n"
        "with Home.open(Path(sys.argv[1])).lock(): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(HomeInUse, match=f"The process {holder.pid} "), home.lock():
            pass
        holder.kill()
        holder.wait()
        with home.lock():
            pass


def test_the_lock_is_let_go_though_a_child_that_is_being_forked_has_its_descriptor(home: Home) -> None:
    with home.lock():
        path = str((home.path / "lock").resolve())
        of_child = next(os.dup(int(one.name)) for one in Path("/dev/fd").iterdir() if os.path.realpath(one) == path)
    try:
        with home.lock():
            pass
    finally:
        os.close(of_child)


def test_who_holds_the_lock_is_a_courtesy_only(home: Home) -> None:
    with home.lock():
        (home.path / "lock").write_bytes(b"\xff rubbish")
        with pytest.raises(HomeInUse, match="Another process is working"), home.lock():
            pass


def test_taking_the_lock_clears_what_a_crash_left(home: Home) -> None:
    (home.path / ".config.json.0123456789abcdef.s2connect-tmp").write_bytes(b"{")
    with home.lock():
        assert [path.name for path in home.path.iterdir()] == ["lock"]


def test_a_link_in_place_of_the_lock_is_not_followed(home: Home, tmp_path: Path) -> None:
    (home.path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageUnavailable, match="symbolic link"), home.lock():
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.rule("SEC-02")
def test_parents_are_writable_by_us_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Home.create(tmp_path / "a" / "b" / "home")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (tmp_path / "a", tmp_path / "a" / "b")]
    assert modes == [0o755, 0o755]
    assert stat.S_IMODE((tmp_path / "a" / "b" / "home").stat().st_mode) == 0o700


def test_taking_the_lock_removes_no_file_of_others(tmp_path: Path) -> None:
    place = tmp_path / "documents"
    place.mkdir(mode=0o700)
    (tmp_path / "home").symlink_to(place)
    foreign = [place / name for name in (".notes.tmp", ".a.0123456789abcdef.tmp", ".x.s2connect-tmp", ".tmp")]
    for file in foreign:
        file.write_bytes(b"mine")
    unfinished = place / ".config.json.0123456789abcdef.s2connect-tmp"
    unfinished.mkdir()
    with Home.create(tmp_path / "home").lock():
        pass
    assert all(file.read_bytes() == b"mine" for file in foreign)
    assert unfinished.is_dir(), "what is no file is not ours, and no reason not to start"


@pytest.mark.rule("SEC-02")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link of somebody else")
def test_a_link_of_somebody_else_to_a_home_is_refused(tmp_path: Path) -> None:
    Home.create(tmp_path / "real")
    link = tmp_path / "home"
    link.symlink_to(tmp_path / "real")
    Home.open(link)
    os.chown(link, 12345, 12345, follow_symlinks=False)
    with pytest.raises(InsecurePermissions, match="symbolic link of the user with id 12345"):
        Home.open(link)


def test_the_home_of_an_unknown_user_is_taken_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, "~no-such-user/home")
    assert default_home() == Path("~no-such-user/home").absolute()
