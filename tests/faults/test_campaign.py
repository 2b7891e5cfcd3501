"""The campaign's tally: what several machines have found is one table."""

import json

from tests.faults import campaign
from tests.faults.faults import KINDS, WORDS

SIMULATED = [
    {
        "kind": "simulated",
        "seed": seed,
        "iterations": 1,
        "wrong": "" if seed else "lost a file",
        "codes": [137, 0],
        "faults": [f"kill after at {40 + seed} trainer fsync manifest.json"],
    }
    for seed in range(3)
]
REAL = {
    "kind": "real",
    "seed": 4,
    "wrong": "",
    "codes": [-9, 1, 0],
    "kills": [
        {"name": "trainer rename tb/events.out.tfevents.1764439773.host.17"},
        {"name": "trainer rename tb/events.out.tfevents.1764439801.host.17"},
    ],
}
TINY = {"kind": "tiny", "seed": 42, "wrong": ""}


def test_results_of_two_machines_count_as_those_of_one():
    whole = campaign.tally([*SIMULATED, REAL, TINY])
    parts = [SIMULATED[:1], [*SIMULATED[1:], TINY], [REAL]]
    assert campaign.merged(*map(campaign.tally, parts)) == whole
    assert whole["simulated"] == {
        "next": 3,
        "schedules": 3,
        "good": 2,
        "faults": {"kill after": 3},
        "codes": {"137": 3, "0": 3},
        "points": ["trainer fsync manifest.json"],
    }
    assert whole["real"]["faults"] == {"kill": 2} and len(whole["real"]["points"]) == 1


def test_what_is_kept_counts_once_and_the_next_campaign_goes_on_behind_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(campaign, "KEPT", tmp_path / "campaign.json")
    for record in (*SIMULATED, REAL):
        campaign.append(tmp_path, record)
    before = campaign.table(campaign.tally(campaign.results(tmp_path)))
    campaign.keep(tmp_path)
    assert campaign.results(tmp_path) == []
    assert campaign.table(campaign.kept()) == before
    assert (campaign.first("simulated"), campaign.first("real")) == (3, 5)
    assert "| simulated | 3 | 6 | 3 | 1 | 2 of 3 |" in before
    assert "| killed | 3 | 1 |" in before
    assert json.loads((tmp_path / "campaign.json").read_text()) == campaign.kept()


def test_every_fault_has_a_description_of_its_own():
    drawn = {what for kinds in KINDS.values() for what in kinds}
    assert drawn == WORDS.keys() >= campaign.kept()["simulated"]["faults"].keys()
    assert len(set(WORDS.values())) == len(WORDS)
