"""What the sources' rules share. A rule is a function of a post and the settings that says what it found, or ""."""


def first(rules, post, settings):
    """The name of the first of `rules` that drops `post`, and what it found; ("", "") if none does."""
    for rule in rules:
        if found := rule(post, settings):
            return rule.__name__, found
    return "", ""
