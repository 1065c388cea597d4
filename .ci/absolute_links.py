"""Make README.md and pyproject.toml fit for a package index: absolute links, and the project's addresses.

python .ci/absolute_links.py https://HOST/OWNER/st-softinfonce    # in a copy that is built and thrown away

A package index shows the README alone, so that its relative links and pictures would lead nowhere. They are made to
point to the tag of the version.
"""

import re
import sys
from pathlib import Path

import tomllib

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)]+)\)")


def absolute_links(text: str, address: str, version: str) -> str:
    """Point every relative link of a Markdown text to the repository."""

    def point(found: re.Match[str]) -> str:
        kind = "raw" if found[1] else "blob"
        return f"{found[1]}[{found[2]}]({address}/{kind}/v{version}/{found[3]})"

    return LINK.sub(point, text)


def project_urls(address: str) -> str:
    """Write the table of pyproject.toml that names the project's pages."""
    pages = {"Repository": "", "Documentation": "/tree/main/docs", "Issues": "/issues"}
    pages["Changelog"] = "/blob/main/CHANGELOG.md"
    return "\n[project.urls]\n" + "".join(f'{name} = "{address}{page}"\n' for name, page in pages.items())


if __name__ == "__main__":
    (address,) = sys.argv[1:]
    root = Path(__file__).parent.parent
    readme, project = root / "README.md", root / "pyproject.toml"
    version = tomllib.loads(project.read_text())["project"]["version"]
    readme.write_text(absolute_links(readme.read_text(), address.rstrip("/"), version))
    project.write_text(project.read_text() + project_urls(address.rstrip("/")))
