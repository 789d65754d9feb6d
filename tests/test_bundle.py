"""Bundles: what is written comes back, and nothing else is ever taken for a bundle."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_retina import bundle
from edge_retina.bundle import Bundle, Manifest, read_bundle, write_bundle
from edge_retina.errors import BundleCorrupt, BundleError, BundleVersion, OutputError, SpecError, UsageError
from edge_retina.spec import DetectorSpec

SPEC = DetectorSpec(
    family="torchvision",
    labels=("café", "", "猫"),
    input_size=(64, 96),
    mean=(0.0, 0.0, 0.0),
    std=(255.0, 255.0, 255.0),
    strides=((8, 8),),
    level_shapes=((8, 12),),
    cell_anchors=(((-4.0, -4.0, 4.0, 4.0),),),
    origins={"labels": "user"},
)
MODEL = bytes(range(256)) * 2
FACTS: dict[str, Any] = {
    "model": MODEL,
    "spec": SPEC,
    "precision": "int8",
    "model_digest": "ab" * 32,
    "frame_size": (480, 640),
    "batch_max": 4,
    "calibration_digest": "cd" * 32,
    "accuracy": {"fp32": {"ap": 0.25}, "drop": [0.5, None, True, "x"]},
    "tools": {"onnx": "1.17.0"},
    "extra": {"report.html": b"<p>", "ranges.json": b"{}"},
}


@pytest.fixture(autouse=True)
def _fixed_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "version", lambda _: "1.2.3")


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "model.edge", **FACTS).path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "any.edge"


@pytest.fixture(scope="module")
def whole(scratch: Path) -> bytes:
    return write_bundle(scratch, **FACTS).path.read_bytes()


def members_of(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as file:
        return [(name, file.read(name)) for name in file.namelist()]


def pack(members: list[tuple[Any, bytes]], victim: int | None = None, **odd: Any) -> bytes:
    """A zip, written here a second time by hand; `odd` replaces header fields of member number `victim`."""
    body = directory = b""
    for number, (name, data) in enumerate(members):
        field = {
            "made_by": 0x0314, "needs": 10, "flags": 0, "method": 0, "time": 0, "date": 0x21, "crc": zlib.crc32(data),
            "packed": len(data), "size": len(data), "local_name": name.encode(), "name": name.encode(), "extra": b"",
            "comment": b"", "mode": 0o100644 << 16, "offset": len(body), "data": data,
        }  # fmt: skip
        if number == victim:
            field |= {key: value for key, value in odd.items() if key in field}
        common = [field[key] for key in ("needs", "flags", "method", "time", "date", "crc", "packed", "size")]
        local, central, extra = field["local_name"], field["name"], field["extra"]
        body += struct.pack("<IHHHHHIIIHH", 0x04034B50, *common, len(local), len(extra)) + local + extra + field["data"]
        tail = [len(central), len(extra), len(field["comment"]), 0, 0, field["mode"], field["offset"]]
        directory += struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, field["made_by"], *common, *tail)
        directory += central + extra + field["comment"]
    count, comment = odd.get("count", len(members)), odd.get("end_comment", b"")
    end = (0x06054B50, 0, 0, count, count, len(directory), odd.get("start", len(body)), len(comment))
    return body + odd.get("gap", b"") + directory + struct.pack("<IHHHHIIH", *end) + comment


def with_manifest(path: Path, change: Any) -> None:
    """Replace the manifest, with correct zip headers: `change` takes its object and gives new text or an object."""
    (name, text), *rest = members_of(path)
    new = change(json.loads(text))
    path.write_bytes(pack([(name, new if isinstance(new, bytes) else json.dumps(new).encode()), *rest]))


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Reading back


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "model.edge").touch()
    with pytest.raises(BundleCorrupt, match="the file is empty"):
        read_bundle(tmp_path / "model.edge")


def test_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no such file; make it: edge-retina build MODEL\.onnx -o .*gone\.edge"):
        read_bundle(tmp_path / "gone.edge")


@pytest.mark.parametrize("verify", [True, False])
def test_round_trip(tmp_path: Path, verify: bool) -> None:
    written = write_bundle(tmp_path / "new" / "folder" / "model.edge", **FACTS)
    found = read_bundle(str(written.path), verify=verify)
    assert found == written
    assert hash(found) == hash(written)
    assert found.spec == found.manifest.spec == SPEC
    assert found.spec.origins == {"labels": "user"}
    assert found.labels == ("café", "", "猫")
    assert found.model() == MODEL
    assert found.read("labels.txt") == "café\n\n猫\n".encode()
    assert found.read("ranges.json") == b"{}"
    assert found.read("report.html") == b"<p>"
    assert hashlib.sha256(found.read("manifest.json")).hexdigest() == found.digest
    for name in ("precision", "model_digest", "frame_size", "batch_max", "calibration_digest", "accuracy", "tools"):
        assert getattr(found.manifest, name) == FACTS[name], name
    assert (found.manifest.format, found.manifest.edge_retina) == (2, "1.2.3")
    assert leftovers(written.path.parent) == ["model.edge"]


def test_least_bundle(tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "m", model=b"x", spec=SPEC, precision="fp32", model_digest="0" * 64)
    found = read_bundle(tmp_path / "m").manifest
    assert found == written.manifest
    assert (found.frame_size, found.batch_max, found.calibration_digest, found.accuracy) == (None,) * 4
    with pytest.raises(BundleError, match=r"no member 'ranges\.json'; it has manifest\.json, model\.onnx, labels\.txt"):
        written.read("ranges.json")


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    turned = {**FACTS, "extra": dict(reversed(FACTS["extra"].items())), "accuracy": {"drop": 1, "ap": {"b": 1, "a": 2}}}
    other = {**turned, "accuracy": {"ap": {"a": 2, "b": 1}, "drop": 1}, "extra": FACTS["extra"]}
    one, two = write_bundle(tmp_path / "1", **turned), write_bundle(tmp_path / "2", **other)
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.digest == two.digest
    assert write_bundle(tmp_path / "3", **{**other, "model": b"other"}).digest != one.digest


def test_golden(edge: Path) -> None:
    # Changes only with the format: then raise FORMAT and see that old files are still read.
    assert (
        hashlib.sha256(edge.read_bytes()).hexdigest()
        == "e7077e18067a4fa0890a4c007c25241de8b63d1d12f6ee64d9774fef40d9a72b"
    )


@pytest.mark.parametrize(("resize", "rounding"), [("shortest_side", "floor"), ("letterbox", "half_up")])
def test_format_1_is_still_read(edge: Path, resize: str, rounding: str) -> None:
    """It knew fewer spec fields, and rounded what was resized by the shortest side down."""
    later = {"rounding", "box_coding", "inclusive_pixels", "clip", "drop_empty", "class_choice", "top_k_scope"}
    old = {k: v for k, v in SPEC.to_dict().items() if k not in later}
    old |= {"resize": resize, "shortest_side": [800, 1333] if resize == "shortest_side" else None}
    with_manifest(edge, lambda m: {**m, "format": 1, "spec": old})
    found = read_bundle(edge)
    assert (found.manifest.format, found.spec.rounding) == (1, rounding)
    assert found.model() == MODEL


def test_it_is_a_plain_zip(edge: Path) -> None:
    with zipfile.ZipFile(edge) as file:
        assert file.testzip() is None
        assert file.namelist() == ["manifest.json", "model.onnx", "labels.txt", "ranges.json", "report.html"]
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert pack(members_of(edge)) == edge.read_bytes()


def test_manifest_json_is_its_own_inverse(edge: Path) -> None:
    manifest = read_bundle(edge).manifest
    assert Manifest.from_json(manifest.to_json().encode()) == manifest


def test_caller_keeps_his_dicts(tmp_path: Path) -> None:
    accuracy = {"ap": 0.5}
    written = write_bundle(tmp_path / "m", **{**FACTS, "accuracy": accuracy})
    accuracy["ap"] = 1.0
    assert written.manifest.accuracy == {"ap": 0.5}


def test_works_after_chdir(edge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(edge.parent)
    found = read_bundle(edge.name)
    monkeypatch.chdir("/")
    assert found.model() == MODEL


def test_import_is_light() -> None:
    heavy = "{'onnx', 'onnx_graphsurgeon', 'click', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"import sys, edge_retina.bundle; assert not {heavy}"], check=True)


# Files that are no bundle, or no longer


@pytest.mark.parametrize("name", ["model.onnx", "model.bin"])
def test_onnx_is_told_apart(tmp_path: Path, name: str) -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", 1, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    onnx.save(onnx.helper.make_model(graph), tmp_path / name)
    with pytest.raises(BundleCorrupt, match=rf"is an ONNX; build it first: edge-retina build .*{name} -o model\.edge"):
        read_bundle(tmp_path / name)


@pytest.mark.parametrize("data", [b"\0", b"PK", b"PK\3\4", b"PK\5\6" + bytes(18), b"\x89PNG\r\n", bytes(4096)])
def test_other_files(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.edge").write_bytes(data)
    with pytest.raises(BundleCorrupt, match=r"wants a zip that starts with manifest\.json"):
        read_bundle(tmp_path / "m.edge")


def test_folder_pipe_device_and_bad_paths(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/null"):
        with pytest.raises(BundleError, match="found a folder or a device"):
            read_bundle(path)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "m.edge", tmp_path / "nul\0", tmp_path / ("n" * 300)):
        with pytest.raises(BundleError, match="cannot be read"):
            read_bundle(path)


def test_unreadable_file(edge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(bundle, "open", refuse, raising=False)
    with pytest.raises(BundleError, match="cannot be read: Permission denied"):
        read_bundle(edge)


def test_truncated_anywhere(edge: Path) -> None:
    data = edge.read_bytes()
    for length in {*range(0, len(data), 17), *range(len(data) - 30, len(data))}:
        edge.write_bytes(data[:length])
        with pytest.raises(BundleCorrupt):
            read_bundle(edge)
    edge.write_bytes(data[:-1])
    with pytest.raises(BundleCorrupt, match=rf"truncated: wants {len(data)} bytes, found {len(data) - 1}; copy it"):
        read_bundle(edge)


def test_any_byte_changed_is_found(edge: Path) -> None:
    data, draw = edge.read_bytes(), random.Random(7)
    start = data.index(b"model.onnx\0\1\2") - 30
    headers = {*range(50), *range(start, start + 40), *range(data.index(b"PK\1\2"), len(data))}
    for place in headers | set(draw.sample(range(len(data)), 200)):
        changed = bytearray(data)
        changed[place] ^= draw.randrange(1, 256)
        edge.write_bytes(changed)
        with pytest.raises(BundleError):
            read_bundle(edge)


def test_change_after_opening_is_found(edge: Path) -> None:
    found = read_bundle(edge)
    data = edge.read_bytes()
    edge.write_bytes(data.replace(MODEL, MODEL[::-1]))
    with pytest.raises(BundleCorrupt, match=r"model\.onnx wants sha256"):
        found.model()
    assert read_bundle(edge, verify=False) == found
    edge.write_bytes(data[: -len(data) // 2])
    with pytest.raises(BundleCorrupt):
        found.model()
    edge.unlink()
    with pytest.raises(BundleError, match="no such file"):
        found.model()


ATTACKS: dict[str, dict[str, Any]] = {
    "climbs out": {"name": "../el.onnx", "local_name": "../el.onnx"},
    "climbs out, directory only": {"name": "../el.onnx"},
    "climbs out, local header only": {"local_name": "../el.onnx"},
    "absolute": {"name": "/odel.onnx", "local_name": "/odel.onnx"},
    "backslash": {"name": "..\\l.onnx", "local_name": "..\\l.onnx"},
    "drive letter": {"name": "C:del.onnx", "local_name": "C:del.onnx"},
    "NUL in name": {"name": "model\0onnx", "local_name": "model\0onnx"},
    "name not UTF-8": {"name": b"model\xffonnx", "local_name": b"model\xffonnx"},
    "symlink": {"mode": 0o120777 << 16},
    "folder": {"mode": (0o040755 << 16) | 0x10},
    "set-uid": {"mode": 0o104755 << 16},
    "deflated": {"method": 8, "data": zlib.compress(MODEL)[2:-4], "packed": len(zlib.compress(MODEL)) - 6},
    "says deflated": {"method": 8},
    "bomb": {"method": 8, "size": 0xFFFFFFF0},
    "encrypted": {"flags": 1},
    "data descriptor": {"flags": 8},
    "overlaps the manifest": {"offset": 0},
    "size of 4 GiB": {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF},
    "zip64 field": {"extra": struct.pack("<HHQQ", 1, 16, 512, 512), "size": 0xFFFFFFFF, "packed": 0xFFFFFFFF},
    "extra field": {"extra": b"\xfe\xca\0\0"},
    "member comment": {"comment": b"hello"},
    "file comment": {"end_comment": b"x" * 65535},
    "counts more": {"count": 9},
    "counts fewer": {"count": 2},
    "directory elsewhere": {"start": 5},
    "hole": {"gap": b"PK"},
    "date": {"date": 0x22},
    "empty": {"data": b"", "size": 0, "packed": 0},
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_on_the_zip(edge: Path, attack: str, verify: bool) -> None:
    odd = {k: v.encode() if isinstance(v, str) else v for k, v in ATTACKS[attack].items()}
    edge.write_bytes(pack(members_of(edge), victim=1, **odd))
    with pytest.raises(BundleCorrupt):
        read_bundle(edge, verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_attacks_on_the_members(edge: Path, verify: bool) -> None:
    good = members_of(edge)
    whole = edge.read_bytes()
    for files in (
        pack([*good, good[1]]),  # twice
        pack([good[0], good[1], *good[1:]]),
        pack([*good, ("evil.so", b"\x7fELF")]),  # unknown
        pack([*good, *((f"{n}.txt", b"1") for n in range(1000))]),
        pack(good[:-1]),  # missing
        pack([good[0], good[1]]),
        pack(good[1:]),
        pack([good[1], good[0], *good[2:]]),  # out of order
        pack([good[0], good[2], good[1], *good[3:]]),
        b"\x7fELF" + whole,  # prepended
        whole + b"\n",  # appended
        whole + whole,
    ):
        edge.write_bytes(files)
        with pytest.raises(BundleCorrupt):
            read_bundle(edge, verify=verify)


def test_zip_tools_make_no_bundles(edge: Path) -> None:
    members = members_of(edge)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(edge, "w", method) as file:
            for name, data in members:
                file.writestr(name, data)
        with pytest.raises(BundleCorrupt):
            read_bundle(edge)


def test_huge_manifest_is_not_read(edge: Path) -> None:
    with_manifest(edge, lambda m: json.dumps(m).encode() + b" " * (5 << 20))
    with pytest.raises(BundleCorrupt, match="too large"):
        read_bundle(edge)
    edge.write_bytes(pack(members_of(edge), victim=0, size=0xFFFFFFF0, packed=0xFFFFFFF0))
    with pytest.raises(BundleCorrupt):
        read_bundle(edge)


@pytest.mark.parametrize("found", [3, 4, 10**9])
def test_newer_format(edge: Path, found: int) -> None:
    with_manifest(edge, lambda m: {"format": found, "whatever": "comes later"})
    with pytest.raises(BundleVersion, match=rf"format {found}, this .* reads up to 2; upgrade: pip install -U edge-"):
        read_bundle(edge)


NOT_JSON = [
    b"",
    b"{",
    b"\xff",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"null",
    b"7",
    b'"x"',
    b"[]",
    b"{}",
    b'{"format":"1"}',
]
BAD_FIELDS: list[tuple[str, Any]] = [
    ("format", 0), ("format", -1), ("format", True), ("format", 1.0), ("format", None), ("format", [1]),
    ("edge_retina", 1), ("precision", "fp8"), ("precision", None), ("precision", ["fp32"]),
    ("frame_size", [480]), ("frame_size", [480, 640, 3]), ("frame_size", [0, 640]), ("frame_size", [480.0, 640]),
    ("frame_size", 480), ("frame_size", 0), ("frame_size", ""), ("frame_size", {"H": 1}), ("frame_size", [1, 16385]),
    ("batch_max", 0), ("batch_max", -1), ("batch_max", 1.0), ("batch_max", True), ("batch_max", 4097),
    ("model_digest", None), ("model_digest", "AB" * 32), ("model_digest", "ab" * 31), ("model_digest", 5),
    ("calibration_digest", ""), ("calibration_digest", 5), ("accuracy", []), ("accuracy", "good"), ("accuracy", 0.5),
    ("tools", None), ("tools", ["onnx"]), ("tools", {"onnx": 1}), ("tools", {"onnx": None}),
    ("spec", None), ("spec", {}), ("spec", []), ("spec", {**SPEC.to_dict(), "labels": ["a", "b", "c"]}),
    ("spec", {**SPEC.to_dict(), "nms_iou": 2}), ("spec", {**SPEC.to_dict(), "labels": []}),
    ("spec", {**SPEC.to_dict(), "labels": ["a\nb"]}), ("spec", {**SPEC.to_dict(), "labels": ["\ud800"]}),
    ("spec", {**SPEC.to_dict(), "surprise": 1}), ("spec", {**SPEC.to_dict(), "mean": [10**320, 0, 0]}),
    ("spec", {**SPEC.to_dict(), "std": [float("nan")] * 3}), ("accuracy", {"ap": float("nan")}),
    ("accuracy", {"ap": float("inf")}), ("accuracy", {"ap": float("-inf")}), ("accuracy", {"n": 10**300}),
    ("members", None), ("members", []), ("members", {}), ("members", {"model.onnx": None}), ("members", {"": {}}),
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_JSON, ids=lambda text: repr(text[:20]))
def test_manifest_is_not_json(edge: Path, text: bytes) -> None:
    with_manifest(edge, lambda m: text)
    with pytest.raises(BundleCorrupt, match=r"manifest\.json"):
        read_bundle(edge)


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS, ids=lambda value: repr(value)[:30])
def test_manifest_field(edge: Path, name: str, value: Any) -> None:
    with_manifest(edge, lambda m: {**m, name: value})
    with pytest.raises(BundleCorrupt, match=r"manifest\.json does not fit format 2") as caught:
        read_bundle(edge)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 5000, "NaN", "Infinity"])
def test_manifest_number(edge: Path, number: str) -> None:
    with_manifest(edge, lambda m: json.dumps({**m, "accuracy": {"ap": 12345}}).replace("12345", number).encode())
    with pytest.raises(BundleCorrupt):
        read_bundle(edge)


def test_manifest_depth(edge: Path) -> None:
    whole = edge.read_bytes()
    for depth in (100, 500, 990, 3000):
        deep = b"[" * depth + b"]" * depth
        for field in ("spec", "accuracy", "tools", "members", "frame_size", "format"):
            with_manifest(edge, lambda m, f=field, d=deep: json.dumps({**m, f: "HERE"}).encode().replace(b'"HERE"', d))
            with pytest.raises(BundleError):
                read_bundle(edge)
            edge.write_bytes(whole)


@pytest.mark.parametrize("name", ["format", "spec", "tools", "members", "edge_retina"])
def test_manifest_field_missing_or_unknown(edge: Path, name: str) -> None:
    whole = edge.read_bytes()
    with_manifest(
        edge, lambda m: {k: v for k, v in m.items() if k != name} | ({"format": 2} if name != "format" else {})
    )
    with pytest.raises(BundleCorrupt):
        read_bundle(edge)
    edge.write_bytes(whole)
    with_manifest(edge, lambda m: {**m, name + "2": 1})
    with pytest.raises(BundleCorrupt):
        read_bundle(edge)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 511}, {"size": 513}, {"size": 0}, {"size": -512}, {"size": 512.0}, {"size": 1 << 31}, {"size": "512"},
        {"size": 10**30}, {"crc32": 0}, {"crc32": -1}, {"crc32": 1 << 32}, {"crc32": None}, {"sha256": "00" * 32},
        {"sha256": 0}, {"surprise": 0},
    ],
    ids=str,
)  # fmt: skip
def test_manifest_lies_about_a_member(edge: Path, change: dict[str, Any]) -> None:
    member = {**dataclasses.asdict(read_bundle(edge).manifest.members["model.onnx"]), **change}
    with_manifest(edge, lambda m: {**m, "members": {**m["members"], "model.onnx": member}})
    with pytest.raises(BundleCorrupt):
        read_bundle(edge)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "C:\\x", "model.onnx\0", "manifest.json", "evil.so", "MODEL.ONNX"]
)
def test_manifest_names_a_member_of_its_own(edge: Path, name: str) -> None:
    member = {"sha256": hashlib.sha256(b"x").hexdigest(), "crc32": zlib.crc32(b"x"), "size": 1}
    with_manifest(edge, lambda m: {**m, "members": {**m["members"], name: member}})
    edge.write_bytes(pack([*members_of(edge), (name, b"x")]))
    with pytest.raises(BundleCorrupt, match="members wants sizes up to"):
        read_bundle(edge)


# Any bytes at all


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=200).map(lambda tail: pack([("manifest.json", tail)]))))
def test_any_bytes(scratch: Path, data: bytes) -> None:
    scratch.write_bytes(data)
    with pytest.raises(BundleError):
        read_bundle(scratch)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
FIELDS = sorted(field.name for field in dataclasses.fields(Manifest))
SPEC_FIELDS = sorted(SPEC.to_dict())


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FIELDS), st.sampled_from(SPEC_FIELDS), ANY_JSON, st.booleans())
def test_any_value_in_the_manifest(
    scratch: Path, whole: bytes, name: str, spec_name: str, value: Any, inside: bool
) -> None:
    scratch.write_bytes(whole)
    spec = {**SPEC.to_dict(), spec_name: value}
    with_manifest(scratch, lambda m: {**m, "spec": spec} if inside else {**m, name: value})
    try:
        found = read_bundle(scratch)
    except BundleError:
        return
    assert isinstance(found, Bundle)
    assert Manifest.from_json(found.manifest.to_json().encode()) == found.manifest
    assert found.model() == MODEL


# Writing


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": b""}, UsageError),
        ({"precision": "fp8"}, UsageError),
        ({"model_digest": "short"}, UsageError),
        ({"frame_size": (0, 1)}, UsageError),
        ({"batch_max": 0}, UsageError),
        ({"accuracy": {"ap": float("nan")}}, UsageError),
        ({"accuracy": {"ap": object()}}, UsageError),
        ({"accuracy": {"labels": "x" * (5 << 20)}}, UsageError),
        ({"tools": {"onnx": None}}, UsageError),
        ({"extra": {"model.onnx": b"other"}}, UsageError),
        ({"extra": {"labels.txt": "café\n\n猫\n".encode()}}, UsageError),
        ({"extra": {"../x": b"x"}}, UsageError),
        ({"extra": {"report.html": b""}}, UsageError),
        ({"extra": {"report.html": bytes((64 << 20) + 1)}}, UsageError),
        ({"spec": dataclasses.replace(SPEC, labels=("a\nb",))}, SpecError),
        ({"spec": dataclasses.replace(SPEC, labels=("a\u2028",))}, SpecError),
        ({"spec": dataclasses.replace(SPEC, labels=("\udc80",))}, SpecError),
        ({"spec": dataclasses.replace(SPEC, labels=("x" * (1 << 20),))}, UsageError),
    ],
)
def test_values_that_do_not_fit(edge: Path, change: dict[str, Any], error: type[Exception]) -> None:
    before = edge.read_bytes()
    with pytest.raises(error):
        write_bundle(edge, **{**FACTS, **change})
    assert edge.read_bytes() == before
    assert leftovers(edge.parent) == ["model.edge"]


def _refuse(code: int) -> Any:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


FAILURES = [
    (errno.ENOSPC, "No space left on device; the disk or quota is full: free some space"),
    (errno.EDQUOT, "the disk or quota is full"),
    (errno.EACCES, "Permission denied; choose a folder you may write to with -o"),
    (errno.EROFS, "Read-only file system; choose a folder"),
    (errno.EIO, "choose another path with -o"),
]


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize(("code", "words"), FAILURES)
def test_refused_by_the_system(edge: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, words: str) -> None:
    before = edge.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, _refuse(code))
        with pytest.raises(OutputError, match=rf"model\.edge: cannot be written: .*{words}"):
            write_bundle(edge, **{**FACTS, "model": b"other"})
    assert edge.read_bytes() == before
    assert leftovers(edge.parent) == ["model.edge"]


def test_file_size_limit_of_the_kernel(edge: Path) -> None:
    resource = pytest.importorskip("resource")
    before = edge.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OutputError, match="cannot be written: File too large"):
            write_bundle(edge, **{**FACTS, "model": bytes(3_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert edge.read_bytes() == before
    assert leftovers(edge.parent) == ["model.edge"]


def test_interrupt_leaves_nothing(edge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(edge, **FACTS)
    assert leftovers(edge.parent) == ["model.edge"]


def test_target_cannot_be_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # stands for /dev/null, which a failing test must not replace
    for path, words in (
        (tmp_path / "file" / "model.edge", "part of the path is a file, not a folder"),
        (tmp_path / "file" / "deeper" / "model.edge", "part of the path is a file, not a folder"),
        (tmp_path / "folder", "there is a folder or a device of that name"),
        (tmp_path / "pipe", "there is a folder or a device of that name"),
        (tmp_path / "nul\0", "null"),
        (tmp_path / ("n" * 300), "File name too long"),
    ):
        with pytest.raises(OutputError, match=words):
            write_bundle(path, **FACTS)
    assert leftovers(tmp_path) == ["file", "folder", "pipe"]
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_mode_respects_umask_and_long_names_work(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        written = write_bundle(tmp_path / ("猫" * 80), **FACTS)
    finally:
        os.umask(before)
    assert written.path.stat().st_mode & 0o777 == 0o640


def test_symlink_is_replaced_not_followed(edge: Path) -> None:
    link = edge.with_name("latest.edge")
    link.symlink_to(edge.name)
    write_bundle(link, **{**FACTS, "model": b"other"})
    assert not link.is_symlink()
    assert (read_bundle(edge).model(), read_bundle(link).model()) == (MODEL, b"other")


KILLED = """
import os, signal, sys
from edge_retina import bundle
from edge_retina.spec import DetectorSpec

path, text, point = sys.argv[1:]
spec = DetectorSpec.from_json(text)

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def before(name):
    setattr(os, name, die)

def after(name):
    call = getattr(os, name)
    def both(*args, **kwargs):
        call(*args, **kwargs)
        die()
    setattr(os, name, both)

class Half:
    def __init__(self, descriptor, mode):
        self.descriptor = descriptor
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def writelines(self, pieces):
        data = b"".join(pieces)
        os.write(self.descriptor, data[: len(data) // 2])
        die()

if point == "halfway":
    bundle.open = Half
else:
    when, name = point.split()
    globals()[when](name)
bundle.write_bundle(path, model=b"new" * 99999, spec=spec, precision="fp32", model_digest=64 * "0")
"""


@pytest.mark.parametrize(
    "point", ["after open", "halfway", "before fsync", "after fsync", "before replace", "after replace"]
)
def test_killed_while_writing(edge: Path, point: str) -> None:
    before = edge.read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, edge, SPEC.to_json(), point], check=False)
    assert done.returncode == -signal.SIGKILL
    if point == "after replace":
        assert read_bundle(edge).model() == b"new" * 99999
        assert leftovers(edge.parent) == ["model.edge"]
    else:
        assert edge.read_bytes() == before
        (temp,) = edge.parent.glob(".model.edge.*.tmp")
        assert len(temp.name) == len(".model.edge.") + 16 + len(".tmp")
        assert write_bundle(edge, **FACTS) == read_bundle(edge)


def test_readers_see_the_old_or_the_new(edge: Path) -> None:
    failures: list[BaseException] = []

    def write(model: bytes) -> None:
        try:
            for _ in range(8):
                write_bundle(edge, **{**FACTS, "model": model})
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=write, args=(bytes([n]) * 512,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        data = edge.read_bytes()
        copy = edge.with_name("copy")
        copy.write_bytes(data)
        assert set(read_bundle(copy).model()) in ({1}, {2}, set(MODEL))
    for thread in threads:
        thread.join()
    assert not failures
    assert leftovers(edge.parent) == ["copy", "model.edge"]
