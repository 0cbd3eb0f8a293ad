"""The text files of VeRi-776, to the byte: names, labels, tracks, answers and distances."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from torchreid_dfrst.city.bodies import TYPES
from torchreid_dfrst.city.plan import Plan, Shot
from torchreid_dfrst.city.vehicles import COLOURS

END = "\r\n"
ROUND_M = 10

README = """SYNTHETIC CITY - NOT VeRi-776

Drawings of vehicles that do not exist, made by the make_city tool of torchreid-dfrst, in the layout of
VeRi-776. Do not report results on them as results on VeRi-776. Settings and vehicles: city.json.
"""


def write_lists(plan: Plan, root: Path) -> None:
    """Write every text file but ``city.json``."""
    train = [shot for shot in plan.shots if shot.identity not in plan.test]
    test = [shot for shot in plan.shots if shot.identity in plan.test]
    tracks = track_lines(plan)
    contents = {
        "ReadMe.txt": README.splitlines(),
        "name_train.txt": [shot.name for shot in train],
        "name_test.txt": [shot.name for shot in test],
        "name_query.txt": [shot.name for shot in plan.queries],
        "train_label.xml": label_lines("TrainingImages", train, plan),
        "test_label.xml": label_lines("TestImages", test, plan),
        "test_track.txt": tracks,
        "test_track_VeRi.txt": tracks,
        "gt_index.txt": answer_lines(plan.queries, test, same_camera=False),
        "jk_index.txt": answer_lines(plan.queries, test, same_camera=True),
    }
    for name, lines in contents.items():
        _write(root / name, "".join(line + END for line in lines))
    unfinished = {
        "list_color.txt": [f"{k} {name}" for k, name in enumerate(COLOURS, start=1)],
        "list_type.txt": [f"{k} {name}" for k, name in enumerate(TYPES, start=1)],
        "camera_ID.txt": [" ".join(map(str, plan.camera_order))],
        "camera_Dist.txt": distance_lines(plan),
    }
    for name, lines in unfinished.items():
        _write(root / name, END.join(lines))  # these four have no newline at their end


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("gb2312"))


def label_lines(tag: str, shots: list[Shot], plan: Plan) -> list[str]:
    """Lines of ``train_label.xml`` or ``test_label.xml``."""
    lines = ['<?xml version="1.0" encoding="gb2312" ?>', f'<{tag} Version="1.0">', f'    <Items number="{len(shots)}">']
    for shot in shots:
        vehicle = plan.vehicles[shot.identity - 1]
        lines.append(
            f'        <Item imageName="{shot.name}" vehicleID="{shot.identity:04d}" cameraID="c{shot.camera:03d}" '
            f'colorID="{COLOURS.index(vehicle.colour) + 1}" typeID="{TYPES.index(vehicle.model.kind) + 1}" />'
        )
    return [*lines, "    </Items>", f"</{tag}>"]


def track_lines(plan: Plan) -> list[str]:
    """Lines of ``test_track.txt``; tracks are counted within a camera in the order of time."""
    tracks = [track for track in plan.tracks if track[0].identity in plan.test]
    counted: defaultdict[int, int] = defaultdict(int)
    lines = []
    for track in sorted(tracks, key=lambda track: (track[0].frame, track[0].identity)):
        camera = track[0].camera
        counted[camera] += 1
        header = f"{track[0].identity:04d}_c{camera:03d}_t{counted[camera]:04d}"
        lines.append(header + " " + "".join(shot.name + " " for shot in track))
    return sorted(lines)


def answer_lines(queries: list[Shot], gallery: list[Shot], *, same_camera: bool) -> list[str]:
    """Lines of ``gt_index.txt`` (other cameras) or ``jk_index.txt`` (the same one): places in the gallery, from 1."""
    places: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for place, shot in enumerate(gallery, start=1):
        places[shot.identity].append((place, shot.camera))
    return [
        "".join(f"{place} " for place, camera in places[query.identity] if (camera == query.camera) == same_camera)
        for query in queries
    ]


def distance_lines(plan: Plan) -> list[str]:
    """Lines of ``camera_Dist.txt``: metres rounded to 10, upper triangle, rows as in ``camera_ID.txt``."""
    rows = np.array(plan.camera_order) - 1
    metres = plan.roads.camera_distance_m[np.ix_(rows, rows)]
    rounded = np.triu(np.round(metres / ROUND_M).astype(int) * ROUND_M, k=1)
    return [" ".join(map(str, row)) for row in rounded]
