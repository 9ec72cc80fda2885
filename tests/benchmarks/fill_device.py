"""Measure ways to run many super-fine-tuning settings on one device: settings/hour at equal C-Acc and ASR.

    python -m tests.benchmarks.fill_device CIFAR10.npz                       # one GPU, about 8 minutes
    python -m tests.benchmarks.fill_device CIFAR10.npz --models small_vgg --ways plain fused --seconds 60
    python -m tests.benchmarks.fill_device --synthetic                       # noise: throughput only
    python -m tests.benchmarks.fill_device --synthetic --device cpu --quick  # a minute: do the code paths run?

from the repository root. The models are PreAct-ResNet18 and two small networks (the third party's VGG, raybd's small
ResNet), each with a BadNets backdoor planted here. The settings are four, with as many seeds as a size needs; they
differ in their rates and are equally long, so a way that runs many at once is shown at its best: in a search, settings
of unequal length would leave part of a pack idle. Every way runs the same jobs with the same draws. Dropout alone is
drawn anew by each way, so that a network with dropout is compared in the mean only.

What it prints last is a table by model and what wins. The figures go to a JSON file that is whole after each cell;
run it again and it goes on with the cells that are missing for this device, these versions and options. A cell that
ended in an error, out of memory say, counts as measured until `--retry`. No cell starts after `--minutes`, and no cell
trains for longer than `--seconds` (the plain way runs all its jobs): the rate of a round that was cut short follows
from the steps it took, its start and its evaluation, and its figures are then not checked.

A bare GPU machine needs the repository, Python 3.11 or newer, torch 2.11 or newer, numpy, and what raybd's engine
imports beyond them: jaxtyping with wadler_lindig (pure-Python wheels), safetensors, pillow and pyyaml (compiled wheels
for that machine). Nothing else: no ray, optuna, mlflow, pydantic, rich, torchvision, scikit-learn or scipy. CIFAR10.npz
is either an .npz of arrays (x_train, y_train, x_test, y_test; uint8 NHWC; 184 MB) or the 55 MB file of JPEGs that
this project keeps with its data (cifar10_jpeg.npz: {train,test}_jpeg, _length, _labels), which is decoded here with
pillow, so that the repository and the data stay under 64 MiB together: put it into a folder that git ignores and carry
that. Bring the JSON file back, and carry it along to resume.
"""

import argparse
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from raybd.registry import BadInput
from raybd.training import Compute
from raybd.weights import weights_digest
from tests.benchmarks.device import suspects
from tests.benchmarks.device.bench import Bench
from tests.benchmarks.device.cells import Store, compare, measure
from tests.benchmarks.device.table import table
from tests.benchmarks.device.ways import WAYS

RESULTS = Path(__file__).parent / "results" / "fill_device.json"
QUICK_SIZES = (1, 2, 4)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="CIFAR-10 as .npz")
    parser.add_argument("--synthetic", action="store_true", help="noise of the same shape: throughput only")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--quick", action="store_true", help="tiny: shows that the code runs, times nothing of use")
    parser.add_argument("--models", nargs="+", choices=suspects.MODELS)
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--sizes", type=int, nargs="+", help="only these sizes")
    parser.add_argument("--compile", action="store_true", help="the compiled ways on a CPU too")
    parser.add_argument("--seconds", type=float, default=6, help="at most so long in training, for each cell")
    parser.add_argument("--minutes", type=float, default=8, help="no cell starts after so long")
    parser.add_argument("--retry", action="store_true", help="measure again what ended in an error")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path("runs/fill_device"), help="folder for the networks' files")
    options = parser.parse_args(given)
    if options.data is None and not options.synthetic:
        parser.error("give CIFAR-10 as an .npz, or --synthetic")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device: --device cpu --quick shows that the code runs")
    # PreAct-ResNet18 takes minutes on a CPU even so.
    options.models = options.models or (suspects.MODELS[1:] if options.quick else suspects.MODELS[:2])
    return options


def facts(options: argparse.Namespace, compute: Compute) -> dict[str, Any]:
    """Return what figures must share to stand side by side: the machine, the versions, the size of the jobs."""
    gpu = options.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if gpu else platform.machine(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if gpu else None,
        "precision": compute.precision,
        "quick": options.quick,
        "synthetic": options.synthetic,
    }


def wanted(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Give (way, model, size) of every cell in the order in which they are measured."""
    allowed = options.sizes or (QUICK_SIZES if options.quick else None)
    for name in WAYS:
        for size in WAYS[name].sizes if name in options.ways else ():
            if allowed is None or size in allowed:
                yield from ((name, model, size) for model in options.models)


def lacking(options: argparse.Namespace, name: str) -> str:
    """Return what the way needs that is not there, or ''."""
    on_cpu = options.device == "cpu"
    if WAYS[name].needs == "cuda" and on_cpu:
        return "needs CUDA"
    return "needs --compile" if WAYS[name].needs == "compiler" and on_cpu and not options.compile else ""


class Benches:
    """The benches by model, each built when it is first needed, with the digest of its suspect."""

    def __init__(self, options: argparse.Namespace, scale: suspects.Scale, compute: Compute) -> None:
        self._options, self._scale, self._compute = options, scale, compute
        self._images: suspects.Images | None = None
        self._built: dict[str, tuple[Bench, str]] = {}

    def __getitem__(self, model: str) -> tuple[Bench, str]:
        if model not in self._built:
            if self._images is None:
                self._images = (
                    suspects.noise(self._scale) if self._options.synthetic else suspects.cifar10(self._options.data)
                )
            begin = time.perf_counter()
            bench = suspects.build(model, self._images, self._scale, self._compute, self._options.work.absolute())
            self._built[model] = bench, weights_digest(bench.view.state)
            accuracy = 100 * bench.view.reference_accuracy.rate
            say(f"{model}: suspect with C-Acc {accuracy:.1f} % in {time.perf_counter() - begin:.0f} s")
        return self._built[model]


def run(options: argparse.Namespace) -> str:
    """Measure what is missing and return the tables."""
    scale = suspects.QUICK if options.quick else suspects.FULL
    compute = Compute.detect(gpu=options.device == "cuda", precision=options.precision)
    compute.apply()
    store = Store(options.out, facts(options, compute))
    benches = Benches(options, scale, compute)
    missing: dict[tuple[str, str, int], str] = {}
    end = time.perf_counter() + 60 * options.minutes
    for name, model, size in wanted(options):
        known = store.get(model, name, size)
        if lacking(options, name):
            missing[model, name, size] = lacking(options, name)
        elif known is not None and not (known.error and options.retry):
            continue
        elif time.perf_counter() > end:
            missing[model, name, size] = "no time left: run again"
        else:
            _fill(store, benches, scale, options, (model, name, size))
    return "\n\n".join(_tables(options, store, missing))


def _fill(
    store: Store, benches: Benches, scale: suspects.Scale, options: argparse.Namespace, key: tuple[str, str, int]
) -> None:
    model, name, size = key
    bench, digest = benches[model]
    given = {"seconds": options.seconds, "check_jobs": scale.check_jobs, "suspect": digest}
    plain = store.get(model, "plain", 1)
    if name != "plain" and (plain is None or plain.suspect != digest):
        # The suspect was trained anew, so the earlier reference ran on other weights.
        plain = measure(bench, (model, "plain"), WAYS["plain"], 1, **given)
        store.put(plain)
    cell = measure(bench, (model, name), WAYS[name], size, **given)
    if name != "plain":
        compared = compare(plain, cell, len(bench.settings), synthetic=options.synthetic)
        cell = replace(cell, comparisons=compared)
    store.put(cell)
    rate = "" if cell.settings_per_hour is None else f"{cell.settings_per_hour:,.0f} settings/h, {cell.verdict}"
    say(f"{model} {name} {size}: {rate or cell.error}")


def _tables(options: argparse.Namespace, store: Store, missing: dict[tuple[str, str, int], str]) -> Iterator[str]:
    for model in options.models:
        cells = [cell for cell in store.cells() if cell.model == model]
        absent = {(name, size): why for (of, name, size), why in missing.items() if of == model}
        yield table(model, cells, absent, WAYS)
    if options.synthetic:
        yield "Images were noise: these are rates of work; nothing is said of C-Acc and ASR."


def say(line: str) -> None:
    """Print a line at once: a run that is killed leaves what it had done."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    try:
        say("\n" + run(arguments()))
    except BadInput as error:
        sys.exit(f"fill_device: {error}")


if __name__ == "__main__":
    main()
