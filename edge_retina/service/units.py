"""The files that systemd, its user database and udev read."""

from __future__ import annotations

from collections.abc import Mapping

from edge_retina.service.place import Place
from edge_retina.service.settings import Settings

__all__ = ["MARK", "camera_rules", "files"]

# How each file begins, so that nobody else's is written over or removed.
MARK = "# Written by edge-retina service install"

# systemd knows waits that grow from 254 on (JetPack 7); an older one would warn about the keys.
_GROWING_WAITS = 254

_SANDBOX = """\
# A user of its own that owns nothing but its results and its cache.
User={name}
Group={name}
SupplementaryGroups=video render
StateDirectory={name}/data
StateDirectoryMode=0750
CacheDirectory={name}
CacheDirectoryMode=0700
RuntimeDirectory={runtime}
RuntimeDirectoryMode=0700
WorkingDirectory=/var/lib/{name}/data
UMask=0027
Environment=HOME=/var/lib/{name}/data TMPDIR=/run/{runtime} EDGE_RETINA_CACHE=/var/cache/{name}
Environment=CUDA_CACHE_PATH=/var/cache/{name}/cuda PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1

NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp={private_tmp}
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
# No ProcSubset=pid: CUDA and ONNX Runtime read /proc/cpuinfo, /proc/devices and a Jetson's /proc/device-tree.
ProtectProc=invisible
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
KeyringMode=private
# No MemoryDenyWriteExecute: CUDA and Python's ctypes make code while they run.
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
# Netlink: the C library asks it which kinds of addresses there are.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

# Cameras, and the GPU of a desktop (nvidia*) or a Jetson (nvhost*, nvgpu*, nvmap, DRM). PrivateDevices would hide them.
DevicePolicy=closed
DeviceAllow=char-video4linux rw
DeviceAllow=char-media rw
DeviceAllow=char-drm rw
DeviceAllow=char-nv* rw
DeviceAllow=/dev/nvmap rw
"""

_SERVICE = """\
# Written by edge-retina service install; for changes of your own: systemctl edit {unit}
[Unit]
Description=Detection on cameras ({name})
Wants={name}-prepare@current.service{argus}
After=network.target {name}-prepare@current.service{argus}
OnFailure={name}-return.service
ConditionPathExists=/var/lib/{name}/current/release.json
StartLimitIntervalSec=300
StartLimitBurst=10
StartLimitAction={give_up}

[Service]
Type=notify
NotifyAccess=main
# Sources may hold passwords: root's file reaches the service as a credential, and stands on no command line.
LoadCredential=run.toml:/var/lib/{name}/current/run.toml
ExecStart=/var/lib/{name}/current/bin/edge-retina run --keep-trying --config ${{CREDENTIALS_DIRECTORY}}/run.toml \
/var/lib/{name}/current/model.edge
Restart=on-failure
RestartSec=3
{growing}\
# Usage, model, bundle and missing package stay what they are, however often it is started.
RestartPreventExitStatus=2 4 5 8
# It ends so where it is told to stop.
SuccessExitStatus=130
TimeoutStartSec={start_s}
TimeoutStopSec=20
WatchdogSec={watchdog_s}
MemoryMax={memory}
OOMPolicy=stop
TasksMax=512
LogRateLimitIntervalSec=30
LogRateLimitBurst=500

{sandbox}
[Install]
WantedBy=multi-user.target
"""

_PREPARE = """\
# Written by edge-retina service install
# Compiles the plan of a release and works on one blank frame: at boot (@current) and before an upgrade (@releases-7).
# Without the service's memory limit and watchdog, for compiling takes more of both.
[Unit]
Description=Plan for detection on cameras ({name}, %I)
ConditionPathExists=/var/lib/{name}/%I/release.json

[Service]
Type=oneshot
RemainAfterExit=yes
LoadCredential=run.toml:/var/lib/{name}/%I/run.toml
ExecStart=/var/lib/{name}/%I/bin/edge-retina run --prepare --config ${{CREDENTIALS_DIRECTORY}}/run.toml \
/var/lib/{name}/%I/model.edge
TimeoutStartSec={compile_s}
Nice=5

{sandbox}"""

_RETURN = """\
# Written by edge-retina service install
# When {unit} has failed for good and its release never proved itself (the power went in the middle of an
# upgrade): back to the release before, with that release's own program.
[Unit]
Description=Return to the release before ({name})
ConditionPathExists=/var/lib/{name}/unproven
ConditionPathExists=/var/lib/{name}/previous/release.json

[Service]
Type=oneshot
ExecStart=/var/lib/{name}/previous/bin/edge-retina service rollback --name {name} --if-unproven
TimeoutStartSec=3600
"""

_USERS = """\
# Written by edge-retina service install
u {name} - "Detection on cameras" /var/lib/{name}/data
m {name} video
m {name} render
"""


def files(place: Place, settings: Settings, *, csi: bool = False, systemd: int | None = None) -> dict[str, str]:
    """Text by absolute path. csi: CSI cameras are among the sources. systemd: the version that will read it."""
    name, units = place.name, "/etc/systemd/system"
    sandbox = {"name": name, "private_tmp": "no" if csi else "yes"}
    growing = "RestartSteps=5\nRestartMaxDelaySec=60\n" if (systemd or 0) >= _GROWING_WAITS else ""
    service = _SERVICE.format(
        unit=place.unit,
        name=name,
        argus=" nvargus-daemon.service" if csi else "",
        growing=growing,
        give_up=settings.give_up,
        start_s=settings.start_s,
        watchdog_s=settings.watchdog_s,
        memory=settings.memory,
        sandbox=_csi(_SANDBOX, csi).format(runtime=name, **sandbox),
    )
    prepare = _PREPARE.format(
        name=name,
        compile_s=settings.compile_s,
        sandbox=_csi(_SANDBOX, csi).format(runtime=f"{name}-prepare", **sandbox),
    )
    texts = {
        f"{units}/{place.unit}": service,
        f"{units}/{name}-prepare@.service": prepare,
        f"{units}/{name}-return.service": _RETURN.format(unit=place.unit, name=name),
        f"/etc/sysusers.d/{name}.conf": _USERS.format(name=name),
    }
    if settings.cameras:
        texts[f"/etc/udev/rules.d/70-{name}.rules"] = camera_rules(settings.cameras)
    return texts


def _csi(sandbox: str, csi: bool) -> str:
    """Where CSI cameras are, a word on the /tmp that stays visible."""
    why = (
        "# CSI frames come through /tmp/argus_socket, which is made anew when nvargus-daemon starts: a /tmp of its\n"
        "# own, or a bind mount of the socket, would lose it. /tmp is read-only here as everything else.\n"
    )
    return sandbox.replace("PrivateTmp=", why + "PrivateTmp=") if csi else sandbox


def camera_rules(cameras: Mapping[str, str]) -> str:
    """A udev rule per camera: /dev/video-NAME is the one of this serial number, or at this place.

    Of the nodes that a camera has, the first: the others give metadata.
    """
    lines = ["# Written by edge-retina service install; see: udevadm info /dev/video0"]
    for name, identity in sorted(cameras.items()):
        for key in ("ID_SERIAL", "ID_PATH"):
            lines.append(
                f'SUBSYSTEM=="video4linux", KERNEL=="video*", ATTR{{index}}=="0", ENV{{{key}}}=="{identity}", '
                f'SYMLINK+="video-{name}"'
            )
    return "\n".join(lines) + "\n"
