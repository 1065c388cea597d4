"""Which source files lie under the given paths, and to which package each belongs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from st_softinfonce.data.languages import EXTENSIONS
from st_softinfonce.data.languages.base import LanguageMiner
from st_softinfonce.data.report import PROBLEMS, MiningReport

_BUILD_FOLDERS = frozenset({"__pycache__", "node_modules", "vendor", "build", "dist", "venv"})
_LONG_LINE = 5_000  # longer than any documentation that fits a query, in one line
_HEAD_BYTES = 2_000

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
class SourceFile:
    """One file to mine.

    Args:
        location: Where it is on this machine.
        path: Its path from the package's folder on, with slashes.
        package: The package that a split holds out as a whole.
        language: The language by the file's extension.
    """

    location: Path
    path: str
    package: str
    language: str


def find_files(roots: list[Path], miners: dict[str, LanguageMiner], report: MiningReport) -> list[SourceFile]:
    """Find all source files under some paths, in the order of the paths, then of the files' own paths.

    What is skipped is judged relative to each root: a root is entered whatever it is called and wherever it lies.
    Symbolic links are followed; every real file is found once, and so is each file of a package of which several
    roots hold a copy.

    Args:
        roots: Existing files and folders. A file is taken whatever its name says about tests.
        miners: The miners by language; files of other languages are not seen.
        report: Where seen and skipped files and folders are counted.

    Returns:
        The files, none of them read yet.
    """
    found: list[SourceFile] = []
    locations: set[Path] = set()
    paths_of_earlier_roots: set[str] = set()
    for root in roots:
        folder = Path(os.path.abspath(root))  # noqa: PTH100 - `resolve` would replace a link's name by its target's
        single = not folder.is_dir()
        entries = [((_text(folder.name),), _real(folder))] if single else _walk(folder, miners, report)
        paths: set[str] = set()
        for parts, location in sorted(entries, key=lambda entry: "/".join(entry[0])):
            language = EXTENSIONS.get(PurePosixPath(parts[-1]).suffix)
            if language not in miners:
                continue
            miner = miners[language]
            package, path = _place(folder.parent if single else folder, parts, miner)
            report.files_seen += 1
            rule = None if single else _name_rule(parts, miner)
            if location in locations:
                rule = rule or "overlap"
            elif path in paths_of_earlier_roots:
                rule = rule or "other_root"
            if rule is not None:
                report.files_skipped[rule] += 1
                continue
            locations.add(location)
            paths.add(path)
            found.append(SourceFile(location, path, package, language))
        paths_of_earlier_roots |= paths
    return found


def read_source(file: SourceFile, miner: LanguageMiner, max_bytes: int) -> tuple[str | None, str]:
    """Read one file.

    Args:
        file: The file.
        miner: The miner of its language, which knows how to decode it.
        max_bytes: The largest size that is read.

    Returns:
        None and the text, its line ends made line feeds; or the rule of `FILE_RULES` that skips it, and nothing.
    """
    try:
        # Opening a pipe would wait for ever.
        if not file.location.is_file():
            return "unreadable", ""
        with file.location.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError:
        return "unreadable", ""
    if len(data) > max_bytes:
        return "too_large", ""
    if b"\0" in data:
        return "binary", ""
    if _is_generated(data[:_HEAD_BYTES]):
        return "generated", ""
    if 2 * sum(len(line) for line in data.splitlines() if len(line) > _LONG_LINE) > len(data):
        return "minified", ""
    try:
        text = miner.decode(data)
        text.encode()
    except (UnicodeError, LookupError):
        return "undecodable", ""
    return None, text.replace("\r\n", "\n").replace("\r", "\n")


def _is_generated(head: bytes) -> bool:
    code = _FIRST_CODE.search(head)
    return _GENERATED.search(head, 0, len(head) if code is None else code.start()) is not None


def note_problem(report: MiningReport, path: str, rule: str) -> None:
    """Remember a path for the report if what the rule says is wrong with it is a problem."""
    if rule in (*PROBLEMS, "syntax_error"):
        report.problems.append(f"{path} ({rule})")


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
