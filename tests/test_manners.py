"""The command line's manners: help that fits, typing mistakes, completion, versions, what stderr says."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from models import tiny_model

from edge_retina import build, cli, errors
from edge_retina.commands.completion import complete_sink, complete_source
from edge_retina.commands.examples import EXAMPLES
from edge_retina.logs import talking
from edge_retina.redaction import redact_text

COMMAND = [sys.executable, "-m", "edge_retina"]
README = Path(__file__).resolve().parent.parent / "README.md"
SECRET = "rtsp://me:hunter2@127.0.0.1:9/x"


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and what is below it, by how it is typed."""
    context = click.Context(cli.cli)
    for name in cli.cli.list_commands(context):
        command = cli.cli.get_command(context, name)
        assert command is not None, name
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", inner) for below, inner in command.commands.items())


ALL = dict(commands())


def page(name: str, width: int = 80) -> str:
    command = ALL[name]
    context = click.Context(command, info_name=f"edge-retina {name}", terminal_width=width)
    return command.get_help(context)


# Help


@pytest.mark.parametrize("name", ALL)
def test_pages_fit_80_columns_and_say_what_the_command_is_for(name: str) -> None:
    text = page(name)
    assert text.startswith(f"Usage: edge-retina {name}")
    # A choice of words is never broken; all else is.
    long = [line for line in text.splitlines() if len(line) > 80 and not re.search(r"\[\S+\|\S+\]", line)]
    assert long == []
    assert "\\b" not in text
    assert len(ALL[name].get_short_help_str(200)) > 10


@pytest.mark.parametrize("name", ALL)
def test_pages_end_with_an_example_or_their_own_words(name: str) -> None:
    assert re.search(r"edge-retina|\n  \S", ALL[name].epilog or page(name).split("Commands:")[-1]), name


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line.split(" > ")[0].removeprefix("sudo "))
    assert words[0] == "edge-retina"
    assert len(line) <= 78
    name = " ".join(words[1:3]) if " ".join(words[1:3]) in ALL else words[1]
    rest = [word for word in words[1 + len(name.split()) :] if word != "--help"]
    # Parsed as it would be, options' own checks included; nothing is run, no file has to be there.
    context = ALL[name].make_context(name, list(rest))
    assert context.params or not rest


def test_each_example_is_of_a_command() -> None:
    assert set(EXAMPLES) <= set(ALL)


def test_the_list_is_by_task_and_complete() -> None:
    text = click.Context(cli.cli, info_name="edge-retina", terminal_width=80).get_help()
    listed = re.findall(r"^  (\w+)  ", text.split("Options:")[1].split("Exit codes")[0], re.MULTILINE)
    assert set(listed) == {name for name in ALL if " " not in name}
    assert len(listed) == len(set(listed))
    assert re.findall(r"^(\w+):$", text, re.MULTILINE) == ["Options", "Build", "Run", "Prove", "Look", "Deploy"]
    assert all(len(line) <= 80 for line in text.splitlines())


def test_exit_codes_stand_in_one_place_and_are_those_of_the_errors() -> None:
    classes = [getattr(errors, name) for name in errors.__all__]
    told = dict(re.findall(r"(\d+) (\w+)", " ".join((cli.cli.epilog or "").split())))
    assert {int(code) for code in told} == {0, 130, *(kind.exit_code for kind in classes)}
    listed = README.read_text(encoding="utf-8").split("Exit codes:")[1].split("\n\n")[0]
    assert dict(re.findall(r"(\d+) (\w+)", " ".join(listed.split()))) == told


# Typing mistakes


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("buidl", "did you mean build?"),
        ("docter", "did you mean doctor?"),
        ("zzz", "no command 'zzz'\n"),
        ("build --itn8", "--int8"),
        ("plans claer", "claer"),
        ("--jsno", "--json"),
    ],
)
def test_mistyped(typed: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed_here(*typed.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert wanted in err
    assert err.endswith("--help says more.\n")


def typed_here(*words: str) -> int:
    before = sys.argv
    sys.argv = ["edge-retina", *words]
    try:
        with pytest.raises(SystemExit) as caught:
            cli.main()
    finally:
        sys.argv = before
    return int(caught.value.code or 0)


# Versions


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy

    assert typed_here("--version") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("edge-retina, version ")
    assert f"numpy {numpy.__version__}" in lines
    assert typed_here("--version", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["numpy"] == numpy.__version__
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "tensorrt" in facts
    assert typed_here("--json") == 2
    assert "--version" in capsys.readouterr().err


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed_here("completion", shell) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"_EDGE_RETINA_COMPLETE={shell}_complete" in out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=out, text=True, check=True)


def test_bash_completes_with_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert typed_here("completion", "bash") == 0
    (tmp_path / "edge-retina").write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    (tmp_path / "edge-retina").chmod(0o755)
    script = capsys.readouterr().out + "\nCOMP_WORDS=(edge-retina do) COMP_CWORD=1\n"
    script += "_edge_retina_completion edge-retina\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["doctor"]


def test_uris_and_files() -> None:
    context, option = click.Context(cli.cli), click.Option(["--source"])
    assert [item.value for item in complete_source(context, option, "rts")] == ["rtsp://"]
    assert [(item.value, item.type) for item in complete_source(context, option, "ride.m")] == [("ride.m", "file")]
    assert complete_source(context, option, "")[-1].type == "file"
    assert [item.value for item in complete_sink(context, option, "disp")] == ["display://"]


# What stderr says


def lines_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    tiny_model(folder / "m.onnx")
    return build(folder / "m.onnx").path


@pytest.mark.parametrize("before", [True, False])
def test_quiet_and_json_before_and_behind_the_command(
    bundle: Path, before: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(bundle), "--source", "test://?frames=2&size=64x64", "--target", "ort"]
    assert typed_here(*(["-q", *words] if before else [*words, "-q"])) == 0
    out, err = capfd.readouterr()
    assert (out.count("\n"), err) == (2, "")
    assert typed_here(*(["--log-json", *words] if before else [*words, "--log-json"])) == 0
    out, err = capfd.readouterr()
    assert out.count("\n") == 2
    told = lines_of(err)
    assert told[-1]["logger"] == "edge_retina.talk"
    assert str(told[-1]["message"]).startswith("2 frames, ")
    assert set(told[-1]) == {"time", "level", "logger", "message"}


def test_errors_are_told_where_it_is_quiet_and_as_json(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert typed_here("-q", "run", str(bundle), "--source", "no.mp4") == 3
    assert capfd.readouterr().err.startswith("edge-retina: no such file or folder: no.mp4")
    assert typed_here("run", str(bundle), "--source", "no.mp4", "--log-json", "-q") == 3
    (told,) = lines_of(capfd.readouterr().err)
    assert (told["level"], told["exit_code"]) == ("error", 3)
    assert typed_here("--log-json", "fly") == 2
    (told,) = lines_of(capfd.readouterr().err)
    assert told["exit_code"] == 2


def test_verbose_says_what_reads_frames(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    video = README.parent / "samples" / "digits" / "pan.mp4"
    words = ["run", str(bundle), "--source", str(video), "--max-frames", "1"]
    assert typed_here(*words) == 0
    assert "info: " not in capfd.readouterr().err
    assert typed_here(*words, "-v") == 0
    assert "info: edge_retina.capture.opencv: frames come through OpenCV (" in capfd.readouterr().err


def test_levels_and_redaction(capsys: pytest.CaptureFixture[str]) -> None:
    ours, other = logging.getLogger("edge_retina.x"), logging.getLogger("other")
    root = list(logging.root.handlers)
    for number, told in enumerate((["ow"], ["oi", "ow"], ["od", "oi", "ti", "ow"], ["od", "oi", "td", "ti", "ow"])):
        with talking() as talk:
            talk.set(verbose=number)
            if number:
                ours.debug("od")
                ours.info("oi")
                other.debug("td")
                other.info("ti")
            print("ow", file=sys.stderr)
        lines = capsys.readouterr().err.splitlines()
        assert [line.rpartition(" ")[2] for line in lines] == told, number
    with talking() as talk:
        talk.set(log_json=True)
        ours.warning("cannot open %s: refused", SECRET)
        print(f"trying {SECRET} again", end="\r\rlast", file=sys.stderr)
        try:
            raise ValueError(SECRET)
        except ValueError:
            ours.exception("oh")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(False)
            talk.set()
            warnings.warn("old", UserWarning, stacklevel=1)
    text = capsys.readouterr().err
    assert "hunter2" not in text
    told_lines = lines_of(text)
    assert told_lines[0]["message"] == "cannot open rtsp://me:***@127.0.0.1:9/x: refused"
    assert "ValueError: rtsp://me:***@" in str(told_lines[1]["exception"])
    assert told_lines[2]["logger"] == "py.warnings"
    assert told_lines[3]["message"] == "last"
    assert logging.root.handlers == root


def test_nothing_is_left_changed() -> None:
    stderr, shown = sys.stderr, warnings.showwarning

    def fail() -> None:
        with talking() as talk:
            talk.set(quiet=True)
            print("not seen", file=sys.stderr)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert sys.stderr is stderr
    assert warnings.showwarning is shown


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("", ""),
        ("no uri: at all", "no uri: at all"),
        ("a rtsp://u:p@h/x and http://h/?token=abc&x=1", "a rtsp://u:***@h/x and http://h/?token=***&x=1"),
        ("'rtsp://u:p@h/x'", "'rtsp://u:***@h/x'"),
    ],
)
def test_redacted_text(text: str, clean: str) -> None:
    assert redact_text(text) == clean


def test_no_color_means_no_escapes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert typed_here("inspect", str(bundle)) == 0
    assert "\x1b" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert typed_here("inspect", str(bundle)) == 0
    assert "\x1b" not in capsys.readouterr().out
