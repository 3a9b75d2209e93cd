"""The scoreboard's tables: medians over the rounds, and for each bar whether it holds."""

import statistics

from rich.console import Console
from rich.table import Table

from benchmarks.comparison import BARS, FBM, LARGEST_RHAT, OURS, SYSTEMS, Bar, Record, median, ratios, rounds

Figures = dict[str, dict[int, dict[str, float]]]

_COLUMNS = (
    ("1000 gradients/s", "gradients_wall", 1e-3, ".1f"),
    ("/CPU-s", "gradients_cpu", 1e-3, ".1f"),
    ("min fESS/CPU-s", "ess_cpu", 1.0, ".3g"),
    ("(all)", "ess_cpu_all", 1.0, ".3g"),
    ("min fESS/s", "ess_wall", 1.0, ".3g"),
    ("(all)", "ess_wall_all", 1.0, ".3g"),
    ("/1000 gradients", "ess_gradients", 1.0, ".3g"),
    ("leapfrogs/draw", "leapfrogs", 1.0, ".0f"),
    ("max R-hat", "rhat", 1.0, ".3f"),
    ("peak, MiB", "peak", 1.0, ".0f"),
)


def show(machine: str, records: list[Record], problems: list[str], *, markdown: bool) -> None:
    """Prints everything.

    Args:
        machine: what it was measured on.
        records: the measurements.
        problems: which of them.
        markdown: whether the tables are Markdown's.
    """
    console = Console(width=200, highlight=False)
    console.print(machine, soft_wrap=True)
    for problem in problems:
        table = rounds(records, problem)
        if not table:
            continue
        console.print(f"\n{'## ' if markdown else ''}{problem}\n")
        agreements = [r for r in records if "agreement" in r and r["problem"] == problem]
        said = ", ".join(f"{r['agreement']} {r['difference']:.1e}" for r in agreements)
        console.print(f"Log densities, relative difference from this library's: {said}\n", soft_wrap=True)
        console.print(f"{_sizes(records, problem)}\n", soft_wrap=True)
        header, rows = _rows(table)
        if markdown:
            for row in (header, ["---"] * len(header), *rows):
                print(f"| {' | '.join(row)} |")
        else:
            console.print(_rich(header, rows))
        verdicts = _verdicts(problem, table)
        print("\n" + "\n".join(["```text", *verdicts, "```"] if markdown else verdicts))


def _sizes(records: list[Record], problem: str) -> str:
    """How long the runs were."""
    runs = [r for r in records if r.get("problem") == problem and "ess" in r and not r["rates"]]
    sizes = sorted({(r["warmup"], r["draws"]) for r in runs})
    said = ", ".join(f"{warmup} + {draws}" for warmup, draws in sizes)
    timed = sorted({r["system"] for r in records if r.get("problem") == problem and r.get("rates")})
    note = f"; seconds from short runs: {', '.join(timed)}" if timed else ""
    return f"4 chains x ({said}) steps; medians over the rounds, in brackets their range{note}"


def _rows(table: Figures) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name in SYSTEMS:
        if name in table:
            seeds = table[name]
            present = next(iter(seeds.values()))
            cells = [
                f"{median(seeds, key) * factor:{form}}{_range(seeds, key, factor, form)}" if key in present else ""
                for _, key, factor, form in _COLUMNS
            ]
            limit = ""
            if "limit" in table:
                limit = f"{median(seeds, 'gradients_wall') / median(table['limit'], 'gradients_wall'):.2f}"
            rows.append([name, str(len(seeds)), cells[0], limit, *cells[1:]])
    titles = [title for title, *_ in _COLUMNS]
    return ["system", "rounds", titles[0], "of the limit", *titles[1:]], rows


def _range(seeds: dict[int, dict[str, float]], key: str, factor: float, form: str) -> str:
    if key not in ("ess_cpu", "ess_gradients") or len(seeds) < 2:
        return ""
    values = [figure[key] * factor for figure in seeds.values()]
    return f" ({min(values):{form}}-{max(values):{form}})"


def _rich(header: list[str], rows: list[list[str]]) -> Table:
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    return table


_QUANTITIES = {
    "ess_cpu": "min fESS/CPU-s",
    "ess_cpu_all": "min fESS/CPU-s with compilation and warm-up",
    "gradients_wall": "gradients/s",
}


def _verdicts(problem: str, table: Figures) -> list[str]:
    lines = [_verdict(bar, ratios(table, bar)) for bar in BARS if bar.problem == problem]
    if OURS in table:
        worst = median(table[OURS], "rhat")
        verdict = "holds" if worst <= LARGEST_RHAT else "DOES NOT HOLD"
        lines.append(f"{problem}: {OURS}, largest function R-hat = {worst:.3f}, at most {LARGEST_RHAT}: {verdict}")
    return lines


def _verdict(bar: Bar, values: list[float]) -> str:
    begin = f"{bar.problem}: {bar.system} / {bar.other}{' (recorded ratio)' if bar.other == FBM else ''}, "
    begin += _QUANTITIES[bar.key]
    if not values:
        return f"{begin}: not measured"
    middle = statistics.median(values)
    verdict = "holds" if middle >= bar.least else "DOES NOT HOLD"
    return f"{begin} = {middle:.2f} ({min(values):.2f} to {max(values):.2f}), at least {bar.least:g}: {verdict}"
