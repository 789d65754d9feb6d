"""Detections from a Triton server that `edge-retina export triton` wrote the model for, a JSON line each.

pip install 'tritonclient[http]' opencv-python
python client.py --model digits pictures/*.jpg
"""

import argparse
import json

import cv2
from tritonclient.http import InferenceServerClient, InferInput

OUTPUTS = ("boxes", "scores", "labels", "count")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", default="localhost:8000")
    parser.add_argument("--min-score", type=float, default=0.3)
    asked = parser.parse_args()
    with InferenceServerClient(asked.url) as server:
        names = json.loads(server.get_model_config(asked.model)["parameters"]["labels"]["string_value"])
        for picture in asked.pictures:
            frame = cv2.imread(picture)  # BGR, of any size; nothing else is to be done to it
            if frame is None:
                raise SystemExit(f"{picture}: no picture that OpenCV reads")
            frames = InferInput("frames", [1, *frame.shape], "UINT8")
            frames.set_data_from_numpy(frame[None])
            answer = server.infer(asked.model, [frames])
            boxes, scores, labels, count = (answer.as_numpy(name)[0] for name in OUTPUTS)
            for i in range(int(count[0])):  # best first
                if scores[i] >= asked.min_score:
                    facts = {"picture": picture, "name": names[labels[i]], "score": round(float(scores[i]), 4)}
                    print(json.dumps({**facts, "xyxy": [round(float(v), 1) for v in boxes[i]]}))


if __name__ == "__main__":
    main()
