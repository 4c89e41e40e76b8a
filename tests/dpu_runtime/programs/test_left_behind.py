"""What is in a state directory, as one sees it from beside."""

import os
import signal
import socket

from dpu_runtime.config.places import ADOPT_SOCKET, LOCK
from dpu_runtime.control.state import StateDir
from dpu_runtime.programs import left_behind, stop
from tests.live.daemons import start_process, wait_for


def test_nothing_is_there(tmp_path):
    assert left_behind.daemon(tmp_path) is None
    assert left_behind.data_plane(str(tmp_path)) is None
    assert stop.end_data_plane(str(tmp_path)) is None


def test_a_daemon_has_the_lock_until_it_ends(tmp_path):
    state = StateDir(tmp_path)
    state.lock()
    assert left_behind.daemon(tmp_path) == os.getpid()
    state.close()
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    assert left_behind.daemon(tmp_path) is None


def test_a_data_plane_is_found_while_it_listens_and_hears_nothing_of_it(tmp_path):
    path = str(tmp_path / ADOPT_SOCKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        assert left_behind.data_plane(str(tmp_path)) is None
        listener.listen(1)
        listener.setblocking(False)
        assert left_behind.data_plane(str(tmp_path)) == os.getpid()
        try:
            listener.accept()
        except BlockingIOError:
            pass
        else:
            raise AssertionError("it was connected to")
    assert os.path.exists(path)
    assert left_behind.data_plane(str(tmp_path)) is None
    assert stop.end_data_plane(str(tmp_path)) is None, "a stale socket is nobody"


def test_stop_waits_for_the_end(tmp_path):
    process = start_process(tmp_path)
    wait_for(tmp_path / "dpu.sock").close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "dpu.sock"))
        assert stop.end_daemon(client) == process.pid
    _, errors = process.communicate()
    assert process.returncode == 0
    assert f"{signal.SIGTERM.name}: stopping" in errors
    assert not (tmp_path / "dpu.sock").exists()
