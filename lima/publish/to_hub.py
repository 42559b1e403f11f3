"""Pushing to the Hub with its own client.

Large files go up one by one, then one commit names them all: a revision appears whole or not at all, and a push that was
killed goes on where it stood, because the Hub keeps every file that it has acknowledged.
"""

import contextlib
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from lima import UserError
from lima.publish.revision import same

ONE_BY_ONE = 2**20  # bytes from which a file goes up alone, so that it counts as soon as it has arrived
PATIENCE = (10, 300, 300, 10)  # seconds to connect, for an answer, for a write, for a free connection
MADE_BY_THE_HUB = {".gitattributes", "README.md", "LICENSE"}  # what a repository has that somebody made by hand, empty


class Hub:
    """A repository on the Hub: each revision is a branch. `again`: the command that goes on after a failure."""

    def __init__(self, name, kind, private, again):
        from huggingface_hub import HfApi, constants, errors, get_session, get_token
        from huggingface_hub.utils import validate_repo_id

        if name.count("/") != 1:
            raise UserError(f"HUB: expected org/name or dir:PATH, found {name!r}")
        try:
            validate_repo_id(name)
        except errors.HFValidationError as error:
            raise UserError(f"HUB: {' '.join(str(error).split())}") from None
        if not get_token():
            raise UserError(
                f"{name}: no Hub token here; `hf auth login` or HF_TOKEN=…, or write to a folder: HUB=dir:PATH"
            )
        if constants.HF_HUB_OFFLINE:
            raise UserError(f"{name}: HF_HUB_OFFLINE is set; unset it, or write to a folder: HUB=dir:PATH")
        get_session().timeout = PATIENCE
        self.name, self.kind, self.private, self.again = name, kind, private, again
        self.api, self.user = HfApi(), "this token's user"
        self.repo = {"repo_id": name, "repo_type": kind}
        self.shown = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
        self.on_hub = True

    def look(self, revisions, mark, force, ours):
        """Finds what is there. Nothing is created or changed yet."""
        from huggingface_hub import errors

        with self._failing("asking who this is"):
            me = self.api.whoami()
            self.user = me["name"]
        with self._failing("looking at what is there"):
            try:
                self.exists = self.api.repo_info(**self.repo)
            except errors.RepositoryNotFoundError:
                self.exists = None
                return self._may_create([me["name"], *[org["name"] for org in me.get("orgs", [])]], me)
            if self.private and not self.exists.private:
                raise UserError(
                    f"{self.name}: exists and is public; make it private in its settings, or leave PRIVATE out"
                )
            branches = {branch.name for branch in self.api.list_repo_refs(**self.repo).branches}
            for revision in revisions:
                if revision.name in branches:
                    self._compare(revision, mark, force, ours)

    def _may_create(self, owners, me):
        """A plain token says which organisations it belongs to; one with finer rights is asked when it creates."""
        fine_grained = (me.get("auth", {}).get("accessToken") or {}).get("role") == "fineGrained"
        if self.name.split("/")[0] not in owners and not fine_grained:
            self._no_right()

    def _no_right(self):
        owner, rest = self.name.split("/")
        raise UserError(
            f"{self.name}: {self.user} has no right to create or write there; push to HUB={self.user}/{rest}, or ask "
            f"{owner} for write access (and see that the token has it)"
        )

    def _tree(self, name):
        return {
            f.path: f for f in self.api.list_repo_tree(**self.repo, revision=name, recursive=True) if hasattr(f, "size")
        }

    def _compare(self, revision, mark, force, ours):
        found = self._tree(revision.name)
        if found.keys() - MADE_BY_THE_HUB and not force:
            card = self._card(revision.name) if "README.md" in found else ""
            if mark not in card:
                other = re.search(r"<!-- lima.publish: (\w+ [\w.]+) -->", card)
                whose = f"holds {other[1]}" if other else "holds somebody else's files"
                raise UserError(
                    f"{self.name}: exists and its {revision.name} {whose}; choose another name, or FORCE=1 to put "
                    "this in their place (they stay in its history)"
                )
        revision.there = {path for path in revision.files if path in found and same(found[path], revision, path)}
        revision.stale = [path for path in found if path not in revision.files and ours(path)]

    def _card(self, branch):
        with TemporaryDirectory() as folder:
            path = self.api.hf_hub_download(**self.repo, filename="README.md", revision=branch, local_dir=folder)
            return Path(path).read_text(encoding="utf-8", errors="replace")

    def licence_of(self, dataset):
        """What the card of a dataset on the Hub says of its licence: a tuple, empty where it cannot be read."""
        from huggingface_hub import errors

        try:
            found = (self.api.dataset_info(dataset).card_data or {}).get("license")
        except (errors.HTTPError, ValueError):
            return ()
        return tuple(found) if isinstance(found, list) else (found,) if found else ()

    def create(self):
        with self._failing("creating the repository"):
            if not self.exists:
                self.api.create_repo(**self.repo, private=self.private or None, exist_ok=True)

    def send(self, revision):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._failing(f"sending {revision.name}"):
            if revision.name != "main":  # from the first commit, which is empty: nothing of main's gets into it
                first = self.api.list_repo_commits(**self.repo)[-1].commit_id
                self.api.create_branch(**self.repo, branch=revision.name, revision=first, exist_ok=True)
            additions = []
            for path in sorted(revision.files.keys() - revision.there):
                file = revision.files[path]
                addition = CommitOperationAdd(path, file if isinstance(file, bytes) else str(file))
                _check_unchanged(addition, revision, path)
                if revision.size(path) >= ONE_BY_ONE:
                    self.api.preupload_lfs_files(
                        self.name, [addition], repo_type=self.kind, revision=revision.name, free_memory=False
                    )
                additions.append(addition)
            deletions = [CommitOperationDelete(path) for path in revision.stale]
            self.api.create_commit(
                **self.repo, operations=[*additions, *deletions], revision=revision.name, commit_message=revision.says
            )

    def check(self, revisions):
        """Compares the digest of every file on the Hub with ours."""
        with self._failing("checking what has arrived"):
            for revision in revisions:
                found = self._tree(revision.name)
                wrong = [path for path in revision.files if path not in found or not same(found[path], revision, path)]
                if wrong:
                    raise UserError(
                        f"{self.name}: {revision.name}/{wrong[0]} did not arrive as it is here; run: {self.again}"
                    )

    @contextlib.contextmanager
    def _failing(self, stage):
        """What goes wrong at the Hub within it, as one line that says what to do."""
        from huggingface_hub import errors

        try:
            yield
        except UserError:
            raise
        except (errors.HTTPError, RuntimeError, ValueError, ConnectionError) as error:
            cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            status = getattr(getattr(cause, "response", None), "status_code", None)
            if status == 401:
                raise UserError(
                    "the Hub does not accept this token (HF_TOKEN counts before `hf auth login`); make one with write "
                    f"access in your settings there, then run: {self.again}"
                ) from None
            if status == 403:
                self._no_right()
            what = f"answered {status}" if status else " ".join(str(cause).split())[:120] or type(cause).__name__
            raise UserError(
                f"{self.name}: {stage} failed, the Hub: {what}; nothing here was changed and what has arrived stays; "
                f"go on with: {self.again}"
            ) from None


def _check_unchanged(addition, revision, path):
    digest = revision.digests.get(path)
    if digest and addition.upload_info.sha256.hex() != digest:
        raise UserError(
            f"{revision.files[path]}: is not what was verified; run `make verify` again, nothing was sent of it"
        )
