"""Pushing to a folder, for those without the Hub: the same tree, PATH/main, PATH/epoch-05 …"""

import os
import shutil
from pathlib import Path

from lima import UserError
from lima.publish.revision import holds


class Folder:
    """`dir:PATH`: each revision is a folder PATH/NAME, written beside and renamed."""

    def __init__(self, path):
        self.path = Path(path)
        self.shown, self.on_hub, self.kept = str(path), False, {}

    def look(self, revisions, mark, force, ours):
        for revision in revisions:
            folder = self.path / revision.name
            if folder.is_dir() and any(folder.iterdir()) and not force:
                card = folder / "README.md"
                if not card.is_file() or mark not in card.read_text(encoding="utf-8", errors="replace"):
                    raise UserError(f"{folder}: exists and is not of this push; give another HUB=dir:PATH, or FORCE=1")
            revision.there = {path for path in revision.files if holds(folder / path, revision, path)}
            names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
            others = [name for name in names if name not in revision.files]
            revision.stale = [name for name in others if ours(name)]
            self.kept[revision.name] = [name for name in others if not ours(name)]  # what somebody put beside

    def send(self, revision):
        final = self.path / revision.name
        partial = self.path / f"{revision.name}.partial"
        for path, file in revision.files.items():
            if holds(partial / path, revision, path):
                continue  # a push that was killed had got so far
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file, bytes):
                (partial / path).write_bytes(file)
            else:
                shutil.copyfile(file, partial / path)
            if not holds(partial / path, revision, path):
                raise UserError(f"{file}: changed while it was copied; run the same command again")
        for path in [p for p in partial.rglob("*") if p.is_file()]:
            if path.relative_to(partial).as_posix() not in revision.files:
                path.unlink()
        for path in self.kept[revision.name]:
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(final / path, partial / path)
        former = self.path / f"{revision.name}.former.partial"
        shutil.rmtree(former, ignore_errors=True)
        if final.exists():
            os.replace(final, former)
        os.replace(partial, final)
        shutil.rmtree(former, ignore_errors=True)

    def licence_of(self, dataset):
        return ()  # it may be out of reach

    def check(self, revisions):
        pass  # `send` has read every file back
