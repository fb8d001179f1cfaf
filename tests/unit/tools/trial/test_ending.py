# SPDX-License-Identifier: GPL-3.0-or-later
"""A signal stops `make try` and leaves nothing behind, whenever it arrives."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tools.trial import ending


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {one: signal.getsignal(one) for one in ending.SIGNALS}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("number", ending.SIGNALS)
def test_a_second_signal_does_not_disturb_the_cleanup(number: signal.Signals) -> None:
    ending.watch()
    with pytest.raises(ending.Ended) as ended:
        os.kill(os.getpid(), number)
    assert ended.value.number == number
    os.kill(os.getpid(), number)


def test_a_signal_is_delayed_until_a_start_is_complete() -> None:
    ending.watch()
    done = False
    with pytest.raises(ending.Ended), ending.held():
        os.kill(os.getpid(), signal.SIGTERM)
        done = True
    assert done
    os.kill(os.getpid(), signal.SIGTERM)


def test_signals_stay_ignored_through_a_start() -> None:
    ending.ignore()
    with ending.held():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
