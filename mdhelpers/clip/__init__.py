"""Encoders of images and texts, the small CLIP that is trained here, and its words."""
