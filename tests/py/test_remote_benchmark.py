"""The benchmark of fetching: its server serves what it should, both sides fetch all of it, and bounds are bounds."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from remote_checkpoints import write_converted


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


def get(url: str, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return answer.read(), {name.lower(): value for name, value in answer.headers.items()}


def test_the_server_sends_ranges_and_nothing_outside_its_folder(tmp_path):
    import remote

    (tmp_path / "served").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "served/a b").write_bytes(bytes(range(100)))
    with remote.served(str(tmp_path / "served")) as url:
        body, headers = get(f"{url}/a%20b", {"Range": "bytes=10-19"})
        assert body == bytes(range(10, 20))
        assert headers["content-range"] == "bytes 10-19/100"
        assert get(f"{url}/a%20b", {})[0] == bytes(range(100))
        for name in ("none", "..%2Fsecret", "../secret"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(f"{url}/{name}", {})


def test_both_sides_fetch_every_byte(tmp_path):
    import children
    import remote

    folder = write_converted(tmp_path / "model")
    path = sorted(folder.glob("*.safetensors"))[0]
    (tmp_path / "parts").mkdir()
    with remote.served(str(folder)) as url:
        theirs = remote.curl(url, path, 4, str(tmp_path / "parts"))
        job = {"url": url, "disk": str(tmp_path), "range_mib": 1, "in_flight": 4}
        ours = children.measure("remote load", job, lambda: None)
    parts = sorted((tmp_path / "parts").iterdir(), key=lambda part: int(part.name))
    assert b"".join(part.read_bytes() for part in parts) == path.read_bytes()
    assert theirs["nbytes"] == path.stat().st_size
    assert ours["nbytes"] == sum(one.stat().st_size for one in folder.glob("*.safetensors"))
    assert 0 < ours["first_bytes_s"] < ours["load_s"] <= ours["published_s"]


def test_bounds_are_shares_of_the_other_side(tmp_path):
    import remote

    def way(rate: float) -> dict:
        return {"gb_per_s": {"median": rate}, "runs": [{"first_bytes_s": 0.1, "load_s": 1.0}]}

    rates = {"curl, discarded": 2.0, "sllm, pool": 1.7, "curl, files": 1.0, "sllm, pool and disk": 0.5}
    bounds = remote.evaluate({"ways": {name: way(rate) for name, rate in rates.items()}})
    assert [bound["value"] for bound in bounds] == [0.85, 0.5, 0.1]
    assert json.dumps(bounds)
