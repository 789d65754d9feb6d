"""Units are cut by the files alone."""

from __future__ import annotations

from edge_retina.batch.listing import SourceFile
from edge_retina.batch.units import Unit, make_units


def files(pictures: int) -> list[SourceFile]:
    return [SourceFile(f"{i}.jpg", f"/p/{i}.jpg", "", 10, 20) for i in range(pictures)]


def test_no_files_no_units():
    assert make_units([], "x") == []


def test_a_video_is_a_unit_and_pictures_go_together():
    film = SourceFile("v.mp4", "/p/v.mp4", "", 10, 20)
    units = make_units([*files(9)[:3], film, *files(9)[3:], film], "x")
    assert [[file.name for file in unit.files] for unit in units] == [
        ["0.jpg", "1.jpg", "2.jpg"],
        ["v.mp4"],
        ["3.jpg", "4.jpg", "5.jpg", "6.jpg", "7.jpg", "8.jpg"],
        ["v.mp4"],
    ]


def test_sizes_of_units():
    # 256 units of at least 8 and at most 64: 2,000 / 256 = 7.8, 4,000 / 256 = 15.6, 20,000 / 256 = 78
    assert len(make_units(files(2000), "x")[0].files) == 8
    assert len(make_units(files(4000), "x")[0].files) == 16
    assert {len(unit.files) for unit in make_units(files(20_000), "x")} == {64, 32}  # 312 x 64 + 32


def test_a_key_changes_with_all_that_matters():
    (a,) = make_units(files(1), "x")
    assert len(a.key) == 16
    assert make_units(files(1), "x") == [a]
    one = SourceFile("0.jpg", "/elsewhere/0.jpg", "", 10, 20)
    assert make_units([one], "x")[0].key == a.key  # found again from another folder
    others = [
        SourceFile("1.jpg", "", "", 10, 20),
        SourceFile("0.jpg", "", "", 11, 20),
        SourceFile("0.jpg", "", "", 10, 21),
    ]
    assert a.key not in [make_units([other], "x")[0].key for other in others]
    assert make_units(files(1), "y")[0].key != a.key


def test_a_unit_survives_its_text():
    unit = Unit("k", (SourceFile("a\udcff.jpg", "/a\udcff.jpg", "", 1, 2),))
    assert Unit.from_json(unit.to_json()) == unit
