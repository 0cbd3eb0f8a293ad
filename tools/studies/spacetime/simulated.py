"""A simulated appearance embedding for real sightings: what a re-ID network would see, without one pixel.

Every vehicle is one of 40 look-alike models plus what is its own. Everything that is not the vehicle is multiplied by
one ``difficulty``: the camera's shift, a viewpoint that changes from pass to pass along directions of its own, what all
images of a pass share, and what only one image has. The difficulty is the only knob; ``tools.studies.spacetime
simulate`` sets it so that appearance alone reaches a wanted mAP on the official lists. It says nothing about any
network: it is a stage for space and time.
"""

from __future__ import annotations

import numpy as np

from torchreid_dfrst.features import Extraction, Features
from torchreid_dfrst.retrieval.metrics import evaluate
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.passes import passes

SEED, WIDTH, LOOK_ALIKES = 776, 128, 40
IDENTITY, CAMERA, VIEWPOINT, PASS, IMAGE = 0.7, 0.5, 0.6, 0.7, 0.4
# of VeRi-776: mAP by appearance alone in percent -> difficulty
DIFFICULTY = {84.5: 0.66797, 65.0: 0.91797, 40.0: 1.32422}


def level(text: str) -> tuple[str, float]:
    """Name and difficulty of an appearance.

    Args:
        text: a wanted mAP in percent that ``DIFFICULTY`` has, as ``"84.5"``, or any with its difficulty, as
            ``"50=1.17"``.

    Raises:
        ValueError: no such level, or not numbers.
    """
    wanted, sign, own = text.partition("=")
    try:
        name, difficulty = f"{float(wanted):g}", float(own) if sign else DIFFICULTY.get(float(wanted))
    except ValueError:
        raise ValueError(f"simulated appearance {text!r}: give a mAP in percent, or MAP=DIFFICULTY") from None
    if difficulty is None or not 0 <= difficulty < np.inf:
        raise ValueError(
            f"simulated appearance {text}: there are {', '.join(f'{known:g}' for known in DIFFICULTY)}; for another "
            f"`python -m tools.studies.spacetime simulate --root DIR --mAP {name}` finds its difficulty: give "
            f"{name}=DIFFICULTY"
        )
    return name, difficulty


def embed(sightings: Sightings, difficulty: float, seed: int = SEED, stream: int = 0) -> np.ndarray:
    """``(N, 128)`` float32, L2-normalised; rows of one path are equal.

    Args:
        sightings: images with identities, times and paths.
        difficulty: ``>= 0``; 0 shows nothing but the vehicle.
        seed: of everything drawn.
        stream: lists with other vehicles take another number; looks and cameras stay the same.
    """
    common, generator = np.random.default_rng(seed), np.random.default_rng([seed, stream])
    looks = common.standard_normal((3, LOOK_ALIKES, WIDTH), dtype=np.float32)
    cameras = common.standard_normal((sightings.camera.max(initial=0) + 1, WIDTH), dtype=np.float32)

    def drawn(labels: np.ndarray, width: int = WIDTH) -> np.ndarray:
        values, place = np.unique(labels, return_inverse=True)
        return generator.standard_normal((len(values), width), dtype=np.float32)[place]

    vehicle, place = np.unique(sightings.identity, return_inverse=True)
    look = generator.integers(LOOK_ALIKES, size=len(vehicle))[place]
    label = passes(sightings, by_identity=True)
    x = looks[0, look] + IDENTITY * drawn(sightings.identity)
    angle = drawn(label, 2)
    x += difficulty * VIEWPOINT * (angle[:, :1] * looks[1, look] + angle[:, 1:] * looks[2, look])
    x += difficulty * (CAMERA * cameras[sightings.camera] + PASS * drawn(label) + IMAGE * drawn(sightings.path))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def extraction(
    train: Sightings, query: Sightings, gallery: Sightings, network: CameraNetwork | None, difficulty: float
) -> Extraction:
    """Simulated features of all lists; a query image is the same image in the gallery."""
    shown, asked = np.split(embed(Sightings.concatenate([gallery, query]), difficulty), [len(gallery)])
    known = embed(train, difficulty, stream=1)
    source = {"simulated": True, "difficulty": difficulty, "seed": SEED}
    parts = Features(asked, query), Features(shown, gallery)
    return Extraction(*parts, train=train, train_features=Features(known, train), network=network, source=source)


def appearance_map(run: Extraction) -> float:
    """Mean average precision by appearance alone, percent."""
    query, gallery = run.query.sightings, run.gallery.sightings
    distance = -run.query.embedding @ run.gallery.embedding.T
    return 100 * evaluate(distance, query.identity, gallery.identity, query.camera, gallery.camera).mAP
