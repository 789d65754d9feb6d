"""Commands in docs/, README and the samples' pages: the command line takes each as it stands there."""

import re
import shlex
from pathlib import Path

import click
import pytest

from edge_retina.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "samples").glob("*/README.md"))]


def commands(text: str) -> list[str]:
    """Lines of code that begin with edge-retina, with or without sudo; those that go on are joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    in_code, found = False, []
    for line in joined.splitlines():
        if line.startswith("```"):
            in_code = not in_code
        elif in_code or line.startswith("    "):
            words = line.strip().removeprefix("sudo ")
            if words.startswith("edge-retina "):
                found.append(words)
    return found


def words_of(line: str) -> list[str]:
    """The words behind edge-retina, up to a comment, a pipe or a redirection."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>;&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|<>;&"):
            break
        words.append(word)
    return words[1:]


def parse(words: list[str]) -> None:
    """As click does, without running anything or looking for a file. Raises click.UsageError."""
    command: click.Command = cli
    context = click.Context(cli, info_name="edge-retina")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    _, rest, _ = command.make_parser(context).parse_args(words)
    assert rest == [], f"words too many: {rest}"


def test_no_commands():
    assert commands("") == []
    assert commands("Say `edge-retina run`.\n\nedge-retina in prose\n") == []


def test_commands_are_found_and_parsed():
    text = "    sudo edge-retina run m.edge --out 'a b' # why\n```sh\nedge-retina plans \\\n  --json > o.json\n```\n"
    found = commands(text)
    assert [words_of(line) for line in found] == [["run", "m.edge", "--out", "a b"], ["plans", "--json"]]
    for line in found:
        parse(words_of(line))


@pytest.mark.parametrize(
    "words", [["rum"], ["run", "--no-such-option"], ["export", "tritom", "b"], ["plans", "a", "b", "c"]]
)
def test_wrong_commands_are_refused(words):
    with pytest.raises((click.UsageError, AssertionError)):
        parse(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_says_what_the_command_line_takes(page):
    for line in commands(page.read_text(encoding="utf-8")):
        try:
            parse(words_of(line))
        except click.UsageError as exc:
            pytest.fail(f"{line}: {exc.format_message()}")


def test_the_pages_have_commands():
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in PAGES) >= 40
