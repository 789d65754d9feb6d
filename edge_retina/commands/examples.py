"""Lines to type, shown under each command's help."""

from __future__ import annotations

__all__ = ["EXAMPLES"]

EXAMPLES: dict[str, tuple[str, ...]] = {
    "build": (
        "edge-retina build model.onnx",
        "edge-retina build model.onnx --int8 --calib pictures/ -o int8.edge",
        "edge-retina build model.onnx --fp16 --target tensorrt --batch 4",
    ),
    "calib": ("edge-retina calib pick --from ride.mp4 -n 128 -o calib/ride",),
    "calib pick": ("edge-retina calib pick --from ride.mp4 -n 128 -o calib/ride",),
    "sensitivity": ("edge-retina sensitivity model.onnx --calib pictures/ --top 10",),
    "train": ("edge-retina train --data labels.json --images pictures/ --out model.onnx",),
    "run": (
        "edge-retina run model.edge --camera 0",
        "edge-retina run model.edge --source ride.mp4 --out boxes.mp4 --out out.jsonl",
        "edge-retina run model.edge --source yard=rtsp://user@10.0.0.7/main --track",
    ),
    "batch": (
        "edge-retina batch model.edge archive/ -o detections.parquet",
        "edge-retina batch m.edge 's3://b/**/*.jpg' -o c.json --ray-address head:6379",
    ),
    "bench": ("edge-retina bench fp32.edge int8.edge --frames 300",),
    "verify": (
        "edge-retina verify model.onnx --images pictures/",
        "edge-retina verify model.edge --images pictures/ --reference trainer.npz",
    ),
    "eval": ("edge-retina eval model.onnx int8.edge --coco labels.json --images pictures/",),
    "inspect": ("edge-retina inspect model.onnx", "edge-retina inspect model.onnx --write-spec spec.json"),
    "report": ("edge-retina report int8.edge -o int8.html",),
    "demo": ("edge-retina demo --out demo-out",),
    "doctor": (
        "edge-retina doctor",
        "edge-retina doctor --camera 0",
        "edge-retina doctor --json > doctor.json",
    ),
    "plans": ("edge-retina plans --json",),
    "plans clear": ("edge-retina plans clear --help",),
    "plugin": ("edge-retina plugin status", "edge-retina plugin build"),
    "plugin build": ("edge-retina plugin build --tensorrt 10.3.0 --compute-capability 8.7",),
    "plugin status": ("edge-retina plugin status --json",),
    "export": ("edge-retina export triton model.edge -o repository/",),
    "export triton": (
        "edge-retina export triton model.edge -o repository/ --instances 2 --threads 4",
        "edge-retina export triton model.edge -o repository/ --plan out.plan",
    ),
    "export deepstream": ("edge-retina export deepstream model.edge -o ds/ --frame-size 1280x720",),
    "sign": ("edge-retina sign model.edge --key key.pem --new-key",),
    "service": (
        "sudo edge-retina service install model.edge --config service.toml",
        "edge-retina service status",
        "sudo edge-retina service upgrade better.edge",
        "sudo edge-retina service rollback",
    ),
    "service install": (
        "edge-retina service install model.edge --config service.toml --dry-run",
        "sudo edge-retina service install model.edge --config service.toml",
        "edge-retina service install model.edge --config service.toml --root rootfs/",
    ),
    "service upgrade": (
        "sudo edge-retina service upgrade better.edge",
        "sudo edge-retina service upgrade --package NEW.whl --wheels wheels/",
    ),
    "service rollback": ("sudo edge-retina service rollback",),
    "service status": ("edge-retina service status --json",),
    "service logs": ("edge-retina service logs --follow",),
    "service uninstall": ("sudo edge-retina service uninstall",),
    "completion": (
        "edge-retina completion bash > ~/.bash_completion.d/edge-retina",
        "edge-retina completion zsh > ~/.zfunc/_edge-retina",
        "edge-retina completion fish > ~/.config/fish/completions/edge-retina.fish",
    ),
}
