"""What is packed: all that the package needs and nothing else, the same from a checkout as from the sdist."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edge_retina"
# What building reads, besides the package and where its links lead.
BESIDE = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "docs", "plugins")
SAMPLES = ("digits.onnx", "pan.mp4", "pan.json")
MOST_BYTES = 15_000_000  # the demo's model is 10 MB of it


@dataclass(frozen=True)
class Packed:
    """sdist, the wheel made of it, and the wheel made of a checkout."""

    sdist: Path
    wheel: Path
    of_checkout: Path


def backend(source: Path, hook: str, out: Path) -> Path:
    """What a build front end runs, in this environment, so that nothing is fetched."""
    code = f"from setuptools import build_meta; print(build_meta.{hook}({str(out)!r}))"
    words = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    where = tmp_path_factory.mktemp("packed")
    checkout = where / "checkout"
    (checkout / "samples/digits").mkdir(parents=True)
    rubbish = shutil.ignore_patterns("__pycache__", ".mypy_cache", "*.png")
    shutil.copytree(PACKAGE, checkout / "edge_retina", symlinks=True, ignore=rubbish)
    for name in BESIDE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, checkout / name, ignore=rubbish)
        else:
            shutil.copy(source, checkout / name)
    for name in SAMPLES:
        shutil.copy(ROOT / "samples/digits" / name, checkout / "samples/digits")
    # What may lie about in a checkout and must not travel.
    (checkout / "tests").mkdir()
    (checkout / "tests/test_of_mine.py").write_text("")
    (checkout / "model.edge").write_bytes(b"")
    sdist = backend(checkout, "build_sdist", where)
    of_checkout = backend(checkout, "build_wheel", where)
    with tarfile.open(sdist) as archive:
        archive.extractall(where / "unpacked", filter="data")
    (unpacked,) = (where / "unpacked").iterdir()
    (where / "wheel").mkdir()
    return Packed(sdist, backend(unpacked, "build_wheel", where / "wheel"), of_checkout)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel: Path) -> Message:
    (text,) = (data for name, data in contents(wheel).items() if name.endswith(".dist-info/METADATA"))
    return email.message_from_string(text.decode())


def test_the_sdist_gives_the_same_wheel(packed: Packed) -> None:
    assert packed.wheel.name == packed.of_checkout.name
    assert packed.wheel.name.endswith("-py3-none-any.whl")
    assert contents(packed.wheel) == contents(packed.of_checkout)


def test_all_of_the_package_and_nothing_else(packed: Packed) -> None:
    files = {
        path for path in PACKAGE.rglob("*") if path.is_file() and not {"__pycache__", ".mypy_cache"} & set(path.parts)
    }
    # Links to folders are not followed by rglob.
    files |= {PACKAGE / "plugin_sources" / path.name for path in (ROOT / "plugins/anchor_decode").iterdir()}
    wanted = {str(path.relative_to(ROOT)): path.read_bytes() for path in files}
    packed_files = {name: data for name, data in contents(packed.wheel).items() if ".dist-info/" not in name}
    assert set(packed_files) == set(wanted)
    assert packed_files == wanted  # files, where the checkout has links
    assert {f"edge_retina/demo_files/{name}" for name in SAMPLES} <= set(wanted)
    assert {"edge_retina/py.typed", "edge_retina/plugin_sources/anchor_decode.cu"} <= set(wanted)
    assert packed.wheel.stat().st_size < MOST_BYTES
    assert packed.sdist.stat().st_size < MOST_BYTES


def test_the_sdist_has_no_tests_and_no_rubbish(packed: Packed) -> None:
    with tarfile.open(packed.sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        assert not [member.name for member in archive.getmembers() if not (member.isfile() or member.isdir())]
    top = {name.split("/")[0] for name in names}
    assert top == {
        "CHANGELOG.md",
        "LICENSE",
        "MANIFEST.in",
        "PKG-INFO",
        "README.md",
        "docs",
        "edge_retina",
        "edge_retina.egg-info",
        "pyproject.toml",
        "setup.cfg",
        "setup.py",
    }


def test_metadata(packed: Packed) -> None:
    found = metadata(packed.wheel)
    assert (found["Name"], found["Requires-Python"], found["License-Expression"]) == (
        "edge-retina",
        ">=3.10",
        "Apache-2.0",
    )
    assert found["Description-Content-Type"] == "text/markdown"
    assert found["Summary"]
    assert found.get_all("Project-URL") is None  # there is no page of ours
    assert found.get_all("License-File") == ["LICENSE"]
    versions = [line.split(" :: ")[-1] for line in found.get_all("Classifier", []) if ":: 3." in line]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    extras = set(found.get_all("Provides-Extra", []))
    assert {"rtx", "sign", "streams", "tensorrt", "track", "train", "web"} <= extras


def test_the_readme_as_a_package_index_shows_it(packed: Packed) -> None:
    from readme_renderer import markdown

    text = metadata(packed.wheel).get_payload()
    page = markdown.render(text)
    assert page is not None
    assert "<img" not in page
    assert [link for link in re.findall(r'href="([^"]*)"', page) if not link.startswith(("https:", "#"))] == []
    assert re.search("<h1[^>]*>edge-retina<", page)
    assert page.count("<pre") > 5
    assert page.count("<table") > 1
    # Code is what it is in the README, and so are all lines without links.
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"^```.*?^```$", readme, re.MULTILINE | re.DOTALL)
    assert len(code) > 5
    for block in code:
        assert block in text
    lines = [line for line in readme.splitlines() if "](" not in line]
    assert set(lines) <= set(text.splitlines())


def test_the_installed_package_runs_by_itself(packed: Packed, tmp_path: Path) -> None:
    """Unpacked as pip does it, on this environment's packages; tests/wheel_smoke.py has bare environments."""
    site = tmp_path / "site"
    with zipfile.ZipFile(packed.wheel) as archive:
        archive.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "EDGE_RETINA_CACHE": str(tmp_path / "cache")}

    def python(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert python("-c", "import edge_retina; print(edge_retina.__file__)").strip() == str(
        site / "edge_retina/__init__.py"
    )
    python("-m", "edge_retina", "demo", "--max-frames", "3", "--out", "out")
    assert (tmp_path / "out/contact-sheet.png").stat().st_size > 0
    found = python("-c", "from edge_retina.plugin import sources; print(sources())").strip()
    assert found == str(site / "edge_retina/plugin_sources")
