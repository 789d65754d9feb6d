from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from plan_cache import ABOUT, KEY, OTHER, names

from edge_retina.bundle import write_bundle
from edge_retina.commands.plans import plans_command
from edge_retina.errors import UsageError
from edge_retina.plans import list_plans, write_plan, write_timing_cache
from edge_retina.spec import DetectorSpec

SPEC = DetectorSpec(
    family="torchvision",
    labels=("cat",),
    input_size=(64, 96),
    mean=(0.0, 0.0, 0.0),
    std=(255.0, 255.0, 255.0),
    strides=((8, 8),),
    level_shapes=((8, 12),),
    cell_anchors=(((-4.0, -4.0, 4.0, 4.0),),),
    origins={},
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_RETINA_CACHE", str(tmp_path))
    monkeypatch.delenv("EDGE_RETINA_CACHE_BYTES", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TZ", "UTC")
    return tmp_path / "plans"


def plans(*arguments: str) -> Result:
    result = CliRunner().invoke(plans_command, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_an_empty_cache(cache: Path) -> None:
    result = plans()
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"no plans in {cache} yet; build and run make them where there is a GPU\n"
    assert json.loads(plans("--json").stdout) == []
    assert plans("clear", "--all").stdout == "removed 0 plans, 0.0 MB\n"


def test_a_row_for_each_plan(cache: Path) -> None:
    write_plan(KEY, bytes(1_200_000), host_code=False, about=ABOUT)
    rtx = replace(OTHER, target="tensorrt_rtx", version="1.7.1", gpu="", compute_capability="SM86,SM89")
    os.utime(write_plan(rtx, b"plan", host_code=False, about={"precision": ["odd"]}).path, (1_000_000_000,) * 2)
    result = plans()
    assert result.stderr == ""
    lines = [line.strip("┃│") for line in result.stdout.splitlines() if line[0] in "┃│"]
    rows = [[cell.strip() for cell in line.replace("┃", "│").split("│")] for line in lines]
    assert rows[0] == ["model", "runs on", "frames", "size", "last used"]
    columns = [list(filter(None, column)) for column in zip(*rows[1:4], strict=True)]
    least, usual, most = KEY.profile.split("..")
    assert columns[:2] == [["digits.edge", "int8", "abababababab"], ["Orin 8.7", "tensorrt 10.3.0"]]
    assert columns[2:4] == [[least, usual, most], ["1.2 MB"]]
    columns = [list(filter(None, column)) for column in zip(*rows[4:], strict=True)]
    assert columns[:2] == [["cdcdcdcdcdcd"], ["SM86, SM89", "tensorrt_rtx 1.7.1"]]
    assert columns[3:] == [["0.0 MB"], ["2001-09-09", "01:46"]]
    assert result.stdout.splitlines()[-1] == f"2 plans, 1.2 MB of at most 8589.9 MB, in {cache}"


def test_json_holds_everything(cache: Path) -> None:
    path = write_plan(KEY, b"plan", host_code=True, about=ABOUT).path
    os.utime(path, (1_000_000_000,) * 2)
    (found,) = json.loads(plans("--json").stdout)
    assert found == {
        "bundle": KEY.bundle,
        "target": "tensorrt",
        "version": "10.3.0",
        "gpu": "Orin",
        "compute_capability": "8.7",
        "driver": "12060",
        "plugin": "",
        "profile": KEY.profile,
        "options": "precision=int8",
        "precision": "int8",
        "size": path.stat().st_size,
        "used": "2001-09-09T01:46:40+00:00",
        "host_code": True,
        "path": str(path),
        "about": ABOUT,
    }


def test_a_damaged_plan_is_told_of_on_stderr(cache: Path) -> None:
    write_plan(KEY, b"plan", host_code=False, about={})
    (cache / "bad.plan").write_bytes(b"")
    (cache / "bad.plan").chmod(0o600)
    result = plans("--json")
    assert result.stderr == f"{cache / 'bad.plan'}: it is empty; remove it: edge-retina plans clear --all\n"
    assert len(json.loads(result.stdout)) == 1


def test_clear_by_age() -> None:
    os.utime(write_plan(KEY, bytes(2_000_000), host_code=False, about={}).path, (1_000_000_000,) * 2)
    write_plan(OTHER, b"plan", host_code=False, about={})
    assert plans("clear", "--older-than", "30").stdout == "removed 1 plans, 2.0 MB\n"
    assert [plan.key for plan in list_plans()] == [OTHER]


def test_clear_by_bundle(tmp_path: Path) -> None:
    file = tmp_path / "m.edge"
    bundle = write_bundle(file, model=b"onnx", spec=SPEC, precision="fp32", model_digest="ab" * 32)
    for key in (KEY, OTHER, replace(KEY, bundle=bundle.digest)):
        write_plan(key, b"plan", host_code=False, about={})
    assert plans("clear", "--bundle", str(file)).stdout == "removed 1 plans, 0.0 MB\n"
    assert {plan.key for plan in list_plans()} == {KEY, OTHER}
    assert plans("clear", "--bundle", "ABABAB").stdout == "removed 1 plans, 0.0 MB\n"
    assert [plan.key for plan in list_plans()] == [OTHER]
    with pytest.raises(UsageError, match="a bundle wants its digest"):
        plans("clear", "--bundle", "gone.edge")


def test_clear_all(cache: Path) -> None:
    write_plan(KEY, b"plan", host_code=False, about={})
    write_timing_cache("Orin", "8.7", "10.3.0", "12060", b"timings")
    assert plans("clear", "--all").stdout == "removed 1 plans and 1 other files, 0.0 MB\n"
    assert names(cache) == []


def test_clear_wants_to_know_what() -> None:
    write_plan(KEY, b"plan", host_code=False, about={})
    with pytest.raises(UsageError, match="plans clear wants --older-than DAYS, --bundle X, or --all alone"):
        plans("clear")
    assert plans("clear", "--older-than", "-1").exit_code == 2
    assert len(list_plans()) == 1
