"""The report's figures of ours for programs: `report/figures.json`, from which `make push` fills a card's evaluation table."""

from lima.evaluate import intervals, report_draw, verdicts
from lima.evaluate.rate import LEVELS
from lima.evaluate.report_data import extent


def figures(judged, runs):
    """A row for each judge of each system (or pair) on each prompt set, epochs of one run against each other left out:
    `{system, against, kind, judge, prompts, of, date, values}`. `values`: `{name: [share or mean, low, high]}`, 95 %."""
    return [
        {
            "system": one.systems[0],
            "against": one.systems[1] if one.kind == "pair" else None,
            "kind": one.kind,
            "judge": one.judge,
            "prompts": one.prompts,
            "of": extent(one, runs),
            "date": one.date,
            "values": values(
                one.kind, list(verdicts.clusters(one.groups(), one.prompts).values()), "dialogue" in one.prompts
            ),
        }
        for one in judged
        if not one.checkpoints and one.groups()
    ]


def values(kind, groups, pooled=False):
    """What a kind of verdict comes to, by name. pooled: as `intervals.shares` has it."""
    if kind == "grade":
        return {"grade": intervals.mean(groups)}
    if kind == "safety":
        return {"safe": intervals.share(groups)}
    return intervals.shares(groups, names=report_draw.SHARES if kind == "pair" else LEVELS, pooled=pooled)
