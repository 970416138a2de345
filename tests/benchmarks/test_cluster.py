"""The simulation of clusters against cases computed by hand, and a run with measured inputs."""

import math
import re
import sys

import pytest
from benchmark_runs import BENCHMARKS, run_benchmark

sys.path.insert(0, str(BENCHMARKS))
from cluster import Cluster, Costs, files_of, simulate

COSTS = Costs(block=2.0)


@pytest.mark.parametrize("queue", [False, True])
@pytest.mark.parametrize(("files", "nodes"), [(12, 1), (12, 4), (13, 4), (3, 4)])
def test_equal_files_without_noise(files, nodes, queue):
    """The most files that a node has, times 5 blocks of 2 seconds."""
    found = simulate([5] * files, COSTS, Cluster(nodes, queue=queue))
    assert found.seconds == math.ceil(files / nodes) * 10
    assert found.encoding == pytest.approx(files * 10 / (nodes * found.seconds))
    assert found.idle == pytest.approx(1 - found.encoding)


def test_start_upload_and_costs_of_files():
    """Of 4 nodes, each gets a quarter of the server's 100 bytes/s: 200 bytes take 8 s."""
    costs = Costs(block=8.0, open=3.0, file=0.5, rows=10, bytes_out=6.0)
    cluster = Cluster(4, cores=2, model=200, server=100, net=1000, store=80)
    found = simulate([1] * 8, costs, cluster)
    # 8 + 3 to start; two files of 8/2 s, an upload of 60 bytes at 20 bytes/s, and 0.5 s.
    assert found.seconds == 11 + 2 * (4 + 3 + 0.5)
    assert found.starting == pytest.approx(11 / 26)


@pytest.mark.parametrize(("parts", "lost"), [(True, 1.0), (False, 5.0)])
def test_one_restart(parts, lost):
    """At 5 s, in the middle of the third block: that block is lost, or the file."""
    cluster = Cluster(2, restart=30.0, parts=parts)
    found = simulate([10, 10], COSTS, cluster, failures={1: [5.0]})
    assert found.seconds == 20 + 30 + lost
    assert found.restarts == 1
    assert found.restarting == pytest.approx((30 + lost) / (2 * found.seconds))


def test_one_slow_node():
    """With shares everyone waits for it; with a queue it takes fewer files."""
    slow = {1: 3.0}
    assert simulate([1] * 6, COSTS, Cluster(2), slow=slow).seconds == 3 * 2 * 3
    # It takes a file at 0 and at 6; the other one takes four, until 8.
    found = simulate([1] * 6, COSTS, Cluster(2, queue=True), slow=slow)
    assert found.seconds == 12
    assert found.idle == pytest.approx(4 / 24)


def test_a_driver_that_hands_out_one_file_after_the_other():
    """100 nodes ask at once, and wait 1, 2, ... seconds; each file takes 2 seconds."""
    found = simulate([1] * 100, COSTS, Cluster(100, queue=True, dispatch=1.0))
    assert found.seconds == 102
    many = simulate([1] * 1000, COSTS, Cluster(100, queue=True, dispatch=1.0))
    assert many.seconds == 1002  # a node a second is all that the driver feeds
    assert many.encoding == pytest.approx(1000 * 2 / (100 * 1002))


def test_random_restarts_come_as_often_as_is_said():
    cluster = Cluster(200, mtbf=1000.0, restart=0.0)
    found = simulate([50] * 200, COSTS, cluster, seed=1)  # 100 s each
    assert found.restarts == pytest.approx(20, abs=14)  # three standard deviations
    assert found.restarting * 200 * found.seconds < found.restarts * 2  # at most a block each


def test_noise_averages_out():
    noisy = Costs(block=2.0, spread=0.5)
    found = simulate([400] * 10, noisy, Cluster(1))
    assert found.seconds == pytest.approx(8000, rel=0.03)


def test_files_of_rows():
    assert files_of(10_000, 4096, Costs(1.0)) == [1, 1, 1]
    assert files_of(100_000, 16384, Costs(1.0)) == [4] * 6 + [1]


@pytest.mark.benchmark
@pytest.mark.linux
def test_a_run_with_measured_inputs():
    options = ("--model", "tessera-static-mini", "--blocks", "4", "--block-rows", "64", "--check")
    done = run_benchmark("batch_scale.py", *options)
    found = re.findall(r"^(\d) nodes? +([\d.]+) s +([\d.]+) s", done.stdout, re.MULTILINE)
    assert [row[0] for row in found] == ["1", "2"]
    assert all(float(row[1]) > 0 and float(row[2]) > 0 for row in found)
    assert "| 10,000,000,000 | 1000 |" in done.stdout
