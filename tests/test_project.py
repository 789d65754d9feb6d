"""The project folder: edge-retina.toml, or the only model in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_retina.errors import OutputError, UsageError
from edge_retina.project import FILE, Project, find_bundle, find_model, read_project, write_project


def write(folder: Path, text: str | bytes) -> None:
    (folder / FILE).write_bytes(text.encode() if isinstance(text, str) else text)


# Reading


def test_no_file_is_no_project(tmp_path: Path) -> None:
    assert read_project(tmp_path) is None


def test_an_empty_file_is_an_empty_project(tmp_path: Path) -> None:
    write(tmp_path, "")
    assert read_project(tmp_path) == Project()


def test_everything(tmp_path: Path) -> None:
    write(
        tmp_path,
        'model = "m.onnx"\nbundle = "out/m.edge"\ncalibration = "calib/"\nlabels = ["a", "b"]\nprecision = "int8"\n',
    )
    assert read_project(tmp_path) == Project(
        tmp_path / "m.onnx", tmp_path / "out/m.edge", str(tmp_path / "calib"), ("a", "b"), "int8"
    )


@pytest.mark.parametrize("source", ["0", "rtsp://camera/1", "test://?frames=3"])
def test_a_calibration_source_that_is_no_path_stays(tmp_path: Path, source: str) -> None:
    write(tmp_path, f'calibration = "{source}"')
    project = read_project(tmp_path)
    assert project is not None
    assert project.calibration == source


def test_labels_from_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n\n dog \n", encoding="utf-8")
    write(tmp_path, 'labels = "names.txt"')
    assert read_project(tmp_path) == Project(labels=("cat", "dog"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"a = " + b"[" * 50_000, "cannot be read"),
        ('modle = "m.onnx"', "unknown key modle; known: model, bundle"),
        ("model = 3", "model wants a string, found 3"),
        ('precision = "int4"', "precision wants one of fp32, fp16, int8, found 'int4'"),
        ("labels = []", r"labels wants a list of names or the name of a text file, found \[\]"),
        ("labels = [1]", "labels wants a list of names"),
        ('labels = "missing.txt"', "labels file 'missing.txt' cannot be read"),
    ],
)
def test_nonsense_is_a_usage_error_that_names_the_file(tmp_path: Path, text: str | bytes, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(UsageError, match=message) as caught:
        read_project(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / FILE))


def test_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        read_project(tmp_path)


# Finding


def test_an_empty_folder_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"which model\?.*no \.onnx file; run: edge-retina build MODEL.onnx"):
        find_model(tmp_path, None)
    with pytest.raises(UsageError, match=r"which bundle\?.*no \.edge file; run: edge-retina build MODEL.onnx, then"):
        find_bundle(tmp_path, None)


def test_the_only_one(tmp_path: Path) -> None:
    for name in ("m.onnx", ".hidden.onnx", "m.edge", "m.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.onnx").mkdir()
    assert find_model(tmp_path, None) == tmp_path / "m.onnx"
    assert find_bundle(tmp_path, None) == tmp_path / "m.edge"
    assert find_model(tmp_path, Project()) == tmp_path / "m.onnx"


def test_several_are_named(tmp_path: Path) -> None:
    for name in ("b.onnx", "a.onnx"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"found a\.onnx, b\.onnx"):
        find_model(tmp_path, None)


def test_the_project_decides(tmp_path: Path) -> None:
    for name in ("b.onnx", "a.onnx", "a.edge", "b.edge"):
        (tmp_path / name).touch()
    project = Project(model=tmp_path / "b.onnx")
    assert find_model(tmp_path, project) == tmp_path / "b.onnx"
    assert find_bundle(tmp_path, project) == tmp_path / "b.edge"
    assert find_bundle(tmp_path, Project(model=tmp_path / "b.onnx", bundle=tmp_path / "x.edge")) == tmp_path / "x.edge"


# Writing


def test_written_and_read_back(tmp_path: Path) -> None:
    path = write_project(tmp_path, Project(tmp_path / "m.onnx", tmp_path / "m.edge", None, ("ä", "b"), "fp32"))
    assert path.read_text(encoding="utf-8") == (
        'model = "m.onnx"\nbundle = "m.edge"\nlabels = ["ä", "b"]\nprecision = "fp32"\n'
    )
    assert read_project(tmp_path) == Project(tmp_path / "m.onnx", tmp_path / "m.edge", None, ("ä", "b"), "fp32")


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=3))
def test_any_labels_survive(labels: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        write_project(Path(name), Project(labels=tuple(labels)))
        assert read_project(Path(name)) == Project(labels=tuple(labels))


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_project(tmp_path, Project(model=tmp_path / "m\udcff.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays(tmp_path: Path) -> None:
    write(tmp_path, 'model = "mine.onnx"')
    with pytest.raises(OutputError, match="is there already; edit it, or remove it first"):
        write_project(tmp_path, Project(model=tmp_path / "other.onnx"))
    assert read_project(tmp_path) == Project(model=tmp_path / "mine.onnx")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_project(tmp_path / "file", Project())
