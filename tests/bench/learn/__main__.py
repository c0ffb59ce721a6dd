"""`make learn`: 96 comparisons of a simulated taste by each recipe on the real engine, and what the answers become.

Every cell is one taste taught by one recipe: two answers of the base to each question are compared (or get thumbs), a
job trains on that as any job does, and its version answers 100 other questions beside the base. Figures: wins with a
95 % interval, the base's loss per token, KL; for recipes with rounds the reward model's agreement with the taste on
each round's answers. Some hours on 2 cores. Stopped by --minutes, Ctrl-C or a kill, it goes on when it is run again;
cells with a row in results.jsonl are not run again, but for failed ones that --only names.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feedback.errors import FeedbackError
from feedback.ids import BASE_VERSION
from feedback.jobs import Job, JobState
from tests.bench.learn.cells import CELLS, SMOKE, SMOKE_SETTINGS, WITHOUT_KL, Cell, recipe_body, settled
from tests.bench.learn.curve import draw
from tests.bench.learn.place import Place, PlaceFailed, running_place, stop_after
from tests.bench.learn.table import newest, report
from tests.bench.learn.tastes import TASTES
from tests.bench.learn.user import Votes, answers_once, append_line, read_lines, vote_once
from tests.bench.learn.work import begun_first, kept_job, start_job, wait_for_job
from tests.services import ROOT
from training.errors import Stopped, TrainingError
from training.worker.exits import EXIT_STOPPED

if TYPE_CHECKING:
    from tests.bench.learn.judge import Bench

PICTURE = ROOT / "docs" / "images" / "over_optimisation.png"


@dataclass(frozen=True)
class Sizes:
    """How much is asked; the smoke run's recipes are cut short too."""

    taught: int
    judged: int
    smoke: bool


def say(text: str) -> None:
    print(f"learn: {text}", file=sys.stderr, flush=True)


def main() -> int:
    arguments = parse_arguments()
    home = (arguments.home or ROOT / ".cache" / ("learn-smoke" if arguments.smoke else "learn")).absolute()
    results = home / "results.jsonl"
    if arguments.table:
        print(report(read_lines(results)))
        return 0
    if arguments.picture:
        return picture(results)
    sizes = Sizes(12, 8, True) if arguments.smoke else Sizes(96, 100, False)
    stop = stop_after(arguments.minutes)
    try:
        if todo := [cell for cell in chosen(arguments.only) if not is_finished(cell, results, arguments.only)]:
            settings = SMOKE_SETTINGS if sizes.smoke else {}
            with running_place(home, arguments.model and arguments.model.absolute(), stop, settings) as place:
                run_cells(place, todo, sizes, results)
    except Stopped as stopped:
        say(str(stopped))
        return EXIT_STOPPED
    except (PlaceFailed, TrainingError, FeedbackError) as error:
        say(f"{error}; run the same command again to go on")
        return 1
    print(report(read_lines(results)))
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make learn", description=__doc__)
    parser.add_argument("--home", type=Path, help="kept between runs; .cache/learn, or .cache/learn-smoke")
    parser.add_argument("--model", type=Path, help="base model; made in the home when not given")
    parser.add_argument("--minutes", type=float, help="stop after so long; run again to go on")
    parser.add_argument("--only", action="append", metavar="CELL", help=f"one of {', '.join(c.name for c in CELLS)}")
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it works; figures mean nothing")
    parser.add_argument("--table", action="store_true", help="print the tables from what is there")
    parser.add_argument("--picture", action="store_true", help=f"draw {PICTURE.relative_to(ROOT)} from what is there")
    return parser.parse_args()


def chosen(only: Sequence[str] | None) -> list[Cell]:
    """The cells to run, in their order. SystemExit for a name that none has."""
    known = {cell.name: cell for cell in CELLS}
    if unknown := [name for name in only or () if name not in known]:
        raise SystemExit(f"learn: there is no cell {', '.join(unknown)}; known: {', '.join(known)}")
    return [cell for cell in CELLS if only is None or cell.name in only]


def is_finished(cell: Cell, results: Path, only: Sequence[str] | None) -> bool:
    """Whether the cell has its row; one that failed is run again when it is asked for by name."""
    row = next((row for row in newest(read_lines(results)) if row["cell"] == cell.name), None)
    return row is not None and (row["state"] == "done" or not only)


def run_cells(place: Place, cells: Sequence[Cell], sizes: Sizes, results: Path) -> None:
    from tests.bench.learn.judge import Bench  # torch takes seconds to import

    bench = Bench(place)
    for planned in begun_first(place.home, cells):
        cell = settled(planned, read_lines(results))
        if cell is None:
            say(f"{planned.name}: left out until short and no_lists have the cells that decide it")
            continue
        again = any(row["cell"] == cell.name for row in read_lines(results))
        row = run_cell(place, bench, cell, sizes, again=again)
        append_line(results, row)
        bench.make_room(row["version"])
        say(f"{cell.name}: {row['state']}, wins {row.get('wins')}, added loss {row.get('added_loss')}")


def run_cell(place: Place, bench: "Bench", cell: Cell, sizes: Sizes, *, again: bool) -> dict[str, Any]:
    """A cell from its votes to its row; `again` starts a job anew that has failed."""
    from tests.bench.learn.drift import rounds_of
    from tests.bench.learn.judge import figures

    taste = TASTES[cell.taste]
    say(f"{cell.name}: {sizes.taught} questions, two answers each")
    asked = answers_once(place, taste, sizes.taught)
    votes = vote_once(place, cell, taste, asked)
    body = recipe_body(cell, SMOKE if sizes.smoke else None)
    job = kept_job(place, cell, body, votes)
    if job is None or (again and job.state is JobState.failed):
        bench.make_base_live()
        job = start_job(place, cell, body, votes)
    job = wait_for_job(place, cell, job, say)
    row = {**row_of(cell, votes, job), "rounds": rounds_of(place.home / "jobs" / job.id, taste, bench.tokens.text)}
    if job.state is JobState.failed or job.version is None:
        return row
    began = time.monotonic()
    say(f"{cell.name}: {job.version} and the base answer {sizes.judged} other questions")
    new = bench.measure_once(taste, sizes.judged, job.version)
    base = bench.measure_once(taste, sizes.judged, BASE_VERSION)
    return {**row, **figures(taste, new, base), "seconds_judging": round(time.monotonic() - began)}


def row_of(cell: Cell, votes: Votes, job: Job) -> dict[str, Any]:
    """What is known of a cell once its job has ended."""
    told = job.report
    took_s = (job.finished_at or 0.0) - (job.started_at or 0.0)
    return {
        "cell": cell.name,
        "taste": cell.taste,
        "recipe": cell.recipe,
        "wrong": cell.wrong,
        "changes": cell.changes,
        "state": str(job.state),
        "error": job.error,
        "job": job.id,
        "version": job.version,
        "statements": len(votes.event_ids),
        "ties": votes.ties,
        "trained_on": told.get("pairs", {}).get("trained_on"),
        "held_out": told.get("pairs", {}).get("held_out"),
        "reward_model": told.get("reward_model", {}).get("report"),
        "gate": told.get("gate", {}).get("verdict"),
        "gate_summary": told.get("gate", {}).get("summary"),
        "seconds_training": told.get("training", {}).get("seconds"),
        "seconds_job": round(took_s),
        "at": round(time.time()),
    }


def picture(results: Path) -> int:
    """Draw the over-optimisation curve."""
    row = next((row for row in newest(read_lines(results)) if row["cell"] == WITHOUT_KL.name), None)
    if row is None or not row.get("rounds"):
        say(f"{WITHOUT_KL.name} has no rounds yet: run it with --only {WITHOUT_KL.name}")
        return 1
    draw(row["rounds"], "PPO without KL on a reward model of 96 votes: short answers", PICTURE)
    say(f"drew {PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
