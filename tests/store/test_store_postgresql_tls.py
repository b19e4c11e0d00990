"""TLS to the database, with certificates of both sides: who does not match is not let in, and the reason is said."""

from __future__ import annotations

import datetime
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

pytest.importorskip("psycopg")

from s2connect.errors import StorageUnavailable
from s2connect.https.server import free_port
from s2connect.store.postgresql.database import Database
from tests.postgresql import USER, Cluster
from tests.waits import until

pytestmark = pytest.mark.long  # a server of its own

PASSWORD = "hunter2"
PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
ADDRESS = "127.0.0.1"


class Server:
    """PostgreSQL that takes encrypted connections only, by password or by certificate."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.port = free_port()
        self.ca, self.other = trustme.CA(), trustme.CA()
        self.ca.cert_pem.write_to_path(place / "ca.pem")
        self.other.cert_pem.write_to_path(place / "other.pem")
        self.show(self.ca.issue_cert("db.example", ADDRESS))
        for name, ca, until_ in (("s2", self.ca, None), ("old", self.ca, PAST), ("alien", self.other, None)):
            issued = ca.issue_cert("s2.example", common_name="s2", not_after=until_)
            issued.cert_chain_pems[0].write_to_path(place / f"{name}.pem")
            issued.private_key_pem.write_to_path(place / f"{name}.key")
            (place / f"{name}.key").chmod(0o600)
        shutil.copy(place / "s2.key", place / "loose.key")
        (place / "loose.key").chmod(0o644)
        self.cluster = Cluster(
            listen_addresses=ADDRESS,
            port=str(self.port),
            ssl="on",
            ssl_cert_file=str(place / "server.pem"),
            ssl_key_file=str(place / "server.key"),
            ssl_ca_file=str(place / "ca.pem"),
        )
        self.cluster.make_template()
        self.database = self.cluster.new_database().partition("@/")[2].partition("?")[0]
        self.cluster.sql(f"CREATE ROLE s2 LOGIN PASSWORD '{PASSWORD}'")
        self.cluster.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO s2", self.database)
        self.cluster.sql("CREATE ROLE mallory LOGIN")

    def show(self, issued: trustme.LeafCert) -> None:
        """Give the server this certificate."""
        (self.place / "server.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        key = self.place / "server.key"
        key.write_bytes(issued.private_key_pem.bytes())
        key.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(key, USER, USER)

    async def reload(self, rule: str) -> None:
        """Read certificate and rules of access again."""
        (self.cluster.data / "pg_hba.conf").write_text(f"local all all trust\n{rule}\n")
        loaded = self.cluster.sql("SELECT pg_conf_load_time()")
        self.cluster.sql("SELECT pg_reload_conf()")
        await until(lambda: self.cluster.sql("SELECT pg_conf_load_time()") != loaded)

    def url(self, user: str = "s2", hosts: str = ADDRESS, **more: str) -> str:
        """Return a URL; ``more`` names files in our place."""
        named = {"sslrootcert": "ca.pem", **more}
        files = "".join(f"&{key}={self.place / file}" for key, file in named.items())
        at = ",".join(f"{host}:{self.port}" for host in hosts.split(","))
        return f"postgresql://{user}@{at}/{self.database}?sslmode=verify-full{files}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    place = Path(tempfile.mkdtemp(prefix="s2tls"))
    place.chmod(0o755)
    made = Server(place)
    try:
        yield made
    finally:
        made.cluster.close()
        shutil.rmtree(place)


async def opens(url: str) -> str:
    """Open a database; return why it is not, and "" where it is."""
    try:
        await (await Database.open(url)).close()
    except StorageUnavailable as error:
        refused = error
    else:
        return ""
    told = f"{refused} {refused.hint}"
    assert PASSWORD not in f"{told} {refused!r} {refused.__cause__!r}"
    assert "hunter3" not in told
    assert "Check that the database runs" not in told, "it does, and that is no help"
    return told


PASSWORDS = "hostssl all all 127.0.0.1/32 scram-sha-256"
CERTIFICATES = "hostssl all all 127.0.0.1/32 cert"


async def test_the_certificate_of_the_database_has_to_be_right(server: Server) -> None:
    good = f"s2:{PASSWORD}"
    await server.reload(PASSWORDS)
    assert await opens(server.url(good)) == ""
    assert await opens(server.url(good, f"localhost,{ADDRESS}")) == "", "the host whose certificate is right is taken"
    told = await opens(server.url(good, sslrootcert="other.pem"))
    assert "certificate verify failed" in told
    assert "openssl s_client -starttls postgres" in told
    assert "none.pem" in await opens(server.url(good, sslrootcert="none.pem"))
    assert "sslrootcert names the file" in await opens(server.url(good, sslrootcert="s2.key"))
    told = await opens(server.url(good).replace("verify-full", "disable"))
    assert "no encryption" in told
    assert "sslmode=verify-full" in told
    assert "password authentication failed" in await opens(server.url("s2:hunter3"))
    told = await opens(server.url(good, f"localhost,{ADDRESS}").replace(f"{ADDRESS}:{server.port}", f"{ADDRESS}:1"))
    assert 'localhost: server certificate for "db.example"' in told, "each host has its own reason"
    assert f"{ADDRESS}: Connection refused" in told
    try:
        server.show(server.ca.issue_cert("db.example"))
        await server.reload(PASSWORDS)
        told = await opens(server.url(good))
        assert 'server certificate for "db.example" does not match host name "127.0.0.1"' in told
        assert "Name it in the URL as its certificate does" in told
        server.show(server.ca.issue_cert("db.example", ADDRESS, not_after=PAST))
        await server.reload(PASSWORDS)
        assert "has expired" in await opens(server.url(good))
    finally:
        server.show(server.ca.issue_cert("db.example", ADDRESS))


async def test_a_client_certificate_takes_the_place_of_a_password(server: Server) -> None:
    await server.reload(CERTIFICATES)
    assert await opens(server.url(sslcert="s2.pem", sslkey="s2.key")) == ""
    for reason, url in (
        ("connection requires a valid client certificate", server.url()),
        ("alert certificate expired", server.url(sslcert="old.pem", sslkey="old.key")),
        ("alert unknown ca", server.url(sslcert="alien.pem", sslkey="alien.key")),
        ("alien.key", server.url(sslcert="s2.pem", sslkey="alien.key")),
        ("loose.key", server.url(sslcert="s2.pem", sslkey="loose.key")),
        ("none.key", server.url(sslcert="s2.pem", sslkey="none.key")),
        ("certificate authentication failed", server.url("mallory", sslcert="s2.pem", sslkey="s2.key")),
    ):
        told = await opens(url)
        assert reason in told
        assert "sslcert and sslkey" in told, reason


async def test_a_password_may_come_from_the_environment_a_password_file_or_a_service(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.reload(PASSWORDS)
    assert "no password supplied" in await opens(server.url())
    with monkeypatch.context() as set_:
        set_.setenv("PGPASSWORD", PASSWORD)
        assert await opens(server.url()) == ""
    passwords = tmp_path / "passwords"
    passwords.write_text(f"{ADDRESS}:{server.port}:*:s2:{PASSWORD}\n")
    passwords.chmod(0o600)
    with monkeypatch.context() as set_:
        set_.setenv("PGPASSFILE", str(passwords))
        assert await opens(server.url()) == ""
    assert await opens(server.url(passfile=str(passwords))) == "", "also named in the URL"
    passwords.chmod(0o644)
    assert "password" in await opens(server.url(passfile=str(passwords))), "libpq ignores a file that others may read"
    (tmp_path / "services").write_text(
        f"[cloud]\nhost={ADDRESS}\nport={server.port}\nuser=s2\npassword={PASSWORD}\nsslmode=verify-full\n"
        f"sslrootcert={server.place / 'ca.pem'}\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert await opens(f"postgresql:///{server.database}?service=cloud") == ""
