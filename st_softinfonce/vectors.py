"""The table of representations by content: looked up on the device in training, kept on disk between runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "st-softinfonce representation table, version 4"

_PARTS = "part-*.safetensors"
# Rows that are written together when nobody calls save().
_ROWS_A_PART = 1024
# A temporary file of this age was left by a process that was killed: its owner writes it within seconds.
_LEFT_BEHIND_SECONDS = 3600


class TableError(ValueError):
    """A table cannot be read or written: it is damaged, made by something else, or its folder has no room."""


def mix64(values: Tensor) -> Tensor:
    """Spread what differs between int64 over all their bits (the finaliser of SplitMix64); overflow wraps round."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        # Torch shifts int64 alone, with its sign, which is masked away; `data/minhash.py` has this for NumPy's uint64,
        # twice as fast and without importing torch.
        values = (values ^ ((values >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return values ^ ((values >> 31) & ((1 << 33) - 1))


def content_keys(content_ids: Tensor, seed: int = 0) -> Tensor:
    """Hash each row's content tokens ``(n, length)``, -1 where there is none, to 64 bits ``(n,)``, on their device.

    Equal for equal texts whatever their padding, prompt and batch. Two of a million different texts collide with a
    probability of about 3 in 100 million. The ``seed`` makes the keys of queries and documents differ, say.

    Example:
        >>> keys = content_keys(torch.tensor([[-1, 7, 8], [7, 8, -1], [8, 7, -1]]))
        >>> bool(keys[0] == keys[1]), bool(keys[0] == keys[2])
        (True, False)
    """
    mask = content_ids >= 0
    position = mask.cumsum(dim=1)  # 1, 2, ... over the content alone
    mixed = mix64(content_ids + mix64(position + seed)).masked_fill(~mask, 0)
    # The seed once more, for texts without any content.
    return mix64(mixed.sum(dim=1) + mask.sum(dim=1) + seed)


class RepresentationTable:
    """Vectors by the key of their text, in memory and, if a folder is given, on disk.

    The first vector that is added for a key stays. On disk a table is a folder of parts. Each is a safetensors file
    with its vectors, their checksum, and what made them, written under a temporary name and then renamed. So an
    interrupted build goes on from the parts that are there, processes that build one table at the same time add parts
    of their own, a torn file is noticed, and a table of something else is refused, naming what differs.

    Args:
        folder: Where the table lives; ``None`` keeps it in memory.
        identity: What made the vectors, as JSON primitives. Every entry must equal that of the parts.

    Raises:
        TableError: The folder holds a damaged table, or one with another identity.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, identity: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.identity = dict(identity or {})
        # Each is more than twice as long as the next one, so that there are few to search and adding stays cheap.
        self._levels: list[_Rows] = []
        self._unsaved: list[_Rows] = []
        if self.folder is None or not os.path.lexists(self.folder):
            return
        if not self.folder.is_dir():
            raise TableError(f"table must be a folder, got the file {self.folder.name}. Give another name.")
        for path in self.folder.glob(".part-*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _LEFT_BEHIND_SECONDS:
                    path.unlink()
        # By their names: of vectors that two processes made for one key, every later run takes the same.
        if parts := [self._read_part(path) for path in sorted(self.folder.glob(_PARTS))]:
            self._levels = [_Rows.merged(parts)]

    def __len__(self) -> int:
        """Return the number of keys."""
        return sum(len(rows) for rows in self._levels)

    def look_up(self, keys: Tensor) -> tuple[Tensor | None, Tensor]:
        """Find vectors by keys ``(n,)`` int64, on their device and without waiting for it.

        Returns:
            The vectors ``(n, D)`` float16, of any content where not found, or ``None`` from an empty table; and which
            were found ``(n,)``, bool.
        """
        self._levels = [rows.to(keys.device) for rows in self._levels]
        vectors: Tensor | None = None
        found = torch.zeros_like(keys, dtype=torch.bool)
        for rows in self._levels:
            place = torch.searchsorted(rows.keys, keys).clamp(max=len(rows) - 1)
            here = rows.keys[place] == keys
            values = rows.vectors[place]
            vectors = values if vectors is None else torch.where(here.unsqueeze(1), values, vectors)
            found = found | here
        return vectors, found

    def add(self, keys: Tensor, vectors: Tensor) -> None:
        """Keep the vectors ``(n, D)`` of new keys ``(n,)`` int64, of equal ones the first, in half precision.

        They are written to disk about a thousand at a time, and by :meth:`save`.

        Raises:
            TableError: The vectors differ in dimensions from those that are there, or the disk cannot be written to.
        """
        there, found = self.look_up(keys)
        if there is not None and there.size(1) != vectors.size(1):
            raise TableError(
                f"vectors have {vectors.size(1)} dimensions, the table's have {there.size(1)}: they come from another "
                "encoder, or one set to another dimension. Give another folder."
            )
        new = _Rows.first(keys[~found], vectors.detach()[~found].to(torch.float16))
        if not len(new):
            return
        if self.folder is not None:
            self._unsaved.append(new.to(torch.device("cpu")))
        while self._levels and len(self._levels[-1]) <= 2 * len(new):
            new = _Rows.merged([self._levels.pop(), new])
        self._levels.append(new)
        if sum(len(rows) for rows in self._unsaved) >= _ROWS_A_PART:
            self.save()

    def save(self) -> None:
        """Write what was added since the last time as one more part. Nothing happens without a folder.

        Raises:
            TableError: The disk cannot be written to, or another process began a table with another identity there.
        """
        if self.folder is None or not self._unsaved:
            return
        for path in list(self.folder.glob(_PARTS))[:1]:  # perhaps of a process that began after this one
            with contextlib.suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
                self._check_origin(path, file.metadata())
        rows = _Rows.merged(self._unsaved)
        path = self.folder / f"part-{uuid.uuid4().hex}.safetensors"
        temporary = path.with_name(f".{path.name}")
        metadata = {"format": FORMAT, "identity": json.dumps(self.identity), "checksum": rows.checksum()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"keys": rows.keys, "vectors": rows.vectors}, temporary, metadata)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            raise TableError(
                f"table {self.folder}: {path.name} cannot be written ({error}). Make room or give another folder; "
                "what was saved before is kept."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        self._unsaved = []

    def compact(self) -> None:
        """Put what was added part by part into one run, which is the quickest to search."""
        if self._levels:
            self._levels = [_Rows.merged(self._levels)]

    def _read_part(self, path: Path) -> _Rows:
        if not path.is_file():
            raise TableError(f"{_named(path)} is not a file. Delete it.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                self._check_origin(path, metadata)
                rows = _Rows(file.get_tensor("keys"), file.get_tensor("vectors"))
        except (SafetensorError, OSError) as error:
            raise TableError(f"{_named(path)} is damaged ({error}). Delete that file.") from error
        if metadata["checksum"] != rows.checksum():
            raise TableError(f"{_named(path)} does not match its checksum. Delete that file.")
        return rows

    def _check_origin(self, path: Path, metadata: Mapping[str, str] | None) -> None:
        """Refuse a part that something else made, or in another format."""
        metadata = metadata or {}
        if metadata.get("format") != FORMAT:
            raise TableError(
                f"{_named(path)} has the format {metadata.get('format')!r}, this version reads {FORMAT!r}. Build the "
                "table again in another folder."
            )
        stored = json.loads(metadata["identity"])
        for name in sorted({*self.identity, *stored}):
            mine, its = self.identity.get(name), stored.get(name)
            if mine != its:
                raise TableError(
                    f"{_named(path)} was made with {name}={its!r}, this estimator has {name}={mine!r}. Give another "
                    "folder, or delete this one to build it again."
                )


@dataclass(frozen=True)
class _Rows:
    """Rows of a table in the order of their keys, each key once."""

    keys: Tensor  # (n,)
    vectors: Tensor  # (n, D)

    @classmethod
    def first(cls, keys: Tensor, vectors: Tensor) -> _Rows:
        """Sort rows; of those with one key the first stays."""
        keys, order = keys.sort(stable=True)
        is_first = torch.ones_like(keys, dtype=torch.bool)
        is_first[1:] = keys[1:] != keys[:-1]
        return cls(keys[is_first], vectors[order[is_first]])

    @classmethod
    def merged(cls, parts: Sequence[_Rows]) -> _Rows:
        if len(parts) == 1:
            return parts[0]
        return cls.first(torch.cat([part.keys for part in parts]), torch.cat([part.vectors for part in parts]))

    def __len__(self) -> int:
        return self.keys.numel()

    def to(self, device: torch.device) -> _Rows:
        return self if self.keys.device == device else _Rows(self.keys.to(device), self.vectors.to(device))

    def checksum(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (self.keys, self.vectors):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def _named(path: Path) -> str:
    return f"table {path.parent.name}: {path.name}"
