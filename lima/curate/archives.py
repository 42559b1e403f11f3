"""A file inside a .7z archive, read as a stream: it never lies on the disk unpacked."""

import os
import re
import threading
from contextlib import contextmanager
from pathlib import Path

from py7zr import SevenZipFile
from py7zr.io import Py7zIO, WriterFactory

from lima import UserError


@contextmanager
def opened(path, member):
    """`path` open for reading, or, where it is a .7z archive, its file named `member`. Raises `UserError` for an archive that
    is damaged, lacks the file, or holds a path that points outside."""
    if path.suffix != ".7z":
        with open(path, "rb") as file:
            yield file
        return
    with _archive(path) as archive:
        name = _name(archive, path, member)
        out, into = os.pipe()
        unpack = _Unpack(archive, name, into)
        unpack.start()
        try:
            with open(out, "rb") as file:
                yield file
                file.read(1)  # the error that cut the stream short, if one did, is known once this returns
        finally:
            unpack.join()
        if unpack.error:
            raise _damaged(path, unpack.error)


def size(path, member):
    """The bytes that `opened` will give."""
    if path.suffix != ".7z":
        return path.stat().st_size
    with _archive(path) as archive:
        name = _name(archive, path, member)
        return next(info.uncompressed for info in archive.list() if info.filename == name)


def holds(path, member):
    """Whether there is a `member` in the archive."""
    with _archive(path) as archive:
        return any(Path(name).name == member for name in archive.getnames())


@contextmanager
def _archive(path):
    if not path.stat().st_size:
        raise UserError(f"{path}: 0 bytes; fetch it again")
    try:
        archive = SevenZipFile(path)
    except OSError:
        raise
    except Exception as error:  # a damaged header makes py7zr raise what its parts raise
        raise _damaged(path, error) from None
    with archive:
        for name in archive.getnames():
            if name.startswith(("/", "\\")) or ":" in name or ".." in re.split(r"[/\\]", name):
                raise UserError(f"{path}: holds the path {name!r}, which points outside the archive; refused")
        yield archive


def _damaged(path, error):
    said = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: not a whole .7z archive ({said[:100]}); fetch it again")


def _name(archive, path, member):
    names = [name for name in archive.getnames() if Path(name).name == member]
    if len(names) != 1:
        raise UserError(f"{path}: holds {len(names)} files named {member}; a site's dump holds one")
    return names[0]


class _Unpack(threading.Thread):
    """Unpacks `name` into the pipe `into`; `error` is what went wrong, unless the reader went away."""

    def __init__(self, archive, name, into):
        super().__init__(daemon=True)
        self.archive, self.name_inside, self.into, self.error = archive, name, into, None

    def run(self):
        try:
            with open(self.into, "wb") as pipe:
                self.archive.extract(targets=[self.name_inside], factory=_Pipes(pipe))
        except BrokenPipeError:
            pass
        except Exception as error:
            self.error = error


class _Pipes(WriterFactory):
    def __init__(self, pipe):
        self.pipe = pipe

    def create(self, filename):
        return _Pipe(self.pipe)


class _Pipe(Py7zIO):
    def __init__(self, pipe):
        self.pipe, self.written = pipe, 0

    def write(self, s):
        self.written += len(s)
        return self.pipe.write(s)

    def read(self, size=None):
        return b""

    def seek(self, offset, whence=0):
        return 0

    def flush(self):
        self.pipe.flush()

    def size(self):
        return self.written
