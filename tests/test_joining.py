"""How processes of one fit find each other, before any of them computes: addresses, waiting, who may listen where.

Start at `said`. What they do together is in `test_processes.py`.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import jax
import pytest

from poplin import InputError, stopping
from poplin.cli import joining
from poplin.cli.joining import How
from tests.devices import by_slurm, free_port


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What JAX is asked to begin, which it does not; nobody else says who takes part."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *part, **how: seen.update(how, part=part))
    monkeypatch.setattr(
        jax.config, "update", lambda name, value: seen.setdefault("settings", {}).update({name: value})
    )
    monkeypatch.setattr(stopping._Told, "never", False)
    for name in (joining.ADDRESS, joining.MANY, joining.NUMBER, joining.BIND):
        monkeypatch.delenv(name, raising=False)
    return seen


def told(monkeypatch: pytest.MonkeyPatch, address: str, number: int = 0, many: int = 2) -> None:
    """Say by the three variables who takes part."""
    for name, value in ((joining.ADDRESS, address), (joining.MANY, many), (joining.NUMBER, number)):
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    "address",
    [
        "localhost",
        "127.0.0.1",
        "127.0.0.1:",
        ":80",
        "a:b",
        "a:0",
        "a:65536",
        "a:-1",
        "::1:80",
        "a b:80",
        "http://a:80",
        "a:80/",
    ],
)
def test_an_address_without_its_port_is_told(
    monkeypatch: pytest.MonkeyPatch, asked: Any, address: str
) -> None:
    told(monkeypatch, address)
    with pytest.raises(InputError, match="wanted is HOST:PORT, for example"):
        joining.join()
    assert not asked


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("localhost:80", ("localhost", 80)),
        ("[::1]:12345", ("::1", 12345)),
        ("fit-0.poplin:1", ("fit-0.poplin", 1)),
    ],
)
def test_addresses_are_hosts_with_ports(address: str, parts: tuple[str, int]) -> None:
    assert joining.host_and_port(address) == parts


@pytest.mark.parametrize(
    ("name", "value"), [(joining.NUMBER, "2"), (joining.NUMBER, "-1"), (joining.MANY, "two")]
)
def test_numbers_that_are_none_are_told(
    monkeypatch: pytest.MonkeyPatch, asked: Any, name: str, value: str
) -> None:
    told(monkeypatch, "127.0.0.1:80")
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="wanted (is|are) "):
        joining.join()


def test_process_0_listens_at_the_address_and_on_no_other(
    monkeypatch: pytest.MonkeyPatch, asked: Any
) -> None:
    address = f"127.0.0.1:{free_port()}"
    told(monkeypatch, address)
    joining.join(How(7.0))
    assert asked["part"] == (address, 2, 0, None) and asked["coordinator_bind_address"] == address
    assert asked["initialization_timeout"] == 7 + joining.LATER
    assert asked["settings"]["jax_enable_preemption_service"] is False
    with stopping.patiently():
        assert not stopping._Told.patient


BEYOND = ["0.0.0.0", "[::]", "10.1.2.3", "192.168.0.7", "node001.cluster.invalid"]


@pytest.mark.parametrize("host", BEYOND)
@pytest.mark.parametrize("number", [0, 1])
def test_beyond_this_machine_only_on_a_network_that_is_known(
    monkeypatch: pytest.MonkeyPatch, asked: Any, host: str, number: int
) -> None:
    told(monkeypatch, f"{host}:{free_port()}", number)
    with pytest.raises(InputError, match="--i-know-this-network"):
        joining.join()
    assert not asked


def test_nor_by_the_address_that_it_binds(monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    port = free_port()
    told(monkeypatch, f"127.0.0.1:{port}")
    monkeypatch.setenv(joining.BIND, f"0.0.0.0:{port}")
    with pytest.raises(InputError, match=f"would listen at 0.0.0.0:{port}"):
        joining.join()
    joining.join(How(trusted=True))
    assert asked["coordinator_bind_address"] == f"0.0.0.0:{port}"


def test_a_schedulers_address_is_held_to_the_same(monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    for name, value in by_slurm(0, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    joining.join()
    assert asked["coordinator_bind_address"].startswith("localhost:") and asked["part"][1:] == (2, 0, [0])
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[001-002].invalid")
    with pytest.raises(InputError, match="listen at node001:[0-9]+, which other machines can reach"):
        joining.join()


@pytest.mark.parametrize("patience", [0.5, 1.0])
def test_whom_nobody_answers_says_so_when_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, asked: Any, patience: float
) -> None:
    told(monkeypatch, address := f"127.0.0.1:{free_port()}", number=1)
    began = time.monotonic()
    with pytest.raises(
        InputError, match=f"nobody listens at {address} after {patience:g} s: Connection refused"
    ):
        joining.join(How(patience))
    assert patience - 0.3 < time.monotonic() - began < patience + 2 and not asked


def test_who_waits_says_so(monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    monkeypatch.setattr(joining, "TELL_AFTER", 0.1)
    told(monkeypatch, address := f"127.0.0.1:{free_port()}", number=1, many=3)
    words: list[str] = []
    with pytest.raises(InputError):
        joining.join(How(0.5), words.append)
    assert words == [
        f"process 1 of 3 waits for process 0 and the others at {address}, 0.5 s at most (--join-time)."
    ]


def test_a_port_that_is_taken_is_told(monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told(monkeypatch, f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(InputError, match="process 0 cannot listen at 127.0.0.1:.*Address already in use"):
            joining.join()
    assert not asked


@pytest.mark.parametrize("patience", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, asked: Any, patience: float) -> None:
    told(monkeypatch, "127.0.0.1:80")
    with pytest.raises(InputError, match="--join-time is"):
        joining.join(How(patience))
