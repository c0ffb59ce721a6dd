"""The rows of results as markdown: one table of all cells, one of the reward models' drift. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.bench.learn.cells import CELLS, MOST_ADDED_LOSS

Row = Mapping[str, Any]

AIM_WINS = 0.70

_HEADS = (
    "taste",
    "recipe",
    "wins over base [95 %]",
    "loss a token, base → new",
    "added",
    "KL a token",
    "words, base → new",
    "cut off",
    "gate",
)
_DRIFT_HEADS = (
    "cell",
    "held-out votes",
    "round",
    "agreement (pairs)",
    "reward by the model",
    "by the taste",
    "KL a token",
)


def newest(rows: Iterable[Row]) -> list[Row]:
    """The last row of each cell, in the order of the cells; those of other cells behind them."""
    by_cell = {row["cell"]: row for row in rows}
    order = [cell.name for cell in CELLS]
    return sorted(by_cell.values(), key=lambda row: order.index(row["cell"]) if row["cell"] in order else len(order))


def report(rows: Iterable[Row]) -> str:
    """Both tables with a legend, and which recipes reach the aim."""
    shown = newest(rows)
    parts = [markdown(_HEADS, [cells_of(row) for row in shown])]
    if reached := [f"{row['cell']}" for row in shown if reaches_aim(row)]:
        parts.append(
            f"Wins of {AIM_WINS:.2f} at {MOST_ADDED_LOSS:.2f} added loss or less (**bold**): {', '.join(reached)}."
        )
    drift = [line for row in shown for line in drift_of(row)]
    if drift:
        parts.append(markdown(_DRIFT_HEADS, drift))
    return "\n\n".join(parts) + "\n"


def reaches_aim(row: Row) -> bool:
    return row["state"] == "done" and bool(row["wins"] >= AIM_WINS and row["added_loss"] <= MOST_ADDED_LOSS)


def cells_of(row: Row) -> list[str]:
    """A row of the first table."""
    named = [taste_of(row), recipe_of(row)]
    if row["state"] != "done":
        return [*named, f"failed: {' '.join(str(row['error']).split())[:120]}", *[""] * (len(_HEADS) - 3)]
    wins = f"{row['wins']:.2f} [{row['wins_low']:.2f}, {row['wins_high']:.2f}]"
    return [
        *named,
        f"**{wins}**" if reaches_aim(row) else wins,
        f"{row['loss_base']:.2f} → {row['loss']:.2f}",
        f"{row['added_loss']:+.2f}",
        f"{row['kl']:.3f}",
        f"{row['words_base']:.0f} → {row['words']:.0f}",
        f"{100 * row['cut_off_base']:.0f} → {100 * row['cut_off']:.0f} %",
        str(row["gate"]),
    ]


def taste_of(row: Row) -> str:
    taste = row["taste"].replace("_", " ")
    return f"{taste}, {100 * row['wrong']:.0f} % flipped" if row["wrong"] else taste


def recipe_of(row: Row) -> str:
    changes = ", ".join(f"{key} {value}" for key, value in flat(row["changes"]))
    return f"`{row['recipe']}`" + (f" with {changes}" if changes else "")


def flat(changes: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """A table of changes as dotted names with their values."""
    found: list[tuple[str, Any]] = []
    for key, value in changes.items():
        name = f"{before}{key}"
        found += flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return found


def drift_of(row: Row) -> list[list[str]]:
    """Rows of the second table: the first round, the middle one and the last of a cell that had rounds."""
    rounds = row.get("rounds") or []
    chosen = sorted({0, len(rounds) // 2, len(rounds) - 1}) if rounds else []
    return [
        [
            row["cell"] if place == chosen[0] else "",
            held_out_of(row) if place == chosen[0] else "",
            f"{rounds[place]['round']}",
            share_of(rounds[place]),
            f"{rounds[place]['reward']:.2f}",
            f"{rounds[place]['taste']:.1f}",
            f"{rounds[place]['kl']:.3f}",
        ]
        for place in chosen
    ]


def held_out_of(row: Row) -> str:
    """The reward model's accuracy on votes that it never saw."""
    found = row.get("reward_model") or {}
    return f"{found['accuracy']:.2f} ({found['pairs']:g})" if found.get("pairs") else "–"


def share_of(each: Row) -> str:
    return f"{each['agreement']:.2f} ({each['pairs']})" if each["agreement"] is not None else f"– ({each['pairs']})"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
