"""The certificate that step 5 of the README makes: one that clients accept from a server, also the strict ones."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from tests.deploy.conftest import DEPLOY

NAME = "antiphon.test"
WITHIN = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which the documented command has left its two files."""
    directory = tmp_path_factory.mktemp("certificate")
    documented = re.findall(r"^sudo (openssl req (?:.*\\\n)*.*)$", (DEPLOY / "README.md").read_text(), re.M)
    assert len(documented) == 1
    command = documented[0].replace("/etc/ssl/antiphon", str(directory))
    done = subprocess.run(
        ["sh", "-euc", command], env={"PATH": "/usr/bin:/bin", "NAME": NAME}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return directory


def openssl(*words: str) -> str:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_a_servers_and_no_authoritys(made: Path) -> None:
    text = openssl("x509", "-in", str(made / "fullchain.pem"), "-noout", "-text")
    assert "CA:TRUE" not in text
    assert re.search(r"Basic Constraints: critical\s+CA:FALSE\n", text)
    assert re.search(r"Extended Key Usage:\s+TLS Web Server Authentication\n", text)
    assert re.search(r"Key Usage: critical\s+Digital Signature\n", text)
    assert re.search(rf"Subject Alternative Name:\s+DNS:{NAME}\n", text)


def test_it_is_valid_for_its_name_under_strict_rules(made: Path) -> None:
    certificate = str(made / "fullchain.pem")
    strict = ["-x509_strict", "-purpose", "sslserver", "-verify_hostname", NAME]
    assert openssl("verify", *strict, "-CAfile", certificate, certificate).endswith(": OK\n")


def test_a_client_that_trusts_it_shakes_hands(made: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made / "fullchain.pem", made / "privkey.pem")
    client = ssl.create_default_context(cafile=made / "fullchain.pem")
    ours, theirs = socket.socketpair()
    ours.settimeout(WITHIN)
    theirs.settimeout(WITHIN)
    answering = threading.Thread(target=lambda: server.wrap_socket(theirs, server_side=True).close())
    answering.start()
    try:
        with client.wrap_socket(ours, server_hostname=NAME) as shaken:
            assert shaken.getpeercert()["subjectAltName"] == (("DNS", NAME),)
    finally:
        answering.join(WITHIN)
