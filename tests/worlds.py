"""Small worlds to fit on: vehicles that drive along a straight road past a few cameras."""

from pathlib import Path

import numpy as np

from torchreid_dfrst.sightings import CameraNetwork, Sightings


def road(cameras: int = 5, step_m: float = 150.0) -> CameraNetwork:
    """Cameras with labels 3, 5, 7, ... in a row, so that a label is never its own row."""
    at = np.arange(cameras) * step_m
    labels = np.arange(cameras) * 2 + 3
    return CameraNetwork(labels[::-1], np.abs(at[::-1, None] - at[None, ::-1]))


def traffic(
    seed: int, vehicles: int = 40, cameras: int = 5, tick_s: float = 0.2, speed: float = 10.0, first: int = 0
) -> Sightings:
    """Each vehicle passes a run of cameras once in either direction, two images a pass."""
    rng = np.random.default_rng(seed)
    rows = []
    for vehicle in range(vehicles):
        low, high = sorted(rng.choice(cameras, 2, replace=False))
        run = np.arange(low, high + 1)[:: rng.choice([-1, 1])]
        start, own = rng.uniform(0, 1800), speed * rng.lognormal(0, 0.2)
        for camera in run:
            passed = start + abs(camera - run[0]) * 150.0 / own + rng.exponential(3)
            rows += [(camera * 2 + 3, passed + k, vehicle + first) for k in range(2)]
    camera, time_s, identity = (np.array(column) for column in zip(*rows, strict=True))
    return Sightings(camera, np.rint(time_s / tick_s) * tick_s if tick_s else time_s, identity)


def write_lists(folder: Path) -> Path:
    """Lists of a data set in VeRi-776's format, without an image: training and test vehicles on one road."""
    train, test, network = traffic(0, 40, first=1), traffic(3, 25, first=500), road()
    for split, seen in (("train", train), ("test", test), ("query", test[::4])):
        rows = zip(seen.identity, seen.camera, seen.time_s, strict=True)
        names = [f"{i:04d}_c{c + 1:03d}_{round(t * 25):08d}_0.jpg" for i, c, t in rows]
        (folder / f"name_{split}.txt").write_text("\n".join(names))
    (folder / "camera_Dist.txt").write_text("\n".join(" ".join(map(str, row)) for row in network.distance_m))
    (folder / "camera_ID.txt").write_text(" ".join(map(str, network.cameras + 1)))
    return folder
