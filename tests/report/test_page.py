"""The page: one file without a network, that no name can break, in Debian's Chromium."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from torchreid_dfrst.cli import invoke
from torchreid_dfrst.report.camera_map import places
from torchreid_dfrst.report.canvas import small
from torchreid_dfrst.report.page import Page
from torchreid_dfrst.sightings import CameraNetwork

NASTY = '</script><script>document.title="broken"</script><img src=x onerror=alert(1)>&amp;"\''
NETWORK = CameraNetwork([0, 1, 2], [[0, 300, 500], [300, 0, 400], [500, 400, 0]], [NASTY, "north gate", "south gate"])


@pytest.fixture(scope="session")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("there is no Chromium to open pages in: apt-get install chromium")
    return found


@pytest.fixture
def opened(chromium, tmp_path):
    """Open a page with the network off, run some JavaScript in it, and give what that returns."""

    def run(text, script):
        driver = f"""<script>
        window.addEventListener("load", () => {{
          const answer = (() => {{ {script} }})();
          const box = document.createElement("pre"); box.id = "answer"; box.textContent = JSON.stringify(answer);
          document.body.append(box);
        }});</script></body>"""
        path = tmp_path / "driven.html"
        path.write_text(text.replace("</body>", driver), encoding="utf-8")
        words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
        words += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--dump-dom", path.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert console == [], "no error and no warning of the page"
        return json.loads(html.unescape(re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.S)[1]))

    return run


@pytest.fixture
def page(tmp_path):
    """Three queries at three cameras: right, wrong, nobody knows."""
    names = []
    for k in range(6):
        names.append(str(tmp_path / f"{k}.jpg"))
        Image.new("RGB", (60, 40), (40 * k, 90, 0)).save(names[-1])
    made = Page("a page", ["appearance", "+ ST"], ["a note"], NETWORK)
    for k, right in enumerate((True, False, None)):
        camera = NETWORK.called(k)
        query = {"name": names[k], "camera": camera, "time": 60.0 * k, "vehicle": NASTY if k == 0 else f"car {k}"}
        hit = {"name": names[5 - k], "camera": "south gate", "time": 60.0 * k + 30, "vehicle": "car 1", "right": right}
        why = {
            "similarity": 0.5,
            "branches": [["whole", 0.5]],
            "first": [1, -5, 7, 127],
            "second": [0] * 4,
            "size": [2, 2],
        }
        more = {"distance": 1.02, "appearance": 1.0, "transit": 0.1, "weight": 0.2, "why": why}
        assert made.add(query, [[{**hit, **more}], []])
    return made


def test_it_opens_filters_and_says_why(page, opened):
    found = opened(page.text(), """
        const change = (id, value, event) => {
          const box = document.getElementById(id); box.value = value; box.dispatchEvent(new Event(event)); };
        const count = () => document.querySelectorAll("button.query").length, out = {};
        out.all = count(); out.loaded = performance.now();
        change("camera", "north gate", "change"); out.camera = count(); change("camera", "", "change");
        change("verdict", "wrong", "change"); out.wrong = count(); change("verdict", "", "change");
        change("from", "00:01:00", "input"); out.from = count(); change("from", "", "input");
        change("text", "car 2", "input"); out.text = count(); change("text", "", "input");
        document.querySelectorAll("button.query")[1].click();
        document.querySelector("button.hit").click();
        out.why = document.getElementById("why").textContent;
        out.heat = document.querySelectorAll("#why rect").length;
        out.map = document.querySelectorAll("#map circle").length;
        out.line = document.querySelectorAll("#timeline circle").length;
        out.border = getComputedStyle(document.querySelector("button.hit")).borderTopColor;
        return out;""")  # fmt: skip
    assert found.pop("loaded") < 2000
    assert found.pop("border") == "rgb(215, 48, 39)"
    why = found.pop("why")
    assert "= both1.0200" in why and "similarity, their sum0.5000" in why
    assert found == {"all": 3, "camera": 1, "wrong": 1, "from": 2, "text": 1, "heat": 8, "map": 3, "line": 1}


def test_an_empty_list_gives_way_to_the_next(page, opened):
    """Trip 0 without a hit stands before the list of hits."""
    page.rows = ["its trip, by time", "+ ST"]
    for query in page._queries:
        query["lists"].reverse()
    page.add({"name": "alone.jpg", "camera": "south gate", "time": 9.0, "vehicle": ""}, [[], []])
    found = opened(page.text(), """
        const out = {}, main = document.getElementById("main");
        out.notes = [...main.querySelectorAll("p.notes")].map(p => p.textContent);
        out.heads = [...main.querySelectorAll("h2")].map(h => h.textContent);
        out.asked = main.querySelectorAll(".asked").length; out.line = main.querySelectorAll("#timeline circle").length;
        document.getElementById("verdict").value = "right";
        document.getElementById("verdict").dispatchEvent(new Event("change"));
        out.right = document.querySelectorAll("button.query").length;
        document.getElementById("verdict").value = "";
        document.getElementById("verdict").dispatchEvent(new Event("change"));
        document.querySelectorAll("button.query")[3].click();
        out.alone = main.textContent.split("nothing found").length - 1;
        return out;""")  # fmt: skip
    assert "its trip, by time: nothing found" in found.pop("notes")
    assert found == {"heads": ["+ ST", "cameras, as far apart as their distances say (+ ST)", "time line (+ ST)"],
                     "asked": 1, "line": 1, "right": 1, "alone": 2}  # fmt: skip


def test_names_cannot_inject_markup(page, opened):
    page.title = NASTY
    found = opened(page.text(), """
        return {title: document.title, scripts: document.querySelectorAll("script").length,
          pictures: document.querySelectorAll('img[src="x"]').length,
          vehicle: document.querySelector("button.query span").firstChild.textContent,
          camera: document.querySelector("#map text").textContent,
          heading: document.querySelector("h1").textContent};""")  # fmt: skip
    assert found == {
        "title": NASTY, "scripts": 3, "pictures": 0, "vehicle": NASTY, "camera": NASTY, "heading": NASTY,
    }  # fmt: skip


def test_nothing_is_fetched(page):
    text = page.text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    assert "default-src 'none'" in text and "@import" not in text and "url(" not in text


def test_what_has_no_room_is_left_out_and_said(tmp_path):
    rng, limit = np.random.default_rng(0), 300_000
    made = Page("x", ["appearance"], limit=limit)
    for k in range(60):
        name = str(tmp_path / f"{k}.jpg")
        Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(name)
        made.add({"name": name, "camera": "c", "time": None, "vehicle": ""}, [[]])
    text = made.text()
    shown = text.count("data:image/jpeg")
    assert 5 < shown < 60 and len(text.encode()) <= limit
    assert f"left out: {60 - shown} queries" in text


@pytest.mark.parametrize("held", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", b"torn"])
def test_small_images_are_jpeg(held):
    made = Page("x", ["appearance"], read=lambda name: held)
    with pytest.raises(ValueError, match=r"the small image of a\.jpg is no JPEG"):
        made.add({"name": "a.jpg"}, [[]])


def test_images_that_are_gone_are_said():
    made = Page("x", ["appearance"])
    made.add({"name": "gone.jpg", "camera": "c", "time": None, "vehicle": ""}, [[]])
    assert "1 image is not where the features say" in made.text() and small("gone.jpg") is None


def test_cameras_lie_as_far_apart_as_their_distances_say():
    found = {one["name"]: (one["x"], one["y"]) for one in places(NETWORK)}
    apart = np.hypot(*np.subtract(found["north gate"], found["south gate"]))
    assert apart == pytest.approx(400, abs=0.2) and places(None) == []


def test_a_page_of_an_evaluation_explains_its_first_hits(tiny_run, opened, tmp_path):
    words = f"page {tiny_run}/features.npz --out {tmp_path}/p.html --weights {tiny_run}/run/weights.safetensors"
    assert invoke([*words.split(), "--queries", "5", "spacetime.model", "lognormal"]) in (0, None)
    found = opened((tmp_path / "p.html").read_text(), """
        const out = {queries: D.queries.length, rows: D.rows, sums: [], distances: []};
        for (const q of D.queries) {
          for (const list of q.lists) if (list.length) {
            const why = list[0].why;
            out.sums.push(why.branches.reduce((sum, b) => sum + b[1], 0) - why.similarity);
            out.distances.push(Math.sqrt(Math.max(0, 2 - 2 * why.similarity)) - list[0].appearance);
          }
          const hit = q.lists[1][0]; out.distances.push(hit.appearance + hit.weight * hit.transit - hit.distance);
        }
        return out;""")  # fmt: skip
    assert found["queries"] == 5 and found["rows"] == ["appearance", "+ ST", "+ re-ranking", "+ ST + re-ranking"]
    assert max(map(abs, found["sums"])) < 2e-4 and max(map(abs, found["distances"])) < 2e-3
