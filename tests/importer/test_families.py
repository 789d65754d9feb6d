"""Every export that is here is one family's, whichever family is asked, and a forced family says no to the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import tiny_model

from edge_retina.errors import NotADetector, SpecError
from edge_retina.importer import FAMILIES, Source, import_model, load_onnx

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXPORTS = sorted(path.stem for path in FIXTURES.glob("*.onnx"))
NAMES = {"tv": "torchvision"}
# DeepForest's raw export is torchvision's, weight for weight.
LOOKS = {"deepforest_raw_ts": "torchvision"}
KIN = {"torchvision", "deepforest", "mlperf"}


def family_of(export: str) -> str:
    """By the fixture's name: family_variant_exporter."""
    prefix = next(name for name in sorted({*FAMILIES, *NAMES}, key=len, reverse=True) if export.startswith(f"{name}_"))
    return LOOKS.get(export, NAMES.get(prefix, prefix))


def test_every_family_has_an_export_here():
    assert {family_of(export) for export in EXPORTS} == set(FAMILIES) - {"edge_retina"}


@pytest.mark.parametrize("export", EXPORTS)
def test_exactly_one_family_recognises_it(export):
    source = load_onnx(FIXTURES / f"{export}.onnx")
    hits = []
    for name, family in FAMILIES.items():
        if family.recognise(source.graph, source.metadata) is not None:
            hits.append(name)
    assert hits == [family_of(export)]
    assert import_model(source).spec.family == family_of(export)


@pytest.mark.parametrize("export", EXPORTS)
def test_another_family_forced_says_no(export):
    source = load_onnx(FIXTURES / f"{export}.onnx")
    own = family_of(export)
    for name in FAMILIES:
        if name == own or {name, own} <= KIN:
            continue
        with pytest.raises((NotADetector, SpecError), match=r"Looked for: |wanted"):
            import_model(source, family=name)


def test_our_own_metadata_go_before_every_habit():
    model, spec = tiny_model()
    source = Source(model, "")
    assert [name for name, f in FAMILIES.items() if f.recognise(source.graph, source.metadata)] == ["edge_retina"]
    assert import_model(source).spec == spec


def test_two_families_that_fit_are_both_named_with_their_reasons(monkeypatch):
    source = load_onnx(FIXTURES / "odtk_resnet18_ts.onnx")
    monkeypatch.setitem(FAMILIES, "odtk_too", FAMILIES["odtk"])
    with pytest.raises(SpecError, match=r"odtk \(outputs score_1.*odtk_too \(outputs score_1.*--family"):
        import_model(source)
    assert import_model(source, family="odtk").spec.family == "odtk"


def test_the_doubts_of_one_family_do_not_hide_another(monkeypatch):
    def doubts(graph, metadata):
        raise SpecError("doubtful: wanted certainty, found none")

    source = load_onnx(FIXTURES / "odtk_resnet18_ts.onnx")
    monkeypatch.setitem(FAMILIES, "mmdet", FAMILIES["mmdet"].__class__(doubts, "nothing"))
    assert import_model(source).spec.family == "odtk"
    monkeypatch.setitem(FAMILIES, "odtk", FAMILIES["mmdet"])
    with pytest.raises(SpecError, match="doubtful"):
        import_model(source)
