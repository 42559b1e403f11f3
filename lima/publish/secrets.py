"""Keeps tokens, keys and home paths out of what is published."""

import os
import re
from pathlib import Path

from lima import UserError

SEARCHED = 2**20  # bytes up to which a file is searched
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b|\bwandb_v1_\w{20,}")
SECRET = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$")


def refuse_secrets(revisions):
    """Raises `UserError` if a file holds a token, the value of a secret variable, or this user's home path."""
    home = str(Path.home())
    values = {value for key, value in os.environ.items() if SECRET.search(key.upper()) and len(value) >= 16}
    for revision in revisions:
        for path, file in revision.files.items():
            if path.endswith((".safetensors", ".parquet")) or revision.size(path) > SEARCHED:
                continue
            content = (file if isinstance(file, bytes) else file.read_bytes()).decode("utf-8", "replace")
            where = f"{revision.name}/{path}" if isinstance(file, bytes) else file
            if TOKEN.search(content) or any(value in content for value in values):
                raise UserError(f"{where}: holds a token or key; remove it, and make a new one")
            if len(home) > 1 and f"{home}/" in content and path not in ("tokenizer.json", "vocab.json"):
                raise UserError(f"{where}: holds this machine's home path; take it out, verify again, push again")
