"""Checks of arguments that several modules share: each names the argument, the value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Real
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[float]:
    """Tell a finite number from everything else: nan, inf and bool are refused, NumPy's numbers are welcome."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_positive(name: str, value: object) -> float:
    """Return a finite number above 0 as a float; raise a ValueError naming the argument otherwise."""
    if not (is_number(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}.")
    return float(value)


def check_not_negative(name: str, value: object, hint: str = "") -> float:
    """Return a finite number of at least 0 as a float; a ValueError otherwise ends with the hint."""
    if not (is_number(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number, at least 0, got {value!r}.{' ' * bool(hint)}{hint}")
    return float(value)


def check_share(name: str, value: object, *, zero: bool = False, hint: str = "") -> float:
    """Return a number in (0, 1], or [0, 1] where ``zero`` is allowed; a ValueError otherwise ends with the hint."""
    if not (is_number(value) and (0 <= value if zero else 0 < value) and value <= 1):
        allowed = "[0, 1]" if zero else "(0, 1]"
        raise ValueError(f"{name} must be in {allowed}, got {value!r}.{' ' * bool(hint)}{hint}")
    return float(value)


def check_count(name: str, value: object, least: int = 1, *, optional: bool = False, hint: str = "") -> None:
    """Refuse what is not an integer of at least ``least``, or ``None`` where that is ``optional``."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        alternative = " or None" if optional else ""
        raise ValueError(
            f"{name} must be an integer of at least {least}{alternative}, got {value!r}.{' ' * bool(hint)}{hint}"
        )


def check_choice(name: str, value: object, allowed: Collection[object]) -> None:
    """Refuse a value that is not among those allowed."""
    # Lists and the like cannot be looked up in a set, and are not allowed anyway.
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in allowed):
        raise ValueError(f"{name} must be one of {tuple(allowed)}, got {value!r}.")
