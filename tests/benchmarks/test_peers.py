"""What is told of peers: medians of the rounds, and each system beside the first peer."""

from __future__ import annotations

import pytest

from benchmarks import peers
from benchmarks.peers import Figures


def test_of_each_figure_the_median_is_told_and_all_that_failed() -> None:
    rounds = [Figures(100.0, 3.0, 9.0, 1.0, 0), Figures(300.0, 1.0, 7.0, 3.0, 2), Figures(200.0, 2.0, 8.0, 2.0, 1)]
    assert peers.median(rounds) == Figures(200.0, 2.0, 8.0, 2.0, 3)


def test_each_system_stands_beside_the_first_peer(capsys: pytest.CaptureFixture[str]) -> None:
    medians = {(16, "product"): Figures(50.0, 4.0, 9.0, 1.5, 0), (16, "hardcap, 2"): Figures(200.0, 2.0, 8.0, 1.0, 1)}
    peers.show(medians, {"product": 140, "hardcap, 2": 90}, "hardcap")
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| product | 16 | 50 | 0.25x | 4.00 | 2.00x | 9.00 | 1.50 | 0 | 140 |",
        "| hardcap, 2 | 16 | 200 | 1.00x | 2.00 | 1.00x | 8.00 | 1.00 | 1 | 90 |",
    ]
