"""Results by version, and what other plugins answer."""

import pytest

from dpu_runtime.engines.cni import result
from dpu_runtime.engines.cni.errors import DELEGATE_FAILED, CniError

RESULT = {
    "interfaces": [
        {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/x", "mtu": 1500, "socketPath": "/s"}
    ],
    "ips": [
        {"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 0},
        {"address": "fd00::2/64", "interface": 0},
    ],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1400}],
    "dns": {},
}


def test_the_newest_form():
    made = result.convert(RESULT, "1.1.0")
    assert made == RESULT | {"cniVersion": "1.1.0"} or "dns" not in made
    assert made["interfaces"][0]["mtu"] == 1500
    assert "version" not in made["ips"][0]


def test_before_1_1_there_is_no_mtu_and_no_socket():
    made = result.convert(RESULT, "1.0.0")
    assert made["interfaces"] == [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/x"}]
    assert made["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_before_1_0_addresses_have_a_version(version):
    made = result.convert(RESULT, version)
    assert [ip["version"] for ip in made["ips"]] == ["4", "6"]
    assert result.convert(made, "1.0.0")["ips"] == RESULT["ips"]


def test_what_a_chain_made_before_stays_in_front():
    before = {"interfaces": [{"name": "lo"}], "ips": [{"address": "127.0.0.1/8", "interface": 0}]}
    made = result.joined(result.checked(before, "prevResult"), RESULT)
    assert [interface["name"] for interface in made["interfaces"]] == ["lo", "eth0"]
    assert [ip["interface"] for ip in made["ips"]] == [0, 1, 1]


def test_nothing_is_an_empty_result():
    assert result.checked(None, "x") == {"interfaces": [], "ips": [], "routes": [], "dns": {}}


@pytest.mark.parametrize(
    "answer",
    [
        [],
        "text",
        {"ips": 3},
        {"ips": ["10.0.0.2/24"]},
        {"ips": [{}]},
        {"ips": [{"address": 5}]},
        {"ips": [{"address": "10.0.0.300/24"}]},
        {"ips": [{"address": "10.0.0.2/24", "gateway": "x"}]},
        {"routes": [{"dst": "default"}]},
        {"routes": [{}]},
        {"interfaces": [None]},
        {"dns": [1]},
    ],
)
def test_an_answer_that_is_no_result(answer):
    with pytest.raises(CniError, match="what ipam answered is no CNI result") as caught:
        result.checked(answer, "what ipam answered")
    assert caught.value.code == DELEGATE_FAILED
