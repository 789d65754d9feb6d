"""The README as a package index shows it; everything else stands in pyproject.toml.

An index shows that one file alone: pictures and files of the repository cannot be reached from there, and there is no
address of ours to make links absolute with. So pictures are left out, and links into the repository become their text.
"""

import re
from pathlib import Path

from setuptools import setup

_PICTURE = re.compile(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n\n?", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)[^)\s]*\)")


def for_index(readme: str) -> str:
    """The text of README.md without what leads into the repository; code blocks stay as they are."""
    parts = re.split(r"(^```.*?^```$)", readme, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(r"\1", _PICTURE.sub("", part)) for part in parts)


if __name__ == "__main__":
    readme = for_index(Path(__file__).with_name("README.md").read_text(encoding="utf-8"))
    setup(long_description=readme, long_description_content_type="text/markdown")
