"""`edge-retina report`: the page comes out as it is in the bundle, and nothing of the user's is replaced by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from models import tiny_model

from edge_retina import build
from edge_retina.bundle import read_bundle, write_bundle
from edge_retina.commands.report import report_command
from edge_retina.errors import BundleError, UsageError

PAGE = b"<!doctype html><p>measured"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A bundle without a report and one with it."""
    folder = tmp_path_factory.mktemp("bundles")
    tiny_model(folder / "m.onnx")
    plain = build(folder / "m.onnx")
    write_bundle(
        folder / "r.edge",
        model=plain.model(),
        spec=plain.spec,
        precision="fp32",
        model_digest=plain.manifest.model_digest,
        extra={"report.html": PAGE},
    )
    return (folder / "m.edge").read_bytes(), (folder / "r.edge").read_bytes()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, bundles: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.edge").write_bytes(bundles[0])
    Path("m.edge").write_bytes(bundles[1])


def report(*arguments: str) -> Result:
    return CliRunner().invoke(report_command, list(arguments), catch_exceptions=False)


def test_no_report_in_it() -> None:
    with pytest.raises(BundleError, match=r"plain\.edge: holds no report; build makes one with --int8"):
        report("plain.edge")
    assert not Path("plain.html").exists()


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ([], "m.html"),
        (["-o", "page.htm"], "page.htm"),
        (["-o", "there"], "there/m.html"),
        (["-o", "new/folder/"], "new/folder/m.html"),
        (["-o", "new/page.html"], "new/page.html"),
    ],
)
def test_where_the_page_goes(typed: list[str], written: str) -> None:
    Path("there").mkdir()
    result = report("m.edge", *typed)
    assert (result.stdout, result.stderr) == (f"{written}\n", "")
    assert Path(written).read_bytes() == PAGE == read_bundle("m.edge").read("report.html")


@pytest.mark.parametrize("older", [b"", b"<!DOCTYPE HTML><p>older"])
def test_an_older_page_is_replaced(older: bytes) -> None:
    Path("m.html").write_bytes(older)
    report("m.edge")
    assert Path("m.html").read_bytes() == PAGE


@pytest.mark.parametrize("target", ["m.edge", "./m.edge", "link.html"])
def test_the_bundle_is_not_replaced(target: str, bundles: tuple[bytes, bytes]) -> None:
    Path("link.html").symlink_to("m.edge")
    with pytest.raises(UsageError, match="the page would replace the bundle; choose another name with -o"):
        report("m.edge", "-o", target)
    assert Path("m.edge").read_bytes() == bundles[1]


def test_nothing_but_a_page_is_replaced() -> None:
    tiny_model(Path("m.onnx"))
    Path("notes.html").write_text("<!doctype htm")
    Path("there/m.html").mkdir(parents=True)
    for target in ("m.onnx", "plain.edge", "notes.html", "there", "/dev/null"):
        with pytest.raises(UsageError, match="is there and is no HTML page; choose another name with -o"):
            report("m.edge", "-o", target)
    assert Path("notes.html").read_text() == "<!doctype htm"
    assert not list(Path().rglob(".edge-retina-*"))
