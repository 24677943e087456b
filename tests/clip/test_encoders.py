"""What is loaded as an encoder, and what is refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mdhelpers.clip import encoders


def small_weights():
    from mdhelpers.clip.small_clip import new_encoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return new_encoder(24)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_local_checkpoint_is_loaded(tmp_path, suffix):
    made = small_weights()
    made.model.eval()
    weights = {k: v.contiguous() for k, v in made.model.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    loaded = encoders.load_named("small_clip", str(path))
    assert loaded.image_size == (24, 24)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    pixels = torch.randn(2, 3, 24, 24)
    assert torch.equal(loaded.model.encode_image(pixels), made.model.encode_image(pixels))
    seen = encoders.embed_images(loaded, images)
    assert seen.dtype == np.float32
    assert np.linalg.norm(seen, axis=1) == pytest.approx(np.ones(3), abs=1e-5)


class Sneaky:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_nothing_but_weights_is_read(tmp_path):
    small_weights()  # registers small_clip
    trap, path = tmp_path / "trap", tmp_path / "weights.pt"
    torch.save({"state_dict": Sneaky(str(trap))}, path)
    with pytest.raises(ValueError, match="does not hold plain weights"):
        encoders.load_named("small_clip", str(path))
    assert not trap.exists()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="safetensors"):
        encoders.load_named("small_clip", str(path))
    save_file({"visual.wrong": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="belong together"):
        encoders.load_named("small_clip", str(path))


def test_images_must_be_uint8():
    with pytest.raises(ValueError, match="uint8, got"):
        encoders.embed_images(None, np.zeros((2, 24, 24, 3), np.float32))
