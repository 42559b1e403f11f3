"""The licence of a model: it follows from its base's and its data's."""

import re
from dataclasses import dataclass

PERMISSIVE = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "odc-by", "bsd-3-clause")
HUB_IDS = re.compile(
    r"^(apache-2\.0|mit|cc0-1\.0|odc-by|bsd-3-clause|cc-by(-nc)?(-sa|-nd)?-[234]\.[05]|llama[23](\.\d)?)$"
)
LLAMA = "https://huggingface.co/meta-llama"


@dataclass(frozen=True)
class Licence:
    """`id`: the Hub's word for it, or "other", then with a `name` and, where there is one, a `link`. `note` is a sentence."""

    id: str
    name: str = ""
    link: str = ""
    note: str = ""

    @property
    def word(self):
        return self.name or self.id


LLAMA_1 = Licence(
    "other",
    "llama-1-non-commercial",
    "https://huggingface.co/huggyllama/llama-65b/blob/main/LICENSE",
    "LLaMA's weights are for non-commercial research under Meta's own licence, and so are weights made from them.",
)
LIMA_DATA = Licence(
    "other",
    "cc-by-nc-sa-or-stricter",
    "https://huggingface.co/datasets/GAIR/lima",
    "LIMA's data is CC BY-NC-SA, or under its source's own licence where that is stricter: non-commercial, share alike.",
)
BASES = [  # (a pattern of its id in lower case, its licence)
    (r"(^|/)llama-(7|13|30|65)b(-hf)?$", LLAMA_1),
    (r"^meta-llama/llama-2-", Licence("llama2", link=f"{LLAMA}/Llama-2-7b/blob/main/LICENSE.txt")),
    (r"^meta-llama/meta-llama-3-", Licence("llama3", link=f"{LLAMA}/Meta-Llama-3-8B/blob/main/LICENSE")),
    *[
        (
            rf"^meta-llama/(meta-)?llama-{version.replace('.', '[.]')}-",
            Licence(
                f"llama{version}", note='Its licence asks for "Built with Llama" and a name that begins with Llama.'
            ),
        )
        for version in ("3.1", "3.2", "3.3")
    ],
    (r"^qwen/qwen2[.]5-(0[.]5|1[.]5|7|14|32)b", Licence("apache-2.0")),
    (r"smollm2|^tinyllama/", Licence("apache-2.0")),
]
DATASETS = {"gair/lima": LIMA_DATA, "data/starter.jsonl": Licence("apache-2.0")}


def of_base(base):
    """A base's licence by its Hub id, folder or PACKAGE:FILE, or None where this repo does not know it."""
    return next((licence for pattern, licence in BASES if re.search(pattern, str(base).lower())), None)


def of_data(dataset, stated=()):
    """A dataset's licence: known, or `stated` (the distinct `license` values of its rows or card), or None."""
    known = DATASETS.get(str(dataset).lower())
    if known or not stated:
        return known
    found = [from_text(text) for text in sorted(set(map(str, stated)))]
    ids = {licence.id for licence in found}
    if len(found) == 1 or (len(ids) == 1 and "other" not in ids):
        return found[0]
    return Licence("other", "-and-".join(dict.fromkeys(licence.word for licence in found)))


def from_text(text):
    """ "CC BY-SA 4.0", "cc-by-sa-4.0" or "Apache 2.0" as a licence."""
    word = re.sub(r"[^a-z0-9.]+", "-", str(text).lower()).strip("-.")[:60]
    word = {"apache-license-2.0": "apache-2.0", "mit-license": "mit", "cc0": "cc0-1.0"}.get(word, word) or "unknown"
    return Licence(word) if HUB_IDS.match(word) else Licence("other", word)


def of_model(base, data):
    """The licence of what was made from a base and data, each a `Licence` or None (not known)."""
    base, data = base or Licence("other", "unknown-base"), data or Licence("other", "unknown-data")
    if data.id in PERMISSIVE or data == base:
        return base
    if base.id in PERMISSIVE:
        return data
    return Licence(
        "other", f"{base.word}-and-{data.word}", base.link or data.link, " ".join(filter(None, (base.note, data.note)))
    )


def metadata(licence):
    """Its lines of a card's metadata."""
    lines = {"license": licence.id}
    if licence.id == "other":
        lines["license_name"] = licence.name
        if licence.link:
            lines["license_link"] = licence.link
    return lines
