"""The faces of a video as rows: some frames, the face cut out of each, as PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator

from ..errors import DataError, DataNotFoundError
from .builder import LeftOut
from .frames import sampled_frames
from .localizer import FaceLocalizer, crop_faces

__all__ = ["clip_faces"]


def clip_faces(
    path: str, name: str, count: int, localizer: FaceLocalizer | None, missing: str, left_out: LeftOut
) -> Iterator[tuple[int, bytes]]:
    """Cuts the face out of some frames of a video.

    Args:
        path: The video.
        name: What the report calls it.
        count: Frames, spread evenly over it.
        localizer: Finds the face; `None` for frames that are faces already.
        missing: What happens to frames without a face; see `crop_faces`.
        left_out: Videos and frames that cannot be used are counted here.

    Yields:
        Number of the frame in the video, and the face as PNG.

    Raises:
        DataNotFoundError: the video is missing, or nothing that reads videos is installed.
        DataError: a frame has no face, and `missing` is `"error"`.
    """
    try:
        frames, short = sampled_frames(path, count)
    except DataNotFoundError:
        raise
    except DataError:
        left_out.add("clip that cannot be read as a video", name)
        return
    if short is not None:
        left_out.add("frame that cannot be read", name, max(1, short.frames))
    pictures = [frame for _, frame in frames]
    faces = list(enumerate(pictures)) if localizer is None else crop_faces(pictures, localizer, missing)
    if not faces:
        left_out.add("clip without a face", name)
    elif len(faces) < len(frames):
        left_out.add("frame without a face", name, len(frames) - len(faces))
    for index, face in faces:
        png = io.BytesIO()
        face.save(png, "PNG", compress_level=1)
        yield frames[index][0], png.getvalue()
