"""Name, version and licence of a package, from the files that package managers and people leave beside the code."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.parser import HeaderParser
from typing import Any
from xml.etree import ElementTree as ET

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1_000_000

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LICENSE_FILE = re.compile(r"(?:LICEN[CS]E|COPYING|UNLICENSE)(?:[-.](?:\w|-)+)*", re.IGNORECASE)
_OWN_LICENSE_FILE = re.compile(r"(?:LICEN[CS]E|COPYING|UNLICENSE)(?:\.(?:txt|md|rst|markdown|html))?", re.IGNORECASE)
_PROJECT_FILES = ("PKG-INFO", "METADATA", "package.json", "composer.json", "pyproject.toml", "pom.xml", "go.mod")

# A licence begins with its title: further down, a text that is no licence known here may name others.
_TITLE_WITHIN = 600
# Copyright lines, which can be many, stand before those that are known by their first sentence.
_SENTENCE_WITHIN = 5_000
_SENTENCES = ("ISC", "MIT", "BSD-3-Clause", "BSD-2-Clause", "Unlicense", "PSF-2.0")
_OWN_TERMS = re.compile(r"\bproprietary\b|\bconfidential\b|\btrade secret|\bend[- ]user licen[cs]e")
_TEXTS = (
    ("Apache-2.0", r"apache license,?\s+version 2\.0"),
    ("MPL-2.0", r"mozilla public license,? version 2\.0|mozilla public license\s+={3,}\s+version 2"),
    ("AGPL-3.0", r"gnu affero general public license\s+version 3"),
    ("LGPL-3.0", r"gnu lesser general public license\s+version 3"),
    ("LGPL-2.1", r"gnu lesser general public license\s+version 2\.1"),
    ("GPL-3.0", r"gnu general public license\s+version 3"),
    ("GPL-2.0", r"gnu general public license\s+version 2"),
    ("EPL-2.0", r"eclipse public license\s+-\s+v\s*2\.0"),
    ("PSF-2.0", r"python software foundation license version 2"),
    ("BSL-1.0", r"boost software license\s+-\s+version 1\.0"),
    ("Unlicense", r"this is free and unencumbered software released into the public domain"),
    ("CC0-1.0", r"cc0 1\.0 universal"),
    ("ISC", r"permission to use, copy, modify, and(?:/or)? distribute this software for any purpose"),
    ("MIT", r"permission is hereby granted, free of charge, to any person obtaining a copy"),
    (
        "BSD-3-Clause",
        r"redistribution and use in source and binary forms.*(?:neither the name|may not be used to endorse)",
    ),
    ("BSD-2-Clause", r"redistribution and use in source and binary forms"),
)
_LICENSE_TEXTS = tuple((name, re.compile(pattern, re.DOTALL)) for name, pattern in _TEXTS)

# What people and package managers write for licences, beside SPDX's own names, in lower case and without
# fillers. `BSD` alone may be any of several, and stays.
_NAMES = {
    "MIT": "mit; expat; mit/x11; x11/mit; mit x11; mit/expat; expat/mit; mit expat",
    "Apache-2.0": "apache; apache 2; apache 2.0; apache2; apache2.0; apache software; apache software 2.0; asl 2.0;"
    " asl2",
    "BSD-3-Clause": "bsd 3 clause; bsd 3clause; 3 clause bsd; three clause bsd; new bsd; modified bsd; revised bsd;"
    " bsd new; bsd 3; bsd3",
    "BSD-2-Clause": "bsd 2 clause; bsd 2clause; 2 clause bsd; two clause bsd; simplified bsd; freebsd; bsd 2; bsd2",
    "BSD": "bsd",
    "ISC": "isc; isc iscl",
    "PSF-2.0": "psf; psf 2; psfl; python software foundation",
    "MPL-2.0": "mpl 2.0; mpl 2; mpl2; mpl2.0; mozilla public 2.0; mozilla public 2.0 mpl 2.0",
    "EPL-2.0": "epl 2; epl2; eclipse public 2.0; eclipse public 2.0 epl 2.0",
    "BSL-1.0": "boost software 1.0; boost software 1.0 bsl 1.0",
    "CC0-1.0": "cc0; cc0 1.0 universal; cc0 1.0 universal public domain dedication",
    "Unlicense": "unlicense; unlicense unlicense",
    "Zlib": "zlib; zlib/libpng",
}
_ALIASES = {alias.strip(): name for name, aliases in _NAMES.items() for alias in aliases.split(";")}
_FILLERS = re.compile(r"\b(?:the|licen[cs]e|version)\b|[,()]|(?:(?<=\s)|(?<=pl))v(?=\.?\s?\d)\.?")
# `GPL-2+` as Debian writes it, `GNU GPLv3`, and the classifiers' `GNU General Public License v2 or later (GPLv2+)`.
_GNU = re.compile(
    r"(?:gnu )?(?:([al]?)gpl|(?:(lesser|library|affero) )?general public)(?: [al]?gpl)? ?(\d)(?:\.(\d))?"
    r"(?: ?(\+|or later|or newer|or any later)| only)?(?: [al]?gpl ?[\d.]+\+?)?"
)


@dataclass(frozen=True)
class Provenance:
    """Where code comes from, each an empty string if it is not known.

    Args:
        name: The package's name.
        version: Its version.
        license: Its licence, an SPDX expression where that can be told; empty if there is one that is not known
            here, None if nothing is said of any.
    """

    name: str = ""
    version: str = ""
    license: str | None = None

    def or_else(self, other: Provenance) -> Provenance:
        """Take from another what is not said here."""
        return Provenance(
            self.name or other.name,
            self.version or other.version,
            other.license if self.license is None else self.license,
        )


def is_provenance_file(name: str) -> bool:
    """Whether `read_provenance` would read a file of this name."""
    return is_project_file(name) or _LICENSE_FILE.fullmatch(name) is not None or name in ("control", "copyright")


def is_project_file(name: str) -> bool:
    """Whether a file of this name tells that its folder is a project's own."""
    return name in _PROJECT_FILES or name.endswith(".gemspec")


def read_provenance(names: Iterable[str], read: Callable[[str], bytes]) -> Provenance:
    """Read what the files of one folder say of the code in it.

    Files of package managers come first, in the order of `PKG-INFO`, `METADATA`, `package.json`, `composer.json`,
    `pyproject.toml`, `pom.xml`, `go.mod`, `*.gemspec`; then Debian's `control` and `copyright`; then licences, told
    by their titles or first sentences. What is broken or says nothing is passed over; a licence that is not known
    here is an empty one, so that none is taken from elsewhere.

    Args:
        names: The names of the folder's files.
        read: Reads a file's content by its name; `OSError` if it cannot.

    Returns:
        What was found.
    """
    present = set(names)
    order = [name for name in _PROJECT_FILES if name in present]
    order += sorted(name for name in present if name.endswith(".gemspec"))
    order += [name for name in ("control", "copyright") if name in present]
    found = Provenance()
    for name in order:
        try:
            found = found.or_else(_read(name, _text(name, read)))
        except (OSError, ValueError, TypeError, AttributeError, ET.ParseError, RecursionError):
            continue
    if found.license is None:
        found = found.or_else(Provenance(license=_license_of_files(present, read)))
    return found


def _license_of_files(names: set[str], read: Callable[[str], bytes]) -> str | None:
    """The licence by a folder's licence files, several of them (`LICENSE-MIT`, `LICENSE-APACHE`) being a choice."""
    files = sorted(name for name in names if _LICENSE_FILE.fullmatch(name))
    files = [name for name in files if _OWN_LICENSE_FILE.fullmatch(name)] or files
    found = []
    for name in files:
        try:
            found.append(license_from_text(_text(name, read)))
        except OSError:
            found.append("")
    return " OR ".join(dict.fromkeys(found)) if found and all(found) else "" if found else None


def _text(name: str, read: Callable[[str], bytes]) -> str:
    return read(name)[:MAX_BYTES].decode("utf-8", "replace")


def distribution_provenance(metadata: Any) -> Provenance:
    """Read the metadata of an installed distribution, or of a wheel or sdist, as `email` parses them.

    Args:
        metadata: The headers of `METADATA` or `PKG-INFO`.

    Returns:
        Name, version and licence.
    """
    text = (metadata.get("License-Expression") or "").strip()
    classifiers = [
        value.split(" :: ")[-1].strip()
        for value in metadata.get_all("Classifier") or ()
        if value.startswith("License ::") and value != "License :: OSI Approved"
    ]
    old = (metadata.get("License") or "").strip()
    if not text and old and old != "UNKNOWN":
        # Some put the whole text into the field.
        text = license_from_text(old) if "\n" in old else to_spdx(old)
    text = to_spdx(text) or " OR ".join(dict.fromkeys(map(to_spdx, classifiers)))
    return Provenance(_line(metadata.get("Name")), _line(metadata.get("Version")), text or None)


def license_from_text(text: str) -> str:
    """Tell a licence by its title or first sentence.

    Args:
        text: The licence's text.

    Returns:
        The SPDX name, or an empty string.
    """
    flat = re.sub(r"[\s*#>\"]+", " ", text[:20_000].lower())
    matches = [(match.start(), name) for name, pattern in _LICENSE_TEXTS if (match := pattern.search(flat))]
    if not matches:
        return ""
    start, name = min(matches, key=lambda item: item[0])
    within = _SENTENCE_WITHIN if name in _SENTENCES else _TITLE_WITHIN
    return name if start <= within and not _OWN_TERMS.search(flat, 0, start) else ""


def to_spdx(name: str) -> str:
    """Rewrite the usual names of licences, Debian's and those of classifiers among them, as SPDX does.

    Args:
        name: A name, or several with `or` and `and` between them.

    Returns:
        The SPDX expression; the name as it is if it is not known.
    """
    name = _line(name)
    plain = " ".join(_FILLERS.sub(" ", name.lower().replace("-", " ")).split())
    if plain in _ALIASES:
        return _ALIASES[plain]
    gnu = _GNU.fullmatch(plain)
    if gnu is not None:
        kind = gnu[1] or {"lesser": "l", "library": "l", "affero": "a"}.get(gnu[2] or "", "")
        return f"{kind.upper()}GPL-{gnu[3]}.{gnu[4] or '0'}-{'or-later' if gnu[5] else 'only'}"
    parts = re.split(r"(?:\s+(or|and)\s+|\s*(\|{1,2})\s*)(?![^(]*\))", name, flags=re.IGNORECASE)
    parts = [part for part in parts if part]
    if len(parts) > 1:
        joints = {"or": "OR", "and": "AND", "|": "OR", "||": "OR"}
        return " ".join(joints.get(part.lower()) or to_spdx(part) for part in parts)
    try:
        return str(canonicalize_license_expression(name))
    except InvalidLicenseExpression:
        return name


def _read(name: str, text: str) -> Provenance:
    if name in ("PKG-INFO", "METADATA"):
        return distribution_provenance(HeaderParser().parsestr(text))
    if name in ("package.json", "composer.json"):
        return _read_json(json.loads(text))
    if name == "pyproject.toml":
        return _read_pyproject(tomllib.loads(text))
    if name == "pom.xml":
        return _read_pom(ET.fromstring(text))
    if name == "go.mod":
        module = re.search(r"^module\s+(\S+)", text, re.MULTILINE)
        return Provenance(module[1] if module else "")
    if name.endswith(".gemspec"):
        return _read_gemspec(text)
    if name == "control":
        fields = HeaderParser().parsestr(text)
        return Provenance(_line(fields.get("Package")), _line(fields.get("Version")))
    if name == "copyright":
        return Provenance(license=_read_copyright(text))
    raise ValueError(name)


def _read_json(content: Any) -> Provenance:
    field = content.get("license") or content.get("licenses") or ""
    several = field if isinstance(field, list) else [field]
    names = [entry.get("type", "") if isinstance(entry, dict) else str(entry) for entry in several]
    licenses = " OR ".join(to_spdx(name.strip("()")) for name in names if name and not name.startswith("SEE "))
    return Provenance(_line(content.get("name")), _line(content.get("version")), licenses or None)


def _read_pyproject(content: dict[str, Any]) -> Provenance:
    project = content.get("project") or content.get("tool", {}).get("poetry") or {}
    field = project.get("license") or ""
    text = field.get("text", "") if isinstance(field, dict) else field
    text = license_from_text(text) if "\n" in text.strip() else to_spdx(text)
    if not text:
        classifiers = [value.split(" :: ")[-1] for value in project.get("classifiers", ()) if "License ::" in value]
        text = " OR ".join(map(to_spdx, classifiers))
    return Provenance(_line(project.get("name")), _line(project.get("version")), text or None)


def _read_pom(root: ET.Element) -> Provenance:
    def field(path: str) -> str:
        # Both spellings occur: with Maven's namespace and without any.
        return _line(root.findtext("/".join(f"{{*}}{part}" for part in path.split("/"))))

    return Provenance(
        field("artifactId"),
        field("version") or field("parent/version"),
        to_spdx(field("licenses/license/name")) or None,
    )


def _read_gemspec(text: str) -> Provenance:
    def field(name: str) -> str:
        found = re.search(rf"\.{name}\s*=\s*\[?\s*['\"]([^'\"]+)['\"]", text)
        return found[1] if found else ""

    return Provenance(field("name"), field("version"), to_spdx(field("licenses?")) or None)


def _read_copyright(text: str) -> str:
    """The licence of most files by Debian's machine-readable format, of the whole text else."""
    for paragraph in re.split(r"\n\s*\n", text):
        files = re.search(r"^Files:\s*\*\s*$", paragraph, re.MULTILINE)
        name = re.search(r"^License:[ \t]*(\S.*)$", paragraph, re.MULTILINE)
        if files and name:
            return to_spdx(name[1])
    return license_from_text(text)


def _line(value: Any) -> str:
    return printable(" ".join(value.split())) if isinstance(value, str) else ""


def printable(text: str) -> str:
    """Replace lone surrogates, which stand for undecodable bytes: no table of texts can hold those."""
    return _SURROGATE.sub("\ufffd", text)
