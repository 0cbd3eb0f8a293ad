"""Write a city to disk."""

from __future__ import annotations

import json
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from torchreid_dfrst.city.lists import write_lists
from torchreid_dfrst.city.mesh import Mesh, build
from torchreid_dfrst.city.plan import PICTURES, STREETS, VEHICLES, Plan, Settings, Shot, plan_city
from torchreid_dfrst.city.render import Pose, Projection
from torchreid_dfrst.city.street import Camera, dimmed, make_camera, observe, pose_on
from torchreid_dfrst.city.vehicles import make_vehicles
from torchreid_dfrst.files import read_json

VERSION = 1
FOLDERS = ("image_train", "image_test", "image_query")
TRAFFIC, TRAFFIC_CHANCE = 8, 0.12
SHARES_PER_WORKER = 4


def make_city(
    root: str | Path,
    *,
    identities: int = Settings.identities,
    cameras: int = Settings.cameras,
    seed: int = Settings.seed,
    workers: int = 1,
    progress: Callable[[int, int], Any] | None = None,
    **settings: Any,
) -> Path:
    """Draw a city and write it in VeRi-776's format.

    Args:
        root: the data set's own folder, for example ``data/city``. Made if it does not exist.
        identities: number of vehicles.
        cameras: number of cameras.
        seed: of everything; the files depend on nothing but the settings.
        workers: processes that draw. A script that asks for more than one needs the ``__main__`` guard.
        progress: called with the numbers of images written so far and of all images.
        settings: the other fields of ``Settings``.

    Returns:
        ``root``. A city with these settings that is already there is kept.

    Raises:
        ValueError: a setting is unknown or out of range, or ``root`` holds something else: another city, a city that
            was not finished, or other files.
        OSError: ``root`` cannot be made or written.
    """
    root = Path(root)
    unknown = sorted(set(settings) - set(Settings.__dataclass_fields__))
    if unknown:
        known = ", ".join(Settings.__dataclass_fields__)
        raise ValueError(f"a city has no setting {unknown[0]!r}: it has {known}")
    if workers < 1:
        raise ValueError(f"workers is {workers}: at least one process has to draw")
    wanted = Settings(identities=identities, cameras=cameras, seed=seed, **settings)
    if _is_there(root, wanted):
        return root
    plan = plan_city(wanted)
    for folder in FOLDERS:
        try:
            (root / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{root} cannot be written ({error}): choose another folder") from error
    done = 0
    for count in _draw_all(plan, root, workers):
        done += count
        if progress is not None:
            progress(done, len(plan.shots))
    write_lists(plan, root)
    _write_card(plan, root)
    return root


def _is_there(root: Path, settings: Settings) -> bool:
    """Whether ``root`` holds this very city, whole."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file: give the folder that the data set goes to")
    if not root.exists() or not any(root.iterdir()):
        return False
    card = root / "city.json"
    if not card.is_file():
        raise ValueError(
            f"{root} is not empty and holds no finished city (no city.json): choose a new folder, or empty this one if "
            "it is left over from a city that was not finished"
        )
    found = read_json(card, "description of a city", "choose a new folder")
    wanted = {"version": VERSION, "settings": asdict(settings)}
    differing = [
        f"{name} is {found.get('settings', {}).get(name)!r} there, {value!r} here"
        for name, value in asdict(settings).items()
        if found.get("settings", {}).get(name) != value
    ]
    if found.get("version") != VERSION:
        differing.append(f"version is {found.get('version')!r} there, {VERSION} here")
    if differing or any(found.get(key) != value for key, value in wanted.items()):
        raise ValueError(f"{root} holds another city ({'; '.join(differing)}): remove it or choose another folder")
    for folder, count in found["images"].items():
        there = len(list((root / folder).glob("*.jpg")))
        if there != count:
            raise ValueError(f"{root / folder} holds {there} of {count} images: remove {root} and make it again")
    return True


def _write_card(plan: Plan, root: Path) -> None:
    """``city.json``, written last: where it is, the city is whole."""
    vehicles = [
        {
            "identity": vehicle.identity,
            "split": "test" if vehicle.identity in plan.test else "train",
            "type": vehicle.model.kind,
            "colour": vehicle.colour,
            "twin_of": vehicle.twin_of,
            "differs_by": vehicle.differs_by,
        }
        for vehicle in plan.vehicles
    ]
    test = sum(shot.identity in plan.test for shot in plan.shots)
    card = {
        "version": VERSION,
        "settings": asdict(plan.settings),
        "images": dict(zip(FOLDERS, (len(plan.shots) - test, test, len(plan.queries)), strict=True)),
        "vehicles": vehicles,
    }
    (root / "city.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def _draw_all(plan: Plan, root: Path, workers: int) -> Iterator[int]:
    """Draw every vehicle, in this process or in several; gives the number of images of each piece of work done."""
    everyone = [vehicle.identity for vehicle in plan.vehicles]
    if workers == 1:
        yield from _draw(plan, root, everyone)
        return
    count = min(len(everyone), workers * SHARES_PER_WORKER)
    shares = [[int(k) for k in share] for share in np.array_split(everyone, count)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for task in as_completed([pool.submit(_draw_share, plan.settings, root, share) for share in shares]):
            yield task.result()


def _draw_share(settings: Settings, root: Path, identities: Sequence[int]) -> int:
    return sum(_draw(plan_city(settings), root, identities))


def _draw(plan: Plan, root: Path, identities: Sequence[int]) -> Iterator[int]:
    """Draw and write all images of some vehicles; gives the number of images after each vehicle."""
    settings = plan.settings
    extras = make_vehicles(TRAFFIC, settings.stream(VEHICLES, 1), models=TRAFFIC, twins=0.0)
    traffic = [build(vehicle) for vehicle in extras]
    streets: dict[int, Camera] = {}
    queries = {shot.name for shot in plan.queries}
    shots_of: defaultdict[int, list[Shot]] = defaultdict(list)
    for shot in plan.shots:
        shots_of[shot.identity].append(shot)
    for identity in identities:
        with one_thread():
            mesh = build(plan.vehicles[identity - 1])
            for shot in shots_of[identity]:
                if shot.camera not in streets:
                    stream = settings.stream(STREETS, shot.camera)
                    streets[shot.camera] = make_camera(shot.camera, plan.roads, stream, traffic)
                data = _picture(settings, shot, mesh, streets[shot.camera], traffic)
                folder = "image_test" if identity in plan.test else "image_train"
                (root / folder / shot.name).write_bytes(data)
                if shot.name in queries:
                    (root / "image_query" / shot.name).write_bytes(data)
        yield len(shots_of[identity])


def _picture(settings: Settings, shot: Shot, mesh: Mesh, camera: Camera, traffic: list[Mesh]) -> bytes:
    """One image as JPEG."""
    rng = np.random.default_rng([settings.seed, PICTURES, shot.identity, shot.camera, shot.frame])
    cloud = 0.35 + 0.35 * np.sin(2 * np.pi * shot.passage.time_s / 1500 + settings.seed)
    light = dimmed(camera.light, float(cloud))
    pose = pose_on(shot.passage, shot.past_m)
    projection = Projection.of(mesh, pose, camera.lens, light)
    behind = None
    if rng.random() < TRAFFIC_CHANCE:
        along, across = rng.uniform(-4, 4), rng.uniform(3.2, 4.2)
        left = np.array([-np.sin(pose.heading), np.cos(pose.heading)])
        if left @ camera.lens.rotation[2, :2] < 0:
            left = -left
        x, y = left * across + along * np.array([np.cos(pose.heading), np.sin(pose.heading)]) + (pose.x, pose.y)
        other = traffic[int(rng.integers(len(traffic)))]
        behind = Projection.of(other, Pose(float(x), float(y), pose.heading + np.pi), camera.lens, light)
    picture = observe(camera, projection, behind, light, rng)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, camera.quality])
    assert done, "OpenCV encodes any uint8 picture"
    return data.tobytes()


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread: the pictures are small, and the machine may be shared."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
