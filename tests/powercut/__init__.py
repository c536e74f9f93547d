"""Tests by power cuts: images of a disk that was cut off in the middle of a load (testing/powercut)."""
