"""A machine with some of CUDA and TensorRT on it: scripts for nvcc and g++, a folder of headers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_retina import toolchain
from edge_retina.cachefolder import FOLDER
from edge_retina.plugin import VARIABLE

OLD = "#define NV_TENSORRT_MAJOR {0} //!< TensorRT major version.\n#define NV_TENSORRT_MINOR {1} //!< minor.\n"
# As headers have been from 10.13 on.
NEW = "#define TRT_MAJOR_ENTERPRISE {0}\n#define TRT_MINOR_ENTERPRISE {1}\n"
NEW += "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!< TensorRT major version.\n"
NEW += "#define NV_TENSORRT_MINOR TRT_MINOR_ENTERPRISE //!< TensorRT minor version.\n"
# Preprocesses (is cuda_runtime_api.h there?) or "compiles": notes its arguments, writes an ELF's first bytes.
_NVCC = """#!/bin/sh
case " $* " in *" -E "*) exit {headers} ;; esac
echo "$*" >> {log}
{before}
while [ $# -gt 1 ]; do [ "$1" = -o ] && out=$2; shift; done
[ {code} -eq 0 ] && printf '\\177ELF{body}' > "$out"
echo "{message}"
exit {code}
"""


@dataclass(frozen=True)
class Machine:
    """Nothing is there that was not put there."""

    root: Path
    patch: pytest.MonkeyPatch

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    def gxx(self) -> None:
        self._script("g++", "#!/bin/sh\nexit 0\n")

    def nvcc(
        self, *, code: int = 0, message: str = "", headers: bool = True, body: str = "library", before: str = ""
    ) -> Path:
        text = _NVCC.format(
            log=self.root / "calls", code=code, message=message, headers=int(not headers), body=body, before=before
        )
        return self._script("nvcc", text)

    def headers(self, version: str = "10.3", *, place: str = "include", text: str = OLD) -> Path:
        folder = self.root / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "NvInfer.h").touch()
        (folder / "NvInferVersion.h").write_text(text.format(*version.split(".")))
        self.patch.setenv(toolchain.HEADERS, str(folder))
        return folder

    def whole(self, **nvcc: object) -> None:
        self.gxx()
        self.nvcc(**nvcc)  # type: ignore[arg-type]
        self.headers()

    @property
    def calls(self) -> list[str]:
        """Arguments of each call that compiled."""
        log = self.root / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def _script(self, name: str, text: str) -> Path:
        self.bin.mkdir(exist_ok=True)
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path


def empty_machine(tmp_path: Path, patch: pytest.MonkeyPatch) -> Machine:
    root = tmp_path / "machine"
    root.mkdir()
    for name in (VARIABLE, toolchain.HEADERS, "CUDACXX", "CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN", "TENSORRT_ROOT"):
        patch.delenv(name, raising=False)
    patch.delenv("LD_LIBRARY_PATH", raising=False)
    patch.setenv("PATH", str(root / "bin"))
    patch.setenv(FOLDER, str(tmp_path / "cache"))
    patch.setattr(toolchain, "_CUDA_PLACES", ())
    patch.setattr(toolchain, "_TENSORRT_PLACES", ())
    patch.setattr(toolchain, "_DRIVER", "libcuda-of-no-machine.so")
    patch.setattr(toolchain.platform, "machine", lambda: "emptiness")
    return Machine(root, patch)
