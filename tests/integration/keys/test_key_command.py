"""chatbot key: in the log while no service runs, and through the service while one does."""

import json
from pathlib import Path

import pytest

from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.config.settings import Settings
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, started
from tests.unit.config.test_config_check import changed

ROOT = "the-secret-of-root"


def settings(folder: Path) -> Settings:
    return changed(database={"url": str(folder / "chatbot.db")})


async def run(folder: Path, *arguments: str) -> FakeConsole:
    console = FakeConsole(settings(folder))
    assert await run_in_process(console, "key", *arguments) == 0
    return console


async def secret_of(folder: Path, *arguments: str) -> str:
    """The secret that the command prints, alone on standard output."""
    (secret,) = (await run(folder, *arguments)).stdout_lines
    assert secret.startswith("cb_")
    return secret


async def status(service: Running, secret: str, path: str = "/api/sessions") -> int:
    return (await service.client.get(path, headers={"X-API-Key": secret})).status_code


async def test_the_first_key_is_made_before_the_first_start(tmp_path: Path, model: ModelServer) -> None:
    admin = await secret_of(tmp_path, "add", "root", "--scope", "admin,chat")
    guest = await secret_of(tmp_path, "add", "guest", "--scope", "chat", "--expires", "2999-12-31")
    async with started(tmp_path, model.url) as service:
        assert (await service.client.get("/api/sessions")).status_code == 401
        assert [await status(service, one) for one in (admin, guest)] == [200, 200]
        with pytest.raises(CommandFailed, match=r"is in use by process .*--url .*--key -"):
            await run(tmp_path, "revoke", "guest")
        assert "guest" in "".join((await run(tmp_path, "list")).stdout_lines)  # it only reads
        over_http = ("--url", service.url, "--key", admin)
        app = await secret_of(tmp_path, "add", "app", "--scope", "chat,metrics", *over_http)
        assert [await status(service, app, path) for path in ("/api/sessions", "/metrics")] == [200, 200]
        rotated = await secret_of(tmp_path, "rotate", "app", "--overlap", "0", "--scope", "metrics", *over_http)
        assert [await status(service, one, "/metrics") for one in (app, rotated)] == [401, 200]
        assert await status(service, rotated) == 403
        await run(tmp_path, "revoke", "app", *over_http)
        assert await status(service, rotated, "/metrics") == 401
        with pytest.raises(CommandFailed, match="the service refuses: the key app is revoked already"):
            await run(tmp_path, "revoke", "app", *over_http)
        with pytest.raises(CommandFailed, match="needs a key with the scope admin or audit; this key has chat"):
            await run(tmp_path, "list", "--url", service.url, "--key", guest)
        remote = (await run(tmp_path, "list", *over_http)).stdout_lines
    local = (await run(tmp_path, "list")).stdout_lines
    assert local == remote
    assert [line.split()[:3] for line in local] == [
        ["NAME", "STATUS", "SCOPES"],
        ["root", "valid", "admin,chat"],
        ["guest", "valid", "chat"],
        ["app", "revoked", "metrics"],
    ]
    listed = [json.loads(line) for line in (await run(tmp_path, "list", "--json")).stdout_lines]
    assert listed[1]["expires_at"] == "2999-12-31T23:59:59.999999Z"
    assert admin not in "".join(local)


async def test_revoking_the_last_key_never_opens_the_service(tmp_path: Path, model: ModelServer) -> None:
    secret = await secret_of(tmp_path, "add", "only", "--scope", "chat,admin")
    await run(tmp_path, "revoke", "only")
    async with started(tmp_path, model.url) as service:
        assert (await service.client.get("/api/sessions")).status_code == 401
        assert await status(service, secret) == 401
    back = await secret_of(tmp_path, "rotate", "only")
    async with started(tmp_path, model.url) as service:
        assert await status(service, back) == 200


async def test_a_recorded_key_is_enough_where_one_is_required(tmp_path: Path, model: ModelServer) -> None:
    required = {"CHATBOT_AUTH_REQUIRE_KEYS": "true"}
    with pytest.raises(Exception, match=r"auth\.require_keys is set, and there is no API key"):
        async with started(tmp_path, model.url, **required):
            pass
    secret = await secret_of(tmp_path, "add", "app", "--scope", "chat")
    async with started(tmp_path, model.url, **required) as service:
        assert await status(service, secret) == 200


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("add", "App", "--scope", "chat"), UsageError, "name: must be 1 to 64 of"),
        (("add", "app", "--scope", "chat,root"), UsageError, "--scope: there is no scope 'root'; there are chat,"),
        (("add", "app", "--scope", ","), UsageError, "--scope: names no scope"),
        (("add", "app", "--scope", "chat", "--expires", "tomorrow"), UsageError, "--expires must be a time"),
        (("add", "app", "--scope", "chat", "--expires", "2001-01-01"), UsageError, "--expires: is in the past"),
        (
            ("add", "app", "--scope", "chat", "--expires", "1970-01-01T00:00:00Z"),
            UsageError,
            "--expires: is in the past",
        ),
        (("rotate", "app"), CommandFailed, "there is no key 'app'"),
        (("revoke", "app"), CommandFailed, "there is no key 'app'"),
        (("list", "--key", "x"), UsageError, "--key goes with --url"),
        (("list", "--url", "127.0.0.1"), UsageError, "--url is the service's address"),
        (("list", "--url", "http://127.0.0.1:1"), CommandFailed, "nothing answers at"),
    ],
)
async def test_a_wrong_command_is_refused_with_its_reason(
    tmp_path: Path, arguments: tuple[str, ...], error: type[CommandFailed], message: str
) -> None:
    with pytest.raises(error, match=message):
        await run(tmp_path, *arguments)
