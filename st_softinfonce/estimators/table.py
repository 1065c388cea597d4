"""Representations kept by text: looked up on the device in training, memory-mapped on disk between runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

FORMAT = "st-softinfonce representation table, version 2"
AS_READ = 0
MANIFEST = "manifest.json"


class TableError(ValueError):
    """A table on disk cannot be used: it is damaged, or was made by another model, tokenizer or setting."""


def content_keys(content_ids: Tensor, seed: int = 0) -> Tensor:
    """Hash each row's content tokens to 64 bits, on their device.

    Equal for equal texts whatever their padding, prompt and batch. Two of a million different texts collide with a
    probability of about 3 in 100 million.

    Args:
        content_ids: ``(n, length)`` int64, -1 where there is no content.
        seed: Makes the keys of different kinds of text differ, e.g. of queries and documents.

    Returns:
        ``(n,)`` int64.

    Example:
        >>> keys = content_keys(torch.tensor([[-1, 7, 8], [7, 8, -1], [8, 7, -1]]))
        >>> bool(keys[0] == keys[1]), bool(keys[0] == keys[2])
        (True, False)
    """
    mask = content_ids >= 0
    position = mask.cumsum(dim=1)  # 1, 2, ... over the content alone
    mixed = _mix(content_ids + _mix(position + seed)).masked_fill(~mask, 0)
    # The seed once more, for texts without any content.
    return _mix(mixed.sum(dim=1) + mask.sum(dim=1) + seed)


def text_sources(texts: Sequence[str]) -> Tensor:
    """Hash texts themselves, which tells apart those that share a key because a model truncates or lower-cases them.

    Args:
        texts: The texts.

    Returns:
        ``(n,)`` int64, never :data:`AS_READ`.
    """
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) or 1 for digest in digests], dtype=torch.int64)


class RepresentationTable:
    """Vectors by the key of their text, in memory and, if a folder is given, on disk.

    Beside each vector stands its source: what text it was made of, or :data:`AS_READ` where it was the text as the
    key's tokens read, which is right for every text with that key. Such a vector takes the place of another one.

    On disk a table is a folder of parts, each a safetensors file with its own checksum, written under a name of its
    own and moved into place: processes that build one table at the same time only add parts (or put several into
    one), an interrupted build goes on from the parts that are there, and a torn file is noticed. A manifest says
    what made the vectors; a table of something else is refused, naming what differs.

    Args:
        folder: Where it lives; ``None`` keeps it in memory.
        identity: What made the vectors: every entry must equal the manifest's.

    Raises:
        TableError: The folder holds a damaged table, or one with another identity.
    """

    # Texts seen for the first time are kept apart until they are this share of the table, as adding means sorting.
    _RECENT_SHARE = 0.1
    _ROWS_A_PART = 1024

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, identity: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.identity = dict(identity or {})
        self._main: _Rows | None = None
        self._recent: list[_Rows] = []
        self._unsaved: list[_Rows] = []
        self._identity_hash = hashlib.blake2b(_as_json(self.identity), digest_size=16).hexdigest()
        if self.folder is not None:
            self._open(self.folder)

    def __len__(self) -> int:
        """Return the number of texts."""
        return sum(rows.keys.numel() for rows in ([] if self._main is None else [self._main]) + self._recent)

    def look_up(self, keys: Tensor) -> tuple[Tensor | None, Tensor]:
        """Find vectors, on the keys' device and without waiting for it.

        Args:
            keys: ``(n,)`` int64.

        Returns:
            The vectors ``(n, D)``, of any content where not found, or ``None`` from an empty table; and which were
            found ``(n,)``, bool.
        """
        found = torch.zeros_like(keys, dtype=torch.bool)
        vectors: Tensor | None = None
        for rows in self._levels(keys.device):
            place, here = rows.find(keys)
            # Rows of a table that stays on the disk are read one by one, here and nowhere else.
            values = rows.vectors[place]
            vectors = values if vectors is None else torch.where(here.unsqueeze(1), values, vectors)
            found = found | here
        return vectors, found

    def sources(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Find what the vectors were made of.

        Args:
            keys: ``(n,)`` int64.

        Returns:
            The sources ``(n,)`` int64, :data:`AS_READ` where not found; and which were found ``(n,)``, bool.
        """
        found = torch.zeros_like(keys, dtype=torch.bool)
        sources = torch.full_like(keys, AS_READ)
        for rows in self._levels(keys.device):
            place, here = rows.find(keys)
            sources = torch.where(here, rows.sources[place], sources)
            found = found | here
        return sources, found

    def add(self, keys: Tensor, vectors: Tensor, sources: Tensor | None = None) -> None:
        """Keep vectors; they are written to the disk by the thousand, the rest with :meth:`save`.

        Args:
            keys: ``(n,)`` int64. Keys that are there already are kept as they are, unless the vector is of the text
                as read, and the one that is there is not.
            vectors: ``(n, D)`` floating point, kept in half precision.
            sources: ``(n,)`` int64, as :func:`text_sources` makes them; by default all are :data:`AS_READ`.

        Raises:
            TableError: The vectors have not as many dimensions as those that are there.
        """
        vectors = vectors.detach().to(torch.float16)
        levels = self._levels(keys.device)
        if levels and vectors.size(1) != levels[0].vectors.size(1):
            raise TableError(
                f"vectors have {vectors.size(1)} dimensions, the table's have {levels[0].vectors.size(1)}: they come "
                "from another encoder, or one set to another dimension. Give another folder."
            )
        sources = torch.full_like(keys, AS_READ) if sources is None else sources.to(keys.device)
        new = _Rows.of(keys.detach(), vectors, sources)
        its, known = self.sources(new.keys)
        new = new.where(~known | ((new.sources == AS_READ) & (its != AS_READ)))
        if new.keys.numel() == 0:
            return
        self._recent.append(new)
        if self.folder is not None:
            self._unsaved.append(new.to(torch.device("cpu")))
        main = 0 if self._main is None else self._main.keys.numel()
        if sum(rows.keys.numel() for rows in self._recent) > self._RECENT_SHARE * main:
            self._main, self._recent = _Rows.merged(self._levels(keys.device)), []
        if sum(rows.keys.numel() for rows in self._unsaved) >= self._ROWS_A_PART:
            self.save()

    def save(self) -> None:
        """Write what was added since the last time as one more part. Nothing happens without a folder.

        Raises:
            TableError: Another process is building a table with another identity there.
            OSError: The folder cannot be written to.
        """
        if self.folder is None or not self._unsaved:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_manifest(self.folder)  # of another process, which began after this one
        _write(self.folder / MANIFEST, _as_json({"format": FORMAT, "identity": self.identity}))
        self._write_part(self.folder, _Rows.merged(self._unsaved))
        self._unsaved = []

    def compact(self) -> None:
        """Put all parts on the disk into one, which the next run need not load to look texts up in it.

        Raises:
            TableError: A part is damaged, or another process is building a table with another identity there.
            OSError: The folder cannot be written to.
        """
        self.save()
        if self.folder is None or len(parts := self._read_parts(self.folder)) < 2:
            return
        self._write_part(self.folder, _Rows.merged(list(parts.values())))
        # Only now, when all they hold is on the disk again, and only those: another process may have added more.
        for path in parts:
            with contextlib.suppress(OSError):
                path.unlink()

    def _open(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise TableError(f"table must be a folder, got the file {folder.name}. Give another name.")
        self._check_manifest(folder)
        parts = list(self._read_parts(folder).values())
        if len(parts) == 1:
            self._main = parts[0]  # stays on the disk until it is moved to a device
        elif parts:
            self._main = _Rows.merged(parts)

    def _read_parts(self, folder: Path) -> dict[Path, _Rows]:
        while True:
            paths = sorted(folder.glob("part-*.safetensors"))
            try:
                return {path: _read(path, self._identity_hash) for path in paths}
            except TableError:
                # Another process may just have put them into one.
                if all(path.exists() for path in paths):
                    raise

    def _write_part(self, folder: Path, rows: _Rows) -> None:
        metadata = {
            "checksum": _checksum(rows),
            "count": str(rows.keys.numel()),
            "identity": self._identity_hash,
        }
        part = save({"keys": rows.keys, "vectors": rows.vectors, "sources": rows.sources}, metadata)
        _write(folder / f"part-{uuid.uuid4().hex}.safetensors", part)

    def _check_manifest(self, folder: Path) -> None:
        manifest = folder / MANIFEST
        if not manifest.exists():
            return
        try:
            stored = json.loads(manifest.read_text())
        except ValueError as error:
            raise TableError(f"table {folder.name}: {MANIFEST} is damaged ({error}). Delete the folder.") from error
        if not isinstance(stored, dict) or not isinstance(stored.get("identity"), dict):
            raise TableError(f"table {folder.name}: {MANIFEST} is damaged (no identity). Delete the folder.")
        if stored.get("format") != FORMAT:
            raise TableError(
                f"table {folder.name} has the format {stored.get('format')!r}, this version reads {FORMAT!r}. Build "
                "it again in another folder."
            )
        for name in sorted(set(self.identity) | set(stored["identity"])):
            mine, its = self.identity.get(name), stored["identity"].get(name)
            if mine != its:
                raise TableError(
                    f"table {folder.name} was made with {name}={its!r}, this estimator has {name}={mine!r}. Give "
                    "another folder, or delete this one to build it again."
                )

    def _levels(self, device: torch.device) -> list[_Rows]:
        """Bring all rows to a device; a later level goes before an earlier one."""
        self._main = None if self._main is None else self._main.to(device)
        self._recent = [rows.to(device) for rows in self._recent]
        return ([] if self._main is None else [self._main]) + self._recent


@dataclass(frozen=True)
class _Rows:
    """Rows of a table in the order of their keys, each key once."""

    keys: Tensor  # (n,)
    vectors: Tensor  # (n, D)
    sources: Tensor  # (n,)

    @classmethod
    def of(cls, keys: Tensor, vectors: Tensor, sources: Tensor) -> _Rows:
        """Sort rows. Of those with one key the first stays, or the first that is as read."""
        order = (sources != AS_READ).to(torch.int8).argsort(stable=True)
        keys, within = keys[order].sort(stable=True)
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        kept = order[within][first]
        return cls(keys[first], vectors[kept], sources[kept])

    @classmethod
    def merged(cls, parts: Sequence[_Rows]) -> _Rows:
        """Merge rows. Where two processes made a vector of different texts, neither is right, and both go."""
        keys, sources = (torch.cat([getattr(part, name) for part in parts]) for name in ("keys", "sources"))
        rows = cls.of(keys, torch.cat([part.vectors for part in parts]), sources)
        place, _ = rows.find(keys)
        its = rows.sources[place]
        right = torch.ones_like(rows.keys, dtype=torch.bool)
        right[place[(its != AS_READ) & (its != sources)]] = False
        return rows.where(right)

    def find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Find the places of keys, and whether they are there."""
        place = torch.searchsorted(self.keys, keys).clamp(max=self.keys.numel() - 1)
        return place, self.keys[place] == keys

    def where(self, kept: Tensor) -> _Rows:
        return _Rows(self.keys[kept], self.vectors[kept], self.sources[kept])

    def to(self, device: torch.device) -> _Rows:
        if self.keys.device == device:
            return self
        return _Rows(self.keys.to(device), self.vectors.to(device), self.sources.to(device))


def _mix(value: Tensor) -> Tensor:
    """Scramble 64-bit integers (SplitMix64's finaliser); overflow wraps round, as it should."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        value = (value ^ ((value >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return value ^ ((value >> 31) & ((1 << 33) - 1))


def _checksum(rows: _Rows) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (rows.keys, rows.vectors, rows.sources):
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _as_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, sort_keys=True).encode()


def _read(path: Path, identity: str) -> _Rows:
    try:
        with safe_open(path, framework="pt") as file:
            rows = _Rows(*(file.get_tensor(name) for name in ("keys", "vectors", "sources")))
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, KeyError) as error:
        raise TableError(f"table {path.parent.name}: {path.name} is damaged ({error}). Delete that file.") from error
    if metadata.get("identity") != identity:
        raise TableError(
            f"table {path.parent.name}: {path.name} was made with something else than {MANIFEST} says, or that is "
            "lost. Give another folder, or delete this one to build it again."
        )
    if _checksum(rows) != metadata.get("checksum"):
        raise TableError(f"table {path.parent.name}: {path.name} does not match its checksum. Delete that file.")
    return rows
