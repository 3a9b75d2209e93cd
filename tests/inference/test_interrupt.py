"""Ctrl-C asks, however often, and raises again afterwards."""

import signal
import threading

import pytest

from inference.interrupt import interruptible


def test_ctrl_c_sets_a_flag_and_raises_again_afterwards():
    with interruptible() as request:
        assert not request.asked
        for _ in range(1000):
            signal.raise_signal(signal.SIGINT)
        assert request.asked
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_handler_of_ones_own_is_left_alone():
    heard = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with interruptible() as request:
            signal.raise_signal(signal.SIGINT)
        assert (heard, request.asked) == ([signal.SIGINT], False)
    finally:
        signal.signal(signal.SIGINT, usual)


def test_other_threads_leave_signals_alone():
    def enter():
        with interruptible() as request:
            seen.append((request.asked, signal.getsignal(signal.SIGINT)))

    seen = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(False, signal.default_int_handler)]
