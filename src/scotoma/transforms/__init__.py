"""Views, augmentations, corruptions, masking."""
