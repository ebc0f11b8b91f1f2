"""An image's label says what its bytes are."""

from __future__ import annotations

import base64

import pytest

from app.formats._images import relabelled, true_type

IMAGES = {
    "image/png": b"\x89PNG\r\n\x1a\n" + b"x" * 40,
    "image/jpeg": b"\xff\xd8\xff\xe0" + b"x" * 40,
    "image/gif": b"GIF89a" + b"x" * 40,
    "image/webp": b"RIFF\x10\x00\x00\x00WEBPVP8 " + b"x" * 40,
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("label", ["image/png", "image/jpg", "application/octet-stream", ""])
def test_the_bytes_decide(kind: str, label: str) -> None:
    data = base64.b64encode(IMAGES[kind]).decode()
    assert true_type(label, data) == kind
    assert relabelled(f"data:{label};base64,{data}") == f"data:{kind};base64,{data}"
    assert relabelled(f"data:{label};name=a.b;base64,{data}") == f"data:{kind};name=a.b;base64,{data}"


@pytest.mark.parametrize("data", ["", "!", "AAAA", "iVBO Rw0K", "eA"])
def test_bytes_that_show_nothing_keep_their_label(data: str) -> None:
    assert true_type("image/heic", data) == "image/heic"


@pytest.mark.parametrize("url", ["https://x/y.png", "data:,", "data:image/png,abc", "file_id", ""])
def test_other_urls_stay(url: str) -> None:
    assert relabelled(url) == url
