"""The admin API's roles, its audit trail, and what it never says."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config import Admin
from gateway.controlplane.auth import Access, needed
from gateway.controlplane.store import Store, shown
from gateway.credentials import TOKEN_PREFIX, AdminToken, hash_of, new_secret
from gateway.errors import ConfigError, StoreError
from tests.operations.backend import backend
from tests.operations.serving import Gateway, serving, settings, sluice, until

SINGLE = "correct-horse-battery-staple"


@dataclass
class World:
    """A gateway whose admin API is reachable by everyone, and a token of each role."""

    gateway: Gateway
    tokens: dict[str, str]

    def call(self, role: str, method: str, path: str, **options: Any) -> httpx.Response:
        """A call with that role's token."""
        headers = {"authorization": f"Bearer {self.tokens[role]}", **options.pop("headers", {})}
        return self.gateway.api(method, path, headers=headers, **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Both kinds of files are in use, and the store's URL has a password."""
    folder = tmp_path_factory.mktemp("admin")
    (folder / "single").write_text(SINGLE + "\n")
    tokens = {"single": SINGLE}
    for role in ("read", "operate", "admin"):
        done = sluice("tokens", "add", f"a-{role}", "--role", role, "--file", "tokens.json", cwd=folder)
        tokens[role] = done.stdout.strip()
    admin = {"port": 0, "host": "0.0.0.0", "token_file": "single", "tokens_file": "tokens.json"}
    with backend() as triton:
        config = settings(folder, triton.url, admin=admin)
        with serving(folder, config, headers={"authorization": f"Bearer {SINGLE}"}) as gateway:
            yield World(gateway, tokens)


ORDERS: list[tuple[str, str, dict[str, Any], str]] = [
    ("GET", "/routes", {}, "read"),
    ("GET", "/audit", {}, "read"),
    ("PUT", "/routes", {"params": {"dry_run": True, "verify": False}, "json": {"routes": []}}, "operate"),
    ("POST", "/rollback", {"params": {"dry_run": True, "to": 1}}, "operate"),
    ("POST", "/drain", {"params": {"dry_run": True, "backend": "http://x"}}, "operate"),
    ("POST", "/reload", {"params": {"dry_run": True}}, "admin"),
    ("POST", "/restart", {"params": {"dry_run": True}}, "admin"),
]


@pytest.mark.parametrize(("method", "path", "options", "lowest"), ORDERS, ids=[f"{o[0]} {o[1]}" for o in ORDERS])
def test_each_order_needs_its_role(world: World, method: str, path: str, options: dict[str, Any], lowest: str) -> None:
    """Below it 403 with the reason, from it on the order is dealt with."""
    roles = ["read", "operate", "admin"]
    for role in roles:
        answer = world.call(role, method, path, **options)
        if roles.index(role) < roles.index(lowest):
            assert answer.status_code == 403
            assert answer.json()["error"] == f"token 'a-{role}' has the role {role}; this needs {lowest}"
        else:
            assert answer.status_code in {200, 409}, answer.text
    assert world.gateway.api(method, path, headers={}, **options).status_code == 401


def test_what_nobody_thought_of_needs_more_than_reading() -> None:
    """An order is never open to readers because a table forgot it."""
    assert needed("POST", "/api/v1/some/new/order") == "operate"
    assert needed("DELETE", "/") == "operate"
    assert needed("POST", "/api/v1/restart/") == "admin"
    assert needed("GET", "/api/v1/anything") == "read"


def test_the_audit_trail_says_who_and_why(world: World) -> None:
    """The name is the token's; what a client calls itself is only added to it."""
    routes = world.call("read", "GET", "/routes").json()["routes"]
    routes[0]["timeout_s"] = 12.5
    done = world.call(
        "operate",
        "PUT",
        "/routes",
        params={"verify": False, "why": "slower now"},
        json={"routes": routes},
        headers={"x-sluice-who": "root@elsewhere"},
    )
    assert done.status_code == 200, done.text
    entry = world.call("read", "GET", "/audit").json()[0]
    assert (entry["who"], entry["action"], entry["detail"]) == ("a-operate (root@elsewhere)", "apply", "slower now")
    assert world.call("single", "POST", "/reload", params={"why": "new keys"}).status_code == 200
    entry = world.call("read", "GET", "/audit").json()[0]
    assert (entry["who"], entry["action"], entry["detail"]) == ("admin", "reload", "files only: new keys")


def test_tokens_come_and_go(world: World) -> None:
    """A new one works within seconds; a revoked one stops; metrics need a token, health does not."""
    folder = world.gateway.folder
    done = sluice("tokens", "add", "brief", "--role", "read", "--file", "tokens.json", cwd=folder)
    headers = {"authorization": f"Bearer {done.stdout.strip()}"}
    until(lambda: world.gateway.api("GET", "/routes", headers=headers).status_code == 200)
    assert httpx.get(f"{world.gateway.admin}/metrics", headers=headers, trust_env=False).status_code == 200
    assert sluice("tokens", "revoke", "brief", "--file", "tokens.json", cwd=folder).returncode == 0
    until(lambda: world.gateway.api("GET", "/routes", headers=headers).status_code == 401)
    assert httpx.get(f"{world.gateway.admin}/metrics", trust_env=False).status_code == 401
    assert httpx.get(f"{world.gateway.admin}/healthz", trust_env=False).status_code == 200


def test_nothing_says_a_secret(world: World) -> None:
    """Not the log, an answer, a file of the gateway's own, nor a command's output."""
    for token in world.tokens.values():
        world.gateway.api("GET", "/nothing", headers={"authorization": f"Bearer {token}"})
        world.gateway.api("PUT", "/routes", headers={"authorization": f"Bearer {token}"}, content=b"{")
        world.gateway.api("GET", "/routes", headers={"authorization": f"Bearer {token[:-1]}"})
    texts = [world.call("admin", "GET", path).text for path in ("/routes", "/table", "/workers", "/backends", "/audit")]
    texts.append(world.gateway.log)
    own = [path for path in (world.gateway.folder / "state").rglob("*") if path.is_file()]
    texts += [path.read_bytes().decode("latin-1") for path in own]
    assert own
    texts.append((world.gateway.folder / "tokens.json").read_text())
    for what in (("get", "table", "-o", "json"), ("get", "audit")):
        done = world.gateway.command(*what, SLUICE_ADMIN_TOKEN=world.tokens["admin"])
        assert done.returncode == 0
        texts.append(done.stdout + done.stderr)
    refused = world.gateway.command("get", "routes", SLUICE_ADMIN_TOKEN="wrong-" + SINGLE)
    assert refused.returncode == 7
    texts.append(refused.stdout + refused.stderr)
    for text in texts:
        for token in world.tokens.values():
            assert token not in text


@pytest.mark.parametrize("url", ["postgresql://sluice:hunter22@db/sluice", "nonsense://s:hunter22@db", "::hunter22::"])
def test_a_databases_password_is_not_said(tmp_path: Path, url: str) -> None:
    """Neither by the error of a store that cannot be opened nor by what names it."""
    with pytest.raises((ConfigError, StoreError)) as failed:
        Store(url, tmp_path)
    assert "hunter22" not in str(failed.value) + shown(url)


def test_a_token_ends_when_it_should(tmp_path: Path) -> None:
    """From its time on it is nobody's."""
    now = time.time()
    secret = new_secret(TOKEN_PREFIX, "a")
    token = AdminToken(id="a", hash=hash_of(secret), role="admin")
    row = {"id": token.id, "hash": token.hash, "role": token.role}
    row["expires"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 100))
    (tmp_path / "t.json").write_text(json.dumps({"tokens": [row]}))
    clock = [now]
    access = Access(Admin(tokens_file=str(tmp_path / "t.json")), lambda: clock[0])
    assert access.holder(secret) is not None
    assert access.holder(secret + "0") is None
    clock[0] += 101
    assert access.holder(secret) is None


def test_without_a_usable_file_nobody_starts(tmp_path: Path) -> None:
    """A missing or short token is an error, not an open door."""
    with pytest.raises(ConfigError, match="cannot read"):
        Access(Admin(tokens_file=str(tmp_path / "missing")))
    (tmp_path / "short").write_text("abc")
    with pytest.raises(ConfigError, match="at least 16"):
        Access(Admin(token_file=str(tmp_path / "short")))


def test_an_open_api_is_refused_beyond_this_machine(tmp_path: Path) -> None:
    """Before anything starts, with the way out."""
    (tmp_path / "sluice.yaml").write_text("admin: {host: 0.0.0.0}\n")
    done = sluice("serve", cwd=tmp_path)
    assert done.returncode == 3
    assert "reachable from other machines; set admin.token_file" in done.stderr
