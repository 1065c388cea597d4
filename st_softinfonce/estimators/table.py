"""Representations kept by text: looked up on the device in training, memory-mapped on disk between runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

FORMAT = "st-softinfonce representation table, version 1"
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
    return _mix(mixed.sum(dim=1) + mask.sum(dim=1))


class RepresentationTable:
    """Vectors by the key of their text, in memory and, if a folder is given, on disk.

    On disk a table is a folder of parts, each a safetensors file with its own checksum, written under a name of its
    own and moved into place: processes that build one table at the same time only add parts, an interrupted build
    goes on from the parts that are there, and a torn file is noticed. A manifest says what made the vectors; a table
    of something else is refused, naming what differs.

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
        self._keys = torch.empty(0, dtype=torch.int64)
        self._vectors: Tensor | None = None
        self._recent: list[tuple[Tensor, Tensor]] = []
        self._unsaved: list[tuple[Tensor, Tensor]] = []
        if self.folder is not None:
            self._open(self.folder)

    def __len__(self) -> int:
        """Return the number of texts."""
        return self._keys.numel() + sum(keys.numel() for keys, _ in self._recent)

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
        for part in self._levels(keys.device):
            place = torch.searchsorted(part[0], keys).clamp(max=part[0].numel() - 1)
            here = part[0][place] == keys
            # Rows of a table that stays on the disk are read one by one, here and nowhere else.
            values = part[1][place]
            vectors = values if vectors is None else torch.where(here.unsqueeze(1), values, vectors)
            found = found | here
        return vectors, found

    def add(self, keys: Tensor, vectors: Tensor) -> None:
        """Keep vectors; they are written to the disk by the thousand, the rest with :meth:`save`.

        Args:
            keys: ``(n,)`` int64. Keys that are there already are kept as they are.
            vectors: ``(n, D)`` floating point, kept in half precision.
        """
        vectors = vectors.detach().to(torch.float16)
        width = None if self._vectors is None else self._vectors.size(1)
        if width is not None and vectors.size(1) != width:
            raise TableError(
                f"vectors have {vectors.size(1)} dimensions, the table's have {width}: they come from another "
                "encoder, or one set to another dimension. Give another folder."
            )
        keys, order = keys.detach().sort()
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        _, known = self.look_up(keys)
        keep = first & ~known
        entry = (keys[keep], vectors[order][keep])
        if entry[0].numel() == 0:
            return
        self._recent.append(entry)
        if self.folder is not None:
            self._unsaved.append((entry[0].cpu(), entry[1].cpu()))
        if sum(keys.numel() for keys, _ in self._recent) > self._RECENT_SHARE * self._keys.numel():
            self._merge()
        if sum(keys.numel() for keys, _ in self._unsaved) >= self._ROWS_A_PART:
            self.save()

    def save(self) -> None:
        """Write what was added since the last time as one more part. Nothing happens without a folder.

        Raises:
            OSError: The folder cannot be written to.
        """
        if self.folder is None or not self._unsaved:
            return
        keys = torch.cat([keys for keys, _ in self._unsaved])
        keys, order = keys.sort()
        vectors = torch.cat([vectors for _, vectors in self._unsaved])[order]
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = {"format": FORMAT, "identity": self.identity}
        _write(self.folder / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True).encode())
        metadata = {"checksum": _checksum(keys, vectors), "count": str(keys.numel())}
        part = save({"keys": keys, "vectors": vectors}, metadata)
        _write(self.folder / f"part-{uuid.uuid4().hex}.safetensors", part)
        self._unsaved = []

    def _open(self, folder: Path) -> None:
        manifest = folder / MANIFEST
        if not manifest.exists():
            return
        try:
            stored = json.loads(manifest.read_text())
        except ValueError as error:
            raise TableError(f"table {folder.name}: {MANIFEST} is damaged ({error}). Delete the folder.") from error
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
        parts = [_read(path) for path in sorted(folder.glob("part-*.safetensors"))]
        if len(parts) == 1:
            self._keys, self._vectors = parts[0]  # stays on the disk until it is moved to a device
        elif parts:
            self._set(torch.cat([keys for keys, _ in parts]), torch.cat([vectors for _, vectors in parts]))

    def _levels(self, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        if self._vectors is not None and self._keys.device != device:
            self._keys, self._vectors = self._keys.to(device), self._vectors.to(device)
        self._recent = [(keys.to(device), vectors.to(device)) for keys, vectors in self._recent]
        main = [] if self._vectors is None else [(self._keys, self._vectors)]
        return main + self._recent

    def _merge(self) -> None:
        levels = self._levels(self._recent[0][0].device)
        self._recent = []
        self._set(torch.cat([keys for keys, _ in levels]), torch.cat([vectors for _, vectors in levels]))

    def _set(self, keys: Tensor, vectors: Tensor) -> None:
        self._keys, order = keys.sort()
        self._vectors = vectors[order]


def _mix(value: Tensor) -> Tensor:
    """Scramble 64-bit integers (SplitMix64's finaliser); overflow wraps round, as it should."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        value = (value ^ ((value >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return value ^ ((value >> 31) & ((1 << 33) - 1))


def _checksum(keys: Tensor, vectors: Tensor) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(keys.contiguous().numpy().data)
    digest.update(vectors.contiguous().numpy().data)
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


def _read(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            keys, vectors = file.get_tensor("keys"), file.get_tensor("vectors")
            expected = (file.metadata() or {}).get("checksum")
    except (SafetensorError, OSError, KeyError) as error:
        raise TableError(f"table {path.parent.name}: {path.name} is damaged ({error}). Delete that file.") from error
    if _checksum(keys, vectors) != expected:
        raise TableError(f"table {path.parent.name}: {path.name} does not match its checksum. Delete that file.")
    return keys, vectors
