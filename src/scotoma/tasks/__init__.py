"""Kinds of target: classification, segmentation, regression."""
