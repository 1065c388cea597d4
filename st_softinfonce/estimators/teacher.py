"""The frozen model inside an estimator: loaded, kept apart from the model in training, and named."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TypeVar

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import nn

Teacher = TypeVar("Teacher", SentenceTransformer, CrossEncoder)


def load_teacher(model: object, kind: type[Teacher], options: dict[str, object]) -> Teacher:
    """Load a model of a class by its name or path, with options for the class, or take one that is loaded."""
    if isinstance(model, kind):
        if options:
            raise ValueError(f"options {sorted(options)} cannot be given with a model that is loaded.")
        return model
    if isinstance(model, (str, os.PathLike)):
        return kind(os.fspath(model), **options)  # type: ignore[arg-type, no-any-return]
    raise TypeError(
        f"model must be the name or path of a sentence-transformers {kind.__name__}, or such a model, got "
        f"{type(model).__name__}."
    )


def freeze_teacher(teacher: nn.Module, student: nn.Module, name: str) -> None:
    """Freeze an estimator's model in evaluation mode, or refuse one that shares a parameter with the student."""
    training = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in training for parameter in teacher.parameters()):
        raise ValueError(
            f"model of the estimator {name!r} is the model in training, or shares weights with it: it would move with "
            "every step. Pass copy.deepcopy(model), made before training, or the path it was saved to."
        )
    teacher.eval().requires_grad_(False)


def describe_teacher(source: object, model: SentenceTransformer | CrossEncoder) -> dict[str, str]:
    """Say which teacher it is, for a model card and for what is kept on disk; ``source`` is what the user gave.

    Its ``teacher_revision`` is its commit if that is known, and always a fingerprint of its weights, as a commit would
    still be there after further training.
    """
    card = model.model_card_data
    config = getattr(getattr(model[0], "model", None), "config", None)
    given = os.fspath(source) if isinstance(source, (str, os.PathLike)) else card.model_name or card.base_model
    name = given or getattr(config, "_name_or_path", "") or "unnamed model"
    # A whole path would only say where it lay on one machine.
    name = Path(name).resolve().name if Path(name).exists() else name
    commit = getattr(config, "_commit_hash", None)
    weights = f"weights {fingerprint(model)}"
    return {"teacher": name, "teacher_revision": f"{commit}, {weights}" if commit else weights}


def fingerprint(model: nn.Module) -> str:
    """Hash a model's weights to 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
