"""A Jetson: its JetPack, and how much power it may take."""

from __future__ import annotations

import re

from edge_retina.doctor.machine import Finding, Machine

__all__ = ["check_jetpack", "check_power"]

_GROUP = "Jetson"
# L4T from which on it is this JetPack, and the TensorRT of it.
_JETPACKS = (
    ((35, 2), "5.1", "8.5"),
    ((36, 3), "6.0", "8.6"),
    ((36, 4), "6.1 or 6.2", "10.3"),
    ((38, 2), "7.0", "10.13"),
    ((38, 4), "7.1", "10.13"),
    ((39, 2), "7.2", "10.16"),
)
_FIRST_GOOD = (36, 4)


def check_jetpack(machine: Machine) -> list[Finding]:
    """L4T's release, and so JetPack's: before 6.1 its TensorRT is too old."""
    if not machine.jetson:
        return [Finding(_GROUP, "jetpack", "none", "not a Jetson")]
    model = machine.text("/proc/device-tree/model") or "a Jetson"
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+)(?:\.(\d+))?", machine.text("/etc/nv_tegra_release"))
    if match is None:
        found = f"{model}; /etc/nv_tegra_release does not say which L4T"
        what = "a container wants -v /etc/nv_tegra_release:/etc/nv_tegra_release"
        return [Finding(_GROUP, "jetpack", "warn", found, what)]
    release = (int(match[1]), int(match[2]))
    named = [entry for entry in _JETPACKS if entry[0] <= release]
    told = f"{model}; L4T {release[0]}.{release[1]}{'.' + match[3] if match[3] else ''}"
    if release < _FIRST_GOOD:
        older = f", JetPack {named[-1][1]}, TensorRT {named[-1][2]}" if named else ""
        what = "flash JetPack 6.1 or later; until then --target ort runs on the CPU"
        return [Finding(_GROUP, "jetpack", "fail", f"{told}{older}: TensorRT is too old", what)]
    return [Finding(_GROUP, "jetpack", "ok", f"{told}, JetPack {named[-1][1]}, TensorRT {named[-1][2]}")]


def check_power(machine: Machine) -> list[Finding]:
    """The power mode: less than the most makes every figure smaller."""
    if not machine.jetson:
        return [Finding(_GROUP, "power mode", "none", "not a Jetson")]
    models = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", machine.text("/etc/nvpmodel.conf"), re.M)
    names = {int(number): name for number, name in models}
    match = re.search(r"pmode:0*(\d+)", machine.text("/var/lib/nvpmodel/status"))
    if match is None:
        return [Finding(_GROUP, "power mode", "warn", "not known", "sudo nvpmodel -q; most: sudo nvpmodel -m 0")]
    mode = int(match[1])
    name = names.get(mode, f"number {mode}")
    most = [number for wanted in ("MAXN_SUPER", "MAXN") for number, called in names.items() if called == wanted]
    if most and mode != most[0]:
        what = f"sudo nvpmodel -m {most[0]} && sudo jetson_clocks, where power and cooling allow"
        return [Finding(_GROUP, "power mode", "warn", f"{name}, less than {names[most[0]]}", what)]
    return [Finding(_GROUP, "power mode", "ok", f"{name}; sudo jetson_clocks holds the clocks up, for measuring")]
