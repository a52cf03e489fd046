"""What SIGTERM and SIGINT do in a training, beside the saving (see `test_kill_and_resume`)."""

import logging
import signal
from unittest.mock import Mock

import pytest

from mmner.training.stop_signals import StoppedBySignal, save_at_signal


def trainer_of(folder) -> Mock:
    args, state = Mock(world_size=1, output_dir=str(folder)), Mock(global_step=3, max_steps=7)
    return Mock(args=args, state=state)


@pytest.fixture
def handlers():
    """As they were before, with a handler that can be told from ours."""

    def end(number, frame):
        pytest.fail("ended at once")

    before = [(number, signal.signal(number, end)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield end
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_after_the_last_step_ends_the_run(handlers, tmp_path, caplog, capfd, number, code):
    with pytest.raises(StoppedBySignal) as stopped, save_at_signal(trainer_of(tmp_path), ["--weight_decay", "0.1"]):
        for _ in range(2):  # a second time by way of the group
            signal.raise_signal(number)
        assert "a checkpoint follows this step" in capfd.readouterr().err
    assert stopped.value.code == code
    assert f"{number.name} stopped the training after step 3 of 7" in caplog.text
    assert "There is no checkpoint to go on from" in caplog.text
    assert signal.getsignal(number) == handlers


def test_without_a_signal_nothing_is_different(handlers, tmp_path, caplog):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a job in the background: it stays so
    with caplog.at_level(logging.WARNING), save_at_signal(trainer_of(tmp_path)):
        signal.raise_signal(signal.SIGINT)
    assert not caplog.text
    assert signal.getsignal(signal.SIGTERM) == handlers
