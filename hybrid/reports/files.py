"""Reports as files: strict JSON, whole or not there, beside nothing that an earlier run left.

A folder of reports holds a list of the files that this program wrote into it, with their hashes. A
later run removes of these what it does not write itself; whatever is not listed, or was changed
since, is somebody else's: it is neither removed nor overwritten.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from transport.errors import ConfigError, HybridError
from transport.foreign import cut, printable

Json = dict[str, Any]
LISTED = ".hybrid-reports.json"
NOT_FINITE = "not_finite"
_MAY_BE = re.compile(
    r"(cosine|max_abs_error|predicted_seconds|mean_relative_error|ratio|times|seen)[^.]*\Z"
)
"""Numbers that mean nothing where two vectors or times are zero; others are sums and counts."""
_NAME = re.compile(r"(?:[A-Za-z0-9._-]+/)*(?:report\.(?:json|md|html)|[A-Za-z0-9._-]+\.yaml)\Z")
_HEADS = (
    b'{\n "config": {',
    b'{\n "schema": ',
    b"# Private inference: ",
    b"# Private generation: ",
    b"# Comparison of protocols\n",
    b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport"',
)
_TITLE = b"<title>Comparison of protocols</title>"
"""How reports begin, those of older versions too, which listed nothing."""
_REQUEST = re.compile(r"(?:text|prompt)[0-9]+\Z")


class ReportError(HybridError):
    """A report has numbers that cannot be; it is written all the same."""


def strict(report: Mapping[str, Any]) -> Json:
    """As JSON can hold it: what is not finite becomes None, and `not_finite` says where."""
    found: list[str] = list(report.get(NOT_FINITE, ()))
    plain: Json = _strict(report, "", found)
    return {**plain, NOT_FINITE: found} if found else plain


def _strict(value: Any, place: str, found: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(inner, f"{place}{key}.", found) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner, f"{place}{index}.", found) for index, inner in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        found.append(f"{place.removesuffix('.')} is {value}")
        return None
    return value


def check_numbers(report: Mapping[str, Any]) -> None:
    """`ReportError` where a number is not finite that is a count, a time or an answer."""
    wrong = [said for said in report.get(NOT_FINITE, ()) if not _MAY_BE.search(said.split()[0])]
    if wrong:
        raise ReportError(
            f"report: {cut(wrong[0])}, which cannot be; the report says null there, do not use it, "
            "and look at the protocols of plugins first"
        )


def json_text(report: Mapping[str, Any]) -> str:
    """Strict JSON for a file."""
    return json.dumps(strict(report), indent=1, allow_nan=False) + "\n"


def json_line(row: Mapping[str, Any]) -> str:
    """Strict JSON in one line."""
    return json.dumps(strict(row), allow_nan=False)


def request_name(index: int, kind: str) -> str:
    """Folder of a request's report: the first lies in the folder itself, the others below it."""
    return f"{kind}{index + 1}/" if index else ""


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write a report where a reader never sees half of it."""
    write_text(json_text(report), path)


def write_text(text: str, path: Path) -> None:
    """The same of any text; what UTF-8 has no bytes for is written by its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    partial.write_bytes(_bytes(text))
    partial.replace(path)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def writable(folder: Path) -> None:
    """Make the folder; `ConfigError` when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--out {folder}: cannot be written ({error.strerror}); name another folder")


class ReportFolder:
    """What one run writes into a folder, and what earlier runs wrote there."""

    def __init__(self, out: Path) -> None:
        """out: made with the first file, or with the check of its name."""
        self.out = out
        self._earlier = _listed(out)
        self._written: dict[str, str] = {}

    def check(self, names: Iterable[str]) -> None:
        """`ConfigError`, before anything runs, where one of these files cannot be written.

        That is, the folder, or what is there is somebody else's.
        """
        writable(self.out)
        for name in names:
            if (self.out / name).parent.is_dir():
                writable((self.out / name).parent)
            if self._is_foreign(name):
                raise ConfigError(
                    f"--out {self.out}: {name} is there and this program did not write it; name "
                    "another folder or move it away"
                )

    def write(self, name: str, text: str) -> Path:
        """A file below the folder; never over one that is somebody else's."""
        path = self.out / name
        if name not in self._written and _content(path) != _digest(_bytes(text)):
            self.check([name])
        try:
            write_text(text, path)
            self._written[name] = _digest(_bytes(text))
            self._list({**self._earlier, **self._written})
        except OSError as error:
            raise _unwritable(self.out, error) from None
        return path

    def finish(self) -> list[str]:
        """Remove what earlier runs left; a sentence about everything that stays beside."""
        writable(self.out)
        stale = sorted(self._earlier.keys() - self._written.keys())
        kept = [name for name in stale if not self._removed(name)]
        self._list(self._written)
        said = [f"{name} was changed since an earlier run wrote it" for name in kept]
        places = (path for path in self.out.iterdir() if _REQUEST.match(path.name))
        others = [path.name for path in places if path.is_dir() and any(path.iterdir())]
        own = {PurePosixPath(name).parts[0] for name in (*self._written, *kept)}
        said += [f"{name} is not marked as this program's" for name in others if name not in own]
        return [f"{self.out}: {printable(line)}; not of this run, left as it is" for line in said]

    def _removed(self, name: str) -> bool:
        """Whether nothing of it is left; whoever changed it keeps it."""
        path = self.out / name
        if not path.exists():
            return True
        if _has_links(self.out, name) or _content(path) != self._earlier[name]:
            return False
        try:
            path.unlink()
            for folder in list(path.parents)[: len(PurePosixPath(name).parts) - 1]:
                folder.rmdir()
        except OSError:
            # A folder that holds something else stays.
            return not path.exists()
        return True

    def _is_foreign(self, name: str) -> bool:
        path = self.out / name
        if not path.is_symlink() and not path.exists():
            return False
        if _has_links(self.out, name) or not path.is_file():
            return True
        if name in self._earlier and _content(path) == self._earlier[name]:
            return False
        data = path.read_bytes()
        return path.suffix == ".yaml" or not (data.startswith(_HEADS) or _TITLE in data)

    def _list(self, files: Mapping[str, str]) -> None:
        write_text(json.dumps({"schema": 1, "files": dict(sorted(files.items()))}, indent=1) + "\n",
                   self.out / LISTED)  # fmt: skip


def _listed(out: Path) -> dict[str, str]:
    """Names and hashes; of a list that is none of ours, nothing."""
    try:
        found = json.loads((out / LISTED).read_text(encoding="utf-8"))["files"]
        return {
            name: digest
            for name, digest in found.items()
            if _NAME.match(name) and ".." not in name.split("/") and isinstance(digest, str)
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _has_links(out: Path, name: str) -> bool:
    """Whether it may lie somewhere else."""
    parts = PurePosixPath(name).parts
    return any(out.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts)))


def _content(path: Path) -> str:
    try:
        return _digest(path.read_bytes())
    except OSError:
        return ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def handed_over(
    reports: list[Json],
    on_session: Callable[[list[Json]], None],
    *,
    keep: bool,
    say: Callable[[str], None],
) -> None:
    """A report that cannot be written must not end the service of the next client."""
    try:
        on_session(reports)
    except (HybridError, OSError) as error:
        if not keep:
            raise
        say(f"reports of this session are lost: {error}")
