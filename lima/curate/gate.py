"""What a candidate must pass to be in the mix, in this order: form, guards, decontamination, near-duplicates."""

from lima import UserError
from lima.curate import contamination, guards
from lima.curate.dedup import NearDuplicates

ACTIONS = ("drop", "flag", "ignore")
RULES = ("no_response", "language", "secrets", "personal", "contaminated", "near_duplicate")


class Gate:
    """`settings`: the recipe's `mix` section. Remembers what it admitted: the next that repeats it is refused."""

    def __init__(self, settings):
        for name, action in settings["guards"].items():
            if action not in ACTIONS:
                raise UserError(f"mix.guards.{name}: expected {', '.join(ACTIONS)}; found {action!r}")
        self.actions = settings["guards"]
        self.seen = NearDuplicates(settings["near_duplicates"]["jaccard"], settings["near_duplicates"]["shingle"])
        self.leaks = contamination.Contamination(settings["contamination"]["ngram"])
        self.prompts = 0
        for path in contamination.prompt_files(settings["contamination"]["against"]):
            for name, text in contamination.prompts(path):
                self.leaks.add(name, text)
                self.prompts += 1

    def check(self, row, split, by_hand=False):
        """`(rule, detail)` of the first rule that refuses the row, or None, and then it counts as admitted.

        A dev or test row is cut to its prompt. Sets `row["flags"]`: what the guards found, by name. `by_hand`: a person
        accepted the row, whose word is above the guards', not above the last two rules.
        """
        if split != "train" and row["messages"][-1]["role"] == "assistant":
            row["messages"] = row["messages"][:-1]
        if split == "train" and row["messages"][-1]["role"] != "assistant":
            return "no_response", ""
        row["flags"] = self._flags(row["messages"])
        kinds = {name: "secrets" if name in guards.SECRETS else "personal" for name in guards.PATTERNS}
        for name, found in row["flags"].items():
            rule = kinds.get(name, name)
            if self.actions[rule] == "drop" and not by_hand:
                return rule, f"{name}: {found}"
        if split == "train" and (leak := self.leaks.find(row["messages"])):
            return "contaminated", f"{leak[0]}: {leak[1][:150]}"
        if repeated := self.seen.admit(row["id"], row["messages"]):
            return "near_duplicate", repeated
        if split != "train":
            for turn in row["messages"][::2]:
                self.leaks.add(f"{split} prompt {row['id']}", turn["content"])
        return None

    def _flags(self, messages):
        flags = {}
        if self.actions["language"] != "ignore" and (why := guards.language(messages)):
            flags["language"] = why
        for name, found in guards.findings(messages).items():
            if self.actions["secrets" if name in guards.SECRETS else "personal"] != "ignore":
                flags[name] = found
        return flags
