"""Which source files lie under the given sources: in folders, in archives, and among installed distributions."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import os
import re
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from st_softinfonce.data.archives import ArchiveError, Member, is_archive, read_members
from st_softinfonce.data.languages import EXTENSIONS
from st_softinfonce.data.languages.base import LanguageMiner
from st_softinfonce.data.mining_report import PROBLEMS, MiningReport
from st_softinfonce.data.packages import (
    INSTALLED_FOLDERS,
    VENDORED_FOLDERS,
    PackageFinder,
    holds_distributions,
    is_package,
)
from st_softinfonce.data.provenance import (
    MAX_BYTES,
    Provenance,
    distribution_provenance,
    is_project_file,
    is_provenance_file,
    printable,
)

_BUILD_FOLDERS = frozenset({"__pycache__", "build", "dist", "venv"})
_TEST_FOLDER = re.compile(r"_?tests?_?|testing", re.IGNORECASE)
_TEST_FILE = re.compile(r".+[._-](?:test|spec)\.\w+", re.IGNORECASE)
_PROJECT_MARKS = re.compile(r"(?:setup\.py|setup\.cfg|README.*|LICEN[CS]E.*|COPYING.*)", re.IGNORECASE)
_PACKAGE_MARKS = frozenset({"__init__.py", "module-info.java", "build.gradle", "build.gradle.kts", "pyvenv.cfg"})
_MAX_DEPTH = 100  # of the folders in an archive

# Languages that people will look for, by the extensions that no other common kind of file has.
_OTHER_LANGUAGES = {
    "C": ".c .h", "C++": ".cc .cpp .cxx .hh .hpp", "C#": ".cs", "Clojure": ".clj", "Dart": ".dart",
    "Elixir": ".ex .exs",
    "Erlang": ".erl", "F#": ".fs", "Fortran": ".f90 .f", "Groovy": ".groovy", "Haskell": ".hs", "Julia": ".jl",
    "Kotlin": ".kt .kts", "Lua": ".lua", "Objective-C": ".m .mm", "OCaml": ".ml", "Perl": ".pl .pm", "R": ".r .R",
    "Rust": ".rs", "Scala": ".scala", "Shell": ".sh", "Swift": ".swift",
    "Vue": ".vue", "Zig": ".zig",
}  # fmt: skip
_LANGUAGE_OF = {extension: name for name, several in _OTHER_LANGUAGES.items() for extension in several.split()}
_LANGUAGE_OF |= EXTENSIONS


@dataclass(frozen=True)
class Source:
    """A folder, file or archive to mine, with what is known of it: that comes before what is found there.

    Args:
        path: A folder, a source file, or an archive.
        package: The package of all its code, or a function from a file's path inside the source to its package.
        version: The version of all its code.
        license: The licence of all its code.
        files: Of a folder, the only files to take, as paths inside it; all of its sources by default.
    """

    path: str | os.PathLike[str]
    package: str | Callable[[str], str] | None = None
    version: str | None = None
    license: str | None = None
    files: tuple[str, ...] | None = None


@dataclass(frozen=True)
class SourceFile:
    """One file to mine.

    Args:
        path: Its path from the package's folder on, with slashes.
        package: The package that a split holds out as a whole.
        language: The language by the file's extension.
        version: The package's version, or an empty string.
        license: The code's licence, or an empty string.
        location: Where it can be read.
        unpacked: The folder that its archive was unpacked into, which is removed once no file refers to it.
    """

    path: str
    package: str
    language: str
    version: str
    license: str
    location: Path
    unpacked: UnpackedFolder | None = None

    @property
    def neighbourhood(self) -> str:
        """What its texts are judged with: its package, or else the folder at the top."""
        return self.package or self.path.split("/")[0]


class UnpackedFolder:
    """A temporary folder that is removed when nothing refers to it, at the latest when Python ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="st-softinfonce-"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def installed_distribution(name: str) -> Source:
    """Find an installed distribution, to be mined under its own name, version and licence.

    Args:
        name: Its name as `pip` knows it.

    Returns:
        Its files, or its project's folder if it is installed in editable mode.

    Raises:
        ValueError: If it is not installed, or does not say which files it has.

    Example:
        >>> installed_distribution("tqdm").package
        'tqdm'
    """
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise ValueError(
            f"name must be an installed distribution, got {name!r}: install it, or see `pip list`."
        ) from None
    known = distribution_provenance(distribution.metadata)
    direct = json.loads(distribution.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        folder = url2pathname(urlsplit(direct["url"]).path)
        return Source(folder, known.name, known.version, known.license)
    files = tuple(sorted(file.as_posix() for file in distribution.files or () if ".." not in file.parts))
    if not files:
        raise ValueError(f"name must be a distribution that lists its files, got {name!r}: give its folder instead.")
    return Source(Path(str(distribution.locate_file(""))), known.name, known.version, known.license, files)


def find_files(
    sources: list[Source],
    miners: dict[str, LanguageMiner],
    report: MiningReport,
    max_file_bytes: int,
    max_archive_bytes: int,
) -> Iterator[SourceFile]:
    """Find all source files under some sources, in the order of the sources, then of the files' own paths.

    What is skipped is judged relative to each source: a folder is entered whatever it is called and wherever it lies.
    Symbolic links are followed, those to folders after all real folders, but not in archives; every real file is
    found once, and so is each file of a package of which several sources hold a copy.

    Args:
        sources: Existing files, archives and folders. A file is taken whatever its name says about tests.
        miners: The miners by language; files of other languages are only counted.
        report: Where seen and skipped files, folders and archives are counted.
        max_file_bytes: Larger members of an archive are not unpacked.
        max_archive_bytes: How many bytes an archive may unpack to.

    Yields:
        The files, none of them read yet.
    """
    finder = _Finder(miners, report, max_file_bytes, max_archive_bytes)
    for source in sources:
        finder.begin()
        # `resolve` would replace a link's name by its target's.
        folder = Path(os.path.abspath(source.path))  # noqa: PTH100
        if folder.is_dir():
            yield from finder.folder(source, folder)
        elif is_archive(folder.name):
            yield from finder.archive(source, folder, os.path.realpath(folder))
        else:
            yield from finder.single(source, folder)


def note_problem(report: MiningReport, path: str, rule: str, detail: str = "") -> None:
    """Remember a path for the report if what the rule says is wrong with it is a problem."""
    if rule in (*PROBLEMS, "syntax_error"):
        report.problems.append(f"{path} ({rule}: {detail})" if detail else f"{path} ({rule})")


class _Finder:
    """What was found so far, over all sources."""

    def __init__(
        self, miners: dict[str, LanguageMiner], report: MiningReport, max_file_bytes: int, max_archive_bytes: int
    ) -> None:
        self._miners = miners
        self._report = report
        self._max_file_bytes = max_file_bytes
        self._max_archive_bytes = max_archive_bytes
        self._locations: set[str] = set()
        self._earlier: set[tuple[str, str]] = set()
        self._current: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """Begin the next source."""
        self._earlier |= self._current
        self._current = set()

    def single(self, source: Source, file: Path) -> Iterator[SourceFile]:
        """Take a file that is given by name."""
        packages = PackageFinder(file.parent)
        location = os.path.realpath(file)
        yield from self._take(source, packages, (printable(file.name),), location, skip_by_name=False)

    def folder(self, source: Source, folder: Path) -> Iterator[SourceFile]:
        """Take the files under a folder."""
        if source.files is None:
            entries = _walk(folder, self._miners, self._report)
        else:
            names = sorted(source.files)
            entries = ((PurePosixPath(name).parts, str(folder / name)) for name in names)
        packages = PackageFinder(folder)
        for parts, location in entries:
            yield from self._take(source, packages, parts, location)

    def archive(
        self, source: Source, archive: Path, location: str, inherited: Provenance | None = None
    ) -> Iterator[SourceFile]:
        """Unpack an archive, and take its files and those of the archives that a Debian package holds."""
        self._report.archives_seen += 1
        is_debian = archive.name.lower().endswith(".deb")
        unpacked = UnpackedFolder()
        tops = self._unpack(archive, unpacked.path, is_debian and inherited is None)
        packages = _archive_packages(unpacked.path, tops, is_debian, inherited or Provenance())
        for parts, file in _walk(packages.root, self._miners, self._report, environments=is_debian):
            where = "/".join((location, *packages.root.relative_to(unpacked.path).parts, *parts))
            if is_archive(parts[-1]):
                known = Provenance("", packages.whole.version, packages.whole.license)
                yield from self.archive(source, Path(file), where, known)
            else:
                yield from self._take(source, packages, parts, file, where, unpacked)

    def _unpack(self, archive: Path, folder: Path, with_archives: bool) -> set[str | None]:
        """Unpack what mining needs; returns the names at the top of the archive, None standing for files there."""
        tops: set[str | None] = set()
        try:
            for member in read_members(archive, self._max_archive_bytes):
                parts = _safe(member.name)
                if parts is not None:
                    tops.add(parts[0] if len(parts) > 1 else None)
                self._unpack_member(member, parts, folder, with_archives)
        except ArchiveError as error:
            self._report.archives_skipped[error.rule] += 1
            note_problem(self._report, printable(archive.name), error.rule, error.detail)
        return tops

    def _unpack_member(self, member: Member, parts: tuple[str, ...] | None, folder: Path, with_archives: bool) -> None:
        name = member.name.rpartition("/")[2] if parts is None else parts[-1]
        is_source = self._miner(name) is not None
        if is_archive(name) and not member.is_link:
            if not with_archives or name.lower().endswith(".deb") or parts is None:
                self._report.archives_seen += 1
                self._report.archives_skipped["nested"] += 1
                return
            limit = self._max_archive_bytes
        elif is_source:
            limit = self._max_file_bytes
        elif is_provenance_file(name) or name in _PACKAGE_MARKS or _PROJECT_MARKS.fullmatch(name):
            limit = MAX_BYTES
        else:
            if parts is not None and (other := _LANGUAGE_OF.get(PurePosixPath(name).suffix)) is not None:
                _count_other(self._report, other)
            return
        rule = "unsafe_path" if parts is None else "link" if member.is_link else None
        if rule is None and parts is not None:
            rule = _save(member, folder, parts, limit)
        if rule is not None and is_source:
            self._report.files_seen += 1
            self._report.files_skipped[rule] += 1
            note_problem(self._report, printable("/".join(parts or (member.name,))), rule)

    def _miner(self, name: str) -> LanguageMiner | None:
        return self._miners.get(EXTENSIONS.get(PurePosixPath(name).suffix, ""))

    def _take(
        self,
        source: Source,
        packages: PackageFinder,
        parts: tuple[str, ...],
        file: str,
        where: str | None = None,
        unpacked: UnpackedFolder | None = None,
        skip_by_name: bool = True,
    ) -> Iterator[SourceFile]:
        """Take a file, unless its name or an earlier one is a reason not to.

        Args:
            source: The source that holds it.
            packages: Knows the packages under the source's folder.
            parts: Its path inside that folder.
            file: Where it can be read.
            where: What tells it from all others; `file` by default.
            unpacked: What must be kept until it is read.
            skip_by_name: Whether files of tests and hidden files are skipped.
        """
        miner = self._miner(parts[-1])
        language = _LANGUAGE_OF.get(PurePosixPath(parts[-1]).suffix)
        if miner is None or language is None:
            if language is not None:
                _count_other(self._report, language)
            return
        where = file if where is None else where
        self._report.files_seen += 1
        rule = _name_rule(parts, miner) if skip_by_name else None
        if rule is None and where in self._locations:
            rule = "overlap"
        if rule is None:
            found = packages.find(parts, language, miner)
            given = (
                source.package("/".join(parts)) if callable(source.package) else source.package or packages.whole.name
            )
            package, path = found.package, found.path
            if given:
                package = printable(given)
                path = path if path.startswith(f"{package}/") else f"{package}/{path}"
            if (package, path) in self._earlier:
                rule = "other_root"
        if rule is not None:
            self._report.files_skipped[rule] += 1
            return
        self._locations.add(where)
        self._current.add((package, path))
        version = printable(found.version if source.version is None else source.version)
        license_ = printable(found.license if source.license is None else source.license)
        yield SourceFile(path, package, language, version, license_, Path(file), unpacked)


def _archive_packages(folder: Path, tops: set[str | None], is_debian: bool, inherited: Provenance) -> PackageFinder:
    """Say what an unpacked archive is as a whole: its metadata may lie in its only folder or beside the code."""
    top = next(iter(tops)) if len(tops) == 1 else None
    root = folder
    if top is not None:
        names = _names(folder / top)
        if any(is_project_file(name) or _PROJECT_MARKS.fullmatch(name) for name in names):
            root = folder / top
    known = PackageFinder(folder)
    found = Provenance()
    if is_debian:
        control = known.own(folder / "DEBIAN")
        found = control.or_else(known.own(folder / "usr/share/doc" / PurePosixPath(control.name or "DEBIAN").name))
    metadata = [*folder.glob("*.dist-info"), *folder.glob("META-INF/maven/*/*"), root]
    for place in sorted(metadata):
        found = found.or_else(known.own(place))
    return PackageFinder(root, found.or_else(inherited))


def _save(member: Member, folder: Path, parts: tuple[str, ...], limit: int) -> str | None:
    """Write a member into a folder; returns the rule that says why not."""
    if len(parts) > _MAX_DEPTH:
        return "too_deep"
    target = folder.joinpath(*parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            if member.size > limit:
                # Larger than what is read is all that counts.
                stream.truncate(limit + 1)
                return None
            with member.open() as content:
                shutil.copyfileobj(content, stream)
            if stream.tell() != member.size:
                raise EOFError("it ends in the middle")
    except ArchiveError as error:
        target.unlink(missing_ok=True)
        return error.rule if error.rule == "too_large" else "unreadable"
    except Exception as error:
        # What libraries raise depends on where an archive is broken.
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"no space is left to unpack archives in {tempfile.gettempdir()}: free some, or set TMPDIR to a "
                "folder that has more",
            ) from error
        # A name that is too long, or that of a folder, was not written to.
        with contextlib.suppress(OSError):
            target.unlink(missing_ok=True)
        return "unreadable"
    return None


def _safe(name: str) -> tuple[str, ...] | None:
    """The parts of a member's name, None if they lead out of the archive."""
    parts = tuple(printable(part) for part in name.replace("\\", "/").split("/") if part not in ("", "."))
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or not parts or re.match(r"[A-Za-z]:", parts[0]):
        return None
    return parts


def _count_other(report: MiningReport, language: str) -> None:
    report.other_languages[language] = report.other_languages.get(language, 0) + 1


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names are all it takes
    except OSError:
        return []


_Entry = tuple[tuple[str, ...], str, bool]  # the parts of its path, where it is, and whether it is a folder


def _walk(
    root: Path, miners: dict[str, LanguageMiner], report: MiningReport, environments: bool = False
) -> Iterator[tuple[tuple[str, ...], str]]:
    """All files under a folder in the order of their paths: the parts of these, and their real location.

    Links to folders wait until all real folders are done, so that a folder keeps its own name if it has one here.
    """
    links: list[_Entry] = [((), os.path.realpath(root), True)]
    entered: set[str] = set()
    while links:
        links.sort(reverse=True)
        # One folder's entries a level are kept, however many files there are.
        pending = [iter([links.pop()])]
        while pending:
            entry = next(pending[-1], None)
            if entry is None:
                pending.pop()
                continue
            parts, location, is_folder = entry
            if not is_folder:
                yield parts, location
                continue
            rule = "overlap" if location in entered else None
            entered.add(location)
            found: list[tuple[_Entry, bool]] = []
            if rule is None:
                try:
                    found = _entries(parts, location)
                except OSError:
                    rule = "unreadable"
                    note_problem(report, printable("/".join((root.name, *parts))), rule)
            if rule is not None:
                report.folders_skipped[rule] += 1
            entries = []
            for inner, is_link in found:
                rule = _folder_rule(Path(inner[1]), inner[0][-1], miners, environments) if inner[2] else None
                if rule is not None:
                    report.folders_skipped[rule] += 1
                elif is_link and inner[2]:
                    links.append(inner)
                else:
                    entries.append(inner)
            pending.append(iter(entries))


def _entries(parts: tuple[str, ...], folder: str) -> list[tuple[_Entry, bool]]:
    """What lies in a folder, in the order of the paths of what lies below, and whether each is a link."""
    found: list[tuple[_Entry, bool]] = []
    for entry in os.scandir(folder):
        is_link = entry.is_symlink()
        # `Path.resolve` raises where links lead in a circle.
        location = os.path.realpath(entry.path) if is_link else entry.path
        is_folder = _is_folder(location) if is_link else entry.is_dir(follow_symlinks=False)
        found.append((((*parts, printable(entry.name)), location, is_folder), is_link))
    return sorted(found, key=lambda item: (item[0][0][-1] + "/" * item[0][2], item[0][1]))


def _is_folder(location: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(location).st_mode)  # noqa: PTH116 - no `Path` for each file
    except (OSError, ValueError):
        return False


def _folder_rule(location: Path, name: str, miners: dict[str, LanguageMiner], environments: bool) -> str | None:
    if name.startswith("."):
        return "hidden"
    if not environments and (name in INSTALLED_FOLDERS or holds_distributions(location)):
        return "environment"
    if os.path.lexists(location / "pyvenv.cfg"):
        return "environment"
    if name in VENDORED_FOLDERS and not (name == "vendor" and _is_own(location, miners)):
        return "vendored"
    return "build" if name in _BUILD_FOLDERS and not _is_own(location, miners) else None


def _is_own(location: Path, miners: dict[str, LanguageMiner]) -> bool:
    return any(is_package(miner, location) for miner in miners.values())


def _name_rule(parts: tuple[str, ...], miner: LanguageMiner) -> str | None:
    if parts[-1].startswith("."):
        return "hidden"
    is_test = any(map(_TEST_FOLDER.fullmatch, parts[:-1])) or _TEST_FILE.fullmatch(parts[-1])
    return "test" if is_test or miner.is_test(parts) else None
