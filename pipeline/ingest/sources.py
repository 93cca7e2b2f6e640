"""Bytes of files that lie in folders, in zips and in zips within zips, without ever unpacking anything to disk by name.

A file is addressed by a *locator*: the path of a file, or ``archive.zip!/member`` (``outer.zip!/inner.zip!/member``).
"""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from types import TracebackType
from typing import IO

from pipeline.errors import InputRefused

SEPARATOR = "!/"
HEAD_BYTES = 1024
_MAXIMUM_NESTING = 4
_MAXIMUM_MEMBERS = 500_000
_MAXIMUM_MEMBER_BYTES = 8 * 2**30
# Deflate reaches 1032:1 at best. CT compresses 2 to 4 times, an empty label map some 1000 times but is small.
_BOMB_RATIO = 100
_BOMB_BYTES = 512 * 2**20
_SPOOL_BYTES = 256 * 2**20
_READ_AHEAD_BYTES = 128 * 2**10

_FOREIGN_ARCHIVES = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar", b"\x1f\x9d": "compress", b"BZh": "bzip2"}
_DAMAGE = (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, EOFError, zipfile.LargeZipFile)


@dataclass(frozen=True, slots=True)
class Skipped:
    """One file or archive that was not used.

    Attributes
    ----------
    name : str
        The base name of the file; never its folders, which may bear the name of a patient.
    reason : str
        Code in snake_case: ``truncated``, ``not_dicom``, ``not_an_image``, ``password_protected_zip``, ``unreadable``,
        ``hidden``, ``unsafe_path``, ``suspicious_archive``, ``unsupported_archive``, ``missing``, ``empty``,
        ``duplicate_file``, ``label_map``, ``incomplete_dicomdir``.
    detail : str
        One sentence.
    """

    name: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be an image: its locator, its size in bytes and its first bytes."""

    locator: str
    size_bytes: int
    head: bytes

    @property
    def name(self) -> str:
        return base_name(self.locator)


def base_name(locator: str) -> str:
    """The last component of a locator, the only part of it that may appear in a message."""
    return PurePosixPath(locator.replace("\\", "/")).name or "file"


def split_locator(locator: str) -> tuple[Path, tuple[str, ...]]:
    """The file on disk and the chain of archive members that a locator names."""
    parts = locator.split(SEPARATOR)
    for count in range(len(parts), 0, -1):  # a folder may itself be called "x!"
        path = Path(SEPARATOR.join(parts[:count]))
        if path.is_file():
            return path, tuple(parts[count:])
    return Path(parts[0]), tuple(parts[1:])


def is_hidden(name: str) -> bool:
    """Whether a base name is one of the things operating systems leave lying about."""
    return name.startswith(".") or name.lower() in {"thumbs.db", "desktop.ini", "__macosx"}


def _files_below(top: Path) -> Iterator[Path]:
    """All files below a folder in a stable order; links to folders are followed once."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(top, followlinks=True, onerror=lambda _: None):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(names):
            yield Path(folder) / name


def walk(inputs: Iterable[str | Path]) -> tuple[list[Candidate], list[Skipped]]:
    """All files that the inputs lead to.

    Parameters
    ----------
    inputs : iterable of str or Path
        Folders, zips, a DICOMDIR (its folder is scanned), single files.

    Returns
    -------
    candidates : list of Candidate
        In a stable order, each file once.
    skipped : list of Skipped
    """
    candidates: list[Candidate] = []
    skipped: list[Skipped] = []
    seen: set[str] = set()
    for item in inputs:
        path = Path(item)
        try:
            if path.is_dir():
                files: Iterable[Path] = _files_below(path)
            elif path.is_file():
                files = _files_below(path.parent) if path.name.upper() == "DICOMDIR" else (path,)
            else:
                skipped.append(Skipped(path.name or "input", "missing", "there is no such file or folder"))
                continue
            for file in files:
                real = os.path.realpath(file)
                if real not in seen:
                    seen.add(real)
                    _look_at(file, candidates, skipped)
        except OSError as error:
            skipped.append(Skipped(path.name or "input", "unreadable", f"cannot be opened ({_cause(error)})"))
    return candidates, skipped


def _cause(error: BaseException) -> str:
    """Why an operation failed, without the path that the operating system puts into its text."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _look_at(file: Path, candidates: list[Candidate], skipped: list[Skipped]) -> None:
    name = file.name
    if is_hidden(name):
        skipped.append(Skipped(name, "hidden", "is a hidden or system file"))
        return
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        skipped.append(Skipped(name, "unreadable", f"cannot be opened ({_cause(error)})"))
        return
    if size == 0:
        skipped.append(Skipped(name, "empty", "is empty"))
    elif foreign := _foreign_archive(head):
        skipped.append(_unsupported(name, foreign))
    elif head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        try:
            with zipfile.ZipFile(file) as archive:
                _look_into(archive, str(file), 1, candidates, skipped)
        except _DAMAGE as error:
            skipped.append(Skipped(name, "unreadable", f"is a damaged zip archive ({_cause(error)})"))
    else:
        candidates.append(Candidate(str(file), size, head))


def _foreign_archive(head: bytes) -> str | None:
    if head[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _FOREIGN_ARCHIVES.items() if head.startswith(magic)), None)


def _unsupported(name: str, kind: str) -> Skipped:
    return Skipped(name, "unsupported_archive", f"is a {kind} archive; unpack it first")


def _is_unsafe(member: str) -> bool:
    path = PurePosixPath(member.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in path.parts[0]


def _look_into(
    archive: zipfile.ZipFile, locator: str, depth: int, candidates: list[Candidate], skipped: list[Skipped]
) -> None:
    """Candidates inside an open zip archive, whose nested archives are looked into as well."""
    name = base_name(locator)
    members = sorted((m for m in archive.infolist() if not m.is_dir()), key=lambda m: m.filename)
    if len(members) > _MAXIMUM_MEMBERS:
        skipped.append(Skipped(name, "suspicious_archive", f"holds {len(members)} files"))
        return
    locked = [m for m in members if m.flag_bits & 0x1]
    if locked:
        share = "is" if len(locked) == len(members) else f"is in {len(locked)} of {len(members)} files"
        skipped.append(
            Skipped(
                name, "password_protected_zip", f"{share} protected by a password; unpack it with the password first"
            )
        )
    unsafe = hidden = 0
    for member in members:
        if member.flag_bits & 0x1:
            continue
        own_name = base_name(member.filename)
        if _is_unsafe(member.filename):
            unsafe += 1
        elif is_hidden(own_name) or "__MACOSX" in member.filename:
            hidden += 1
        elif _is_bomb(member):
            skipped.append(
                Skipped(
                    own_name,
                    "suspicious_archive",
                    f"would unpack from {member.compress_size} to {member.file_size} bytes",
                )
            )
        elif member.file_size == 0:
            skipped.append(Skipped(own_name, "empty", "is empty"))
        else:
            _look_at_member(archive, member, f"{locator}{SEPARATOR}{member.filename}", depth, candidates, skipped)
    if unsafe:
        skipped.append(Skipped(name, "unsafe_path", f"holds {unsafe} file(s) whose path leads out of the archive"))
    if hidden:
        skipped.append(Skipped(name, "hidden", f"holds {hidden} hidden or system file(s)"))


def _is_bomb(member: zipfile.ZipInfo) -> bool:
    blown_up = member.file_size > _BOMB_BYTES and member.file_size > _BOMB_RATIO * max(member.compress_size, 1)
    return blown_up or member.file_size > _MAXIMUM_MEMBER_BYTES


def _look_at_member(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    locator: str,
    depth: int,
    candidates: list[Candidate],
    skipped: list[Skipped],
) -> None:
    name = base_name(member.filename)
    try:
        with archive.open(member) as stream:
            head = stream.read(HEAD_BYTES)
        if foreign := _foreign_archive(head):
            skipped.append(_unsupported(name, foreign))
        elif not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            candidates.append(Candidate(locator, member.file_size, head))
        elif depth >= _MAXIMUM_NESTING:
            skipped.append(Skipped(name, "suspicious_archive", f"lies more than {_MAXIMUM_NESTING} archives deep"))
        else:
            with _spooled(archive, member) as inner_file, zipfile.ZipFile(inner_file) as inner:
                _look_into(inner, locator, depth + 1, candidates, skipped)
    except _DAMAGE as error:
        skipped.append(Skipped(name, "unreadable", f"cannot be read from its archive ({_cause(error)})"))


def _spooled(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    """A nested archive as a seekable file: in memory while small, in an unnamed temporary file when large."""
    spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115  (the caller closes it)
    with archive.open(member) as stream:
        while block := stream.read(2**20):
            spool.write(block)
    spool.seek(0)
    return spool


class Reader:
    """Opens locators; keeps the archives it has opened until it is closed. Safe to share between threads.

    Use as a context manager.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._archives: dict[tuple[Path, tuple[str, ...]], zipfile.ZipFile] = {}
        self._paths: dict[str, Path] = {}
        self._lock = Lock()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._archives.clear()

    def _archive(self, path: Path, members: tuple[str, ...]) -> zipfile.ZipFile:
        key = (path, members)
        with self._lock:
            if key in self._archives:
                return self._archives[key]
        if members:
            outer = self._archive(path, members[:-1])
            source: IO[bytes] | Path = _spooled(outer, outer.getinfo(members[-1]))
        else:
            source = path
        with self._lock:
            if key not in self._archives:
                if not isinstance(source, Path):
                    self._stack.callback(source.close)
                self._archives[key] = self._stack.enter_context(zipfile.ZipFile(source))
            return self._archives[key]

    def open(self, locator: str, *, head_only: bool = False) -> IO[bytes]:
        """A seekable binary stream of the file.

        Parameters
        ----------
        locator : str
        head_only : bool
            For members of archives, unpack only the first 128 KiB (enough for nearly every header).

        Raises
        ------
        InputRefused
            ``source_vanished`` if the file is no longer there.
        """
        path, members = split_locator(locator)
        try:
            if not members:
                return path.open("rb")
            archive = self._archive(path, members[:-1])
            with archive.open(members[-1]) as stream:
                return io.BytesIO(stream.read(_READ_AHEAD_BYTES) if head_only else stream.read())
        except (FileNotFoundError, KeyError) as error:
            raise InputRefused(
                "source_vanished",
                "the file is no longer where it was found.",
                subject=base_name(locator),
                remedy="Do not move the input while it is processed.",
            ) from error
