"""Training of a small segmentation network on synthetic anatomy alone. Nothing in the packages imports this folder.

``subjects`` and ``patches`` make the training data and need no more than the project itself; ``train`` needs PyTorch,
``measure`` onnxruntime. The verdict stands in docs/segmentation-network.md.
"""
