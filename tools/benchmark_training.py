"""Our training step against torchreid's stock engine, and extraction against the bare network, in one run."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

import torch

from tools.studies.benchmarks.training import CLOCKS, measure_extraction, measure_steps, write_images
from torchreid_dfrst.commands import command


def parser() -> argparse.ArgumentParser:
    """What can be chosen."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--model", default="dfrst", help="a registered model (default: %(default)s)")
    made.add_argument("--size", type=int, default=256, help="side of the images (default: %(default)s)")
    made.add_argument("--batch", type=int, default=16, help="images per step, 4 per identity (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="turns each contestant takes (default: %(default)s)")
    made.add_argument("--images", type=int, default=64, help="files to extract (default: %(default)s)")
    made.add_argument(
        "--variants",
        nargs="+",
        default=["fp32", "bf16"],
        help="of our step, such as fp32-compile or fp32-contiguous (default: fp32 bf16)",
    )
    made.add_argument("--shares", action="store_true", help="also: which part of a step is spent in convolutions")
    made.add_argument("--precision", default="bf16", help="of the extraction (default: %(default)s)")
    made.add_argument("--workers", type=int, default=0, help="loading processes of the extraction")
    made.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a busy machine, with one thread")
    made.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return made


@command
def main() -> None:
    """Measure and print."""
    options = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        paths = write_images(Path(folder), max(options.images, options.batch), options.size)
        shared = (options.model, paths, options.size, options.batch, options.rounds)
        found = measure_steps(*shared, options.clock, options.variants, options.shares)
        found |= measure_extraction(*shared, options.precision, options.workers, options.clock)
    found |= {**vars(options), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.model}, {options.size} x {options.size}, batch {options.batch}, {found['threads']} threads")
    for name, rate in found["images_per_s"].items():
        print(f"  step {name:10} {rate:7.1f} images/s")
    for name, rate in found["extraction_images_per_s"].items():
        print(f"  extraction {name:5} {rate:6.1f} images/s")
    for precision, split in found["split"].items():
        print(f"  {precision}: " + ", ".join(f"{part[:-2]} {1000 * value:.0f} ms" for part, value in split.items()))
    for name, share in found.get("convolution_share", {}).items():
        print(f"  {share:.0%} of the step of {name} are convolutions")
    for name in (*(f"{variant}_speedup" for variant in options.variants), "extraction_efficiency"):
        print(f"{name}: {found[name]:.2f}")


if __name__ == "__main__":
    main()
