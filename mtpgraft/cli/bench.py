"""mtpgraft bench"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mtpgraft.cli.bench_input import (
    chosen_suite,
    engine_arguments,
    local_model,
    numbers,
    require_head,
    rpc_places,
    words,
)
from mtpgraft.cli.bench_outputs import BenchOutputs
from mtpgraft.cli.documents import Documents, Html, Markdown, Png
from mtpgraft.cli.options import AsJson, Force, NoProgress, Quiet
from mtpgraft.cli.output import Output
from mtpgraft.errors import EngineError, ExitCode, UsageError

if TYPE_CHECKING:
    from mtpgraft.bench.diagnosis import ControlPlan, Diagnosis
    from mtpgraft.bench.engine import Engine, LaunchSpec
    from mtpgraft.bench.protocol import BenchPlan
    from mtpgraft.bench.result import BenchResult
    from mtpgraft.bench.run import BenchProgress
    from mtpgraft.bench.sweep import Trial

_INTERRUPTED = 130


def bench(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The GGUF to run: a file, any shard of a split set, or its folder.")
    ],
    arguments: Annotated[
        Optional[list[str]],  # noqa: UP045  (typer reads it at run time, on Python 3.10 too)
        typer.Argument(metavar="-- ARGS", help="Behind --: arguments for the engine's own command line."),
    ] = None,
    engine: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--engine",
            metavar="ENGINE",
            help="embedded (default), a llama-server or ik_llama.cpp binary, or the URL of a running server. "
            "Give it again to compare engines.",
        ),
    ] = None,
    draft: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--draft", metavar="SIDECAR", help="Take the head from this sidecar. Again: compare heads."),
    ] = None,
    donor: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--donor", metavar="DONOR", help="Take the head from this model, as graft would."),
    ] = None,
    head_type: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--head-type", metavar="TYPES", help="Compare the head in these types: q8_0,q4_0 (or keep)."),
    ] = None,
    n_max: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--n-max", help="Draft depths to measure, separated by commas (default: 1,2,3)."),
    ] = None,
    p_min: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--p-min", help="Least draft probabilities to measure, separated by commas (default: 0)."),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Search the fastest --n-max and --p-min in few runs, and say its flags.")
    ] = False,
    synth_rates: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--synth-rates", help="Accept drafts at these rates at random: the engine's speed without the head's."
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option("--suite", metavar="SUITE", help="quick, mtp-bench, long-context or a file of your own.")
    ] = "quick",
    shape: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--shape", help="completion or chat (default: the suite's)."),
    ] = None,
    n_predict: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--n-predict", min=8, help="Tokens per prompt (default: the suite's)."),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs of every prompt in every arm.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the requests.")] = 1,
    ctx: Annotated[int, typer.Option("--ctx", min=16, help="Context of each request, in tokens.")] = 4096,
    parallel: Annotated[int, typer.Option("--parallel", min=1, max=256, help="Requests at once, a slot each.")] = 1,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--threads", min=1, help="CPU threads (default: the engine's choice)."),
    ] = None,
    gpu_layers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--gpu-layers", min=0, help="Layers on the GPU (default: the engine's choice)."),
    ] = None,
    cache_type_k: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--cache-type-k", metavar="TYPE", help="Type of the KV cache's K, passed on as it is."),
    ] = None,
    cache_type_v: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--cache-type-v", metavar="TYPE", help="Type of the KV cache's V, passed on as it is."),
    ] = None,
    rpc: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--rpc", metavar="HOST:PORT,...", help="ggml-rpc-servers that hold a part of the model."),
    ] = None,
    diagnose: Annotated[bool, typer.Option("--diagnose", help="Explain the figures, with control runs.")] = False,
    save: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--save", metavar="FILE.json", help="Keep the result with every sample."),
    ] = None,
    mtp_bench: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--mtp-bench", metavar="FILE.json", help="Write what mtp-bench.py writes."),
    ] = None,
    markdown: Markdown = None,
    html: Html = None,
    png: Png = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Measure what the head is worth: MTP on against off.

    Acceptance, mean accepted length and speed per draft depth, and whether the greedy text stays the same. Arms are
    alternated and repeated; what each figure means is in docs/bench.md. Exit code 1 when nothing was drafted.
    """
    from dataclasses import replace

    from mtpgraft.bench.engine import LaunchSpec
    from mtpgraft.bench.engines.find import find_engine
    from mtpgraft.bench.engines.running import drafts_by_request
    from mtpgraft.bench.heads import check_types, made_heads
    from mtpgraft.bench.labels import engine_labels
    from mtpgraft.bench.protocol import HeadChoice, plan_bench

    output = Output(as_json, quiet, not no_progress)
    drafts = tuple(draft or ())
    outputs = BenchOutputs(save, mtp_bench, Documents(markdown, html, png, force))
    outputs.check((model, *drafts), as_json=as_json)
    suite_value = chosen_suite(suite, shape)
    depths = numbers(n_max, "--n-max", int) if n_max else tuple(range(1, 7)) if sweep else (1, 2, 3)
    probabilities = numbers(p_min, "--p-min", float) if p_min else (0.0, 0.25, 0.5, 0.75, 0.9) if sweep else (0.0,)
    launch = LaunchSpec(
        model,
        n_ctx=ctx * parallel,
        n_threads=threads,
        n_parallel=parallel,
        n_gpu_layers=gpu_layers,
        cache_type_k=cache_type_k,
        cache_type_v=cache_type_v,
        rpc=rpc_places(rpc),
        args=engine_arguments(arguments),
    )
    rates = numbers(synth_rates, "--synth-rates", float) if synth_rates else ()

    def plan(
        heads: Sequence[HeadChoice],
        labels: Sequence[str],
        fixed: frozenset[str] = frozenset(),
        by_request: frozenset[str] = frozenset(),
    ) -> BenchPlan:
        return plan_bench(
            launch,
            suite_value,
            heads=heads,
            n_max=sorted(depths) if sweep else depths,
            p_min=sorted(probabilities) if sweep else probabilities,
            synth_rates=rates,
            repeats=repeats,
            n_predict=n_predict,
            seed=seed,
            engines=labels,
            fixed=fixed,
            by_request=by_request,
        )

    types = check_types(words(head_type))
    engines = [find_engine(text) for text in engine or ("embedded",)]
    fixed_ones = [one.is_fixed for one in engines]
    plan((HeadChoice(),), [str(number) for number in range(len(engines))])  # numbers, before any work
    if all(fixed_ones):
        _refuse_for_running(launch, sweep=sweep, synthetic=bool(rates), heads=bool(drafts or donor or types))
    else:
        model = local_model(model)
        launch = replace(launch, model=model)
        if not drafts and donor is None:
            require_head(model)
    infos = [one.info() for one in engines]
    labels = engine_labels(infos)
    fixed = {label: info for label, info, is_fixed in zip(labels, infos, fixed_ones, strict=True) if is_fixed}
    obeying = {label for label, info in fixed.items() if drafts_by_request(info) and (n_max or p_min)}
    if all(fixed_ones) and (n_max or p_min) and not obeying:
        raise _not_for_running("--n-max or --p-min")
    with made_heads(model, drafts, types, donor) as heads:
        result = _run(
            output,
            plan(heads.choices, labels, frozenset(fixed), frozenset(obeying)),
            engines,
            sweep=sweep,
            notes=heads.notes,
        )
        written, failure = outputs.write(result)  # before anything else can go wrong
        diagnosis = _diagnosis(output, result, engines, with_controls=diagnose)
        if diagnose:
            failure = failure or outputs.explain(result, diagnosis)
    if outputs.documents.prints_markdown:
        show_markdown(output, result, diagnosis)
    else:
        show(output, result, sweep=sweep, diagnosis=diagnosis, explain=diagnose)
    for path in written:
        output.note(f"written: {path}")
    if failure is not None:
        raise failure
    if result.cut_short:
        raise typer.Exit(_INTERRUPTED if result.cut_short == "interrupted" else ExitCode.RETRY)
    if not result.drafted_anything:
        raise typer.Exit(ExitCode.FINDINGS)


def show(
    output: Output,
    result: BenchResult,
    *,
    sweep: bool = False,
    diagnosis: Diagnosis | None = None,
    explain: bool = False,
) -> None:
    """Print a bench result. diagnosis: with its most important findings, or with all of it (explain)."""
    from mtpgraft.report.bench import bench_heading, bench_tables, bench_verdict

    if output.as_json:
        output.json({**result.to_json(), **({"diagnosis": diagnosis.to_json()} if diagnosis else {})})
        return
    output.lines(bench_heading(result))
    for number, table in enumerate(bench_tables(result)):
        output.lines(["", table.title] if number else [""])
        output.table(table.rows, table.columns, right=sorted(table.right))
        output.lines([table.note] if table.note else [])
    output.lines(["", *bench_verdict(result)])
    if sweep:
        output.lines(["", *_sweep_lines(result)])
    if diagnosis is not None:
        _show_diagnosis(output, diagnosis, explain)


def show_markdown(output: Output, result: BenchResult, diagnosis: Diagnosis) -> None:
    """Print a bench result as the report to paste."""
    from mtpgraft.report.bench_markdown import bench_markdown

    output.lines(bench_markdown(result, diagnosis).splitlines())


def _show_diagnosis(output: Output, diagnosis: Diagnosis, explain: bool) -> None:
    from mtpgraft.report.diagnosis import advice_lines, diagnosis_table, finding_lines

    if not explain:
        found = finding_lines(diagnosis)
        output.lines(["", *found] if found else [])
        return
    table = diagnosis_table(diagnosis)
    output.lines(["", table.title])
    output.table(table.rows, table.columns)
    output.lines(["", *advice_lines(diagnosis)])


def _run(
    output: Output, plan: BenchPlan, engines: Sequence[Engine], *, sweep: bool, notes: tuple[str, ...]
) -> BenchResult:
    from dataclasses import replace

    from mtpgraft.bench.run import execute
    from mtpgraft.bench.sweeprun import sweep as run_sweep

    with output.steps("benchmarking") as step:

        def on_progress(at: BenchProgress) -> None:
            step(at.n_done, at.n_total, at.arm)

        def on_trial(trial: Trial) -> None:
            setting = f"n={trial.n_max} p>={trial.p_min:g}" if trial.n_max else "off"
            where = " ".join(part for part in (trial.engine, trial.head) if part)
            output.note(f"tried {setting}{f' ({where})' if where else ''}: {trial.tokens_per_second:.1f} tok/s")

        measured = run_sweep(plan, engines, on_progress, on_trial) if sweep else execute(plan, engines, on_progress)
    return replace(measured, notes=(*measured.notes, *notes))


def _diagnosis(output: Output, result: BenchResult, engines: Sequence[Engine], *, with_controls: bool) -> Diagnosis:
    """What explains the figures; with the control runs that would settle a question, when asked for."""
    from mtpgraft.bench.diagnosis import diagnose, run_controls

    if not with_controls or result.cut_short:
        return diagnose(result)
    with output.steps("control runs") as step:

        def on_progress(at: BenchProgress) -> None:
            step(at.n_done, at.n_total, at.arm)

        def on_control(control: ControlPlan) -> None:
            output.note(f"control run for {control.check}: {control.why}")

        try:
            return diagnose(result, run_controls(result, engines, on_progress, on_control))
        except (KeyboardInterrupt, EngineError) as error:
            output.warn([f"the control runs ended early: {error or 'interrupted'}"])
            return diagnose(result)


def _sweep_lines(result: BenchResult) -> list[str]:
    """The decision, and the flags that say it."""
    import shlex

    from mtpgraft.bench.labels import draft_flags
    from mtpgraft.bench.sweeprun import decision

    lines = []
    for label, info in zip(result.plan.engines, result.engines, strict=True):
        choice = decision(result, label)
        arm = next(arm.arm for arm in result.arms if arm.arm.name == choice.best)
        flags = draft_flags(arm.launch.draft, info.kind)
        lines.append(f"fastest: {choice.best}: {shlex.join(flags) if flags else 'leave MTP off'}")
        if choice.ties:
            lines.append(f"not told apart from it by these runs: {', '.join(choice.ties)}")
    return lines


def _refuse_for_running(launch: LaunchSpec, *, sweep: bool, synthetic: bool, heads: bool) -> None:
    """A running server has one setting and one head: a result must not record another."""
    asked = {
        "--sweep": sweep,
        "--synth-rates": synthetic,
        "--threads": launch.n_threads is not None,
        "--draft, --donor or --head-type": heads,
        "--rpc": launch.rpc,
        "--gpu-layers": launch.n_gpu_layers is not None,
        "--cache-type-k or --cache-type-v": launch.cache_type_k or launch.cache_type_v,
        "arguments behind --": launch.args,
    }
    if found := [name for name, is_given in asked.items() if is_given]:
        raise _not_for_running(", ".join(found))


def _not_for_running(options: str) -> UsageError:
    return UsageError(
        "a running server is measured as it runs: it has one setting and one head",
        found=options,
        hint="give the llama-server binary as --engine, or start the server with these",
    )
