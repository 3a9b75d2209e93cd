"""Files by which processes stop together and wait for each other."""

import threading
import time

from inference import meeting
from inference.interrupt import StopRequest


def waiting(folder, process, stop=None):
    thread = threading.Thread(
        target=meeting.wait_for_all, args=(folder, stop or StopRequest(), process, 2), daemon=True
    )
    thread.start()
    return thread


def test_nobody_goes_before_all_are_done(tmp_path):
    first = waiting(tmp_path, 0)
    first.join(1.0)
    assert first.is_alive()
    assert not meeting.is_stop_asked(tmp_path)
    second = waiting(tmp_path, 1)
    for thread in (first, second):
        thread.join(10.0)
        assert not thread.is_alive()
    meeting.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_one_that_waits_reaches_the_others(tmp_path):
    first = waiting(tmp_path, 0, StopRequest(asked=True))
    patience = time.monotonic() + 10
    while not meeting.is_stop_asked(tmp_path) and time.monotonic() < patience:
        time.sleep(0.05)
    assert meeting.is_stop_asked(tmp_path)
    meeting.wait_for_all(tmp_path, StopRequest(), 1, 2)
    first.join(10.0)
    meeting.clear(tmp_path)
    assert not meeting.is_stop_asked(tmp_path)
