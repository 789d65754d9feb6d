"""A ROS 2 node: detections of a camera as vision_msgs/Detection2DArray on the topic "detections".

    sudo apt install ros-$ROS_DISTRO-vision-msgs
    python samples/robot/ros2_node.py model.edge 0

The header's stamp is the moment of capture.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from edge_retina import Detections, Detector, Frame


def to_message(frame: Frame, detections: Detections, frame_id: str, now_ns: int) -> Any:
    """The detections as a Detection2DArray. now_ns: the node's clock."""
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

    captured_ns = now_ns - round((frame.age_ms() or 0.0) * 1e6)
    message = Detection2DArray()
    message.header.frame_id = frame_id
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(captured_ns, 10**9)
    for found in detections:
        x1, y1, x2, y2 = found.xyxy
        row = Detection2D(header=message.header, id="" if found.track_id in (None, -1) else str(found.track_id))
        row.bbox.center.position.x, row.bbox.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
        row.bbox.size_x, row.bbox.size_y = x2 - x1, y2 - y1
        row.results.append(ObjectHypothesisWithPose())
        row.results[0].hypothesis.class_id, row.results[0].hypothesis.score = found.name, found.score
        message.detections.append(row)
    return message


def main() -> None:
    """Publish until the source ends or the node is shut down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("source")
    parser.add_argument("--frame-id", default="camera")
    options, rest = parser.parse_known_args()
    try:
        import rclpy
        from vision_msgs.msg import Detection2DArray
    except ImportError as exc:
        parser.exit(8, f"needs ROS 2: source /opt/ros/$ROS_DISTRO/setup.bash, install vision_msgs ({exc})\n")
    rclpy.init(args=rest)
    publisher = rclpy.create_node("edge_retina").create_publisher(Detection2DArray, "detections", 10)
    with Detector.load(options.bundle) as detector:
        for frame, found in detector.stream(options.source):
            if not rclpy.ok():
                break
            publisher.publish(to_message(frame, found.mask(min_score=0.3), options.frame_id, time.time_ns()))
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
