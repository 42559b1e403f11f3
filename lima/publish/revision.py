"""A revision: a named set of files that the Hub or a folder is to hold, and what tells whether it does."""

import hashlib
from dataclasses import dataclass, field

from lima import runs


@dataclass
class Revision:
    """`files`: path → `Path` or bytes. `digests`: path → the SHA-256 that a file must still have. `says`: for the plan."""

    name: str
    files: dict
    digests: dict = field(default_factory=dict)
    says: str = ""
    there: set = field(default_factory=set)  # paths that the target has already, filled in by `look`
    stale: list = field(default_factory=list)  # paths of ours that the target has and this revision has not

    def size(self, path):
        file = self.files[path]
        return len(file) if isinstance(file, bytes) else file.stat().st_size


def identity(revision, path):
    """What two files of the same content share, without reading large ones."""
    file = revision.files[path]
    return hashlib.sha256(file).hexdigest() if isinstance(file, bytes) else revision.digests.get(path) or str(file)


def digest_of(revision, path):
    """SHA-256 of a file as it was verified, else as it is."""
    file = revision.files[path]
    if isinstance(file, bytes):
        return hashlib.sha256(file).hexdigest()
    return revision.digests.get(path) or runs.sha256(file)


def holds(copy, revision, path):
    return (
        copy.is_file() and copy.stat().st_size == revision.size(path) and runs.sha256(copy) == digest_of(revision, path)
    )


def same(remote, revision, path):
    """Whether the Hub's file is ours: by SHA-256 where it is large, else by git's digest of its content."""
    if remote.size != revision.size(path):
        return False
    if remote.lfs:
        return remote.lfs.sha256 == digest_of(revision, path)
    file = revision.files[path]
    content = file if isinstance(file, bytes) else file.read_bytes()
    return remote.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
