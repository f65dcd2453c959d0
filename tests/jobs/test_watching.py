"""What can be watched of a real job: Prometheus's metrics, those that the Grafana dashboard shows, and its metadata."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from jobs.generate import _metadata
from pipeline.run import Run
from pipeline.run_lock import RunLock
from pipeline.run_spec import RunSpec
from pipeline.settings import Settings

DASHBOARD = Path(__file__).parents[2] / "deploy/grafana.json"


def page(url: str):
    token = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=token), timeout=30) as answer:
        return answer.read().decode()


class Scraped:
    """The last value of every time series, as Prometheus finds and reads them."""

    def __init__(self, cluster):
        self.dashboard_url, self.samples = cluster.dashboard_url, {}

    def scrape(self):
        for group in json.loads(page(f"{self.dashboard_url}/api/prometheus/sd")):
            for target in group["targets"]:
                for family in text_string_to_metric_families(page(f"http://{target}/metrics")):
                    for sample in family.samples:
                        if sample.name.startswith("ray_magihuman_") and sample.labels.get("run") == "watched":
                            self.samples[sample.name, frozenset(sample.labels.items())] = sample.value

    def names(self):
        return {name for name, _ in self.samples}

    def by(self, label, name, **wanted):
        """Value of the label to the sum of the series that have it."""
        sums = {}
        for (found, labels), value in self.samples.items():
            if found == name and wanted.items() <= dict(labels).items():
                key = dict(labels)[label]
                sums[key] = sums.get(key, 0) + value
        return sums


@pytest.fixture(scope="module")
def expressions():
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


@pytest.mark.slow
def test_everything_that_the_dashboard_shows_is_found_where_prometheus_looks(
    cluster, tiny_checkpoint, manifest, tmp_path, expressions
):
    row = {"prompt": "A person speaks.", "seconds": 0.2}
    rows = [row | {"id": name, "language": language} for name, language in (("a", "en"), ("b", "en"), ("c", "de"))]
    path = manifest([*rows, row | {"id": "d", "language": "fr", "image": "absent.png"}])
    output = tmp_path / "watched"
    (output / "ledger").mkdir(parents=True)
    (output / "ledger/deaths.json").write_text(json.dumps({"a": {"conditioning": 1}}))
    command = [sys.executable, "-m", "jobs.generate", "--manifest", str(path), "--output", str(output)]
    command += ["--checkpoint", tiny_checkpoint, "--address", cluster.address]
    scraped = Scraped(cluster)
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            scraped.scrape()
            time.sleep(0.5)
    assert process.returncode == 3, (tmp_path / "log").read_text()
    scraped.scrape()

    wanted = set(re.findall(r"ray_magihuman_\w+", " ".join(expressions)))
    assert wanted - scraped.names() == set()
    kinds = r"_(bucket|count|sum|total)$"
    assert {re.sub(kinds, "", name) for name in scraped.names()} == {re.sub(kinds, "", name) for name in wanted}
    labels = {label for _, found in scraped.samples for label, _ in found} | {"le"}
    for expression in expressions:
        for named in re.findall(r"by \(([^)]*)\)", expression):
            assert set(named.split(", ")) <= labels, expression

    assert scraped.by("language", "ray_magihuman_clips_total", status="done") == {"en": 2, "de": 1}
    assert scraped.by("language", "ray_magihuman_clips_total", status="failed") == {"fr": 1}
    assert scraped.by("resolution", "ray_magihuman_clips_total") == {"256p": 4}
    stages = dict.fromkeys(("base_generation", "decoding", "writing"), 3) | {"conditioning": 4}
    assert scraped.by("stage", "ray_magihuman_stage_seconds_count") == stages
    seconds = scraped.by("stage", "ray_magihuman_busy_seconds_total")
    records = [json.loads(marker.read_text()) for marker in (output / "clips").glob("*.json")]
    decoding = sum(record["stage_seconds"]["decoding"] for record in records)
    assert seconds["decoding"] == pytest.approx(decoding, abs=1e-6)
    size = sum(mp4.stat().st_size for mp4 in (output / "clips").glob("*.mp4"))
    assert scraped.by("run", "ray_magihuman_written_bytes_total") == {"watched": size}
    assert scraped.by("run", "ray_magihuman_video_seconds_total")["watched"] == pytest.approx(0.6, abs=0.1)
    assert scraped.by("reason", "ray_magihuman_retries_total", stage="conditioning") == {"worker died": 1}
    assert min(scraped.by("stage", "ray_magihuman_model_load_seconds_count").values()) >= 1
    assert set(scraped.by("state", "ray_magihuman_rows")) == {"all", "skipped", "done", "failed", "left"}

    jobs = [job for job in json.loads(page(f"{cluster.dashboard_url}/api/jobs/")) if job["metadata"]]
    (found,) = [job["metadata"] for job in jobs if job["metadata"].get("output") == str(output)]
    assert (found["rows"], found["clips_to_make"], found["rows_skipped"], found["mode"]) == ("4", "4", "0", "distill")
    assert re.fullmatch("[0-9a-f]{32}", found["run_id"])


def test_the_dashboards_panels_take_their_data_from_the_chosen_source():
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "run"]
    shown = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in shown:
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            assert 'run=~"$run"' in target["expr"]


def test_what_opens_a_url_is_not_in_the_jobs_metadata(tmp_path):
    secret = "https://me:word@host.example/{}?X-Amz-Signature=0f3a"
    spec = RunSpec(*(secret.format(name) for name in ("rows.jsonl", "out", "model")), Settings())
    metadata = _metadata(Run(spec, Console()), RunLock(str(tmp_path)))
    assert metadata["output"] == "https://***@host.example/out?X-Amz-Signature=***"
    assert not re.search("word|0f3a", " ".join(metadata.values()))
