"""Which source files lie under the given sources, and to which package, version and licence each belongs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from st_softinfonce.data.archives import (
    BROKEN,
    Archive,
    ArchiveError,
    Member,
    hold,
    is_archive,
    read_members,
)
from st_softinfonce.data.languages import EXTENSIONS
from st_softinfonce.data.languages.base import LanguageMiner
from st_softinfonce.data.provenance import (
    MAX_BYTES,
    Provenance,
    distribution_provenance,
    is_project_file,
    is_provenance_file,
    read_provenance,
)
from st_softinfonce.data.report import FILE_RULES, PROBLEMS, MiningReport

_BUILD_FOLDERS = frozenset({"__pycache__", "node_modules", "vendor", "build", "dist", "venv"})
_LONG_LINE = 5_000  # longer than any documentation that fits a query, in one line
_HEAD_BYTES = 2_000
_HELD_PROVENANCE = 64 << 20
_FOLDERS_ABOVE = 3
_PROJECT_MARKS = re.compile(r"(?:setup\.py|setup\.cfg|README.*|LICEN[CS]E.*|COPYING.*)", re.IGNORECASE)

# Only what stands before the code counts: below, such words are about something else, or a template of a generator's.
_FIRST_CODE = re.compile(
    rb"^(?:import|from\s+\S+\s+import|def|class|package|using?|require|const|let|var|function|module|public)\b",
    re.MULTILINE,
)
_GENERATED = re.compile(
    rb"@generated\b|\bDO NOT (?:EDIT|MODIFY)\b(?! THIS LINE)"
    rb"|^\W*(?i:auto(?:matically)?[- ]?generated)\b"
    rb"|^\W*(?:Generated|GENERATED|(?i:file|code) generated) (?i:by|from)\b"
    rb"|\b(?i:this (?:file|module|code) (?:is|was|has been) (?:auto(?:matically)?[- ]?|machine-)?generated)\b",
    re.MULTILINE,
)


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
        size: Its size, if it is known without reading it.
        read: Reads so many bytes of it at most; a file of an archive only until the next one is taken.
    """

    path: str
    package: str
    language: str
    version: str
    license: str
    size: int | None
    read: Callable[[int], bytes]


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
    sources: list[Source], miners: dict[str, LanguageMiner], report: MiningReport, max_archive_bytes: int
) -> Iterator[SourceFile]:
    """Find all source files under some sources, in their order, then of the files' own paths.

    What is skipped is judged relative to each source: a folder is entered whatever it is called and wherever it lies.
    Symbolic links are followed, but not in archives; every real file is found once, and so is each file of a package
    of which several sources hold a copy. The files of an archive other than a zip come as they lie in it.

    Args:
        sources: Existing files, archives and folders. A file is taken whatever its name says about tests.
        miners: The miners by language; files of other languages are not seen.
        report: Where seen and skipped files, folders and archives are counted.
        max_archive_bytes: How many bytes an archive may unpack to.

    Yields:
        The files, none of them read yet.
    """
    finder = _Finder(miners, report, max_archive_bytes)
    for source in sources:
        finder.begin()
        folder = Path(os.path.abspath(source.path))  # noqa: PTH100 - `resolve` would replace a link's name by its target's
        if folder.is_dir():
            yield from finder.folder(source, folder)
        elif is_archive(folder.name):
            archive = Archive(folder.name, folder.stat().st_size, partial(_open, folder))
            yield from finder.archive(source, archive, os.path.realpath(folder))
        else:
            yield from finder.single(source, folder)


def read_source(file: SourceFile, miner: LanguageMiner, max_bytes: int) -> tuple[str | None, str]:
    """Read one file.

    Args:
        file: The file.
        miner: The miner of its language, which knows how to decode it.
        max_bytes: The largest size that is read.

    Returns:
        None and the text, its line ends made line feeds; or the rule of `FILE_RULES` that skips it, and nothing.
    """
    if file.size is not None and file.size > max_bytes:
        return "too_large", ""
    try:
        data = file.read(max_bytes + 1)
    except ArchiveError as error:
        return error.rule if error.rule in FILE_RULES else "unreadable", ""
    except BROKEN:
        return "unreadable", ""
    if len(data) > max_bytes:
        return "too_large", ""
    if b"\0" in data:
        return "binary", ""
    if _is_generated(data[:_HEAD_BYTES]):
        return "generated", ""
    if len(data) > _LONG_LINE:
        lengths = list(map(len, data.splitlines()))
        if max(lengths) > _LONG_LINE and 2 * sum(length for length in lengths if length > _LONG_LINE) > len(data):
            return "minified", ""
    try:
        text = miner.decode(data)
        text.encode()
    except (UnicodeError, LookupError):
        return "undecodable", ""
    return None, text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def note_problem(report: MiningReport, path: str, rule: str, detail: str = "") -> None:
    """Remember a path for the report if what the rule says is wrong with it is a problem."""
    if rule in (*PROBLEMS, "syntax_error"):
        report.problems.append(f"{path} ({rule}: {detail})" if detail else f"{path} ({rule})")


class _Finder:
    """What was found so far, over all sources."""

    def __init__(self, miners: dict[str, LanguageMiner], report: MiningReport, max_archive_bytes: int) -> None:
        self._miners = miners
        self._report = report
        self._max_archive_bytes = max_archive_bytes
        self._locations: set[str] = set()
        self._earlier: set[tuple[str, str]] = set()
        self._current: set[tuple[str, str]] = set()
        self._provenance: dict[Path, Provenance] = {}
        self._installed: dict[Path, dict[str, Provenance]] = {}

    def begin(self) -> None:
        """Begin the next source."""
        self._earlier |= self._current
        self._current = set()

    def single(self, source: Source, file: Path) -> Iterator[SourceFile]:
        """Take a file that is given by name."""
        location, name = _real(file), (_text(file.name),)
        yield from self._take(
            source, file.parent, name, str(location), None, lambda: self._known(file.parent), location
        )

    def folder(self, source: Source, folder: Path) -> Iterator[SourceFile]:
        """Take the files under a folder."""
        if source.files is None:
            entries: Iterable[tuple[tuple[str, ...], Path]] = _walk(folder, self._miners, self._report)
        else:
            entries = [(PurePosixPath(name).parts, folder / name) for name in source.files]
        for parts, location in sorted(entries, key=lambda entry: "/".join(entry[0])):
            miner = self._miner(parts)
            if miner is not None:
                rule = _name_rule(parts, miner)
                # What a folder's package is called and what belongs to it are seen by the name that it has here.
                inner = folder.joinpath(*parts[:-1])
                known = partial(self._known, inner, len(parts) - 1 + _FOLDERS_ABOVE)
                yield from self._take(source, folder, parts, str(location), rule, known, location)

    def archive(
        self, source: Source, archive: Archive, location: str, inherited: Provenance | None = None
    ) -> Iterator[SourceFile]:
        """Take the files in an archive, and in those that a Debian package holds."""
        self._report.archives_seen += 1
        tree = _Tree()
        try:
            tree.fill(read_members(archive, self._max_archive_bytes))
        except ArchiveError:
            pass  # comes again below
        is_debian = archive.name.lower().endswith(".deb")
        tree.finish(inherited or Provenance(), is_debian)
        folders: dict[tuple[str, ...], str | None] = {}
        try:
            for member in read_members(archive, self._max_archive_bytes):
                if member.is_link or not is_archive(member.name):
                    yield from self._member(source, tree, member, location, folders, is_debian)
                elif is_debian and inherited is None and not member.name.endswith(".deb"):
                    where = f"{location}/{member.name}"
                    provenance = Provenance("", tree.provenance.version, tree.provenance.license)
                    try:
                        inner = hold(member)
                    except ArchiveError as error:
                        self._archive_problem(where, error)
                    else:
                        yield from self.archive(source, inner, where, provenance)
                else:
                    self._report.archives_seen += 1
                    self._report.archives_skipped["nested"] += 1
        except ArchiveError as error:
            self._archive_problem(location, error)

    def _archive_problem(self, location: str, error: ArchiveError) -> None:
        self._report.archives_skipped[error.rule] += 1
        note_problem(self._report, PurePosixPath(location).name, error.rule, error.detail)

    def _member(
        self,
        source: Source,
        tree: _Tree,
        member: Member,
        location: str,
        folders: dict[tuple[str, ...], str | None],
        is_debian: bool,
    ) -> Iterator[SourceFile]:
        raw = tuple(part for part in member.name.split("/") if part not in ("", "."))
        if not raw or (miner := self._miner(raw)) is None:
            return
        parts = _safe(member.name)
        if parts is None or member.is_link:
            rule = "unsafe_path" if parts is None else "link"
            self._report.files_seen += 1
            self._report.files_skipped[rule] += 1
            note_problem(self._report, _text("/".join(raw)), rule)
            return
        inside = parts[len(tree.top) :]
        for depth in range(1, len(inside)):
            folder = inside[:depth]
            if folder not in folders:
                inner = cast(Path, _TreeFolder(tree, (*tree.top, *folder)))
                skipped = _folder_rule(folder[-1], inner, self._miners.values())
                folders[folder] = None if is_debian and skipped == "environment" else skipped
                if folders[folder] is not None:
                    self._report.folders_skipped[cast(str, folders[folder])] += 1
            if folders[folder] is not None:
                return
        root = cast(Path, _TreeFolder(tree, tree.top))
        where, name_rule = f"{location}/{'/'.join(parts)}", _name_rule(inside, miner)
        yield from self._take(source, root, inside, where, name_rule, lambda: tree.known(parts[:-1]), member)

    def _miner(self, parts: tuple[str, ...]) -> LanguageMiner | None:
        return self._miners.get(EXTENSIONS.get(PurePosixPath(parts[-1]).suffix, ""))

    def _take(
        self,
        source: Source,
        root: Path,
        parts: tuple[str, ...],
        location: str,
        rule: str | None,
        known: Callable[[], Provenance],
        content: Path | Member,
    ) -> Iterator[SourceFile]:
        language = EXTENSIONS[PurePosixPath(parts[-1]).suffix]
        self._report.files_seen += 1
        package, path = _place(root, parts, self._miners[language])
        provenance = Provenance() if rule else known()
        if callable(source.package):
            given = source.package("/".join(parts))
        else:
            given = source.package or provenance.name
        if given:
            package, path = given, path if path.startswith(f"{given}/") else f"{given}/{path}"
        if location in self._locations:
            rule = rule or "overlap"
        elif (package, path) in self._earlier:
            rule = rule or "other_root"
        if rule is not None:
            self._report.files_skipped[rule] += 1
            return
        self._locations.add(location)
        self._current.add((package, path))
        version = provenance.version if source.version is None else source.version
        license_ = provenance.license if source.license is None else source.license
        if isinstance(content, Member):
            size, read = content.size, partial(_read_member, content)
        else:
            size, read = None, partial(_read_file, content)
        yield SourceFile(path, package, language, version, license_, size, read)

    def _known(self, folder: Path, above: int = _FOLDERS_ABOVE) -> Provenance:
        """Version and licence of what lies in a folder, by the nearest files that tell them; its name is its own."""
        if folder not in self._provenance:
            try:
                names = [_text(entry) for entry in os.listdir(folder)]  # noqa: PTH208 - names are all it takes
            except OSError:
                names = []
            wanted = [name for name in names if is_provenance_file(name) and name not in ("control", "copyright")]
            found = read_provenance(wanted, lambda name: _read_file(folder / name, MAX_BYTES))
            parent = folder.parent
            if parent.name in ("site-packages", "dist-packages"):
                if parent not in self._installed:
                    self._installed[parent] = _distributions(parent)
                found = self._installed[parent].get(folder.name, Provenance()).or_else(found)
            elif (
                above > 0
                and parent != folder
                and ".git" not in names
                and folder.name not in ("site-packages", "dist-packages")
            ):
                found = found.or_else(self._known(parent, above - 1))
            self._provenance[folder] = Provenance("", found.version, found.license)
        return self._provenance[folder]


def _distributions(folder: Path) -> dict[str, Provenance]:
    """What the distributions that are installed in a folder say of the packages in it."""
    found: dict[str, Provenance] = {}
    for distribution in importlib.metadata.distributions(path=[str(folder)]):
        provenance = distribution_provenance(distribution.metadata)
        for top in _top_folders(distribution):
            found.setdefault(top, provenance)
    return found


def _top_folders(distribution: importlib.metadata.Distribution) -> set[str]:
    record = distribution.read_text("RECORD")
    if record is None:
        return {file.parts[0] for file in distribution.files or () if len(file.parts) > 1}
    # `files` would make a path of each of thousands of lines.
    parts = (line.lstrip('"').partition("/") for line in record.splitlines())
    return {top for top, slash, _ in parts if slash}


def _open(location: Path) -> BinaryIO:
    return location.open("rb")


def _read_file(location: Path, max_bytes: int) -> bytes:
    # Opening a pipe would wait for ever.
    if not location.is_file():
        raise OSError("no regular file")
    with location.open("rb") as stream:
        return stream.read(max_bytes)


def _read_member(member: Member, max_bytes: int) -> bytes:
    with member.open() as stream:
        return stream.read(max_bytes)


def _safe(name: str) -> tuple[str, ...] | None:
    """The parts of a member's name, None if they lead out of the archive."""
    parts = tuple(_text(part) for part in name.replace("\\", "/").split("/") if part not in ("", "."))
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or not parts or re.match(r"[A-Za-z]:", parts[0]):
        return None
    return parts


class _Tree:
    """The names in an archive, and what its files say of where it comes from."""

    def __init__(self) -> None:
        self.folders: dict[tuple[str, ...], set[str]] = {}
        self.top: tuple[str, ...] = ()
        """The folder around everything, if the archive is a project's own."""
        self.provenance = Provenance()
        self._held: dict[tuple[str, ...], dict[str, bytes]] = {}
        self._known: dict[tuple[str, ...], Provenance] = {}

    def fill(self, members: Iterable[Member]) -> None:
        """Go through an archive once."""
        free = _HELD_PROVENANCE
        for member in members:
            parts = _safe(member.name)
            if parts is None:
                continue
            self.folders.setdefault(parts[:-1], set()).add(parts[-1])
            if not member.is_link and is_provenance_file(parts[-1]) and member.size <= min(free, MAX_BYTES):
                free -= member.size
                try:
                    self._held.setdefault(parts[:-1], {})[parts[-1]] = _read_member(member, MAX_BYTES)
                except BROKEN:
                    continue

    def finish(self, inherited: Provenance, is_debian: bool) -> None:
        """Find out what the whole archive is, once all names are known."""
        tops = {folder[:1] for folder in self.folders}
        top = next(iter(tops)) if len(tops) == 1 else ()
        names = self.folders.get(top, ())
        if top and any(is_project_file(name) or _PROJECT_MARKS.fullmatch(name) for name in names):
            self.top = top
        found = Provenance()
        if is_debian:
            control = self._own(("DEBIAN",))
            found = control.or_else(self._own(("usr", "share", "doc", control.name)))
        for folder in sorted(self._held):
            is_metadata = (len(folder) == 1 and folder[0].endswith(".dist-info")) or folder[:2] == (
                "META-INF",
                "maven",
            )
            if is_metadata or folder == self.top:
                found = found.or_else(self._own(folder))
        self.provenance = found.or_else(inherited)

    def known(self, folder: tuple[str, ...]) -> Provenance:
        """What is known of the code in a folder: version and licence by the nearest files that tell them."""
        if folder not in self._known:
            if folder == self.top or not folder:
                self._known[folder] = self.provenance
            else:
                own = self._own(folder)
                above = self.known(folder[:-1])
                self._known[folder] = Provenance(above.name, above.version, own.license or above.license)
        return self._known[folder]

    def held(self, folder: tuple[str, ...]) -> dict[str, bytes]:
        """The files of a folder that say where code comes from."""
        return self._held.get(folder, {})

    def _own(self, folder: tuple[str, ...]) -> Provenance:
        held = self.held(folder)
        return read_provenance(held, held.__getitem__)


class _TreeFolder:
    """A folder of an archive, as far as `LanguageMiner.is_package` asks about it."""

    def __init__(self, tree: _Tree, parts: tuple[str, ...]) -> None:
        self._tree = tree
        self.parts = parts

    @property
    def name(self) -> str:
        return self.parts[-1] if self.parts else ""

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> _TreeFolder:
        return _TreeFolder(self._tree, self.parts[:-1])

    def joinpath(self, *names: str) -> _TreeFolder:
        return _TreeFolder(self._tree, (*self.parts, *names))

    def __truediv__(self, name: str) -> _TreeFolder:
        return self.joinpath(name)

    def relative_to(self, other: _TreeFolder) -> PurePosixPath:
        return PurePosixPath(*self.parts[len(other.parts) :])

    def is_file(self) -> bool:
        return bool(self.parts) and self.name in self._tree.folders.get(self.parts[:-1], ())

    def is_dir(self) -> bool:
        return not self.is_file()

    def exists(self) -> bool:
        return self.is_file() or any(folder[: len(self.parts)] == self.parts for folder in self._tree.folders)

    def iterdir(self) -> Iterator[_TreeFolder]:
        return (self / name for name in sorted(self._tree.folders.get(self.parts, ())))

    def glob(self, pattern: str) -> Iterator[_TreeFolder]:
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def read_bytes(self) -> bytes:
        """What a file that tells where code comes from holds; no other content is kept."""
        held = self._tree.held(self.parts[:-1])
        if self.name not in held:
            raise FileNotFoundError(f"{'/'.join(self.parts)} is not kept")
        return held[self.name]

    # `LanguageMiner.is_package` may remember its answers.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TreeFolder) and self._tree is other._tree and self.parts == other.parts

    def __hash__(self) -> int:
        return hash((id(self._tree), self.parts))


def _is_generated(head: bytes) -> bool:
    code = _FIRST_CODE.search(head)
    return _GENERATED.search(head, 0, len(head) if code is None else code.start()) is not None


def _walk(
    root: Path, miners: dict[str, LanguageMiner], report: MiningReport
) -> Iterator[tuple[tuple[str, ...], Path]]:
    """All files under a folder: the parts of their relative path, and their real location.

    Links to folders wait until all real folders are done, so that a folder keeps its own name if it has one here.
    """
    pending: list[tuple[tuple[str, ...], Path]] = [((), _real(root))]
    links: list[tuple[tuple[str, ...], Path]] = []
    entered: set[Path] = set()
    while pending or links:
        if not pending:
            links.sort(reverse=True)
            pending.append(links.pop())
        parts, folder = pending.pop()
        rule = "overlap" if folder in entered else None
        entered.add(folder)
        try:
            entries = [] if rule else sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            rule, entries = "unreadable", []
            note_problem(report, _text("/".join((root.name, *parts))), rule)
        if rule is not None:
            report.folders_skipped[rule] += 1
        for entry in entries:
            inner = (*parts, _text(entry.name))
            location = _real(Path(entry.path)) if entry.is_symlink() else Path(entry.path)
            if not location.is_dir():
                yield inner, location
            elif (rule := _folder_rule(entry.name, location, miners.values())) is not None:
                report.folders_skipped[rule] += 1
            else:
                (links if entry.is_symlink() else pending).append((inner, location))


def _folder_rule(name: str, location: Path, miners: Iterable[LanguageMiner]) -> str | None:
    if name.startswith("."):
        return "hidden"
    if name in ("site-packages", "dist-packages") or (location / "pyvenv.cfg").is_file():
        return "environment"
    if name in _BUILD_FOLDERS and not any(miner.is_package(location) for miner in miners):
        return "build"
    return None


def _name_rule(parts: tuple[str, ...], miner: LanguageMiner) -> str | None:
    if parts[-1].startswith("."):
        return "hidden"
    return "test" if miner.is_test(parts) else None


def _place(folder: Path, parts: tuple[str, ...], miner: LanguageMiner) -> tuple[str, str]:
    """The package of a file, and its path from the package's folder on."""
    if miner.is_package(folder):
        top = folder
        while miner.is_package(top.parent):
            top = top.parent
        inside = [_text(part) for part in folder.relative_to(top.parent).parts]
        return inside[0], "/".join((*inside, *parts))
    start = 0
    while start < len(parts) - 1 and parts[start] in miner.source_folders:
        if miner.is_package(folder.joinpath(*parts[: start + 1])):
            break
        start += 1
    package = parts[start] if start < len(parts) - 1 else PurePosixPath(parts[-1]).stem
    return package, "/".join(parts[start:])


def _real(path: Path) -> Path:
    # `Path.resolve` raises where links lead in a circle.
    return Path(os.path.realpath(path))


def _text(name: str) -> str:
    """A name without the surrogates that stand for undecodable bytes; no table of texts can hold those."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
