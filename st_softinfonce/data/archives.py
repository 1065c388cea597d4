"""Read the members of archives, none of which can ask for more than its limits."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, cast

MAX_MEMBERS = 500_000
MAX_RATIO = 200  # of plain to packed bytes; source code is below 20
_FREE_BYTES = 64 << 20  # up to here any ratio is harmless
_MAX_READ = 64 << 20  # a header that asks for more at once is no header

_ZIPS = (".whl", ".zip", ".jar", ".egg")
_TARS = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tzst", ".tar.zst")
EXTENSIONS = (*_ZIPS, *_TARS, ".deb")


class ArchiveError(Exception):
    """An archive cannot be read any further.

    Args:
        rule: The rule of `ARCHIVE_RULES` that says why.
        detail: What to do about it, if anything can be done.
    """

    def __init__(self, rule: str, detail: str = "") -> None:
        super().__init__(rule, detail)
        self.rule = rule
        self.detail = detail


@dataclass(frozen=True)
class Member:
    """One member of an archive.

    Args:
        name: The name as the archive has it, with slashes.
        size: Its size as the archive states it.
        is_link: Whether it is a link, which is not followed.
        open: Opens its content; only until the next member is taken.
    """

    name: str
    size: int
    is_link: bool
    open: Callable[[], BinaryIO]


def is_archive(name: str) -> bool:
    """Whether a file is an archive, by its name."""
    return name.lower().endswith(EXTENSIONS)


def read_members(archive: Path, max_bytes: int) -> Iterator[Member]:
    """Go through the files and links of an archive: a zip's by name, any other's in the order that they lie in.

    A Debian package's are those of its `control.tar`, under `DEBIAN/`, then those of its `data.tar`.

    Args:
        archive: The archive; its name says of which kind it is.
        max_bytes: How many bytes it may unpack to.

    Yields:
        Each member; folders and devices are left out.

    Raises:
        ArchiveError: If the archive is broken, packed in a way unknown here, or larger than the limits.
    """
    name = archive.name.lower()
    try:
        with archive.open("rb") as stream:
            if name.endswith(".deb"):
                yield from _read_deb(stream, max_bytes)
            elif name.endswith(_ZIPS):
                yield from _read_zip(stream, max_bytes)
            else:
                yield from _read_tar(stream, name, os.fstat(stream.fileno()).st_size, max_bytes)
    except ArchiveError:
        raise
    except Exception as error:
        # What libraries raise depends on where an archive is broken.
        raise ArchiveError("corrupt", str(error)) from error


def _read_zip(stream: BinaryIO, max_bytes: int) -> Iterator[Member]:
    with zipfile.ZipFile(stream) as archive:
        infos = archive.infolist()
        if len(infos) > MAX_MEMBERS:
            raise ArchiveError("too_large")
        budget = max_bytes

        def opener(info: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
            def opened() -> BinaryIO:
                # Only what is opened is ever unpacked, so that only what is opened counts; members may overlap.
                nonlocal budget
                budget -= info.file_size
                if budget < 0 or info.file_size > max(_FREE_BYTES, MAX_RATIO * info.compress_size):
                    raise ArchiveError("too_large")
                return cast(BinaryIO, archive.open(info))

            return opened

        for info in sorted(infos, key=lambda info: info.filename):
            if not info.is_dir():
                is_link = stat.S_ISLNK(info.external_attr >> 16)
                yield Member(info.filename.replace("\\", "/"), info.file_size, is_link, opener(info))


def _read_tar(stream: BinaryIO, name: str, packed_bytes: int, max_bytes: int) -> Iterator[Member]:
    limit = min(max_bytes, max(_FREE_BYTES, MAX_RATIO * packed_bytes))
    plain = _Bounded(_unpack(stream, name), limit)
    with tarfile.open(fileobj=cast(BinaryIO, plain), mode="r:", errorlevel=2) as archive:
        count = 0
        while (info := archive.next()) is not None:
            # `tarfile` would keep all it has seen.
            archive.members = []  # type: ignore[attr-defined]
            count += 1
            if count > MAX_MEMBERS:
                raise ArchiveError("too_large")
            if info.isfile() or info.issym() or info.islnk():
                yield Member(info.name, info.size, not info.isfile(), _tar_opener(archive, info))
        if any(plain.last) or not plain.last:
            raise ArchiveError("corrupt", "it ends in the middle")


def _tar_opener(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], BinaryIO]:
    return lambda: cast(BinaryIO, archive.extractfile(info))


def _read_deb(stream: BinaryIO, max_bytes: int) -> Iterator[Member]:
    """The two archives in a Debian package, which is an `ar` archive (deb(5))."""
    if stream.read(8) != b"!<arch>\n":
        raise ArchiveError("corrupt", "it is no Debian package")
    has_data = False
    while header := stream.read(60):
        if len(header) < 60 or header[58:] != b"`\n":
            raise ArchiveError("corrupt", "it ends in the middle")
        name, size = header[:16].decode(errors="replace").strip().rstrip("/"), int(header[48:58])
        start = stream.tell()
        if name.startswith(("control.tar", "data.tar")):
            has_data = has_data or name.startswith("data.tar")
            prefix = "DEBIAN/" if name.startswith("control") else ""
            part = cast(BinaryIO, io.BufferedReader(_Slice(stream, start, size)))
            for member in _read_tar(part, name, size, max_bytes):
                yield Member(prefix + member.name, member.size, member.is_link, member.open)
        stream.seek(start + size + size % 2)
    if not has_data:
        raise ArchiveError("corrupt", "it ends in the middle")


def _unpack(stream: BinaryIO, name: str) -> BinaryIO:
    if name.endswith((".tgz", ".gz")):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if name.endswith((".tbz2", ".bz2")):
        return cast(BinaryIO, bz2.BZ2File(stream))
    if name.endswith((".txz", ".xz", ".lzma")):
        return cast(BinaryIO, lzma.LZMAFile(stream))
    if name.endswith((".tzst", ".zst")):
        return _unpack_zstd(stream)
    return stream


def _unpack_zstd(stream: BinaryIO) -> BinaryIO:
    for module in ("compression.zstd", "backports.zstd"):  # the first is part of Python from 3.14 on
        try:
            zstd = import_module(module)
        except ImportError:
            continue
        return cast(BinaryIO, zstd.ZstdFile(stream))
    raise ArchiveError("unsupported", "Zstandard needs Python 3.14 or the package backports.zstd")


class _Slice(io.RawIOBase):
    """A part of a file, read from its beginning to its end."""

    def __init__(self, stream: BinaryIO, start: int, size: int) -> None:
        self._stream = stream
        self._position = start
        self._end = start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._stream.seek(self._position)
        data = self._stream.read(min(len(buffer), self._end - self._position))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Bounded:
    """A stream that can only go forward, and so far, as `tarfile` needs it.

    Args:
        stream: What is read.
        limit: How many bytes it may give.
    """

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._position = 0
        self.last = b""
        """What was read last."""

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        if position < self._position:
            raise ArchiveError("corrupt", "it leads back to where it began")
        while self._position < position:
            if not self.read(min(position - self._position, 1 << 20)):
                break
        return self._position

    def read(self, size: int) -> bytes:
        if size > _MAX_READ or self._position + size > self._limit:
            raise ArchiveError("too_large")
        pieces = []
        while size > 0 and (piece := self._stream.read(size)):
            pieces.append(piece)
            size -= len(piece)
            self._position += len(piece)
        self.last = b"".join(pieces)
        return self.last
