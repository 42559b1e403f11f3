"""Guards: what looks like a secret or personal data, and what does not look like English.

Plain patterns and a share of common words, no model and no dependency: they see what has a form (keys, card numbers,
addresses), never a name or a story that gives somebody away. They point a curator to a row; they prove nothing.
"""

import ipaddress
import re

SECRETS = {  # forms that only a key has
    "private_key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "aws_key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "github_token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{50,})\b",
    "slack_token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "google_key": r"\bAIza[0-9A-Za-z_-]{35}(?![\w-])",
    "model_api_key": r"\b(?:sk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}|hf_[A-Za-z0-9]{30,}|wandb_v1_\w{20,})",
    "stripe_key": r"\b[rs]k_live_[0-9A-Za-z]{20,}",
    "jwt": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "url_password": r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:(?!\*|pass(?:word)?@|secret@|<|\{|\$)[^\s/@]{3,}@[\w.-]+",
}
PERSONAL = {  # forms that personal data often has; each match is then looked at by `_is_real`
    "email": r"(?<![\w.+-])[\w.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b",
    "phone": r"(?<![\w.+/=-])(?:\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){2,4}"
    r"|\([2-9]\d\d\) ?[2-9]\d\d-\d{4}|[2-9]\d\d-[2-9]\d\d-\d{4})(?![\w-]|\.\d)",
    "card_number": r"(?<![\w.-])(?:\d[ -]?){12,18}\d(?![\w-]|\.\d)",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "social_security": r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])",
    "ip_address": r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])",
}
PATTERNS = {name: re.compile(pattern) for name, pattern in {**SECRETS, **PERSONAL}.items()}
EXAMPLES = re.compile(r"@(?:[\w-]+\.)*(?:example|test|invalid|localhost|domain|foo|bar|email)(?:\.\w+)*$", re.I)

COMMON = frozenset(  # without those that are words of a neighbour too: a, in, on, me, as, was, will …
    """the of and to is it you that for are with i they be at one have this from had by but what some we can out other
    were all there when up your how said each she which their if way about then them would like these her him has more
    could than been its who now did get over new only into because where why should most also any very just not my our us
    it's don't i'm you're that's doesn't""".split()  # noqa: SIM905
)
FEW = 20  # words below which a text is not judged by them
SHARE = 0.1  # of common words; docs/curation.md says what was measured
NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|^(?: {4}|\t).*$|`[^`\n]+`|\$\$.+?\$\$|\$[^$\n]+\$|https?://\S+", re.S | re.M)


def findings(messages):
    """Names of the patterns found in any turn, in the order of `PATTERNS`, each with the first match, shortened:
    `{"email": "jo…com"}`. A flag should not itself carry what it flags."""
    text = "\n".join(turn["content"] for turn in messages)
    found = {}
    for name, pattern in PATTERNS.items():
        match = next((m[0] for m in pattern.finditer(text) if _is_real(name, m[0])), None)
        if match:
            found[name] = f"{match[:2]}…{match[-3:]}" if name != "private_key" else "BEGIN … PRIVATE KEY"
    return found


def _is_real(name, text):
    """Whether a match is more than its form: check digits right, address public, not made for an example."""
    digits = [int(c) for c in text if c.isdigit()]
    if name == "email":
        return not EXAMPLES.search(text)
    if name == "phone":
        return 9 <= len(digits) <= 15 and "555" not in text
    if name == "card_number":
        doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
        lengths = {3: (15,), 2: (16,), 4: (16,), 5: (16,), 6: (16,)}  # by the first digit
        return len(digits) in lengths.get(digits[0], ()) and len(set(digits)) > 1 and sum(doubled) % 10 == 0
    if name == "iban":
        moved = text.replace(" ", "")
        return int("".join(str(int(c, 36)) for c in moved[4:] + moved[:4])) % 97 == 1
    if name == "ip_address":
        try:
            return ipaddress.ip_address(text).is_global and len(digits) > 7  # 1.2.3.4 is a version, or an example
        except ValueError:
            return False
    return True


def language(messages):
    """None, or why the prose of a conversation does not look like English: its script, or too few common words.

    Code, mathematics and addresses are left out first. A prose of fewer than 20 words is judged by its script alone.
    """
    prose = NOT_PROSE.sub(" ", "\n".join(turn["content"] for turn in messages))
    letters = [c for c in prose if c.isalpha()]
    foreign = sum(ord(c) > 0x24F for c in letters)  # beyond Latin and its accents
    if letters and foreign > 0.3 * len(letters):
        return f"{foreign / len(letters):.0%} of its letters are not Latin"
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", prose.lower().replace("’", "'"))
    if len(words) < FEW:
        return None
    share = sum(word in COMMON for word in words) / len(words)
    return None if share >= SHARE else f"{share:.0%} of its {len(words)} words are common English ones"
