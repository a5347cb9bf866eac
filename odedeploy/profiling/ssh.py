"""A device that ssh reaches: the kit is copied there, run, and its result fetched."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from odedeploy.errors import BadInput, Crashed, OdeDeployError, Unusable
from odedeploy.profiling import devices
from odedeploy.profiling.devices import Elsewhere
from odedeploy.profiling.journal import Journal
from odedeploy.profiling.packing import pack
from odedeploy.profiling.records import Entry, Percentiles, Row
from odedeploy.targets import Target

OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=15")
COPY, START = 300.0, 60.0
"""Seconds for a copy, and beyond those of the rounds for each artefact on the device."""


class Host(NamedTuple):
    """``[NAME=][user@]host[:port]`` and the interpreter there."""

    name: str
    address: str
    port: str
    python: str = "python3"

    @classmethod
    def parse(cls, text: str) -> Host:
        """Raises BadInput for what is no such address."""
        name, _, address = text.rpartition("=")
        address, _, python = address.partition("#")
        address, _, port = address.partition(":")
        parts = [name or "here", address, port or "22"]
        if not all(map(re.fullmatch, (r"\w[\w .-]*", r"\w[\w.@-]*", r"\d+"), parts)):
            raise BadInput(f"--ssh takes [NAME=][user@]host[:port], got {text!r}.")
        return cls(name or address.rpartition("@")[2], address, port, python or "python3")


def measured(
    text: str,
    entries: Sequence[Entry],
    seconds: float,
    folder: Path,
    journal: Journal,
    metered: Mapping[str, Path] = devices.NO_METERS,
) -> Elsewhere:
    """The ONNX files among ``entries`` on the host ``text``, on its CPU; ``metered`` are files of
    power meters by their devices.

    What went wrong costs one row. A result that the journal knows of is not measured again.

    Raises BadInput for an address that is none.
    """
    host = Host.parse(text)
    kept = folder / f"result-{_plain(host.name)}.json"
    if kept.is_file() and any(line["host"] == text for line in journal.of("host")):
        return devices.read(kept, metered)
    try:
        kept.write_text(json.dumps(_run(host, entries, seconds)), encoding="utf-8")
        found = devices.read(kept, metered)
    except OdeDeployError as error:
        return Elsewhere(host.name, {}, (_failed(host, entries, error),))
    journal.add("host", host=text)
    return found


def _run(host: Host, entries: Sequence[Entry], seconds: float) -> dict[str, Any]:
    chosen, known = _chosen(entries)
    if not known:
        raise Unusable("None of the files is ONNX, which is what a kit runs.")
    jobs = len(known) * len(chosen)
    with tempfile.TemporaryDirectory(prefix="odedeploy-") as scratch:
        kit = pack([e.file for e in known.values()], Path(scratch) / "kit.zip", chosen, known)
        there = _ssh(host, "mktemp -d", START).decode(errors="replace").strip()
        if not there.startswith("/"):
            raise Unusable(f"{host.name} made no folder, it answered {there[:80]!r}.")
        place = shlex.quote(there)
        try:
            _ssh(host, f"cat > {place}/kit.zip", COPY, kit.read_bytes())
            python, name = shlex.quote(host.python), shlex.quote(host.name)
            _ssh(
                host,
                f"cd {place} && {python} -m zipfile -e kit.zip . && {python} run.py "
                f"--device {name} --seconds {seconds:g} -o result.json || test -f result.json",
                seconds + START * jobs,
            )
            found: dict[str, Any] = json.loads(_ssh(host, f"cat {place}/result.json", COPY))
            return found
        except ValueError as error:
            raise Crashed(f"The result of {host.name} is damaged ({error}).") from error
        finally:
            _ssh(host, f"rm -rf {place}", START, quietly=True)


def _chosen(entries: Sequence[Entry]) -> tuple[list[Target], dict[str, Entry]]:
    """The targets that any device has, each batch one of its own, and the files by their names."""
    found: dict[tuple[str, int], Target] = {}
    known: dict[str, Entry] = {}
    for entry in entries:
        target = entry.target
        cpu = target.providers == ("CPUExecutionProvider",) and target.runtime == "onnxruntime"
        if entry.format == "onnx" and cpu:
            found.setdefault((target.name, target.batch), target)
            known.setdefault(entry.file.name, entry)
    return list(found.values()), known


def _ssh(
    host: Host, command: str, seconds: float, sent: bytes = b"", quietly: bool = False
) -> bytes:
    """What a command there prints when it is given ``sent``. The same way goes for files: it asks
    for no more than a shell there, where scp asks for sftp.

    Raises Unusable and Crashed unless told to be quiet.
    """
    port = ["-p", host.port] if host.port else []
    words = ["ssh", *OPTIONS, *port, "--", host.address, command]
    try:
        done = subprocess.run(words, input=sent, capture_output=True, timeout=seconds)
    except FileNotFoundError:
        raise Unusable("ssh is not installed; install an OpenSSH client.") from None
    except subprocess.TimeoutExpired:
        if quietly:
            return b""
        raise Crashed(f"{host.name} took more than {seconds:g} s over ssh.") from None
    if done.returncode and not quietly:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise Unusable(f"ssh to {host.name} ended with {done.returncode}: {lines[-1][:300]}")
    return done.stdout


def _failed(host: Host, entries: Sequence[Entry], error: OdeDeployError) -> Row:
    first = entries[0]
    return Row(
        model=first.model, tol=None, target="ssh", precision="", format="onnx", form="", solver="",
        nfe=None, error=None, latency_ms=Percentiles(), reason=str(error), device=host.name,
        status="crashed" if isinstance(error, Crashed) else "unusable",
    )  # fmt: skip


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
