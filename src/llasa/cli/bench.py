"""`llasa bench`: how fast a bundle speaks here, what that takes, and what it would cost."""

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llasa.cli.model import DtypeOption, EngineOption
from llasa.cli.terminal import BundleOption, CodecOption, JsonOption, emit, examples, note
from llasa.errors import ConfigError, LlasaError

if TYPE_CHECKING:
    from rich.table import Table

    from llasa.bench import Speed

EPILOG = examples(
    "llasa bench",
    "llasa bench --effort 1 --effort 8 --seconds 20",
    "llasa bench --price-per-hour 0.45 --plot speed.png",
    "llasa bench --bundle HKUSTAudio/Llasa-1B --dtype int8 --effort 1",
    "llasa bench --bundle run/bundle --engine drafted:exact --effort 1",
    "llasa bench --json | jq '.efforts[0].real_time_factor'",
    "Real-time factor: seconds of work a second of speech; below 1 is faster than speech. First audio: from "
    "a text to the first sound; at effort 1 it is streamed, with more a sentence is searched for first. "
    "Draw, decode, judge: language model, codec and scorers, seconds a second of speech.",
    "Each effort is measured in a process of its own. Other programs slow what is measured: run it alone.",
)
USUAL = (1, 4, 16)
GIB = 2**30


def bench(
    bundle: BundleOption = "starter",
    codec: CodecOption = None,
    engine: EngineOption = "native",
    dtype: DtypeOption = None,
    effort: Annotated[
        list[int] | None, typer.Option(help="Candidates a segment; may be repeated. Default: 1, 4 and 16.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="About how long to speak at each effort.")] = 5.0,
    price_per_hour: Annotated[
        float | None,
        typer.Option(help="Of this machine, in any currency: adds the cost of an hour of speech."),
    ] = None,
    published: Annotated[
        bool, typer.Option(help="Estimate what the published 1B, 3B and 8B would take here.")
    ] = True,
    plot: Annotated[Path | None, typer.Option(help="Draw speed and memory by effort into this PNG.")] = None,
    json: JsonOption = False,
) -> None:
    """Measure how fast a bundle speaks on this machine: speed, first sound, memory, stages and cost."""
    from llasa.bench import Setup

    efforts = _checked(effort or list(USUAL), seconds, price_per_hour, plot)
    speeds, problems = _measured(Setup(bundle, codec, engine, dtype, seconds), efforts)
    found: dict[str, Any] = {
        "bundle": bundle,
        "machine": _machine(),
        "price_per_hour": price_per_hour,
        "efforts": [_row(one, price_per_hour) for one in speeds],
        "problems": problems,
        "published": _published(price_per_hour) if published else [],
    }
    if plot:
        from llasa.cli.bench_plot import draw

        draw(plot, speeds, f"{bundle} on {found['machine']}")
    emit(found) if json else _print(found)


def _checked(efforts: list[int], seconds: float, price: float | None, plot: Path | None) -> list[int]:
    doing = "Reading the flags"
    if wrong := [n for n in efforts if n < 1]:
        raise ConfigError(f"{doing}: --effort is {wrong[0]}. Use 1 or more.")
    if not 0 < seconds < 3600:
        raise ConfigError(f"{doing}: --seconds is {seconds:g}. Use a number above 0 and below 3600.")
    if price is not None and not 0 <= price < float("inf"):
        raise ConfigError(f"{doing}: --price-per-hour is {price}. Use 0 or more.")
    if plot is not None and not plot.resolve().parent.is_dir():
        raise ConfigError(f"{doing}: there is no folder for --plot '{plot}'. Make it, or name another.")
    return sorted(set(efforts))


def _measured(setup: Any, efforts: Sequence[int]) -> "tuple[list[Speed], dict[str, str]]":
    """Return what could be measured, and why the other efforts could not; raises if none could."""
    from rich.console import Console

    from llasa.bench import measure

    speeds, problems = list["Speed"](), dict[str, LlasaError]()
    with Console(stderr=True).status("") as shown:
        for number, effort in enumerate(efforts, 1):
            shown.update(f"Measuring effort {effort} ({number} of {len(efforts)}) ...")
            try:
                speeds.append(measure(setup, effort))
            except LlasaError as error:
                problems[str(effort)] = error
    if not speeds:
        raise next(iter(problems.values()))
    return speeds, {effort: str(error) for effort, error in problems.items()}


def _machine() -> str:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def _row(one: "Speed", price: float | None) -> dict[str, Any]:
    from llasa.bench import cost

    paid = {} if price is None else {"cost_per_audio_hour": cost(one.real_time_factor, price)}
    return one.to_json() | paid


def _published(price: float | None) -> list[dict[str, Any]]:
    from llasa.bench import cost
    from llasa.probe import estimate

    return [
        {
            "model": one.shape.name,
            "bytes": one.bytes,
            "fits": one.fits,
            "real_time_factor": (factor := one.real_time_factor),
            "cost_per_audio_hour": None if price is None or factor is None else cost(factor, price),
        }
        for one in estimate()
    ]


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 120)
    priced = found["price_per_hour"] is not None
    console.print(_speeds(found, priced))
    if found["published"]:
        console.print(_estimates(found["published"], priced))
    for one in found["efforts"]:
        if one["held"]:
            told = ", ".join(f"{share:.0%}" for share in one["held"])
            note(f"Effort {one['effort']}: guesses accepted, by id ahead: {told}.")
    for effort, problem in found["problems"].items():
        note(f"Effort {effort} was not measured. {problem}")


def _speeds(found: dict[str, Any], priced: bool) -> "Table":
    columns = (
        "effort", "real-time factor", "first audio", "codes/s", "draw", "decode", "judge", "load", "memory",
    )  # fmt: skip
    rows = [
        [
            f"{one['effort']}",
            f"{one['real_time_factor']:.3f}",
            f"{1000 * one['first_audio_s']:,.0f} ms",
            f"{one['codes_per_s']:,.0f}",
            *(f"{one[key] / one['audio_s']:.3f}" for key in ("draw_s", "decode_s", "judge_s")),
            f"{one['load_s']:.1f} s",
            _memory(one),
        ]
        for one in found["efforts"]
    ]
    title = f"Bundle '{found['bundle']}' on {found['machine']}"
    return _table(title, columns, rows, _costs(found["efforts"]) if priced else None)


def _memory(one: dict[str, Any]) -> str:
    known = "not known" if one["peak_bytes"] is None else f"{one['peak_bytes'] / GIB:.2f} GiB"
    return known + (f" + {one['device_bytes'] / GIB:.2f} GiB" if one["device_bytes"] else "")


def _estimates(rows: list[dict[str, Any]], priced: bool) -> "Table":
    fits = {True: "yes", False: "no", None: "not known"}
    told = [
        [
            one["model"],
            f"{one['bytes'] / GIB:.1f} GiB",
            fits[one["fits"]],
            "not measured" if one["real_time_factor"] is None else f"{one['real_time_factor']:.2f}",
        ]
        for one in rows
    ]
    title = "Published Llasa at effort 1, estimated from one layer and the head; the codec comes on top"
    return _table(
        title, ("model", "memory", "fits now", "real-time factor"), told, _costs(rows) if priced else None
    )


def _costs(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    known = (one["cost_per_audio_hour"] for one in rows)
    return ("not measured" if value is None else f"{value:.4f}" for value in known)


def _table(title: str, columns: Sequence[str], rows: list[list[str]], costs: Iterator[str] | None) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in (*columns, *(("cost of an hour",) if costs else ())):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row, *([next(costs)] if costs else []))
    return table
