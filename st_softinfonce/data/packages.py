"""To which package, version and licence the files under a folder belong."""

from __future__ import annotations

import importlib.metadata
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from st_softinfonce.data.languages.base import LanguageMiner
from st_softinfonce.data.provenance import (
    MAX_BYTES,
    Provenance,
    distribution_provenance,
    is_provenance_file,
    printable,
    read_provenance,
)

INSTALLED_FOLDERS = frozenset({"site-packages", "dist-packages"})
# Code of others lies in these, each with its own licence or none: never that of the project around them.
VENDORED_FOLDERS = frozenset(
    "node_modules bower_components vendor _vendor _vendored third_party thirdparty third-party 3rdparty "
    "externals".split()
)
_FOLDERS_ABOVE = 3
_DISTRIBUTION = re.compile(r".+\.dist-info")
_TOP = re.compile(r'\n"?([^/,\n]+)')


@dataclass(frozen=True)
class FoundPackage:
    """Where a file belongs.

    Args:
        package: The package's name.
        path: The file's path from the package's folder on, with slashes.
        version: The package's version, or an empty string.
        license: The code's licence, or an empty string.
    """

    package: str
    path: str
    version: str
    license: str


@dataclass(frozen=True)
class _Known:
    """What is known of a folder: what its files say, and the folder whose files name the package."""

    provenance: Provenance
    home: Path | None = None


class PackageFinder:
    """Finds the packages of the files under one folder.

    A package's name, version and licence are what the nearest files say that package managers and people leave beside
    code, at most three folders above the root. A version comes with its name. What a repository says ends where
    another one, installed packages or a folder of vendored code begin. Python's packages have the name by which they
    are imported, those of other languages that of their manifest; without one they are named by the first folder
    that is not a conventional one such as `src`.

    Args:
        root: The folder.
        whole: What is known of the archive that was unpacked into it, if it was: nothing above is looked at then.
    """

    def __init__(self, root: Path, whole: Provenance | None = None) -> None:
        self.root = root
        self.whole = whole or Provenance()
        self._is_archive = whole is not None
        above = (root, *root.parents)
        self._last = root if self._is_archive else above[min(_FOLDERS_ABOVE, len(above) - 1)]
        self._known: dict[Path, _Known] = {}
        self._names: dict[Path, list[str]] = {}
        self._installed: dict[Path, dict[str, importlib.metadata.Distribution]] = {}

    def own(self, folder: Path) -> Provenance:
        """Read what the files of one folder say of the code in it."""
        names = [name for name in self._listed(folder) if is_provenance_file(name)]
        if folder.name != "DEBIAN" and folder.parent.name != "doc":
            # Only a Debian package means something by these.
            names = [name for name in names if name not in ("control", "copyright")]
        return read_provenance(names, lambda name: _read(folder / name))

    def find(self, parts: tuple[str, ...], language: str, miner: LanguageMiner) -> FoundPackage:
        """Find the package of a file.

        Args:
            parts: The file's path inside the root.
            language: Its language.
            miner: The miner of that language.

        Returns:
            What is known; a package and a path in any case.
        """
        known = self._of(self.root.joinpath(*parts[:-1]))
        provenance = known.provenance
        if len(parts) == 1 and not self._is_archive and self._is_installation(self.root):
            # A module of one file.
            provenance = self._distributed(self.root, parts[0]).or_else(provenance)
        package, path = self._place(parts, language, miner, known)
        return FoundPackage(printable(package), printable(path), provenance.version, provenance.license or "")

    def _place(self, parts: tuple[str, ...], language: str, miner: LanguageMiner, known: _Known) -> tuple[str, str]:
        """The package of a file, and its path from the package's folder on."""
        if language == "python":
            base = known.home if known.home is not None and self.root in known.home.parents else self.root
            return _place_by_folder(base, parts[len(base.relative_to(self.root).parts) :], miner)
        folder = self.root.joinpath(*parts[:-1])
        home, name = known.home, known.provenance.name
        if home is None:
            home = self._manifest_folder(folder, miner)
            name = "" if home is None else _name_in_modules(home) or home.name
        if home is None and (name := _name_in_modules(self.root)):
            home = self.root
        if home is None:
            return _place_by_folder(self.root, parts, miner)
        return name, "/".join((name, *folder.relative_to(home).parts, parts[-1]))

    def _manifest_folder(self, folder: Path, miner: LanguageMiner) -> Path | None:
        """The nearest folder with a manifest that does not say a name."""
        while folder != self.root:
            if is_package(miner, folder):
                return folder
            folder = folder.parent
        return folder if not self._is_archive and is_package(miner, folder) else None

    def _of(self, folder: Path) -> _Known:
        """What is known of a folder; without recursion, for folders can be a thousand deep."""
        chain: list[Path] = []
        known = _Known(Provenance())
        while True:
            if folder in self._known:
                known = self._known[folder]
                break
            chain.append(folder)
            if self._ends_at(folder):
                break
            folder = folder.parent
        for place in reversed(chain):
            known = self._known[place] = self._with_own(place, known)
        return known

    def _with_own(self, folder: Path, above: _Known) -> _Known:
        if folder == self.root and self._is_archive:
            return _Known(self.whole, folder if self.whole.name else None)
        own = self.own(folder)
        if not self._is_archive and self._is_installation(folder.parent):
            own = self._distributed(folder.parent, folder.name).or_else(own)
        name, home = above.provenance.name, above.home
        if own.name or (".git" in self._listed(folder) and self.root in folder.parents):
            name, home = own.name or folder.name, folder
        # A package inside another has a version of its own, or none.
        inherits = self._is_archive or home == above.home
        version = own.version or (above.provenance.version if inherits else "")
        return _Known(Provenance(name, version, own.or_else(above.provenance).license), home)

    def _ends_at(self, folder: Path) -> bool:
        """Whether what the folders above say is about something else."""
        parent = folder.parent
        if folder == self._last or parent == folder:
            return True
        if {folder.name, parent.name} & VENDORED_FOLDERS or _name_in_modules(folder):
            return True
        if self._is_archive:
            return False
        return (
            folder.name in INSTALLED_FOLDERS
            or parent.name in INSTALLED_FOLDERS
            or ".git" in self._listed(folder)
            or self._is_installation(parent)
        )

    def _listed(self, folder: Path) -> list[str]:
        if folder not in self._names:
            try:
                self._names[folder] = os.listdir(folder)  # noqa: PTH208 - names are all it takes
            except OSError:
                self._names[folder] = []
            self._names[folder] = [name for name in self._names[folder] if _matters(name)]
        return self._names[folder]

    def _is_installation(self, folder: Path) -> bool:
        return any(map(_DISTRIBUTION.fullmatch, self._listed(folder)))

    def _distributed(self, folder: Path, top: str) -> Provenance:
        """What the distribution says that has installed a package or module into a folder."""
        if folder not in self._installed:
            self._installed[folder] = _distributions(folder)
        if top not in self._installed[folder]:
            return Provenance()
        try:
            known = distribution_provenance(self._installed[folder][top].metadata)
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            return Provenance()  # a broken installation says nothing
        return Provenance("", known.version, known.license or "")


def is_package(miner: LanguageMiner, folder: Path) -> bool:
    """Whether a folder is a package by its language's custom; one that cannot be looked at is none."""
    try:
        return miner.is_package(folder)
    except OSError:
        return False


def holds_distributions(folder: Path) -> bool:
    """Whether packages are installed into a folder, as `pip install --target` does."""
    try:
        return any(map(_DISTRIBUTION.fullmatch, os.listdir(folder)))  # noqa: PTH208 - names are all it takes
    except OSError:
        return False


def _place_by_folder(base: Path, parts: tuple[str, ...], miner: LanguageMiner) -> tuple[str, str]:
    """The package of a file by the names of folders: the topmost package, or the first folder below `base`."""
    if is_package(miner, base):
        top = base
        while is_package(miner, top.parent):
            top = top.parent
        above = base.relative_to(top.parent).parts
        return above[0], "/".join((*above, *parts))
    start = 0
    while start < len(parts) - 1 and parts[start] in miner.source_folders:
        if is_package(miner, base.joinpath(*parts[: start + 1])):
            break
        start += 1
    inside = parts[start:]
    if len(inside) > 1 and base.name.startswith("@") and base.parent.name == "node_modules":
        inside = (base.name, *inside)
    if len(inside) == 1:
        return PurePosixPath(inside[0]).stem, inside[0]
    # Packages of one scope are not one package.
    return "/".join(inside[: 2 if inside[0].startswith("@") and len(inside) > 2 else 1]), "/".join(inside)


def _name_in_modules(folder: Path) -> str:
    """The name of a package by its place in `node_modules`, where a scope is a folder around its packages."""
    parent = folder.parent
    if parent.name == "node_modules":
        return "" if folder.name.startswith("@") else folder.name
    is_scoped = parent.name.startswith("@") and parent.parent.name == "node_modules"
    return f"{parent.name}/{folder.name}" if is_scoped else ""


def _matters(name: str) -> bool:
    return name == ".git" or is_provenance_file(name) or _DISTRIBUTION.fullmatch(name) is not None


def _read(file: Path) -> bytes:
    # Opening a pipe would wait for ever.
    if not file.is_file():
        raise OSError("no regular file")
    with file.open("rb") as stream:
        return stream.read(MAX_BYTES)


def _distributions(folder: Path) -> dict[str, importlib.metadata.Distribution]:
    """The distributions that are installed in a folder, by the packages and modules that they have there."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions(path=[str(folder)]):
        try:
            # `files` would make a path of each of thousands of lines.
            record = distribution.read_text("RECORD")
            tops = _TOP.findall(f"\n{record}") if record else [file.parts[0] for file in distribution.files or ()]
        except (OSError, ValueError):
            continue
        for top in tops:
            found.setdefault(top, distribution)
    return found
