"""Entering namespaces: by name, path and process, by a thread that comes back from none."""

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dpu_runtime.drivers.linux.netns import netns_path, open_netns, run_in_netns, run_in_new_netns
from dpu_runtime.drivers.port import PortError
from dpu_runtime.drivers.tap.port import TapPort

root = pytest.mark.root


def own_namespace():
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_paths():
    assert netns_path(None) is None
    assert netns_path("web") == "/run/netns/web"
    assert netns_path("/var/x") == "/var/x"
    assert netns_path("pid:12") == "/proc/12/ns/net"
    assert netns_path("pid:x") == "/run/netns/pid:x"


@root
def test_function_runs_inside_and_the_caller_stays(netns, popen_in):
    where, before = netns(), own_namespace()
    process = popen_in(where, ["sleep", "60"])
    inside = run_in_netns(where, own_namespace)
    assert inside == os.stat(f"/run/netns/{where}").st_ino != before
    assert run_in_netns(f"/run/netns/{where}", own_namespace) == inside
    while os.stat(f"/proc/{process.pid}/ns/net").st_ino == before:
        os.sched_yield()
    assert run_in_netns(f"pid:{process.pid}", own_namespace) == inside
    assert own_namespace() == before
    assert run_in_netns(None, own_namespace) == before


@root
def test_result_and_error_come_out(netns):
    where = netns()
    assert run_in_netns(where, lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        run_in_netns(where, lambda: 1 // 0)


@root
def test_nothing_is_left_open(netns):
    where = netns()
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(5):
        run_in_netns(where, lambda: None)
        run_in_new_netns(lambda: None)
        with pytest.raises(PortError):
            run_in_netns("no-such", lambda: None)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_missing_namespace_names_port_and_namespace():
    with pytest.raises(PortError) as caught:
        run_in_netns("no-such", lambda: None, port="web")
    text = "port 'web': open /run/netns/no-such: network namespace 'no-such': No such file or directory"
    assert str(caught.value) == text


@root
def test_file_that_is_no_namespace(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(PortError, match=r"setns .*: network namespace .*: Invalid argument"):
        run_in_netns(str(tmp_path / "x"), lambda: None)


@root
def test_new_namespace_is_empty_and_ends():
    names, inode = run_in_new_netns(lambda: ([n for _, n in socket.if_nameindex()], own_namespace()))
    assert names == ["lo"]
    assert inode != own_namespace()
    fd = open_netns(None)
    assert os.fstat(fd).st_ino == own_namespace()
    os.close(fd)


@root
def test_interfaces_of_one_name_made_at_once_do_not_meet(netns):
    ports = [TapPort(f"p{number}", "eth0", netns()) for number in range(8)]
    with ThreadPoolExecutor(len(ports)) as pool:
        list(pool.map(TapPort.open, ports))
    for port in ports:
        port.relocate(port.netns, "eth0")  # which raises when its interface is elsewhere
        port.close()
