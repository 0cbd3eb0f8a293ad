"""What DFR-ST costs on each backbone, and whether it can be exported: tables of docs/models.md.

    python -m tools.studies.backbones --size 256 256 --repeats 3
    python -m tools.studies.backbones --size 96 128 --repeats 3 --export onnx mobilenetv2_100 ...

Speeds are by the clock on --threads cores: measure on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from torchreid_dfrst.cli import command
from torchreid_dfrst.inference.export import FORMATS, export
from torchreid_dfrst.models import build, timm_backbones
from torchreid_dfrst.models.backbones import BACKBONES
from torchreid_dfrst.models.network import BranchNetwork
from torchreid_dfrst.models.pretrained import own_input
from torchreid_dfrst.training import checkpoint

NAMES = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet18_ibn_a", "resnet50_ibn_a", "resnet50_ibn_b",
    "resnet50d.a1_in1k", "seresnext50_32x4d.racm_in1k", "regnety_016.tv2_in1k",
    "convnext_atto.d2_in1k", "convnext_tiny.in12k_ft_in1k", "convnext_base.dinov3_lvd1689m",
    "tf_efficientnet_lite0.in1k", "mobilenetv2_100.ra_in1k", "mobilenetv3_large_100.ra_in1k",
    "hgnetv2_b0.ssld_stage2_ft_in1k", "repvit_m0_9.dist_450e_in1k", "tiny_vit_5m_224.dist_in22k_ft_in1k",
    "swin_tiny_patch4_window7_224.ms_in1k",
    "vit_small_patch16_224.augreg_in21k", "eva02_small_patch14_224.mim_in22k", "vit_small_patch14_dinov2.lvd142m",
    "vit_small_patch16_dinov3.lvd1689m",
)  # fmt: skip


SMALL = {"parts": 2, "stream_features": 64, "part_features": 32}
"""Options of the network that is exported."""


def network(name: str, num_classes: int = 576, **options: Any) -> tuple[BranchNetwork, int]:
    """DFR-ST on a backbone, with the smallest last stride that it has, in evaluation mode."""
    for last_stride in (1, 2):
        try:
            model = build("dfrst", num_classes, pretrained=False, backbone=name, last_stride=last_stride, **options)
            return model.eval(), last_stride
        except ValueError:
            if last_stride == 2:
                raise
    raise AssertionError


def row(name: str, height: int, width: int, repeats: int) -> str:
    """One backbone as a line of a Markdown table; its speed only where it is asked for."""
    images = torch.randn(8, 3, height, width)
    with torch.device("meta"):  # shapes without numbers
        model, _ = network(name)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            found = model.feature_maps(images.to("meta"))["coarse"]
    parts = (model.trunk, model.streams["coarse"])
    own, whole = (sum(p.numel() for part in some for p in part.parameters()) / 1e6 for some in (parts, (model,)))
    gmac = counter.get_total_flops() / 2 / len(images) / 1e9
    licence = timm_backbones.about(name).get("license") if name not in BACKBONES else LICENCES["ibn" in name]
    size = own_input(name).get("height", "-")
    speed = f" {per_second(network(name)[0], images, repeats):.1f} |" if repeats else ""
    place = f"{found.shape[2]} x {found.shape[3]}"
    return f"| `{name}` | {place} | {own:.1f} | {whole:.1f} | {gmac:.1f} |{speed} {size} | {licence} |"


def exported(name: str, kind: str, height: int, width: int, repeats: int) -> str:
    """Parity of an exported network with random weights, as a line of a Markdown table, or why there is none."""
    torch.manual_seed(0)
    model, last_stride = network(name, 8, **SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1 and parameter.abs().max() < 1e-3:
                parameter.normal_(std=0.1)  # the last scale of a block, which would hide what the block does
        model.train()(torch.randn(8, 3, height, width))  # running statistics of its own
    model.eval()
    options = {"name": "dfrst", "backbone": name, "last_stride": last_stride, **SMALL}
    about = {"model": options, "num_classes": 8, "height": height, "width": width}
    cells: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        weights, out = Path(folder, "weights.safetensors"), Path(folder, f"network{FORMATS[kind][0]}")
        checkpoint.export(weights, model, about)
        try:
            parity = export(weights, out, kind)["parity"]
        except ValueError as error:
            return f"| `{name}` | {kind} | refused: {error} |"
        runtime = FORMATS[kind][2](out)
        for count in (1, 16) if repeats else ():
            images = torch.randn(count, 3, height, width)
            for run, batch in ((model, images), (runtime, images.numpy())):
                cells.append(f"{per_second(run, batch, repeats):.0f}")
    with torch.no_grad():
        largest = float(model(torch.randn(2, 3, height, width)).abs().max())
    difference, cosine = f"{parity['largest_difference']:.1e}", f"{parity['lowest_cosine']:.7f}"
    return f"| {' | '.join([f'`{name}`', kind, difference, f'{largest:.1f}', cosine, *cells])} |"


def per_second(run: Callable[[Any], object], images: Any, repeats: int) -> float:
    """Images that a network or a runtime embeds in a second, the median of ``repeats`` passes after a first one."""
    taken = []
    with torch.no_grad():
        for _ in range(1 + repeats):
            began = time.perf_counter()
            run(images)
            taken.append(time.perf_counter() - began)
    return len(images) / statistics.median(taken[1:])


LICENCES = {False: "BSD-3-Clause", True: "MIT"}


@command
def main() -> None:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="backbones (default: those of the page)")
    parser.add_argument("--size", nargs=2, type=int, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=0, help="passes to measure the speed on (none)")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (%(default)s)")
    parser.add_argument("--export", choices=list(FORMATS), help="export instead, and compare with PyTorch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.export:
        speeds = ["1: PyTorch", "1: runtime", "16: PyTorch", "16: runtime"] if args.repeats else []
        heads = ["backbone", "format", "largest difference", "numbers up to", "lowest cosine", *speeds]
        print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
        for name in args.names:
            print(exported(name, args.export, *args.size, args.repeats), flush=True)
        return
    speed = " images a second |" if args.repeats else ""
    print(f"| backbone | map | backbone, M | DFR-ST, M | GMAC |{speed} own size | licence of the weights |")
    print("|---|---|---|---|---|" + "---|" * (2 + bool(args.repeats)))
    for name in args.names:
        print(row(name, *args.size, args.repeats), flush=True)


if __name__ == "__main__":
    main()
