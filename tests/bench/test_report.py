"""The table and the JSON of what was measured."""

from __future__ import annotations

import json

from lmdbpipe.bench.report import Report, Row, as_json_dict, as_text


def test_the_table() -> None:
    """Figures stand in columns: samples/s, MB/s of payload, and times the floor of the same cache."""
    rows = [
        Row(cache="warm", what="floor: copy of batches out of a memory map", how="inline", rates=[1e6, 3e6, 2e6]),
        Row(cache="warm", what="stream in order", how="inline", rates=[1e6]),
        Row(cache="warm", what="stream in order", how="2 workers", missing="PicklingError: cannot"),
        Row(cache="cold", what="floor: read of the file, front to back", how="inline", rates=[1e5]),
        Row(cache="cold", what="stream in order", how="inline", rates=[2e5]),
    ]
    report = Report(
        file="x.lmdb",
        length=1000,
        payload_bytes=3_000_000,
        file_bytes=3_100_000,
        batch_size=64,
        rounds=3,
        transform="",
        rows=rows,
        first_batch_ms={"in order": 4.25, "shuffled": 5.0},
        memory_bytes=None,
        notes=["a note"],
    )
    text = as_text(report)
    lines = {line.split("inline")[0].strip(): line.split()[-3:] for line in text.splitlines() if "inline" in line}
    assert lines["floor: copy of batches out of a memory map"] == ["2,000,000", "6,000.0", "1.000"]
    assert "stream in order  " in text
    assert ["1,000,000", "3,000.0", "0.500"] in [line.split()[-3:] for line in text.splitlines()]
    assert lines["stream in order"] == ["200,000", "600.0", "2.000"]
    assert "2 workers  not measured: PicklingError: cannot" in text
    assert "Time to the first batch: 4.2 ms in order, 5.0 ms shuffled" in text
    assert text.endswith("Memory of a stream, at most: not known\nNote: a note")
    assert len({len(line) for line in text.splitlines() if "inline" in line or "samples/s" in line}) == 1

    data = json.loads(json.dumps(as_json_dict(report)))
    assert data["rows"][0]["rates"] == [1e6, 3e6, 2e6]
    assert data["rows"][0]["samples_per_second"] == 2e6
    assert data["rows"][2]["samples_per_second"] is None
