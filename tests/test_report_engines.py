"""The section of a report that shows what was compiled of its bundle."""

from __future__ import annotations

from edge_retina.report.engines import add_engines, engines_section

PAGE = b"<!doctype html><html><body><main><p>measured</p></main><script>x</script></body></html>\n"
LAYER = {
    "name": "conv<1>",
    "type": "CaskConvolution",
    "inputs": [["x", "Int8"], ["skip", "Int8"]],
    "outputs": [["y", "Half"]],
    "nodes": [],
    "constants": [],
}


def test_no_plan_leaves_the_page_as_it_is() -> None:
    assert engines_section([]) == ""
    assert add_engines(PAGE, []) == PAGE


def test_a_page_of_another_kind_stays_as_it_is() -> None:
    assert add_engines(b"<p>mine", [("t", {"layers": [LAYER]})]) == b"<p>mine"


def test_a_row_for_each_layer_at_the_end_of_the_page() -> None:
    about = {"shares": {"int8": 0.953, "fp16": 0.047, "fp32": 0.0}, "seconds": 2.5, "layers": [LAYER]}
    page = add_engines(PAGE, [("tensorrt 10.3.0, Orin", about)]).decode()
    assert page.index("measured") < page.index('<section id="engines">') < page.index("</main>")
    assert (
        "<h3>tensorrt 10.3.0, Orin</h3><p>work of the convolutions: int8 95.3%, fp16 4.7%; compiled in 2.5 s</p>"
        in page
    )
    assert "<td>CaskConvolution</td><td>Int8</td><td>Half</td>" in page
    assert "conv&lt;1&gt;" in page
    assert "<1>" not in page


def test_an_engine_whose_layers_nobody_could_read() -> None:
    assert "not shown by this TensorRT" in engines_section([("t", {"layers": []}), ("u", {})])
