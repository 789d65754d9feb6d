from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from plan_cache import KEY, names

from edge_retina.commands.sign import sign_command
from edge_retina.errors import BundleCorrupt, BundleError, InputError, UsageError
from edge_retina.planfile import Plan
from edge_retina.plans import read_bare, write_bare


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sign(*arguments: str) -> Result:
    result = CliRunner().invoke(sign_command, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_nothing_to_sign() -> None:
    assert "Missing argument 'FILE'" in sign("--key", "key.pem").stderr
    assert "Missing option '--key'" in sign("out.plan").stderr
    with pytest.raises(BundleError, match=r"^out\.plan: no such file"):
        sign("out.plan", "--key", "key.pem", "--new-key")
    assert names(Path()) == []  # no key either


def test_a_new_key_and_a_signature() -> None:
    plan = Plan(KEY, b"plan", False, {}, Path("out.plan"))
    write_bare(Path("out.plan"), plan)
    result = sign("out.plan", "--key", "key.pem", "--new-key")
    assert (result.exit_code, result.stdout) == (0, "out.plan.sig\n")
    assert result.stderr == (
        "made key.pem, keep it to yourself, and key.pub, for those who are to trust it\n"
        "whoever has key.pub can check it\n"
    )
    assert names(Path()) == ["key.pem", "key.pub", "out.plan", "out.plan.json", "out.plan.sig"]
    assert read_bare(Path("out.plan"), trusted=Path("key.pub")) == plan


def test_a_key_is_used_again_and_never_replaced() -> None:
    plan = Plan(KEY, b"plan", False, {}, Path("out.plan"))
    write_bare(Path("out.plan"), plan)
    sign("out.plan", "--key", "key.pem", "--new-key")
    key = Path("key.pem").read_bytes()
    with pytest.raises(UsageError, match=r"^key\.pem: is there already"):
        sign("out.plan", "--key", "key.pem", "--new-key")
    assert Path("key.pem").read_bytes() == key
    write_bare(Path("out.plan"), Plan(KEY, b"new", False, {}, Path("out.plan")))
    with pytest.raises(BundleCorrupt):
        read_bare(Path("out.plan"), trusted=Path("key.pub"))
    assert sign("out.plan", "--key", "key.pem").stderr == "whoever has key.pub can check it\n"
    assert read_bare(Path("out.plan"), trusted=Path("key.pub")).data == b"new"


def test_a_plan_that_is_not_whole_is_not_signed() -> None:
    write_bare(Path("out.plan"), Plan(KEY, b"plan", False, {}, Path("out.plan")))
    Path("out.plan").write_bytes(b"pla")
    with pytest.raises(BundleCorrupt, match="truncated, changed or not what"):
        sign("out.plan", "--key", "key.pem", "--new-key")
    assert names(Path()) == ["out.plan", "out.plan.json"]


def test_a_key_that_is_not_there() -> None:
    write_bare(Path("out.plan"), Plan(KEY, b"plan", False, {}, Path("out.plan")))
    with pytest.raises(InputError, match=r"^none\.pem: no private key can be read there; make one: .* --new-key$"):
        sign("out.plan", "--key", "none.pem")
