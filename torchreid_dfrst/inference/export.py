"""A trained network as a file for other runtimes, compared with PyTorch before it gets its name."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from torchreid_dfrst import files
from torchreid_dfrst.checks import within
from torchreid_dfrst.data.images import PHOTOGRAPHS, read_image
from torchreid_dfrst.inference.extraction import input_normalisation, input_transform
from torchreid_dfrst.inference.opening import PIXELS, first_line, open_network, width_at
from torchreid_dfrst.messages import nearest
from torchreid_dfrst.retrieval import normalise
from torchreid_dfrst.version import __version__

BATCHES = (1, 2, 7, 33)
"""Sizes at which a file is compared."""
TOLERANCE = 1e-4
"""Largest difference of an embedding's numbers, relative to the largest of their branch where that is below 1."""
LISTED = 10
MOST = 500
"""Images that are compared, at most."""
Run = Callable[[np.ndarray], np.ndarray]
"""Images ``(N, 3, height, width)`` to embeddings ``(N, D)``, both float32."""


class Exported(nn.Module):
    """What is exported: images to embeddings, of length 1 if asked."""

    def __init__(self, network: nn.Module, unit_length: bool) -> None:
        super().__init__()
        self.network, self.unit_length = network, unit_length

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, 3, height, width)``, mean and deviation already taken out, to ``(N, D)``."""
        embedding = self.network(images)
        return functional.normalize(embedding) if self.unit_length else embedding


def to_onnx(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """ONNX of one image size and any batch; the weights are in the file itself."""
    _needs("onnx", "onnxscript")
    batch = torch.export.Dim("batch", min=1)
    # what torch.onnx.export would do first and, where it fails, do again with the batch fixed
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    torch.onnx.export(
        program, (), str(path), input_names=["images"], output_names=["embedding"], external_data=False, verbose=False
    )


def to_torchscript(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """TorchScript by tracing, for services in C++."""
    written = io.BytesIO()  # torch's own writer ends the process where the disk is full
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(model, example, check_trace=False), written)
    path.write_bytes(written.getbuffer())


def to_openvino(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """OpenVINO's IR in float32, by way of ONNX; ``.bin`` with the weights lies beside the ``.xml``."""
    openvino = _needs("openvino", "onnx", "onnxscript")
    with tempfile.TemporaryDirectory() as folder:
        to_onnx(model, example, Path(folder, "network.onnx"))
        openvino.save_model(openvino.convert_model(Path(folder, "network.onnx")), path, compress_to_fp16=False)


def run_onnx(path: Path) -> Run:
    """ONNX Runtime on the CPU."""
    session = _needs("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def run_torchscript(path: Path) -> Run:
    """PyTorch itself, from the file alone."""
    return _runner(torch.jit.load(str(path)))


def run_openvino(path: Path) -> Run:
    """OpenVINO on the CPU, in float32 also where the processor has shorter numbers."""
    compiled = _needs("openvino").Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: np.array(compiled(images)[0])


FORMATS: dict[str, tuple[str, Callable[[nn.Module, torch.Tensor, Path], None], Callable[[Path], Run]]] = {
    "onnx": (".onnx", to_onnx, run_onnx),
    "openvino": (".xml", to_openvino, run_openvino),
    "torchscript": (".ts", to_torchscript, run_torchscript),
}
"""Format to the ending of its file, what writes it, and what runs it."""


def export(
    path: str | Path,
    out: str | Path,
    kind: str,
    *,
    size: Sequence[int] | None = None,
    unit_length: bool = False,
    verify: str | Path | None = None,
    described: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Export a trained network, run the file, and keep it only if it gives what PyTorch gives.

    Args:
        path: of the weights, see ``open_network``, and so is ``described``.
        out: file to write, with the ending of ``FORMATS``; the description that is returned stands in ``OUT.json``.
        kind: a name of ``FORMATS``.
        size: height and width of the images, which the file fixes; those of training where nothing is said.
        unit_length: embeddings have length 1.
        verify: folder of images, also in folders of it, to compare on; noise without, which makes no ranked lists.
        described: of a file that does not say what it holds.

    Raises:
        ValueError: the file differs from PyTorch by more than ``TOLERANCE``, or the network cannot be exported or
            does not take the size; nothing is left behind.
        OSError: a package is missing, or something cannot be read or written.
    """
    out, beside = _places(Path(out), kind, Path(path))
    _, write, load = FORMATS[kind]
    network, about = open_network(path, described)
    if size is not None:
        for side in size:
            within("size", side, lowest=1, highest=PIXELS)
        about["height"], about["width"] = size
    width = width_at(network, about["height"], about["width"], Path(path))
    images, names = _images(verify, about)
    model = Exported(network, unit_length).eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        part = Path(folder, out.name)
        with _quiet():
            try:
                write(model, torch.from_numpy(images[:2]), part)
                exported = load(part)
            except (OSError, MemoryError):
                raise
            except Exception as error:  # an exporter's or a runtime's own
                raise ValueError(f"{Path(path).name} cannot be exported as {kind}: {first_line(error)}") from error
            branches = getattr(network, "branches", None) or {}
            parity = compare(_runner(model), exported, images, out.name, verify is not None, branches.values())
        found = {out.parent / file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}
        description = {
            "file": out.name,
            "format": kind,
            "sha256": {file.name: hashlib.sha256(content).hexdigest() for file, content in found.items()},
            "input": _input(about),
            "output": {
                "name": "embedding",
                "width": width,
                "unit_length": unit_length,
                "branches": {name: [where.start, where.stop] for name, where in branches.items()},
            },
            "parity": {**parity, "images": names},
            "network": about["model"],
            "backbone": about.get("backbone"),
            "weights_sha256": about["weights_sha256"],
            "version": __version__,
        }
    files.write({**found, beside: (json.dumps(files.without_folders(description), indent=2) + "\n").encode()})
    return description


def _places(out: Path, kind: str, weights: Path) -> tuple[Path, Path]:
    """Where the file and its description go, which can be written; nobody else's file is in the way."""
    if kind not in FORMATS:
        raise KeyError(f"no format {kind!r}{nearest(kind, FORMATS)}")
    ending, *_ = FORMATS[kind]
    if out.suffix != ending:
        raise ValueError(f"{out} is to hold {kind}: give a name that ends in {ending}")
    beside = out.with_name(f"{out.name}.json")
    binary = out.with_suffix(".bin")
    for path in (out, beside, *([binary] if kind == "openvino" else [])):
        files.require_writable(path)
        if path.exists() and weights.exists() and path.samefile(weights):
            raise ValueError(f"{path} would be written over, which is what is to be exported: give another --out")
    if kind == "openvino" and binary.exists() and not out.exists():
        raise ValueError(f"{binary}, where the weights of {out.name} go, is there already: give another --out")
    return out, beside


def compare(
    reference: Run,
    other: Run,
    images: np.ndarray,
    what: str,
    ranked: bool = True,
    branches: Collection[slice] = (),
) -> dict[str, Any]:
    """How far a runtime's embeddings are from PyTorch's, at each of ``BATCHES`` and over all images.

    Of ``(N, 3, height, width)`` images, at least ``max(BATCHES)``. ``ranked`` compares for every image its ``LISTED``
    nearest others too; in lists that are not equal, those change places whose distances differ by less than the
    tolerance. ``what`` names the file in messages; ``branches`` are where those of the embedding lie in it.

    Raises:
        ValueError: a batch is refused, a difference is beyond ``TOLERANCE``, or a list differs by more.
    """
    largest, cosine = 0.0, 1.0
    for batch in BATCHES:
        wanted = reference(images[:batch])
        try:
            given = other(images[:batch])
        except Exception as error:  # a runtime's own
            raise ValueError(f"{what} does not take {batch} images at once: {first_line(error)}") from error
        _same(wanted, given, f"{what}, {batch} images at once", branches)
        largest = max(largest, float(np.abs(wanted - given).max()))
        cosine = min(cosine, float((normalise(wanted) * normalise(given)).sum(1).min()))
    found: dict[str, Any] = {"batches": list(BATCHES), "tolerance": TOLERANCE, "largest_difference": largest}
    found["lowest_cosine"] = cosine
    if ranked:
        steps = [slice(start, start + max(BATCHES)) for start in range(0, len(images), max(BATCHES))]
        wanted, given = (np.concatenate([run(images[step]) for step in steps]) for run in (reference, other))
        _same(wanted, given, f"{what}, all {len(images)} images", branches)
        found["largest_difference"] = max(largest, float(np.abs(wanted - given).max()))
        found |= {"equal_lists": _equal_lists(wanted, given, what), "lists": len(images)}
    return found


def _same(wanted: np.ndarray, given: np.ndarray, what: str, branches: Collection[slice]) -> None:
    if not np.isfinite(wanted).all():
        raise ValueError(f"{what}: PyTorch's own embeddings are not finite, so the weights cannot be used")
    if wanted.shape != given.shape:
        raise ValueError(f"{what}: it gives {given.shape} where PyTorch gives {wanted.shape}; it was not kept")
    for where in branches or [slice(None)]:
        most = TOLERANCE * min(1.0, float(np.abs(wanted[:, where]).max()))
        difference = float(np.abs(wanted[:, where] - given[:, where]).max())
        if not difference <= most:  # NaN as well
            raise ValueError(
                f"{what}: it differs from PyTorch by {difference:.2g}, more than {most:.2g}; it was not kept"
            )


def _equal_lists(wanted: np.ndarray, given: np.ndarray, what: str) -> int:
    """Images with the same nearest others in the same order in both; in no list may another than a tie differ."""
    lists, distances = [], []
    for embedding in (wanted, given):
        unit = normalise(embedding).astype(np.float64)
        distance = np.sqrt(np.maximum(2 - 2 * unit @ unit.T, 0))
        np.fill_diagonal(distance, np.inf)
        lists.append(np.argsort(distance, axis=1, kind="stable")[:, :LISTED])
        distances.append(distance)
    own, theirs = (np.take_along_axis(distances[0], order, axis=1) for order in lists)
    if not np.allclose(own, theirs, rtol=0, atol=TOLERANCE):
        wrong = int((np.abs(own - theirs) > TOLERANCE).any(1).sum())
        raise ValueError(f"{what}: {wrong} of {len(wanted)} images have another list of {LISTED}; it was not kept")
    return int((lists[0] == lists[1]).all(1).sum())


def _images(folder: str | Path | None, about: Mapping[str, Any]) -> tuple[np.ndarray, str]:
    """Images to compare on, at least as many as the largest batch has, and what they are."""
    least = max(BATCHES)
    if folder is None:
        noise = np.random.default_rng(0).standard_normal((least, 3, about["height"], about["width"]), dtype=np.float32)
        return noise, "noise"
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder of images at {folder}")
    endings = {f".{ending.lower()}" for ending in (*PHOTOGRAPHS, "jpg", "tif")}
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in endings)
    if len(paths) < least:
        raise ValueError(f"{folder} holds {len(paths)} images, and {least} or more are needed to compare on")
    step = -(-len(paths) // MOST)
    transform = input_transform(about)
    chosen = np.stack([transform(read_image(path)).numpy() for path in paths[::step]])
    return chosen, f"{len(chosen)} of {len(paths)} images of {Path(folder).name}"


def _input(about: Mapping[str, Any]) -> dict[str, Any]:
    mean, deviation = input_normalisation(about)
    return {
        "name": "images",
        "layout": "NCHW, RGB, float32",
        "batch": "any",
        "precision": "float32, which OpenVINO keeps to with INFERENCE_PRECISION_HINT f32",
        "height": about["height"],
        "width": about["width"],
        "resize": "bilinear, antialiased, to height x width",
        "scale": 1 / 255,
        "mean": mean,
        "std": deviation,
    }


def _runner(model: nn.Module) -> Run:
    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(model(torch.from_numpy(images)).numpy())

    return run


def _needs(*modules: str) -> Any:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise OSError(f"{module} is missing: pip install 'torchreid-dfrst[export]'")
    return importlib.import_module(modules[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn of their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
