"""As many seeds as the claims about sustained rates need to be decided."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from bench.claims.bisection import Search, Target
from bench.claims.evidence import Evidence, pairs_of, search_of
from bench.claims.measures import MEASURES
from bench.claims.searches import SearchRun, run_searches
from bench.claims.verdicts import Doubt, judge
from bench.experiments.model import Claim
from bench.experiments.tables import Choice
from bench.progress import Display
from bench.results.store import Store
from bench.sweep.place import Place
from bench.sweep.runner import Summary

SEEDS = (3, 5, 10)  # the next where fewer leave a claim open
FEWEST_SEEDS, MOST_SEEDS = SEEDS[0], SEEDS[-1]
HOUR_S = 3600.0  # so long a trace makes three seeds enough where a claim is clear


def decide(
    store: Store,
    claims: Iterable[Claim],
    choice: Choice,
    *,
    target: Target | None = None,
    place: Place | None = None,
    force: bool | datetime = False,
    display: Display | None = None,
) -> SearchRun:
    """Search the capacities behind claims, until each is decided or rests on the last of SEEDS.

    Traces of an hour start with the first of SEEDS, shorter ones with the last. `force` and how it
    ends early are those of `run_searches`.
    """
    claims = [claim for claim in claims if pairs_of(claim)]
    searches = {search: _fewest(search) for c in claims for search in _searches(c, choice)}
    rounds: tuple[Summary, ...] = ()
    while True:
        done = run_searches(
            store,
            searches,
            target=target or Target(),
            place=place,
            force=force,
            display=display,
        )
        rounds += done.rounds
        more = [] if done.failed else _undecided(store, claims, choice)
        more = [search for search in more if searches[search] < MOST_SEEDS]
        if not more:
            return SearchRun(done.found, rounds)
        searches |= {one: next(n for n in SEEDS if n > searches[one]) for one in more}


def _undecided(store: Store, claims: Iterable[Claim], choice: Choice) -> list[Search]:
    """The searches behind claims that the interval over seeds leaves open."""
    evidence = Evidence(store, choice)
    found = []
    for claim in claims:
        measured = MEASURES[claim.measure](evidence, **claim.args)
        if judge("", claim, measured, backend=choice.backend)["doubt"] is Doubt.INTERVAL:
            found += _searches(claim, choice)
    return found


def _searches(claim: Claim, choice: Choice) -> list[Search]:
    return [
        search_of(pair.panel, system, choice)
        for pair in pairs_of(claim)
        for system in (pair.over, pair.under)
    ]


def _fewest(search: Search) -> int:
    return FEWEST_SEEDS if search.spec.duration >= HOUR_S else MOST_SEEDS
