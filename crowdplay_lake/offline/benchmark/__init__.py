"""The offline benchmark: CrowdPlay's tasks x algorithms, trained on people's episodes, measured on the real game.

CrowdPlay has one in `offline_atari.py`, on d3rlpy 1. Its tasks, filters and hyper-parameters are kept; docs/training.md
tells what is done otherwise, and why. Needs the extra `train`.
"""
