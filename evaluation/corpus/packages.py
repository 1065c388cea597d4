"""The packages that corpora are made of: their description, and how they are fetched and verified."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from evaluation import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# The same wheels on every machine: only their Python files are read.
_PIP = [sys.executable, "-m", "pip"]
_WHEELS = ["--only-binary=:all:", "--python-version=3.11"]
_WHEELS += [
    f"--platform={name}_x86_64" for name in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux2014")
]


@dataclass(frozen=True)
class Client:
    """How to ask a registry.

    Attributes:
        program: What must be installed.
        download: Puts the package that is named behind it into the folder where it is called.
        named: A package of one version.
        current: Tells the version that is served of the package named behind it.
        version: Finds that version in what it tells.
    """

    program: str
    download: tuple[str, ...]
    named: str
    current: tuple[str, ...]
    version: str


CLIENTS = {
    "pip": Client(
        "pip",
        (*_PIP, "download", "--quiet", "--no-deps", *_WHEELS),
        "{0.name}=={0.version}",
        (*_PIP, "index", "versions"),
        r"\A\S+ \(([^()]+)\)",
    ),
    "npm": Client("npm", ("npm", "pack", "--silent"), "{0.name}@{0.version}", ("npm", "view"), r"@(\d\S*) \|"),
    "apt": Client(
        "apt-get",
        ("apt-get", "download", "--quiet"),
        "{0.name}={0.version}",
        ("apt-cache", "policy"),
        r"Candidate: (\d\S*)",
    ),
}


class CorpusError(UsageError):
    """A language cannot be built; the text says why and what to do."""


@dataclass(frozen=True)
class Package:
    """One package of `packages.toml`.

    Attributes:
        name: Its name in the registry.
        version: Its version there.
        license: SPDX expression.
        sha256: Of the file that the registry serves.
        by_folder: Whether each folder at the top of its sources is a package of its own, as modules of the JDK are.
    """

    name: str
    version: str
    license: str
    sha256: str
    by_folder: bool = False

    @property
    def source_options(self) -> dict[str, Any]:
        """What mining should record of its code."""
        package = (lambda path: path.split("/")[0]) if self.by_folder else self.name
        return {"package": package, "version": self.version, "license": self.license}


@dataclass(frozen=True)
class Corpus:
    """One language of `packages.toml`.

    Attributes:
        language: The language.
        client: The registry's client: a key of `CLIENTS`.
        packages: What to mine.
        validation: Patterns of the names of packages to validate on.
        test: Patterns of the names of packages to test on.
    """

    language: str
    client: str
    packages: tuple[Package, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def side(self, package: str) -> str:
        """Find the split that a package belongs to."""
        for side in ("test", "validation"):
            if any(fnmatchcase(package, pattern) for pattern in getattr(self, side)):
                return side
        return "train"


def read_corpora(path: Path) -> tuple[str, dict[str, Corpus]]:
    """Read the version and the languages of a description such as `packages.toml`.

    Raises:
        CorpusError: A client is unknown.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    corpora = {}
    for language, entry in content["languages"].items():
        if entry["client"] not in CLIENTS:
            raise CorpusError(
                f"{path.name}: client of {language} must be one of {[*CLIENTS]}, got {entry['client']!r}."
            )
        packages = tuple(Package(**package) for package in entry["packages"])
        sides = tuple(entry["validation"]), tuple(entry["test"])
        corpora[language] = Corpus(language, entry["client"], packages, *sides)
    return content["version"], corpora


def fetch(corpus: Corpus, downloads: Path, accept_other_versions: bool = False) -> list[tuple[Package, Path]]:
    """Fetch the files of a corpus that are not among the downloads yet, and verify all.

    Args:
        corpus: The corpus.
        downloads: Where files are kept.
        accept_other_versions: Whether to take the version that the registry serves where it is not the pinned one.

    Returns:
        Each package and its file; the package has the version and the checksum that it really has.

    Raises:
        CorpusError: A version is not served, or its file is another than it was.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    here = {_sha256(path): path for path in sorted(downloads.iterdir()) if path.is_file()}
    files = []
    for package in corpus.packages:
        if package.sha256 in here:
            files.append((package, here[package.sha256]))
        else:
            print(f"    fetching {package.name} {package.version}", flush=True)
            files.append(_fetch(corpus.client, package, downloads, accept_other_versions))
    return files


def _fetch(client: str, package: Package, downloads: Path, accept_other_versions: bool) -> tuple[Package, Path]:
    path, complaint = _download(CLIENTS[client], package, downloads)
    if path is None:
        version = _served_version(CLIENTS[client], package)
        if version in (None, package.version):
            raise CorpusError(
                f"{client} does not give {package.name} {package.version} ({complaint}): is the registry reached, "
                "and its list up to date?"
            )
        if not accept_other_versions:
            raise CorpusError(
                f"{client} no longer serves {package.name} {package.version}, but {version}: take that one with "
                "--accept-other-versions, or enter it in the description with its checksum."
            )
        print(f"    it is no longer served; fetching {version}", flush=True)
        other = replace(package, version=version)
        path, complaint = _download(CLIENTS[client], other, downloads)
        if path is None:
            raise CorpusError(f"{client} does not give {package.name} {version} either ({complaint}).")
        return replace(other, sha256=_sha256(path)), path
    digest = _sha256(path)
    if digest != package.sha256:
        path.unlink()
        raise CorpusError(
            f"{package.name} {package.version} has the checksum {digest}, expected {package.sha256}: what the "
            "registry serves has changed. Enter the new checksum if you trust it, and raise the version."
        )
    return package, path


def _download(client: Client, package: Package, downloads: Path) -> tuple[Path | None, str]:
    """The file of a package; or None, and what the client says."""
    # In a folder of its own, so that whatever the client calls the file, it is the one that is new.
    with tempfile.TemporaryDirectory(dir=downloads) as folder:
        command = [*client.download, client.named.format(package)]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = sorted(Path(folder).iterdir())
        if result.returncode or len(found) != 1:
            return None, (result.stderr.strip() or "no file").splitlines()[-1]
        return Path(shutil.move(found[0], downloads / found[0].name)), ""


def _served_version(client: Client, package: Package) -> str | None:
    command = [*client.current, package.name]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    version = re.search(client.version, result.stdout)
    return None if version is None else version[1]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
