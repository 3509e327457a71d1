"""Checks in child processes that may crash or hang, and the report."""

import json
import sys

from mindone_vq.findings import Finding, anonymous, as_json, in_child_process, listed_checks, run_check, without_users

# The checks are named by what the process does.
CHILD = """
import os, signal, sys, time
from mindone_vq.findings import Finding, print_checks, print_names

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def hang():
    time.sleep(600)

def work():
    yield Finding("work", os.environ.get("LEVEL", "none"), numbers={"one": 1})

checks = {"work": (work, "a"), "crash": (crash, "b"), "hang": (hang, "c"), "again": (work, "d")}
if sys.argv[1:]:
    os.write(2, b"log of a process\\n")
    print_checks({name: checks[name] for name in sys.argv[1:]})
else:
    print_names(checks)
"""
COMMAND = [sys.executable, "-c", CHILD]
ADVICE = {"work": "a", "crash": "b", "hang": "c", "again": "d"}


def test_the_checks_after_a_crash_are_done_by_another_process():
    assert listed_checks(COMMAND, 60) == ADVICE
    findings, log = in_child_process(COMMAND, ADVICE, 3, {"LEVEL": "O1"}, restarts=5)
    assert findings == [
        Finding("work", "O1", numbers={"one": 1}),
        Finding("crash", "crashed with SIGSEGV", "b"),
        Finding("hang", "no answer in 3 s", "c"),
        Finding("work", "O1", numbers={"one": 1}),
    ]
    assert log.count("log of a process") == 3


def test_without_restarts_they_are_not_checked():
    findings, _ = in_child_process(COMMAND, ADVICE, 60)
    assert [finding.value for finding in findings] == ["none", "crashed with SIGSEGV", "not checked", "not checked"]


def test_a_process_that_lists_no_checks_is_a_finding():
    finding = listed_checks([sys.executable, "-c", "import sys; sys.exit('no device')"], 60)
    assert finding == Finding("process", "ended with 1: no device", "report this error")


def test_the_report_for_programs():
    report = json.loads(as_json([Finding("a", "b"), Finding("c", "d", "e", {"f": 1.5})]))
    assert report == {
        "wrong": 1,
        "findings": [
            {"name": "a", "value": "b", "advice": "", "numbers": {}, "status": "ok"},
            {"name": "c", "value": "d", "advice": "e", "numbers": {"f": 1.5}, "status": "WRONG"},
        ],
    }


def test_an_error_of_a_check_is_a_finding():
    def check():
        yield Finding("first", "works")
        raise OSError("second\n broken")

    assert list(run_check("both", check, "repair it")) == [
        Finding("first", "works"),
        Finding("both", "OSError: second broken", "repair it"),
    ]


def test_no_user_is_named(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    text = without_users(
        "/home/anna/models /home/bert/x /data/anna/y /home/anna C:\\Users\\anna\\z /home/annabel banana"
    )
    assert text == "~/models /home/<user>/x /data/<user>/y ~ C:\\Users\\<user>\\z /home/<user> banana"
    assert anonymous(Finding("/home/anna", "/home/anna/x", "/home/anna/y")) == Finding("~", "~/x", "~/y")
