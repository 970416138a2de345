"""Make docs/reliability.md of a run of the battery (tests/faults) and of tests/soak.toml.

    python tests/make_reliability.py

tests/faults/test_battery.py checks that the page says what its own run counted.
"""

from __future__ import annotations

import os
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "faults")]

import battery  # noqa: E402
import outcomes  # noqa: E402

PAGE = HERE.parent / "docs" / "reliability.md"
SOAK = HERE / "soak.toml"
SERVER = HERE / "faults" / "serving" / "chaos.toml"
HEAD = """# Reliability

Made by `tests/make_reliability.py`; change the tests, not this page.

## Bad and odd inputs

Every class of input below meets every method and command that can take it. A *result* is one that
an independent computation confirms (the reference of the tests, which is held to upstream's values;
float64 by hand; the same series alone). An *error* is one exception of the package, or one line of
the command, that names the item and holds no text of the user. The other columns would be faults,
and a test fails when one of them is not 0: somebody else's exception, a wrong result or none of
the errors due, a case of more than 20 seconds or 6 GB, a message with the user's text or without
the item.

"""
FAULTS = """
## Other faults

| fault | test |
| --- | --- |
"""
# What is no input of a call: the fault and the test that holds it.
TESTS = {
    "16 threads on one object, each kind": "faults/test_concurrency.py::"
    "test_sixteen_threads_equal_one",
    "closed while in use, used when closed": "faults/test_concurrency.py::test_closed_while_in_use",
    "used in a fork": "faults/test_concurrency.py::"
    "test_in_a_fork_it_says_so_and_in_the_parent_goes_on",
    "16 threads, no more workers than one": "runtime/test_pool.py::"
    "test_sixteen_callers_start_no_more_threads_than_one",
    "opened in a fork": "faults/test_concurrency.py::test_a_fork_may_open_its_own",
    "closed or replaced in a fork": "faults/test_processes.py::"
    "test_a_fork_closes_and_replaces_what_it_inherits",
    "opened and closed in many threads": "faults/test_concurrency.py::"
    "test_objects_are_opened_and_closed_in_many_threads_at_once",
    "an index in threads beside a model": "faults/test_concurrency.py::"
    "test_sixteen_threads_on_one_pack_and_a_model_beside_it",
    "pickled to a spawned process": "faults/test_concurrency.py::test_pickled_to_a_spawned_process",
    "Ctrl-C in the middle, then used again": "faults/test_concurrency.py::"
    "test_an_interrupt_is_prompt_and_the_object_goes_on",
    "a time limit that a signal raises": "faults/test_processes.py::"
    "test_a_time_limit_of_the_callers_comes_through",
    "closed by a signal while it opens": "faults/test_processes.py::"
    "test_a_signal_closes_a_model_that_is_being_opened",
    "used while the program ends": "faults/test_processes.py::"
    "test_what_a_program_encodes_at_its_end",
    "no thread can be started": "faults/test_processes.py::test_no_thread_can_be_started",
    "warnings are errors": "faults/test_processes.py::"
    "test_where_warnings_are_errors_the_failure_goes_first",
    "a progress bar nobody reads": "faults/test_processes.py::"
    "test_a_bar_whose_reader_goes_away_ends_nothing",
    "another working directory, or none": "faults/test_processes.py::"
    "test_an_open_model_works_from_another_folder",
    "fewer CPUs than cores (cpuset)": "faults/test_concurrency.py::"
    "test_threads_follow_the_processes_cpus",
    "a CPU quota (cgroup, a real one)": "faults/test_concurrency.py::test_threads_follow_a_quota",
    "a CPU quota (v1 and v2)": "runtime/test_session.py::test_cgroup_quota",
    "code, custom operators, other files in a model": "faults/test_hostile.py::"
    "test_graphs_that_are_refused",
    "weights outside of a graph that lead elsewhere": "runtime/test_external_data.py::"
    "test_names_that_lead_elsewhere",
    "descriptions that ask for memory or time": "faults/test_hostile.py::"
    "test_a_description_asks_for_no_memory_or_time",
    "a tokenizer that panics": "faults/test_hostile.py::test_rules_that_the_tokenizer_fails_on",
    "an installed package that is damaged": "faults/test_hostile.py::"
    "test_a_damaged_package_hinders_no_other",
    "a user's text in what a method says": "faults/test_privacy.py::test_no_method_says_a_text",
    "a user's text in what a command says": "faults/test_privacy.py::test_no_command_says_a_text",
    "results that share memory": "faults/test_aliasing.py::test_a_models_results_are_the_callers",
    "a pack that claims another's model": "faults/test_hostile.py::"
    "test_a_pack_takes_the_place_of_no_other",
    "float16 that overflows": "faults/test_hostile.py::"
    "test_float16_that_overflows_on_a_long_text_is_found",
    "the CUDA wheel without CUDA": "faults/test_providers.py::"
    "test_the_cuda_wheel_without_cuda_falls_back_and_says_why",
    "both wheels of ONNX Runtime": "faults/test_providers.py::"
    "test_both_wheels_are_found_and_the_fix_is_told",
    "no ONNX Runtime": "runtime/test_session.py::test_missing_onnxruntime_names_both_extras",
    "no network": "faults/test_supply.py::test_no_kind_needs_or_tries_a_connection",
    "a download that is damaged": "models/test_hub.py::test_a_damaged_download_is_never_used",
    "a download that is killed": "models/test_hub.py::"
    "test_after_a_killed_download_the_next_one_works",
    "two processes that download at once": "models/test_hub.py::"
    "test_two_processes_fetch_one_file_once",
    "a repository with half of its files": "models/test_repository.py::test_half_of_the_files",
    "a repository without the weights that its graph names": "models/test_repository.py::"
    "test_weights_that_the_repository_lacks_are_told_before_the_rest_is_fetched",
    "a file of another model in the hub cache": "models/test_repository.py::"
    "test_another_file_in_the_cache_is_replaced",
    "a full disk, at a download": "models/test_hub.py::"
    "test_a_disk_that_fills_up_during_the_download",
    "a full disk, at the output": "cli/test_main.py::test_a_full_disk_leaves_the_old_file",
    "a signal while the command writes": "cli/test_main.py::"
    "test_a_signal_midway_leaves_the_old_file",
    "a server: a queue that is full": "server/test_http.py::"
    "test_a_full_queue_answers_429_at_once_and_nothing_of_the_request_runs",
    "a server: a client that leaves": "server/test_http.py::test_a_client_that_leaves_is_dropped",
    "a server: a request that takes too long": "server/test_http.py::"
    "test_a_timeout_is_answered_in_time",
    "a server: bulk that starves queries, or is starved": "server/test_queue.py::"
    "test_no_class_starves",
    "a server: slow, half-closed and idle connections": "server/test_process.py::"
    "test_other_clients_are_served_beside_those_that_misbehave",
    "a server: SIGTERM in the middle of requests": "server/test_process.py::"
    "test_sigterm_answers_what_was_taken",
    "a server: a model that begins to fail": "server/test_http.py::"
    "test_a_model_that_fails_makes_the_server_unready_until_it_runs_again",
    "a server: a text of a request in its log": "server/test_http.py::"
    "test_no_text_of_a_request_is_repeated",
    "a server: all of it at once": "faults/serving/test_chaos.py::"
    "test_every_request_has_its_answer",
}
LONG = """
## A long run

`tests/soak.py` calls every kind with inputs of chance lengths, errors and openings among them. Its
limits: resident memory rises by less than 1 MB a minute, no descriptor and no thread is left over,
the 99th percentile of the latency does not double. The run below, beside other work on the machine,
holds them. What still rises in its first minutes is the stock of malloc and of ONNX Runtime's
arenas, which comes to what batches beside each other ever needed: CI's three minutes see that too,
and have a higher limit.

| figure | value |
| --- | --- |
"""
CHAOS = """
## A server under chaos

`tests/faults/serving/chaos.py` sends 1.2 times the requests that a server bears, from clients
that wait for no answer before they send the next, close their connections, ask for too much, set
short timeouts and connect anew. Each answer is checked: the vectors are the library's, or the
refusal is the one that was due. At the end SIGTERM comes in the middle of the load, and every
request that was taken is answered. Its limits: no fault, and resident memory rises by less than 1
MB a minute.

| figure | value |
| --- | --- |
"""
KNOWN = """
## What is not survived

- A graph of a stranger may loop for ever or fill memory: see SECURITY.md. A limit of the process
  ends it; the hash says whose graph it is, no more.
- A batch that ONNX Runtime has begun runs to its end: Ctrl-C and `close()` wait for it. Batches are
  of about 512 tokens, so that is milliseconds for small models and seconds for large ones.
- When the machine is out of memory Linux kills the process without an exception to catch. Batches
  are bounded, and so are groups of series; the sum of what many threads hold at once is not.
- A text is tokenised whole before it is cut, which takes about a hundred times its size: a line of
  20 MB takes 2 GB.
- A fork of a process with ONNX Runtime in it that ends by `sys.exit` may hang in ONNX Runtime's own
  exit, tessera-onnx or not. `multiprocessing` ends its children otherwise.
- An index file that is cut short while it is mapped ends the process (SIGBUS), as with every mapped
  file: replace the file, as `save` does, and do not change it.
- malloc keeps what the largest calls needed. It is given back when the process ends, and no leak:
  `peak_rss_mb` above is with it.
- An int8 graph whose scales are found at run time (other people's, `tessera-export --calibrate
  none`), or an fp16 graph, gives a text another vector, within its parity, beside other texts. The
  exporter's int8 graphs of text models, the starter's among them, do not.
"""


def page(counted: dict[str, dict[str, int]]) -> str:
    """The page for what a run of the battery counted."""
    names = ("inputs", outcomes.RESULT, outcomes.ERROR, *outcomes.BAD)
    rows = [f"| {group} | {' | '.join(str(row[n]) for n in names)} |"
            for group, row in sorted(counted.items())]  # fmt: skip
    total = [str(sum(row[name] for row in counted.values())) for name in names]
    head = f"| group | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}\n"
    table = "\n".join([*rows, f"| all | {' | '.join(total)} |"])
    faults = "\n".join(f"| {fault} | `tests/{test}` |" for fault, test in TESTS.items())
    soak = tomllib.loads(SOAK.read_text("utf-8"))
    figures = "\n".join(f"| {name} | {value} |" for name, value in soak.items())
    chaos = "\n".join(
        f"| {name} | {value} |" for name, value in tomllib.loads(SERVER.read_text("utf-8")).items()
    )
    long = f"{LONG}{figures}\n{CHAOS}{chaos}\n"
    return f"{HEAD}{head}{table}\n{FAULTS}{faults}\n{long}{KNOWN}"


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as empty:
        os.environ |= {"TESSERA_CACHE": f"{empty}/no-cache", "HF_HUB_CACHE": f"{empty}/no-hub"}
        counted = outcomes.tally(
            found for group in battery.GROUPS for found in battery.found(group)
        )
    PAGE.write_text(page(counted), "utf-8")


if __name__ == "__main__":
    main()
